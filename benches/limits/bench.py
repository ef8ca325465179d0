"""What the scenarios share: a server, the load tester, and tables."""

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from process import Server

START_TIMEOUT_S = 60
# Calibration begins two seconds after a version is ready, and takes a second or so; not to be measured by accident.
CALIBRATED_S = 300
LISTENING = re.compile(r'\b(grpc|http|metrics)["\']?[=:]\s*"?([\w.:\[\]-]+:\d+)')


class Bench:
    """The programs and the models, and how often each figure is taken."""

    def __init__(self, server, loadtest, models, rounds):
        self.server, self.loadtest, self.models, self.rounds = server, loadtest, models, rounds
        self.scratch = Path(tempfile.mkdtemp(prefix="limits-"))

    @contextmanager
    def serving(self, *loaded, repository=None, flags=(), calibrated=True, log=False):
        """A server with these models, ready and, unless told otherwise, calibrated; it records nothing, unless told otherwise."""
        command = [self.server, "serve", "--model-repository", repository or self.models / "repository"]
        command += ["--model-control-mode", "explicit", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0"]
        data = Path(tempfile.mkdtemp(prefix="data-", dir=self.scratch))
        # What serving costs; what the inference log adds is measured apart, by `cargo xtask log-cost`.
        config = data / "crossfade.toml"
        config.write_text(f"[log]\nenabled = {str(log).lower()}\n")
        command += ["--data-dir", data, "--config", config]
        command += [word for model in loaded for word in ("--load-model", model)] + list(flags)
        process = Server([str(word) for word in command], {"NO_COLOR": "1"}, self.scratch, self.scratch / "server.log")
        try:
            server = Serving(process, data)
            if calibrated:
                server.wait_calibrated(loaded)
            yield server
        finally:
            process.stop()

    def load(self, server, protocol, model, *more, seconds=4, warm_up=1):
        """One run of the load tester; its whole result."""
        out = self.scratch / "result.json"
        out.unlink(missing_ok=True)
        address = server.grpc if protocol.startswith("grpc") else server.http
        command = [self.loadtest, "run", "--url", f"http://{address}", "--control-url", f"http://{server.http}"]
        command += ["--protocol", protocol, "--model", model, "--server-pid", server.process.process.pid]
        command += ["--duration", f"{seconds}s", "--warm-up", f"{warm_up}s", "--quiet", "--out", out, *more]
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + warm_up + 120)
        if not out.exists():
            raise RuntimeError(f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(out.read_text())


class Serving:
    """A server that listens."""

    def __init__(self, process, data):
        self.process, self.data = process, data
        addresses = self._wait(self._listening)
        self.grpc, self.http, self.metrics = (addresses[key] for key in ("grpc", "http", "metrics"))
        self._wait(lambda: self.request("GET", "/v2/health/ready")[0] == 200)
        self.ready_s = process.age()

    def _listening(self):
        for line in self.process.log.read_text(errors="replace").splitlines():
            found = dict(LISTENING.findall(line)) if "listening" in line else {}
            if len(found) == 3:
                return found
        return None

    def _wait(self, condition, seconds=START_TIMEOUT_S, pause_s=0.001):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.is_alive():
            if found := condition():
                return found
            time.sleep(pause_s)
        raise RuntimeError(f"the server is not as expected:\n{self.process.last_words()}")

    def wait_calibrated(self, models):
        """Waits until the instances of each of `models` were chosen, and nothing is measured any more."""

        def chosen(model):
            return "crossfade.instances" in self.json("GET", f"/v2/models/{model}/config").get("parameters", {})

        # Whoever asks all the time leaves no quiet moment to measure in.
        self._wait(lambda: all(chosen(model) for model in models), CALIBRATED_S, pause_s=0.5)
        time.sleep(0.5)

    def request(self, method, path, body=None, timeout=60):
        """One HTTP request on a connection of its own: status and body."""
        connection = http.client.HTTPConnection(self.http, timeout=timeout)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def json(self, method, path, body=None):
        status, answer = self.request(method, path, None if body is None else json.dumps(body))
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {answer[:300]!r}")
        return json.loads(answer) if answer else None

    def resident_bytes(self):
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


def median(values):
    return statistics.median(values)


def spread(values, digits=3):
    """The median and the range, as text."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def table(head, rows):
    """Prints a table in Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    sys.stdout.flush()
