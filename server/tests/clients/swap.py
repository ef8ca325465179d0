"""Swaps versions under full load, over both protocols, and checks every single answer.

    python swap.py [api|poll|label-poll|label-load ...] [--seconds 3] [--connections 4]

A model adds 100 x its version to what it gets, so each answer shows which version really gave it. Versions go 1 → 2 → 3 → 2:
  api         explicit mode: the folder changes, then a load request
  poll        the folder changes, and the server finds out
  label-poll  all three are loaded; a label moves by editing model.toml
  label-load  the same by load requests with the parameter `labels`
A failed request, an answer that its version would not give, or an answer of the old version to a request sent after the
swap was over: exit code 1. The 99th percentile during the swaps is reported beside the steady one.
"""

import argparse
import http.client
import json
import multiprocessing
import random
import shutil
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import graphs
import grpc
import harness
from tritonclient.grpc import service_pb2, service_pb2_grpc

MODES = ("api", "poll", "label-poll", "label-load")
STEPS = (2, 3, 2)  # from version 1
NAME, LABEL, STEP = "adder", "live", 100.0
AFTERMATH = 0.25  # seconds after a swap that still count as during it


def body_of(values):
    """An HTTP request with binary input and output: `(body, length of its JSON)`."""
    raw = struct.pack(f"<{len(values)}f", *values)
    tensor = {"name": "x", "shape": [len(values) // 2, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + raw, len(text)


def ask_http(connection, version, values):
    """One request. Returns `(version that answered, values)`."""
    path = f"/v2/models/{NAME}/versions/{version}/infer" if version else f"/v2/models/{NAME}/infer"
    body, length = body_of(values)
    connection.request("POST", path, body, {"Inference-Header-Content-Length": str(length)})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {answer[:300]!r}")
    size = int(response.headers["Inference-Header-Content-Length"])
    return int(json.loads(answer[:size])["model_version"]), struct.unpack(f"<{len(values)}f", answer[size:])


def ask_grpc(stub, version, values):
    """The same over gRPC."""
    request = service_pb2.ModelInferRequest(model_name=NAME, model_version=version)
    request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 2, 2])
    request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    answer = stub.ModelInfer(request, timeout=30)
    return int(answer.model_version), struct.unpack(f"<{len(values)}f", answer.raw_output_contents[0])


def load(protocol, address, version, connections, running, stop, results):
    """Asks without a pause on every connection until `stop`, `running` counting those that do; a process of its own."""
    samples, lock = [], threading.Lock()

    def one(seed):
        numbers, mine = random.Random(seed), []
        if protocol == "grpc":
            channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            client, ask = service_pb2_grpc.GRPCInferenceServiceStub(channel), ask_grpc
        else:
            client, ask = http.client.HTTPConnection(address, timeout=30), ask_http
        while not stop.is_set():
            values = [float(numbers.randrange(50)) for _ in range(2 * numbers.randint(1, 3))]
            started, answered, wrong = time.monotonic(), 0, None
            try:
                answered, got = ask(client, version, values)
                if list(got) != [x + STEP * answered for x in values]:
                    wrong = f"{values} was answered {got} by version {answered}"
            except Exception as error:
                wrong = f"{type(error).__name__}: {str(error)[:400]}"
                if protocol == "http":
                    client.close()
            mine.append((started, time.monotonic() - started, answered, wrong))
            if len(mine) == 1:
                running.release()
        with lock:
            samples.extend(mine)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((protocol, samples))


@dataclass
class Report:
    """What one run of one mode saw."""

    mode: str
    answers: int = 0
    complaints: list = field(default_factory=list)
    steady: list = field(default_factory=list)
    during: list = field(default_factory=list)
    swaps: list = field(default_factory=list)

    def __str__(self):
        took = ", ".join(f"{1000 * (end - start):.0f}" for start, end, _ in self.swaps)
        text = (
            f"{self.mode:11} {self.answers} answers, {len(self.complaints)} wrong or failed; "
            f"p99 steady {1000 * p99(self.steady):.2f} ms, during swaps {1000 * p99(self.during):.2f} ms; swaps took {took} ms"
        )
        return "\n".join([text, *(f"  {complaint}" for complaint in self.complaints[:10])])


def p99(latencies):
    """The 99th percentile, nearest rank; NaN of nothing."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else float("nan")


class Swapper:
    """Moves the model from version to version in one of the four ways."""

    def __init__(self, mode, folder):
        self.mode, self.repository = mode, Path(folder)
        self.shelf = self.repository.parent / "shelf"
        for version in (1, 2, 3):
            graphs.put(self.shelf, NAME, graphs.plus(STEP * version), version)
        self.labels = mode.startswith("label")
        (self.repository / NAME).mkdir(parents=True)
        for version in (1, 2, 3) if self.labels else (1,):
            self.publish(version)
        if self.labels:
            self.write_labels(1)
        self.asked = LABEL if self.labels else ""
        self.flags = ("--model-control-mode", "explicit", "--load-model", "*")
        if mode in ("poll", "label-poll"):
            self.flags = ("--model-control-mode", "poll", "--repository-poll-secs", "1")

    def publish(self, version):
        """A version appears all at once."""
        half = self.repository / NAME / f".{version}"
        shutil.copytree(self.shelf / NAME / str(version), half)
        half.rename(self.repository / NAME / str(version))

    def write_labels(self, version):
        """model.toml with the label, replaced all at once."""
        half = self.repository / NAME / ".model.toml"
        half.write_text(f"[versions]\nall = true\n\n[labels]\n{LABEL} = {version}\n")
        half.rename(self.repository / NAME / "model.toml")

    def swap(self, server, before, version):
        """From `before` to `version`; returns once the server says, or shows, that it is done."""
        if self.mode == "label-load":
            labels = {"parameters": {"labels": json.dumps({LABEL: version})}}
            server.json("POST", f"/v2/repository/models/{NAME}/load", labels)
        elif self.mode == "label-poll":
            self.write_labels(version)
        elif version > before:
            self.publish(version)
        else:
            # Downwards: the newest goes, the one before it must come back first.
            shutil.rmtree(self.repository / NAME / str(before))
        if self.mode == "api":
            server.json("POST", f"/v2/repository/models/{NAME}/load")
        elif self.mode in ("poll", "label-poll"):
            connection = http.client.HTTPConnection(server.http, timeout=30)
            server.wait(lambda: ask_http(connection, self.asked, [0.0, 0.0])[0] == version, f"version {version}", 30)
            connection.close()


def run(mode, seconds=3.0, connections=4):
    """One mode, from version 1 to 2, 3 and 2. Returns its `Report`."""
    context = multiprocessing.get_context("spawn")
    report = Report(mode)
    with tempfile.TemporaryDirectory(prefix="crossfade-swap-") as folder:
        swapper = Swapper(mode, Path(folder) / "repository")
        with harness.serve(swapper.repository, *swapper.flags) as server:
            running, stop, results = context.Semaphore(0), context.Event(), context.Queue()
            workers = [
                context.Process(target=load, args=(protocol, address, swapper.asked, connections, running, stop, results))
                for protocol, address in (("grpc", server.grpc), ("http", server.http))
            ]
            for worker in workers:
                worker.start()
            try:
                for _ in range(2 * connections):
                    assert running.acquire(timeout=60), "the load did not start"
                began, before = time.monotonic(), 1
                time.sleep(seconds)
                for version in STEPS:
                    start = time.monotonic()
                    swapper.swap(server, before, version)
                    report.swaps.append((start, time.monotonic(), version))
                    before = version
                    time.sleep(seconds)
            finally:
                stop.set()
            samples = [(protocol, *sample) for _ in workers for protocol, some in [results.get(timeout=60)] for sample in some]
            for worker in workers:
                worker.join()
    judge(report, samples, began)
    return report


def judge(report, samples, began):
    """Sorts the samples into the report."""
    protocols = {"grpc": 0, "http": 0}
    for protocol, start, latency, answered, wrong in sorted(samples, key=lambda sample: sample[1]):
        protocols[protocol] += 1
        report.answers += 1
        if wrong:
            report.complaints.append(f"{protocol}: {wrong}")
            continue
        allowed, during = expected(report.swaps, start, start + latency)
        if answered not in allowed:
            report.complaints.append(f"{protocol}: version {answered} answered where only {sorted(allowed)} could")
        if start >= began:
            (report.during if during else report.steady).append(latency)
    report.complaints += [f"{protocol}: no answer at all" for protocol, count in protocols.items() if not count]


def expected(swaps, start, end):
    """The versions that may answer a request, and whether it ran during a swap."""
    allowed, during, before = set(), False, 1
    for begin, done, version in swaps:
        if start < done and end > begin:
            allowed |= {before, version}
        during |= start < done + AFTERMATH and end > begin
        before = version
    if not allowed:
        finished = [version for begin, done, version in swaps if done <= start]
        allowed = {finished[-1] if finished else 1}
    return allowed, during


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modes", nargs="*", metavar="mode", help="default: all four")
    parser.add_argument("--seconds", type=float, default=3.0, help="steady load before and after each swap")
    parser.add_argument("--connections", type=int, default=4, help="busy connections per protocol")
    arguments = parser.parse_args()
    unknown = set(arguments.modes) - set(MODES)
    if unknown:
        parser.error(f"no mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    bad = False
    for mode in arguments.modes or MODES:
        report = run(mode, arguments.seconds, arguments.connections)
        print(report, flush=True)
        bad |= bool(report.complaints)
    sys.exit(bad)


if __name__ == "__main__":
    main()
