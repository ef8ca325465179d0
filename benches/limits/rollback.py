"""How fast a version is taken back under full load: from the call to its acknowledgement, and what the requests notice."""

import http.client
import itertools
import json
import re
import shutil
import threading
import time

from bench import median, spread, table

MODEL, CLIENTS, SECONDS = "mlp", 64, 20
# Steps and units that no run reaches: what moves the release is the calls.
RULES = """
[model]
risk = "low"
[instances]
count = 1
[gates.golden]
enabled = false
[[rollout.step]]
percent = 50
min = "10h"
max = "20h"
"""


def measure(tools):
    """New versions under full load, taken back in the middle of a canary step and after their promotion, in turn."""
    repository = tools.scratch / "rollback"
    first = repository / MODEL / "1"
    first.mkdir(parents=True)
    shutil.copy(tools.models / "repository" / MODEL / "1" / "model.onnx", first)
    (repository / MODEL / "model.toml").write_text(RULES)
    # A number that was taken back does not come again.
    numbers = itertools.count(2)
    rows, shown = [], []
    with tools.serving(MODEL, repository=repository, calibrated=False) as server:
        for protocol in ("http-binary", "grpc"):
            load = ["--concurrency", CLIENTS]
            runs = []
            for _ in range(tools.rounds):
                quiet = tools.load(server, protocol, MODEL, *load, seconds=SECONDS)
                releases = Releases(server, repository / MODEL, numbers)
                try:
                    busy = tools.load(server, protocol, MODEL, *load, seconds=SECONDS)
                finally:
                    taken = releases.stop()
                runs.append({"protocol": protocol, "quiet": figures(quiet["total"]), "busy": figures(busy["total"]), **taken})
            rows += runs
            for kind in ("canary", "live"):
                taken = [ms for run in runs for ms in run[kind]]
                shown.append([protocol, kind, len(taken), spread(taken), *cells(runs)])
    head = ["protocol", "taken back from", "times", "call to acknowledgement, ms", "p99 ms quiet", "with releases", "ratio"]
    table(head + ["answers", "failed", "answers of the old target to requests after the acknowledgement"], shown)
    return rows


def cells(runs):
    p99 = [(run["quiet"]["p99_us"], run["busy"]["p99_us"]) for run in runs]
    return [
        f"{median([quiet for quiet, _ in p99]) / 1000:.2f}",
        f"{median([busy for _, busy in p99]) / 1000:.2f}",
        f"{median([busy / quiet for quiet, busy in p99]):.2f}",
        sum(run["busy"]["ok"] for run in runs),
        sum(sum(run["busy"]["errors"].values()) for run in runs),
        sum(run["late"] for run in runs),
    ]


class Releases(threading.Thread):
    """Brings versions and takes them back, until told to stop."""

    def __init__(self, server, folder, numbers):
        super().__init__(daemon=True)
        self.server, self.folder, self.numbers = server, folder, numbers
        self.model = Model(server, folder)
        self.taken = {"canary": [], "live": [], "late": 0}
        self.ending, self.error = threading.Event(), None
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                for kind in ("canary", "live"):
                    self.once(kind)
        except (OSError, RuntimeError, KeyError) as error:
            self.error = error

    def once(self, kind):
        number = next(self.numbers)
        release = self.model.begin(number)
        if kind == "live":
            self.model.call("POST", f"/rollouts/{release}:promote", {"reason": "measured"})
            self.model.wait(release, "live")
        time.sleep(0.2)
        began = time.perf_counter()
        self.model.call("POST", ":rollback", {"reason": "measured"})
        self.taken[kind].append(1000 * (time.perf_counter() - began))
        # Requests that begin now; the load tester's own may have begun before.
        for _ in range(20):
            answer = self.server.json("POST", f"/v2/models/{MODEL}/infer", self.model.question())
            self.taken["late"] += answer["model_version"] != "1"
        if kind == "canary":
            self.model.wait(release, "rolled_back")
        shutil.rmtree(self.folder / str(number))

    def stop(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error
        return self.taken


class Model:
    """A model whose versions are released: its folder, and its releases over the admin interface."""

    def __init__(self, server, folder):
        self.server, self.folder, self.name = server, folder, folder.name
        log = server.process.log.read_text(errors="replace")
        self.admin = re.search(r"admin=([\w.:\[\]-]+:\d+)", log)[1]

    def begin(self, number):
        """Another version of the same arithmetic; its file differs, or it would be known as one that was taken back."""
        version = self.folder / str(number)
        version.mkdir()
        text = str(number).encode()
        entry = b"\x0a\x06number\x12" + bytes([len(text)]) + text
        model = (self.folder / "1" / "model.onnx").read_bytes()
        # A field of ModelProto more: metadata_props.
        (version / "model.onnx").write_bytes(model + b"\x72" + bytes([len(entry)]) + entry)
        self.server.json("POST", f"/v2/repository/models/{self.name}/load", {})
        until = time.monotonic() + 60
        while True:
            found = [release for release in self.releases() if release["version"] in (number, str(number))]
            if found and found[0]["state"]["state"] == "canary":
                return found[0]["id"]
            if time.monotonic() > until:
                raise RuntimeError(f"version {number} does not get its requests: {found}")
            time.sleep(0.01)

    def question(self):
        inputs = []
        for spec in self.server.json("GET", f"/v2/models/{self.name}")["inputs"]:
            shape = [max(size, 1) for size in spec["shape"]]
            count = 1
            for size in shape:
                count *= size
            inputs.append({"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": [0] * count})
        return {"inputs": inputs}

    def wait(self, release, state):
        until = time.monotonic() + 60
        while (found := self.call("GET", f"/rollouts/{release}")["state"]["state"]) != state:
            if time.monotonic() > until:
                raise RuntimeError(f"release {release} is {found}, not {state}")
            time.sleep(0.01)

    def releases(self):
        return self.call("GET", "/rollouts")["rollouts"]

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.admin, timeout=60)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/crossfade/v1/models/{self.name}{path}", text)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
            return json.loads(content)
        finally:
            connection.close()


def figures(total):
    latency = {key: total["latency"][key] for key in ("p50_us", "p99_us", "p999_us", "max_us")}
    return {**latency, "ok": total["ok"], "errors": total["errors"]}
