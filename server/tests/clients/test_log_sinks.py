"""Events of the inference log: a receiver that is away, and a server that is killed meanwhile, lose none of them."""

import http.server
import json
import socket
import threading

import harness

REQUESTS = 50


class Receiver:
    """Takes CloudEvents, and notes their ids and types."""

    def __init__(self, port):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if "ce-id" in self.headers:
                    seen.append((self.headers["ce-id"], self.headers["ce-type"]))
                else:
                    events = body if isinstance(body, list) else [body]
                    seen.extend((event["id"], event["type"]) for event in events)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def ask(server):
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [1.0] * 64}
    status, headers, answer = server.request("POST", "/v2/models/digits/infer", json.dumps({"inputs": [image]}))
    assert status == 200, answer
    return headers["x-request-id"]


def test_every_event_arrives_although_nobody_was_there_and_the_server_was_killed(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "crossfade.toml"
    sink = f'url = "http://127.0.0.1:{port}/"\n'
    config.write_text(f'[log]\nseal_after = "1s"\n[[log.sink]]\nname = "native"\n{sink}'
                      f'[[log.sink]]\nname = "kserve"\nformat = "kserve"\n{sink}')
    data = tmp_path / "data"
    killed = harness.Server(harness.ZOO, "--config", str(config), data=data)
    killed.wait_ready(60)
    asked = [ask(killed) for _ in range(REQUESTS)]
    killed.process.kill()
    killed.process.wait()
    receiver = Receiver(port)
    with harness.serve(harness.ZOO, "--config", str(config), data=data) as server:
        asked += [ask(server) for _ in range(REQUESTS)]
        kinds = ["io.crossfade.inference", "org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"]
        wanted = {(request, kind) for request in asked for kind in kinds}
        server.wait(lambda: wanted <= set(receiver.seen), "every event")
        assert set(receiver.seen) == wanted
    receiver.stop()
