"""Loads and unloads one model again and again, and reports the server's memory.

    python cycles.py [--cycles 200] [--megabytes 20]

Each cycle loads the model, asks it once, and unloads it. Exit code 1 if, from the tenth cycle to the last, resident memory
grew by more than one copy of the model.
"""

import argparse
import sys
import tempfile
import time

import graphs
import harness
import numpy as np
from onnx import TensorProto, helper, numpy_helper

SETTLED = 10  # cycles after which allocators and thread pools have their size


def heavy(megabytes):
    """`y = x · W`, with a matrix of so many megabytes."""
    columns = megabytes * 1_000_000 // (4 * 1000)
    weight = np.random.default_rng(0).standard_normal((1000, columns), np.float32)
    return graphs.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(weight, "w")],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=20, help="size of the model")
    arguments = parser.parse_args()
    request = {"inputs": [{"name": "x", "shape": [1, 1000], "datatype": "FP32", "data": [1.0] * 1000}]}
    with tempfile.TemporaryDirectory(prefix="crossfade-cycles-") as folder:
        graphs.put(folder, "heavy", heavy(arguments.megabytes))
        with harness.serve(folder, "--model-control-mode", "explicit") as server:
            after = [server.resident()[0]]
            started = time.monotonic()
            for _ in range(arguments.cycles):
                server.json("POST", "/v2/repository/models/heavy/load")
                server.json("POST", "/v2/models/heavy/infer", request)
                server.json("POST", "/v2/repository/models/heavy/unload")
                state = lambda: server.json("POST", "/v2/repository/index")[0]["state"]  # noqa: E731
                server.wait(lambda: state() in ("UNAVAILABLE", ""), "the model was unloaded", 10)
                after.append(server.resident()[0])
            took = time.monotonic() - started
            peak = server.resident()[1]
    megabytes = [x / 1e6 for x in after]
    settled = megabytes[min(SETTLED, len(megabytes) - 1)]
    print(f"{arguments.cycles} cycles of a {arguments.megabytes} MB model in {took:.1f} s")
    print(f"resident: before {megabytes[0]:.1f} MB, after the first cycle {megabytes[1]:.1f} MB, after cycle {SETTLED} {settled:.1f} MB")
    print(f"          after the last {megabytes[-1]:.1f} MB; peak {peak / 1e6:.1f} MB")
    grown = megabytes[-1] - settled
    print(f"grown since cycle {SETTLED}: {grown:+.1f} MB")
    sys.exit(grown > arguments.megabytes)


if __name__ == "__main__":
    main()
