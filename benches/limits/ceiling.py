"""Real models: the server beside a loop in one process over the same runtime, at that loop's best batch and threads."""

import os
import statistics
import threading
import time

import numpy as np
import onnxruntime

from bench import median, table

MODELS = {"convnet": 1, "transformer": 1, "mlp_large": 16}
BATCHES = (1, 8, 32)
SECONDS = 2
CORES = len(os.sched_getaffinity(0))


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed(model, rows):
    """Inputs of `rows` rows."""
    generator = np.random.default_rng(1)

    def tensor(spec):
        shape = [rows, *spec.shape[1:]]
        if "int64" in spec.type:
            return generator.integers(0, 100, shape)
        return generator.standard_normal(shape, dtype=np.float32)

    return {spec.name: tensor(spec) for spec in model.get_inputs()}


def loop(path, sessions, threads, rows):
    """Rows per second of `sessions` sessions of `threads` threads, each in its own loop."""
    made = [session(path, threads) for _ in range(sessions)]
    inputs = feed(made[0], rows)
    for one in made:
        one.run(None, inputs)
    until = time.monotonic() + SECONDS
    runs = [0] * sessions

    def work(index):
        while time.monotonic() < until:
            made[index].run(None, inputs)
            runs[index] += 1

    started = time.monotonic()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(sessions)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return rows * sum(runs) / (time.monotonic() - started)


def measure(tools):
    """Each way of the loop and the server in turn; the ceiling is the best way's median."""
    rows, shown = [], []
    for model, per_request in MODELS.items():
        path = tools.models / "repository" / model / "1" / "model.onnx"
        ways = [(sessions, CORES // sessions, batch) for sessions in (1, CORES) for batch in BATCHES]
        found = {way: [] for way in ways}
        served = []
        with tools.serving(model) as server:
            for _ in range(tools.rounds):
                for way in ways:
                    found[way].append(loop(path, *way))
                more = ["--concurrency", "64", "--rows", per_request]
                result = tools.load(server, "grpc", model, *more, seconds=2 * SECONDS)
                served.append(per_request * result["total"]["throughput_per_s"])
            how = server.json("GET", f"/v2/models/{model}/config")["parameters"]["crossfade.instances"]["string_value"]
        best = max(ways, key=lambda way: median(found[way]))
        rows.append(
            {
                "model": model,
                "loop_rows_per_s": {f"{s}x{t} batch {b}": found[s, t, b] for s, t, b in ways},
                "server_rows_per_s": served,
                "rows_per_request": per_request,
                "instances": how,
            }
        )
        ratio = [mine / theirs for mine, theirs in zip(served, found[best])]
        sessions, threads, batch = best
        shown.append(
            [
                model,
                f"{median(found[best]):.0f} ({sessions}×{threads}, batch {batch})",
                f"{median(served):.0f} ({per_request} rows a request; {how.split(' by ')[0]})",
                f"{100 * statistics.median(ratio):.0f} %",
                f"{100 * min(ratio):.0f} to {100 * max(ratio):.0f} %",
            ]
        )
    table(["model", "loop, rows/s (sessions × threads)", "server, rows/s, 64 in flight", "of the loop", "rounds"], shown)
    return rows
