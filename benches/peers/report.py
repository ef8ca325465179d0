"""From the rows of a comparison to a table, to plots, and to their place in the documentation."""

import json
import statistics
import textwrap

import plots

BEGIN, END = "<!-- peers: begin, written by `cargo xtask peers` -->", "<!-- peers: end -->"
# What is compared with what: the forms of a body that cost about the same to read.
FAMILIES = {
    "gRPC": ("grpc",),
    "HTTP binary": ("http-binary", "bytes"),
    "HTTP JSON": ("http-json", "json"),
}
FIGURES = {  # name: whether more is better
    "throughput_per_s": True,
    "p50_us": False,
    "p99_us": False,
    "p999_us": False,
    "cpu_us": False,
    "memory_bytes": False,
}


def compact(result):
    """The result as JSON, a line for each row."""
    rows = {key: result[key] for key in ("starts", "runs")}
    head = json.dumps({key: value for key, value in result.items() if key not in rows}, indent=1)
    lists = [
        f' "{key}": [\n' + ",\n".join("  " + json.dumps(row) for row in values) + "\n ]" for key, values in rows.items()
    ]
    return head[:-2] + ",\n" + ",\n".join(lists) + "\n}\n"


def cells(result):
    """Model, family, server and concurrency to the median of each figure over the rounds.

    `spread` is the range of throughput over its median; `errors` is a sum; `why` is what went wrong where there is no
    figure at all.
    """
    grouped = {}
    for row in result["runs"]:
        family = next(name for name, protocols in FAMILIES.items() if row["protocol"] in protocols)
        grouped.setdefault((row["model"], family, row["peer"], row["concurrency"]), []).append(row)
    return {key: cell(rows) for key, rows in grouped.items()}


def cell(rows):
    """The rounds of one cell as one."""
    good = [row for row in rows if "error" not in row and row["ok"]]
    why = next((row["error"] for row in rows if "error" in row), None)
    if not good:
        return {"why": why or "no request succeeded", "errors": 0, "failed_rounds": len(rows)}
    throughputs = [row["throughput_per_s"] for row in good]
    return {
        **{figure: statistics.median(row[figure] for row in good) for figure in FIGURES},
        "spread": (max(throughputs) - min(throughputs)) / statistics.median(throughputs),
        "errors": sum(sum(row["errors"].values()) for row in good),
        "failed_rounds": len(rows) - len(good),
        "why": why,
    }


def starts(result):
    """Model and server to the median start in seconds; none where it never started."""
    grouped = {}
    for row in result["starts"]:
        grouped.setdefault((row["model"], row["peer"]), []).append(row.get("seconds"))
    return {
        key: statistics.median([s for s in seconds if s is not None] or [float("nan")])
        for key, seconds in grouped.items()
    }


def best(figures, more_is_better):
    """The best of some figures, none of which has to be there."""
    there = [figure for figure in figures if figure is not None and figure == figure]
    return (max if more_is_better else min)(there) if there else None


def concurrencies(result):
    return sorted({row["concurrency"] for row in result["runs"]})


def table(result, model, family):
    """One row per server; in each column the best figure is bold."""
    levels, found, begun = concurrencies(result), cells(result), starts(result)
    peers = [peer for peer in ordered(result) if any((model, family, peer, level) in found for level in levels)]
    of = {(peer, level): found.get((model, family, peer, level), {}) for peer in peers for level in levels}
    top = {
        (figure, level): best([of[peer, level].get(figure) for peer in peers], more)
        for figure, more in FIGURES.items()
        for level in levels
    }
    memory = {
        peer: max((of[peer, level].get("memory_bytes") or 0 for level in levels), default=0) or None for peer in peers
    }
    lines = [
        "| server | "
        + " | ".join(f"requests/s, {level}" for level in levels)
        + " | "
        + " | ".join(f"p50 / p99 / p99.9 ms, {level}" for level in levels)
        + " | "
        + " / ".join(map(str, levels))
        + ": CPU µs per request | memory MB | start s | errors |",
        "|---" * (2 * len(levels) + 5) + "|",
    ]

    def shown(peer, figure, level, form):
        value = of[peer, level].get(figure)
        return "–" if value is None else strong(form(value), value == top[figure, level])

    for peer in peers:
        start = begun.get((model, peer))
        columns = [peer]
        columns += [shown(peer, "throughput_per_s", level, count) for level in levels]
        columns += [
            " / ".join(shown(peer, figure, level, milliseconds) for figure in ("p50_us", "p99_us", "p999_us"))
            for level in levels
        ]
        columns.append(" / ".join(shown(peer, "cpu_us", level, count) for level in levels))
        columns.append(
            "–"
            if memory[peer] is None
            else strong(count(memory[peer] / 1e6), memory[peer] == best(memory.values(), False))
        )
        all_starts = [begun.get((model, other)) for other in peers]
        columns.append(
            "–" if start is None or start != start else strong(f"{start:.2f}", start == best(all_starts, False))
        )
        columns.append(errors_of([of[peer, level] for level in levels]))
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def errors_of(cells_of_peer):
    """Requests that failed, and rounds that gave nothing."""
    failed, rounds = (sum(cell.get(key, 0) for cell in cells_of_peer) for key in ("errors", "failed_rounds"))
    return str(failed) + (f", and {rounds} rounds failed" if rounds else "")


def lost(result, ours="crossfade"):
    """The cells of throughput, p99 and CPU that another server wins: text, worst first."""
    found, losses, compared = cells(result), [], 0
    for (model, family, peer, level), cell in found.items():
        if peer != ours:
            continue
        rivals = {
            name: other
            for (m, f, name, n), other in found.items()
            if (m, f, n) == (model, family, level) and name != ours
        }
        for figure, more in (("throughput_per_s", True), ("p99_us", False), ("cpu_us", False)):
            rival = best([other.get(figure) for other in rivals.values()], more)
            if rival is None or cell.get(figure) is None:
                continue
            compared += 1
            ratio = rival / cell[figure] if more else cell[figure] / rival if rival else 1.0
            if ratio > 1:
                winner = next(name for name, other in rivals.items() if other.get(figure) == rival)
                label = {"throughput_per_s": "throughput", "p99_us": "p99", "cpu_us": "CPU"}[figure]
                losses.append((ratio, f"{model}, {family}, {level} in flight, {label}: {winner} is {ratio:.2f}× ahead"))
    return compared, [text for _, text in sorted(losses, reverse=True)]


def joined(earlier, result, models):
    """What an earlier command found of other models, and room for what this one finds."""
    for key in ("schema", "machine", "threads", "rounds", "seconds", "models"):
        if earlier[key] != result[key]:
            raise ValueError(f"`{key}` is another one there, {earlier[key]}: the two are no one comparison")
    for name in set(earlier["versions"]) | set(result["versions"]):
        before, now = (of["versions"].get(name, {}) for of in (earlier, result))
        if name != "crossfade" and before != now:
            raise ValueError(f"{name} is another one there, {before}: the two are no one comparison")
    for key in ("starts", "runs"):
        result[key] = [row for row in earlier[key] if row["model"] not in models]
    before = {key: earlier[key] for key in ("command", "started")}
    before["commit"] = earlier["versions"]["crossfade"]["commit"]
    result["earlier"] = [*earlier.get("earlier", []), before]
    return result


def ordered(result):
    """The servers, in the order in which they were first started."""
    return list(dict.fromkeys(row["peer"] for row in result["starts"]))


def strong(text, is_best):
    return f"**{text}**" if is_best else text


def count(value):
    """A whole number from 100 on, else three digits; thousands apart."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def milliseconds(microseconds):
    value = microseconds / 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def section(result, source):
    """The section of docs/benchmarks.md."""
    machine = result["machine"]
    compared, losses = lost(result)
    spreads = [found["spread"] for found in cells(result).values() if "spread" in found]
    runtimes = sorted({found["onnxruntime"] for found in result["versions"].values() if "onnxruntime" in found})
    how = (
        f"{commands(result)}: {versions(result)}; ONNX Runtime {', '.join(runtimes)}. "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['os']}; "
        f"{result['threads']} threads that compute in each server; server and load tester on the same cores. Closed "
        f"loop, a server at a time, in turn; runs of {result['seconds']:g} s, {result['rounds']} of each cell, whose "
        f"median is shown. Throughput of a cell varies over its runs by {statistics.median(spreads or [0]):.0%} (median "
        "of the cells; range over median). The last number in the head of a column is the requests in flight. CPU is "
        "of all processes of the server, user and system. Memory is the largest proportional set size of all its "
        "processes under load. Start is from the start of the program to its first right answer. The best of a column "
        f"is bold, whoever has it. Every run: `benches/results/{source.name}`."
    )
    won = f"A peer wins {len(losses)} of {compared} cells of throughput, p99 and CPU"
    if losses:
        won += ". The widest gaps, which are the next to fix:\n\n" + "\n".join(f"- {text}" for text in losses[:12])
    else:
        won += "."
    parts = [textwrap.fill(how, 120, break_long_words=False, break_on_hyphens=False), won]
    if notes := failed(result) + limited(result):
        parts.append("What failed or was in the way:\n\n" + "\n".join(f"- {text}" for text in notes))
    parts += [f"![{title}]({name})" for name, title in plots.FILES.items()]
    for model in dict.fromkeys(row["model"] for row in result["starts"]):
        for family in FAMILIES:
            if any(key[:2] == (model, family) for key in cells(result)):
                parts.append(f"**{model}, {family}**\n\n{table(result, model, family)}")
    return "\n\n".join(parts)


def commands(result):
    """What was run and when; of several, each with the commit that it measured."""
    runs = [*result.get("earlier", []), {"commit": result["versions"]["crossfade"]["commit"], **result}]
    if len(runs) == 1:
        return f"`{result['command']}`, {result['started'][:10]}"
    return "; then ".join(f"`{run['command']}`, {run['started'][:10]}, at {run['commit'][:9]}" for run in runs)


def versions(result):
    """Each server with its version, and the package that it comes in where that has another name."""
    return ", ".join(
        f"{name} {found['version'].removeprefix(name).strip()}"
        if found.get("package", name) == name
        else f"{name} ({found['package']} {found['version']})"
        for name, found in result["versions"].items()
    )


def limited(result):
    """The cells where the load tester says that it was the bottleneck itself."""
    cells_of_tester = dict.fromkeys(
        f"{row['model']}, {row['protocol']}, {row['peer']}, {row['concurrency']} in flight"
        for row in result["runs"]
        if row.get("tester_is_bottleneck")
    )
    return [f"{text}: the load tester was the bottleneck" for text in cells_of_tester]


def failed(result):
    """Servers that did not start or started late, cells without a figure or with failed requests."""
    texts = [
        f"{row['model']}, {row['peer']}: does not start: {row['error'].splitlines()[0]}"
        for row in result["starts"]
        if "error" in row
    ]
    texts += [
        f"{row['model']}, {row['peer']}: started at attempt {row['attempts']}"
        for row in result["starts"]
        if row["attempts"] > 1 and "error" not in row
    ]
    for (model, family, peer, level), found in cells(result).items():
        if found["why"]:
            texts.append(f"{model}, {family}, {peer}, {level} in flight: {found['why'].splitlines()[0][:200]}")
    return texts


def publish(result, source, docs):
    """Writes the section between its marks in docs/benchmarks.md, and the plots."""
    page = docs / "benchmarks.md"
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page}: the marks `{BEGIN}` and `{END}` are not there; put them where the section belongs")
    head, rest = text.split(BEGIN, 1)
    page.write_text(f"{head}{BEGIN}\n\n{section(result, source)}\n\n{END}{rest.split(END, 1)[1]}")
    for name, content in plots.draw(result, cells(result), ordered(result), list(FAMILIES)).items():
        (docs / name).parent.mkdir(exist_ok=True)
        (docs / name).write_text(content)
