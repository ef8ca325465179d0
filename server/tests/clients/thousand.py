"""Serves a thousand tiny models: start-up time, memory, and how long a scrape of the metrics takes.

    python thousand.py [--models 1000]

Every model is asked once before the second scrape, so that all its series exist. Exit code 1 if any answer is wrong.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time

import graphs
import harness


def scrape(server):
    """`(seconds, bytes, lines)` of the fastest of three scrapes."""
    times = []
    for _ in range(3):
        started = time.monotonic()
        status, _, body = server.request("GET", "/metrics", address=server.metrics)
        times.append(time.monotonic() - started)
        assert status == 200
    return min(times), len(body), body.count(b"\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=int, default=1000)
    count = parser.parse_args().models
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="crossfade-thousand-") as folder:
        for i in range(count):
            graphs.put(folder, f"model-{i:04}", graphs.plus(float(i)))
        with harness.serve(folder, ready=0) as server:
            ready = server.wait_ready(600)
            resident, peak = server.resident()
            print(f"{count} models ready after {ready:.2f} s; resident {resident / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB")
            first = scrape(server)
            connection = http.client.HTTPConnection(server.http, timeout=60)
            request = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
            started = time.monotonic()
            for i in range(count):
                connection.request("POST", f"/v2/models/model-{i:04}/infer", request)
                answer = connection.getresponse().read()
                wrong += json.loads(answer).get("outputs", [{}])[0].get("data") != [1 + i, 2 + i]
            took = time.monotonic() - started
            connection.close()
            print(f"each asked once, one after the other: {took:.2f} s, {wrong} wrong; resident {server.resident()[0] / 1e6:.0f} MB")
            for when, (seconds, size, lines) in (("before", first), ("after", scrape(server))):
                print(f"scrape {when} the requests: {1000 * seconds:.1f} ms, {size / 1e6:.2f} MB, {lines} lines")
            started = time.monotonic()
            entries = len(server.json("POST", "/v2/repository/index"))
            print(f"index: {entries} entries in {1000 * (time.monotonic() - started):.1f} ms")
    sys.exit(wrong > 0 or entries != count)


if __name__ == "__main__":
    main()
