"""curl, as a person at a terminal would use it, and as somebody with worse intentions might."""

import gzip
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
import zlib

import harness
import pytest

CURL = shutil.which("curl") or "curl"
DEPTH = 200_000


@pytest.fixture(scope="module")
def server():
    with harness.serve(harness.ZOO) as running:
        yield running


@pytest.fixture()
def curl(server):
    def call(path, *arguments, body=None, seconds=30, address=None):
        """Runs curl. Returns `(status, {header: value}, body)` of the last answer."""
        command = [CURL, "--silent", "--show-error", "--include", "--max-time", str(seconds), *arguments]
        if body is not None:
            command += ["--data-binary", "@-"]
        done = subprocess.run([*command, f"http://{address or server.http}{path}"], input=body, capture_output=True, check=False)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr.decode()}"
        rest = done.stdout
        while True:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            status = int(lines[0].split()[1])
            if status >= 200:
                break
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        assert headers.get("x-request-id"), "every answer carries a request id"
        return status, headers, rest

    yield call
    assert server.request("GET", "/v2/health/ready")[0] == 200, "the server lives on"


def pair(case):
    name, version, _, request, response = next(p for p in harness.golden_pairs() if p[2] == case)
    return f"/v2/models/{name}/versions/{version}/infer", request, response


def check(answer, response):
    status, headers, body = answer
    assert status == 200, body
    assert headers["content-type"].startswith("application/json")
    got = json.loads(body)
    assert (got["model_name"], got["model_version"], got["id"]) == tuple(response[k] for k in ("model_name", "model_version", "id"))
    harness.assert_same_outputs(got["outputs"], response["outputs"])


def refused(answer, status, *words):
    got, headers, body = answer
    assert got == status, (got, body[:500])
    assert headers["content-type"].startswith("application/json")
    message = json.loads(body)["error"]
    assert message
    for word in words:
        assert word in message, message


CASES = [p[2] for p in harness.golden_pairs()]


@pytest.mark.parametrize("case", CASES)
def test_golden_pairs_as_json(curl, case):
    path, request, response = pair(case)
    check(curl(path, body=json.dumps(request).encode()), response)


@pytest.mark.parametrize("case", CASES)
def test_a_file_sent_with_d_as_the_readme_says(curl, case):
    path, request, response = pair(case)
    name = response["model_name"]
    file = harness.ZOO / name / "golden" / f"{case}.request.json"
    check(curl(path, "-d", f"@{file}"), response)


def test_binary_in_and_out(curl):
    path, request, response = pair("four-images-v2")
    tensor = request["inputs"][0]
    raw = struct.pack(f"<{len(tensor['data'])}f", *tensor["data"])
    head = {"inputs": [{**{k: tensor[k] for k in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": len(raw)}}]}
    head["parameters"] = {"binary_data_output": True}
    text = json.dumps(head).encode()
    header = ["-H", f"Inference-Header-Content-Length: {len(text)}", "-H", "Content-Type: application/octet-stream"]
    status, headers, body = curl(path, *header, body=text + raw)
    assert status == 200, body
    size = int(headers["inference-header-content-length"])
    answer, rest = json.loads(body[:size]), body[size:]
    sizes = [o["parameters"]["binary_data_size"] for o in answer["outputs"]]
    assert sizes == [160, 32] and sum(sizes) == len(rest) and "data" not in answer["outputs"][0]
    assert list(struct.unpack("<4q", rest[160:])) == response["outputs"][1]["data"]
    # One output binary, the other not.
    head["outputs"] = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "probabilities"}]
    text = json.dumps(head).encode()
    status, headers, body = curl(path, "-H", f"Inference-Header-Content-Length: {len(text)}", body=text + raw)
    answer = json.loads(body[: int(headers["inference-header-content-length"])])
    assert answer["outputs"][0]["data"] == response["outputs"][1]["data"]
    assert answer["outputs"][1]["parameters"]["binary_data_size"] == 160


def test_a_raw_body_needs_no_json(curl):
    none = ["-H", "Inference-Header-Content-Length: 0"]
    status, headers, body = curl("/v2/models/language/infer", *none, body="Wo ist der nächste Bahnhof, bitte?".encode())
    assert status == 200, body
    size = int(headers["inference-header-content-length"])
    assert json.loads(body[:size])["outputs"][0]["shape"] == [1]
    assert body[size : size + 6] == struct.pack("<I", 2) + b"de"


@pytest.mark.parametrize("text, words", [(b"12x", ()), (b"-1", ()), (b"99999999", ("header",)), (b"99999999999999999999999", ())])
def test_lying_header_lengths(curl, text, words):
    path, request, _ = pair("one-flower")
    refused(curl(path, "-H", b"Inference-Header-Content-Length: " + text, body=json.dumps(request).encode()), 400, *words)


def test_lying_binary_sizes(curl):
    for claimed, sent in ((16, 12), (16, 20), (12, 12), (20, 20), (-1, 16), (2**63, 16), (1.5, 16)):
        tensor = {"name": "measurements", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": claimed}}
        text = json.dumps({"inputs": [tensor]}).encode()
        header = ["-H", f"Inference-Header-Content-Length: {len(text)}"]
        refused(curl("/v2/models/iris/infer", *header, body=text + b"\0" * sent), 400)


def test_head_wherever_get_works(curl):
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready", "/v2/models/stats"):
        status, headers, body = curl(path, "--head")
        assert (status, body) == (200, b""), path
        assert curl(path)[0] == 200


def test_information_routes(curl):
    assert json.loads(curl("/v2")[2])["name"] == "crossfade"
    assert json.loads(curl("/v2/health/ready")[2]) == {"live": True, "ready": True}
    assert json.loads(curl("/v2/models/digits/versions/stable/ready")[2])["ready"] is True
    about = json.loads(curl("/v2/models/language")[2])
    assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    config = json.loads(curl("/v2/models/diabetes/config")[2])
    assert config["max_batch_size"] == 128 and config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    for arguments in ((), ("-X", "POST")):
        index = json.loads(curl("/v2/repository/index", *arguments)[2])
        assert {m["name"] for m in index} == {"breast_cancer", "diabetes", "digits", "iris", "language"}
        assert {m["state"] for m in index} == {"READY"}
    assert json.loads(curl("/v2/models/stats")[2])["model_stats"]


def test_wrong_paths_methods_and_versions(curl):
    refused(curl("/nothing"), 404)
    refused(curl("/v2/nothing"), 404)
    refused(curl("/v2/models/nobody"), 404, "nobody")
    refused(curl("/v2/models/nobody/infer", body=json.dumps(pair("one-flower")[1]).encode()), 404, "nobody")
    refused(curl("/v2/models/nobody/ready"), 404, "nobody")
    refused(curl("/v2/models/digits/versions/9"), 404)
    refused(curl("/v2/models/digits/versions/0"), 400)
    refused(curl("/v2/models/digits/versions/v1"), 400)
    refused(curl("/v2/models/..%2f..%2fetc"), 400)
    refusals = (("/v2/models/digits/infer", "GET", "POST"), ("/v2/health/live", "DELETE", "GET"), ("/", "GET", "POST"))
    for path, method, allowed in refusals:
        answer = curl(path, "-X", method)
        refused(answer, 405)
        assert allowed in answer[1]["allow"]
    refused(curl("/v2/repository/models/digits/unload", "-X", "POST"), 400)


def test_compression_both_ways(curl):
    path, request, response = pair("every-language")
    body = json.dumps(request).encode()
    for name, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("identity", body)):
        check(curl(path, "-H", f"Content-Encoding: {name}", body=packed), response)
    check(curl(path, "--compressed", body=body), response)
    status, headers, got = curl(path, "-H", "Accept-Encoding: gzip", body=body)
    assert status == 200 and headers["content-encoding"] == "gzip"
    check((status, headers, gzip.decompress(got)), response)
    assert "content-encoding" not in curl(path, body=body)[1]
    answer = curl(path, "-H", "Content-Encoding: br", body=body)
    refused(answer, 415)
    assert "gzip" in answer[1]["accept-encoding"]
    refused(curl(path, "-H", "Content-Encoding: gzip", body=body), 400)
    refused(curl(path, "-H", "Content-Encoding: gzip", body=gzip.compress(body)[:-12]), 400)


def test_chunked_expect_http10_and_http2(curl):
    path, request, response = pair("five-patients")
    body = json.dumps(request).encode()
    check(curl(path, "-H", "Transfer-Encoding: chunked", body=body), response)
    check(curl(path, "-H", "Expect: 100-continue", "--expect100-timeout", "20", body=body), response)
    check(curl(path, "--http1.0", body=body), response)
    check(curl(path, "--http2-prior-knowledge", body=body), response)
    check(curl(path, "--http2-prior-knowledge", "-H", "Content-Encoding: gzip", body=gzip.compress(body)), response)


def test_pipelined_requests_are_answered_in_order(server):
    path, request, _ = pair("one-flower")
    requests = b""
    for i in range(20):
        body = json.dumps({**request, "id": str(i)}).encode()
        requests += f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    requests += b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = server.http.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(requests)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert [int(i) for i in re.findall(rb'"id":\s*"(\d+)"', answer)] == list(range(20))
    assert answer.count(b"HTTP/1.1 200") == 21


@pytest.mark.parametrize("inside", ["data", "unknown", "top"])
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_very_deep_json_is_refused_quickly(curl, inside, bracket):
    deep = bracket * DEPTH
    if inside == "data":
        deep = '{"inputs":[{"name":"measurements","shape":[1,4],"datatype":"FP32","data":' + deep
    elif inside == "unknown":
        deep = '{"nothing":' + deep
    started = time.monotonic()
    refused(curl("/v2/models/iris/infer", body=deep.encode()), 400)
    assert time.monotonic() - started < 5


TENSOR = '{"name":"measurements","shape":[1,4],"datatype":"FP32","data":%s}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"inputs":{}}',
        b'{"inputs":[]}',
        b'{"inputs":[1]}',
        b'{"inputs":[{"name":1}]}',
        b'\xff\xfe{"inputs":[]}',
        b'{"inputs":[{"name":"\xff\xff","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',
        *(
            ('{"inputs":[%s]}' % (TENSOR % data)).encode()
            for data in ("[1,2,3]", "[1,2,3,4,5]", "[1,2,3,true]", '[1,2,3,"4"]', "[1,2,3,null]", "[[1,2],[3,4]]", "1", "{}", "[1,2,3,4")
        ),
        b'{"inputs":[{"name":"measurements","shape":[-1,4],"datatype":"FP32","data":[]}]}',
        b'{"inputs":[{"name":"measurements","shape":[4611686018427387904,4],"datatype":"FP32","data":[]}]}',
        b'{"inputs":[{"name":"measurements","shape":[1e3,4],"datatype":"FP32","data":[]}]}',
        b'{"inputs":[{"name":"measurements","shape":[1,4],"datatype":"FP99","data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"measurements","shape":[1,4],"datatype":"INT64","data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"measurements","shape":[1,4],"datatype":"FP16","data":[1,2,3,4]}]}',
    ],
)
def test_broken_requests_are_the_clients_fault(curl, body):
    refused(curl("/v2/models/iris/infer", body=body), 400)


def test_numbers_are_read_exactly(curl):
    body = '{"inputs":[%s],"outputs":[{"name":"species"}]}' % (TENSOR % "[[5.1, 3.5e0, 14E-1, 2e-1]]")
    status, _, answer = curl("/v2/models/iris/infer", body=body.encode())
    assert status == 200 and json.loads(answer)["outputs"][0]["data"] == ["setosa"]
    # A number with a million digits is only a long way of writing a number.
    body = '{"inputs":[%s]}' % (TENSOR % ("[5.1,3.5,1.4,0." + "2" * 1_000_000 + "]"))
    assert curl("/v2/models/iris/infer", body=body.encode())[0] == 200


def test_a_silent_client_holds_only_its_own_socket(server, curl):
    host, port = server.http.rsplit(":", 1)
    silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(200)]
    for connection in silent[::2]:
        connection.sendall(b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
    path, request, response = pair("one-flower")
    check(curl(path, body=json.dumps(request).encode(), seconds=5), response)
    for connection in silent:
        connection.close()


def test_metrics_are_text_that_prometheus_reads(server):
    status, headers, body = server.request("GET", "/metrics", address=server.metrics)
    assert status == 200 and headers["content-type"].startswith("text/plain")
    text = body.decode()
    for name in ("crossfade_stage_duration_seconds_bucket", "crossfade_requests_total", "nv_inference_request_success"):
        assert name in text, name


def test_what_changes_is_recorded_and_read_from_the_admin_listener(server, curl, tmp_path):
    refused(curl("/v2/repository/models/digits/unload", "-X", "POST"), 400)
    status, headers, lines = curl("/crossfade/v1/audit", address=server.admin)
    last = json.loads(lines.splitlines()[-1])
    assert status == 200 and (last["action"], last["after"]["outcome"]) == ("model.unload", "refused")
    export = tmp_path / "audit.jsonl"
    verify = [harness.BINARY, "audit", "verify", export, "--head", headers["x-audit-head"]]
    for content, code in ((lines, 0), (lines.replace(b"refused", b"granted", 1), 1), (b"".join(lines.splitlines(True)[:-1]), 1)):
        export.write_bytes(content)
        assert subprocess.run(verify, check=False, capture_output=True).returncode == code
    refused(curl("/crossfade/v1/models/digits/rollouts", address=server.admin), 404, "not released")
    refused(curl("/crossfade/v1/nothing", address=server.admin), 404)
    refused(curl("/crossfade/v1/audit?since=x", address=server.admin), 400)
    assert json.loads(curl("/crossfade/v1/health", address=server.admin)[2])["audit"]["seq"] >= 1


def test_nothing_is_kept_in_the_users_folders_and_nothing_sent_home(tmp_path):
    """ONNX Runtime keeps usage data in the user's cache and sends it, unless it is told not to."""
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    server = harness.Server(harness.ZOO, environment={**environment, "HOME": str(tmp_path)})
    server.wait_ready()
    path, request, _ = pair("one-flower")
    assert server.json("POST", path, request)["outputs"]
    server.stop()
    assert list(tmp_path.rglob("*")) == []
