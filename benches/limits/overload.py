"""More than can be served: what is answered, how soon, and how soon all is well again."""

from bench import median, table

# How long a client waits, per model: many times the time of one request alone.
DEADLINES_MS = {"mlp_large": 100, "convnet": 500}
SHARES = (0.8, 1.2, 3.0)
BURST_SHARE = 0.2


def peak(tools, server, protocol, model):
    """Answers per second with as many clients as keep it busy."""
    rates = [
        tools.load(server, protocol, model, "--concurrency", "64")["total"]["throughput_per_s"] for _ in range(tools.rounds)
    ]
    return median(rates)


def measure(tools):
    """Goodput and latency at shares of the peak, with a deadline on every request."""
    rows, shown = [], []
    for model, deadline in DEADLINES_MS.items():
        with tools.serving(model) as server:
            for protocol in ("http-binary", "grpc"):
                best = peak(tools, server, protocol, model)
                for share in SHARES:
                    rows += [run(tools, server, protocol, model, best, share, deadline) for _ in range(tools.rounds)]
                    same = rows[-tools.rounds :]
                    shown.append(
                        [
                            model,
                            protocol,
                            f"{best:.0f}",
                            f"{100 * share:.0f} %",
                            f"{100 * median([row['goodput_share'] for row in same]):.0f} %",
                            f"{median([row['p50_us'] for row in same]) / 1000:.1f}",
                            f"{median([row['p99_us'] for row in same]) / 1000:.1f}",
                            deadline,
                            ", ".join(sorted({name for row in same for name in row["errors"]})) or "none",
                        ]
                    )
    head = ["model", "protocol", "peak /s", "offered", "answered, of the peak", "p50 ms", "p99 ms", "deadline ms"]
    table(head + ["how the others end"], shown)
    return rows


def run(tools, server, protocol, model, best, share, deadline):
    more = ["--rate", round(best * share, 1), "--max-in-flight", 20000, "--connections", 64]
    more += ["--deadline", f"{deadline}ms"]
    result = tools.load(server, protocol, model, *more)
    total = result["total"]
    return {
        "model": model,
        "protocol": protocol,
        "peak_per_s": best,
        "share": share,
        "deadline_ms": deadline,
        "goodput_share": total["throughput_per_s"] / best,
        **{key: total["latency"][key] for key in ("p50_us", "p99_us", "p999_us", "max_us")},
        "errors": total["errors"],
        "late_sends": result["tester"]["late_sends"],
        "tester": result["tester"]["why"],
    }


def measure_bursts(tools):
    """Ten times the rate for 100 ms, every five seconds: the seconds with a burst, and those after."""
    rows, shown = [], []
    for model in ("mlp", "convnet"):
        with tools.serving(model) as server:
            for protocol in ("http-binary", "grpc"):
                base = round(BURST_SHARE * peak(tools, server, protocol, model), 1)
                arrivals = f"burst:{base},{10 * base},100ms/5s"
                more = ["--arrivals", arrivals, "--max-in-flight", 20000, "--connections", 64]
                result = tools.load(server, protocol, model, *more, seconds=20, warm_up=0)
                seconds = result["series"]
                phases = {
                    at: [row["p99_us"] for row in seconds if row["second"] % 5 == at and row["second"] < 20 and row["ok"]]
                    for at in range(5)
                }
                row = {
                    "model": model,
                    "protocol": protocol,
                    "base_per_s": base,
                    "errors": result["total"]["errors"],
                    "p99_us_by_second_after_burst": phases,
                    "sent": result["total"]["sent"],
                    "ok": result["total"]["ok"],
                }
                rows.append(row)
                quiet = median(phases[3] + phases[4])
                shown.append(
                    [
                        model,
                        protocol,
                        arrivals,
                        f"{row['ok']} of {row['sent']}",
                        f"{median(phases[0]) / 1000:.1f}",
                        f"{median(phases[1]) / 1000:.1f}",
                        f"{quiet / 1000:.1f}",
                    ]
                )
    table(["model", "protocol", "arrivals", "answered", "p99 ms, second of the burst", "the next", "quiet"], shown)
    return rows
