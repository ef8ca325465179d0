"""Tensors of 64 KB to 64 MB through the identity model: bytes per second, beside this machine's memory copy."""

import time

import numpy

from bench import median, table

ROW = 4096
SIZES = (64 << 10, 1 << 20, 16 << 20, 64 << 20)


def copies_per_second(size):
    """Bytes per second of copying a buffer of `size` bytes to another, one thread."""
    source, target = numpy.ones(size, numpy.uint8), numpy.empty(size, numpy.uint8)
    # So many at a time that calling is a small part of copying.
    times = max(1, (16 << 20) // size)
    until, copied, started = time.monotonic() + 0.5, 0, time.monotonic()
    while time.monotonic() < until:
        for _ in range(times):
            numpy.copyto(target, source)
        copied += times * size
    return copied / (time.monotonic() - started)


def measure(tools):
    """One request in flight; a tensor travels in and out, so twice its size is moved per request."""
    rows, shown = [], []
    with tools.serving("identity") as server:
        for size in SIZES:
            row = {"bytes": size, "copy_bytes_per_s": median([copies_per_second(size) for _ in range(tools.rounds)])}
            for protocol in ("http-binary", "grpc"):
                more = ["--concurrency", "1", "--rows", size // ROW, "--variants", "1"]
                results = [tools.load(server, protocol, "identity", *more, seconds=3) for _ in range(tools.rounds)]
                row[protocol] = median([result["total"]["latency"]["p50_us"] for result in results])
                row[f"{protocol}_cpu_us"] = median(
                    [1e6 * result["server"]["cpu_s"] / max(1, result["total"]["ok"]) for result in results]
                )
                row[f"{protocol}_errors"] = [result["total"]["errors"] for result in results if result["total"]["errors"]]
            rows.append(row)
            shown.append(
                [
                    f"{size >> 10} KiB",
                    f"{row['copy_bytes_per_s'] / 1e9:.1f}",
                    *(
                        f"{row[protocol] / 1000:.3g} ({2 * size / row[protocol] / 1000:.2f} GB/s, "
                        f"CPU for {row[f'{protocol}_cpu_us'] * 1e-6 * row['copy_bytes_per_s'] / size:.1f} copies)"
                        for protocol in ("http-binary", "grpc")
                    ),
                ]
            )
    table(["tensor", "memory copy, GB/s", "HTTP binary, p50 ms", "gRPC, p50 ms"], shown)
    return rows
