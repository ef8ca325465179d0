"""What the inference log costs: two servers of one model side by side, one that records every request, and the bytes of a record."""

import http.client
import json
import re
import time
from contextlib import ExitStack
from pathlib import Path

from bench import median, table

MODEL = "mlp"
SECONDS = 4
LOADS = (["--concurrency", 1], ["--concurrency", 8])
# Of the zoo, with how many requests bytes are counted.
ZOO = Path(__file__).parents[2] / "models" / "zoo"
REQUESTS = 2000


def measure(tools):
    """Pairs: the same load on the server that records and on the one that does not, the one first every second time."""
    with ExitStack() as servers:
        off = servers.enter_context(tools.serving(MODEL))
        on = servers.enter_context(tools.serving(MODEL, log=True))
        rows, shown = [], []
        for protocol in ("http-binary", "grpc"):
            for load in LOADS:
                pairs = [pair(tools, {"on": on, "off": off}, protocol, load, turn) for turn in range(tools.rounds)]
                rows += pairs
                shown.append([protocol, load[1], *(ratio(pairs, key) for key in ("rps", "p50_us", "p99_us"))])
        table(["protocol", "clients", "requests/s, on/off (range)", "p50", "p99"], shown)
        lost = count(on, "crossfade_log_lost_records_total")
        recorded = count(on, "crossfade_log_records_total")
        print(f"\n{recorded:.0f} requests recorded, {lost:.0f} lost\n", flush=True)
    sizes = [size(tools, model) for model in sorted(path.name for path in ZOO.iterdir() if (path / "1").is_dir())]
    table(["model", "bytes in segments", "bytes in Parquet"], [[one["model"], f"{one['segment']:.0f}", f"{one['parquet']:.0f}"] for one in sizes])
    return {"pairs": rows, "lost": lost, "recorded": recorded, "bytes": sizes}


def pair(tools, servers, protocol, load, turn):
    found = {}
    for which in ("on", "off") if turn % 2 == 0 else ("off", "on"):
        total = tools.load(servers[which], protocol, MODEL, *load, seconds=SECONDS)["total"]
        found[which] = {"rps": total["ok"] / SECONDS, **{key: total["latency"][key] for key in ("p50_us", "p99_us")}}
    return {"protocol": protocol, "clients": load[1], **found}


def ratio(pairs, key):
    ratios = [pair["on"][key] / pair["off"][key] for pair in pairs]
    return f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def count(server, name):
    """The sum of a series over its labels."""
    connection = http.client.HTTPConnection(server.metrics, timeout=60)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([\d.e+]+)$", text, re.M))


def size(tools, model):
    """Bytes of a record of a model's golden requests, in turn: where it is written first, and in the file."""
    golden = sorted((ZOO / model / "golden").glob("*.request.json"))
    with tools.serving(model, repository=ZOO, calibrated=False, log=True) as server:
        for turn in range(REQUESTS):
            request = json.loads(golden[turn % len(golden)].read_text())
            server.json("POST", f"/v2/models/{model}/infer", request)
        segment = count(server, "crossfade_log_bytes_total") / count(server, "crossfade_log_records_total")
        data = server.data
    until = time.monotonic() + 10
    while not (files := list(data.glob("log/**/*.parquet"))) and time.monotonic() < until:
        time.sleep(0.1)
    return {"model": model, "segment": segment, "parquet": sum(file.stat().st_size for file in files) / REQUESTS}
