"""Starts the server for a test, says where it listens, and stops it. Needs nothing but Python.

Environment: CROSSFADE_BIN (default: target/release/crossfade), CROSSFADE_ORT_LIBRARY (read by the server itself),
CROSSFADE_CACHE (downloads; default: target/clients).
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ZOO = ROOT / "models" / "zoo"
BINARY = Path(os.environ.get("CROSSFADE_BIN", ROOT / "target" / "release" / "crossfade"))
CACHE = Path(os.environ.get("CROSSFADE_CACHE", ROOT / "target" / "clients"))
LISTENING = re.compile(r'\b(grpc|http|metrics|admin)["\']?[=:]\s*"?([\w.:\[\]-]+:\d+)')


class Server:
    """One server process. Its log is kept, and shown when something goes wrong."""

    def __init__(self, repository, *flags, environment=None, data=None):
        self.log = []
        command = [str(BINARY), "serve", "--model-repository", str(repository)]
        self.data = tempfile.TemporaryDirectory(prefix="crossfade-data-")
        command += ["--data-dir", str(data or self.data.name)]
        command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0", *flags]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self._listening = threading.Event()
        self._addresses = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(60) or not self._addresses:
            self.fail("did not say where it listens")
        self.grpc, self.http, self.metrics, self.admin = (self._addresses[key] for key in ("grpc", "http", "metrics", "admin"))

    def _read(self):
        for line in self.process.stdout:
            line = re.sub(r"\x1b\[[0-9;]*m", "", line)
            self.log.append(line)
            found = dict(LISTENING.findall(line)) if "listening" in line else {}
            if len(found) == 4:
                self._addresses = found
                self._listening.set()
        self._listening.set()

    def tail(self, lines=40):
        """The end of the log, as one string."""
        return "".join(self.log[-lines:])

    def fail(self, what):
        """Ends the server and the test."""
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"the server {what}; its log ends:\n{self.tail()}")

    def request(self, method, path, body=None, headers=None, address=None, timeout=60):
        """One HTTP request on a connection of its own. Returns `(status, headers, body)`."""
        connection = http.client.HTTPConnection(address or self.http, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, expect=200):
        """One request whose answer is JSON and whose status must be `expect`."""
        data = None if body is None else json.dumps(body)
        status, _, answer = self.request(method, path, data)
        assert status == expect, f"{method} {path}: {status} {answer[:500]!r}"
        return json.loads(answer)

    def wait(self, condition, what, seconds=60):
        """Waits until `condition()` holds; polls, because that is all that a client can do."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                self.fail(f"ended with {self.process.returncode} before {what}")
            if time.monotonic() > deadline:
                self.fail(f"was not there after {seconds} s: {what}")
            time.sleep(0.02)

    def wait_ready(self, seconds=60):
        """Waits for `GET /v2/health/ready`. Returns the seconds since the start of the process."""
        self.wait(lambda: self.request("GET", "/v2/health/ready")[0] == 200, "it was ready", seconds)
        return time.monotonic() - self.started

    def resident(self):
        """Resident and peak resident memory, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return tuple(1024 * int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) for key in ("VmRSS", "VmHWM"))

    def stop(self, seconds=40):
        """SIGTERM; the server must end by itself, with exit code 0."""
        if self.process.poll() is not None:
            self.fail(f"had ended with {self.process.returncode} on its own")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.fail(f"was still there {seconds} s after SIGTERM")
        self._reader.join(5)
        assert code == 0, f"exit code {code} after SIGTERM; the log ends:\n{self.tail()}"


@contextmanager
def serve(repository, *flags, ready=60, data=None, environment=None):
    """A ready server over `repository`, stopped at the end; the log's tail is printed when the body fails.

    * `data`: its data folder; without one, a folder that goes with the server
    * `environment`: its own; without one, that of the test
    """
    server = Server(repository, *flags, data=data, environment=environment)
    try:
        if ready:
            server.wait_ready(ready)
        yield server
    except BaseException:
        server.process.kill()
        server.process.wait()
        print(f"--- the server's log ends:\n{server.tail()}")
        raise
    server.stop()


@contextmanager
def zoo_copy(*models):
    """A copy of the zoo (or of some of its models) that a test may change."""
    with tempfile.TemporaryDirectory(prefix="crossfade-zoo-") as folder:
        for path in ZOO.iterdir():
            if path.is_dir() and (not models or path.name in models):
                shutil.copytree(path, Path(folder) / path.name)
        yield Path(folder)


def golden_pairs(*models):
    """`(model, version, case, request, response)` for every golden pair of the zoo."""
    for path in sorted(ZOO.glob("*/golden/*.request.json")):
        if models and path.parts[-3] not in models:
            continue
        case = path.name.removesuffix(".request.json")
        request = json.loads(path.read_text(encoding="utf-8"))
        response = json.loads(path.with_name(f"{case}.response.json").read_text(encoding="utf-8"))
        yield response["model_name"], response["model_version"], case, request, response


def assert_same_outputs(got, expected):
    """Compares two lists of V2 JSON outputs: fractions within 1e-5, all else exactly."""
    assert [o["name"] for o in got] == [o["name"] for o in expected]
    for ours, theirs in zip(got, expected):
        assert ours["datatype"] == theirs["datatype"] and ours["shape"] == theirs["shape"], (ours, theirs)
        if theirs["datatype"] in ("FP32", "FP64"):
            for a, b in zip(ours["data"], theirs["data"], strict=True):
                assert abs(a - b) <= 1e-5 + 1e-5 * abs(b), f"{theirs['name']}: {a}, expected {b}"
        else:
            assert ours["data"] == theirs["data"], f"{theirs['name']}: {ours['data']}, expected {theirs['data']}"
