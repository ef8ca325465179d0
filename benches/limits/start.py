"""From the start of the process to ready, and what it holds when nothing happens."""

import time

from bench import spread, table

STARTS = 20
IDLE_S = 6


def measure(tools):
    """With one small model; calibration comes after ready and is over when idle memory is read."""
    ready, resident = [], []
    for _ in range(STARTS):
        with tools.serving("mlp", calibrated=False) as server:
            ready.append(1000 * server.ready_s)
    for _ in range(tools.rounds):
        with tools.serving("mlp") as server:
            time.sleep(IDLE_S)
            resident.append(server.resident_bytes() / 1e6)
    table(
        ["", "median (range)"],
        [[f"start to ready, ms, {STARTS} starts", spread(ready)], ["resident when idle, MB", spread(resident)]],
    )
    return {"ready_ms": ready, "idle_mb": resident}
