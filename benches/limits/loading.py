"""A large model comes and goes, or is swapped, while others are served."""

import shutil
import threading

from bench import median, table

LARGE, SMALL = "large_100mb", "mlp"
CLIENTS = 4
# Of what the large model can answer: beyond it, what swaps do would be lost in the queue's own waits.
SWAPPED_SHARE = 0.5


class Loop(threading.Thread):
    """Loads and unloads a model until told to stop; counts."""

    def __init__(self, server, model):
        super().__init__(daemon=True)
        self.server, self.model, self.loads = server, model, 0
        self.ending, self.error = threading.Event(), None
        self.start()

    def run(self):
        try:
            while not self.ending.is_set():
                self.server.json("POST", f"/v2/repository/models/{self.model}/load", {})
                self.server.json("POST", f"/v2/repository/models/{self.model}/unload", {})
                self.loads += 1
        except (OSError, RuntimeError) as error:
            self.error = error

    def stop(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error
        return self.loads


def measure(tools):
    """A small model at light load, quiet and beside the loop, in turn."""
    rows, shown = [], []
    with tools.serving(SMALL) as server:
        for protocol in ("http-binary", "grpc"):
            for load in (["--concurrency", CLIENTS], ["--rate", 500]):
                pairs = [pair(tools, server, protocol, load) for _ in range(tools.rounds)]
                rows += pairs
                shown.append(
                    [
                        protocol,
                        " ".join(map(str, load)),
                        *(
                            f"{median([p[when][key] for p in pairs]) / 1000:.2f}"
                            for key in ("p99_us", "p999_us")
                            for when in ("quiet", "loading")
                        ),
                        *(
                            f"{median([p['loading'][key] / p['quiet'][key] for p in pairs]):.2f}"
                            for key in ("p99_us", "p999_us")
                        ),
                        sum(p["loads"] for p in pairs),
                        sum(sum(p[when]["errors"].values()) for p in pairs for when in ("quiet", "loading")),
                    ]
                )
    head = ["protocol", "load", "p99 ms quiet", "loading", "p99.9 ms quiet", "loading", "p99 ratio", "p99.9 ratio"]
    table(head + ["loads", "errors"], shown)
    return rows


def pair(tools, server, protocol, load):
    quiet = tools.load(server, protocol, SMALL, *load, seconds=6)
    loop = Loop(server, LARGE)
    try:
        loading = tools.load(server, protocol, SMALL, *load, seconds=6)
    finally:
        loads = loop.stop()
    return {"protocol": protocol, "load": load, "loads": loads, "quiet": figures(quiet["total"]), "loading": figures(loading["total"])}


def figures(total):
    latency = {key: total["latency"][key] for key in ("p50_us", "p99_us", "p999_us", "max_us")}
    return {**latency, "ok": total["ok"], "errors": total["errors"]}


def measure_swaps(tools):
    """The large model swapped between two versions of itself under its own load: that load before and during."""
    repository = tools.scratch / "swapping"
    for version in ("1", "2"):
        folder = repository / LARGE / version
        folder.mkdir(parents=True)
        shutil.copy(tools.models / "repository" / LARGE / "1" / "model.onnx", folder)
    # Whether many instances would be better is measured after each load; here it is set, and loads are all there is.
    (repository / LARGE / "model.toml").write_text("[instances]\ncount = 1\n")
    rows = []
    with tools.serving(LARGE, repository=repository, calibrated=False) as server:
        peak = tools.load(server, "grpc", LARGE, "--concurrency", CLIENTS, seconds=8)["total"]["throughput_per_s"]
        for _ in range(tools.rounds):
            load = ["--rate", round(SWAPPED_SHARE * peak, 1)]
            quiet = tools.load(server, "grpc", LARGE, *load, seconds=15)
            load += ["--during", f"swap {LARGE} 1->2 every 3s"]
            swapped = tools.load(server, "grpc", LARGE, *load, seconds=18)["during"]
            rows.append({"peak_per_s": peak, "load": load, "quiet": figures(quiet["total"]), "swapped": figures(swapped)})
    shown = [
        [
            key,
            *(f"{median([row[part][f'{key}_us'] for row in rows]) / 1000:.2f}" for part in ("quiet", "swapped")),
            f"{median([row['swapped'][f'{key}_us'] / row['quiet'][f'{key}_us'] for row in rows]):.2f}",
        ]
        for key in ("p50", "p99", "p999")
    ]
    table(["", "quiet, ms", "while swapped every 3 s, ms", "ratio"], shown)
    parts = [row[part] for row in rows for part in ("quiet", "swapped")]
    failed = sum(sum(part["errors"].values()) for part in parts)
    print(f"\nrequests: {sum(part['ok'] for part in parts)}, failed: {failed}; peak {peak:.0f}/s, offered {load[1]}/s")
    return rows
