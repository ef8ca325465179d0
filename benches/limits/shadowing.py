"""What shadowing a fifth of the requests does to the ones that are answered: a released model, with and without copies."""

import http.client
import json
import re
import shutil
import time

from bench import median, table

MODEL, PERCENT = "mlp", 20
# Steps and units that no run reaches: the release stays where it is put.
RULES = """
[model]
risk = "low"
[instances]
count = 1
[gates.golden]
enabled = false
[rollout.shadow]
percent = {percent}
min = "10h"
max = "20h"
tol = 1.0
"""
SECONDS = 12


def measure(tools):
    """Two models of one file beside each other in one server, one of them with a new version in shadow, asked in turn."""
    repository = tools.scratch / "shadowing"
    for name, rules in (("plain", "[instances]\ncount = 1\n"), ("shadowed", RULES.format(percent=PERCENT))):
        version(tools, repository, name, 1)
        (repository / name / "model.toml").write_text(rules)
    rows, shown = [], []
    with tools.serving("plain", "shadowed", repository=repository, calibrated=False) as server:
        begin(tools, server, repository)
        for protocol in ("http-binary", "grpc"):
            for load in (["--rate", 500], ["--rate", 2000], ["--concurrency", 4]):
                pairs = [pair(tools, server, protocol, load, turn) for turn in range(tools.rounds)]
                rows += pairs
                shown.append(
                    [
                        protocol,
                        " ".join(map(str, load)),
                        *(f"{median([p[which][key] for p in pairs]) / 1000:.2f}" for key in ("p50_us", "p99_us") for which in ("plain", "shadowed")),
                        *(f"{median([p['shadowed'][key] / p['plain'][key] for p in pairs]):.2f}" for key in ("p50_us", "p99_us", "p999_us")),
                        sum(p["pairs"] for p in pairs),
                        sum(p["dropped"] for p in pairs),
                        f"{min(p['percent'] for p in pairs):.3g}",
                        sum(sum(p[which]["errors"].values()) for p in pairs for which in ("plain", "shadowed")),
                    ]
                )
        if state(server)["state"]["state"] != "shadow":
            raise RuntimeError(f"the release did not stay in shadow: {state(server)}")
    head = ["protocol", "load", "p50 ms plain", "shadowed", "p99 ms plain", "shadowed", "p50 ratio", "p99 ratio", "p99.9 ratio"]
    table(head + ["pairs", "dropped", "least percent", "errors"], shown)
    return rows


def version(tools, repository, name, number):
    folder = repository / name / str(number)
    folder.mkdir(parents=True)
    shutil.copy(tools.models / "repository" / MODEL / "1" / "model.onnx", folder)


def begin(tools, server, repository):
    """Brings a second version, which is the first one again, and waits until it is in shadow."""
    version(tools, repository, "shadowed", 2)
    server.json("POST", "/v2/repository/models/shadowed/load", {})
    until = time.monotonic() + 60
    while state(server)["state"]["state"] != "shadow":
        if time.monotonic() > until:
            raise RuntimeError(f"the release is not in shadow: {state(server)}")
        time.sleep(0.05)


def state(server):
    """The last release, as the admin listener has it."""
    log = server.process.log.read_text(errors="replace")
    connection = http.client.HTTPConnection(re.search(r"admin=([\w.:\[\]-]+:\d+)", log)[1], timeout=60)
    try:
        connection.request("GET", "/crossfade/v1/models/shadowed/rollouts?limit=1")
        return json.loads(connection.getresponse().read())["rollouts"][0]
    finally:
        connection.close()


def pair(tools, server, protocol, load, turn):
    """Both models under the same load, the shadowed one first every second time."""
    before, totals = state(server)["shadow"], {}
    order = ["plain", "shadowed"]
    for model in order if turn % 2 == 0 else reversed(order):
        totals[model] = figures(tools.load(server, protocol, model, *load, seconds=SECONDS)["total"])
    after = state(server)["shadow"]
    return {
        "protocol": protocol,
        "load": load,
        **totals,
        "pairs": after["pairs"] - before["pairs"],
        "dropped": after["dropped"] - before["dropped"],
        "percent": after["percent"],
    }


def figures(total):
    latency = {key: total["latency"][key] for key in ("p50_us", "p99_us", "p999_us", "max_us")}
    return {**latency, "ok": total["ok"], "errors": total["errors"]}
