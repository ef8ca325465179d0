"""Plots as SVG, without a library: for each model and family a panel, a line per server, a mark per concurrency."""

import math
from xml.sax.saxutils import escape

FILES = {
    "peers/throughput.svg": "Requests per second: each model, protocol and server, at 1, 8 and 64 in flight",
    "peers/p99.svg": "99th percentile of latency: the same",
    "peers/cpu.svg": "CPU time of the server per request: the same",
}
FIGURES = {
    "peers/throughput.svg": ("throughput_per_s", "requests per second; right is better"),
    "peers/p99.svg": ("p99_us", "p99 in µs; left is better"),
    "peers/cpu.svg": ("cpu_us", "CPU µs per request; left is better"),
}
PANEL, LABELS, ROW, GAP, TOP = 270, 100, 17, 26, 64
SHADES = ("#9ecae1", "#4292c6", "#08306b")


def draw(result, cells, peers, families):
    """Name of the file to SVG."""
    models = list(dict.fromkeys(row["model"] for row in result["starts"]))
    return {name: plot(cells, models, peers, families, *FIGURES[name]) for name in FILES}


def plot(cells, models, peers, families, figure, title):
    """All panels of one figure on a logarithmic axis per model."""
    levels = sorted({key[3] for key in cells})
    height = TOP + len(models) * (len(peers) * ROW + 44 + GAP)
    width = LABELS + len(families) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(8, 20, title, size=14, weight="bold"),
    ]
    for index, level in enumerate(levels):
        parts.append(mark(16 + index * 110, 38, index))
        parts.append(text(24 + index * 110, 42, f"{level} in flight"))
    for row, model in enumerate(models):
        top = TOP + row * (len(peers) * ROW + 44 + GAP)
        values = [cell[figure] for key, cell in cells.items() if key[0] == model and cell.get(figure)]
        if not values:
            continue
        axis = Axis(min(values), max(values))
        parts.append(text(8, top + 12, model, weight="bold"))
        for index, peer in enumerate(peers):
            parts.append(text(8, top + 34 + index * ROW, peer, weight="bold" if peer == "crossfade" else "normal"))
        for column, family in enumerate(families):
            left = LABELS + column * (PANEL + GAP)
            parts.append(text(left, top + 12, family))
            parts += panel(cells, (model, family), peers, levels, figure, axis, left, top + 20)
    return "\n".join(parts + ["</svg>\n"])


def panel(cells, key, peers, levels, figure, axis, left, top):
    """One model over one family of protocols."""
    bottom = top + len(peers) * ROW
    for tick in axis.ticks():
        x = left + axis.place(tick)
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#dddddd"/>'
        yield text(x, bottom + 12, short(tick), anchor="middle", size=9)
    for index, peer in enumerate(peers):
        y = top + 10 + index * ROW
        there = [
            (number, cells[(*key, peer, level)][figure])
            for number, level in enumerate(levels)
            if cells.get((*key, peer, level), {}).get(figure)
        ]
        if there:
            places = [left + axis.place(value) for _, value in there]
            yield f'<line x1="{min(places):.1f}" y1="{y}" x2="{max(places):.1f}" y2="{y}" stroke="#bbbbbb"/>'
        for number, value in there:
            yield mark(left + axis.place(value), y, number)


class Axis:
    """A logarithmic scale over whole decades."""

    def __init__(self, low, high):
        self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        if self.low == self.high:
            self.high += 1

    def place(self, value):
        return (math.log10(value) - self.low) / (self.high - self.low) * PANEL

    def ticks(self):
        return [10.0**power for power in range(self.low, self.high + 1)]


def mark(x, y, number):
    return f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{SHADES[number % len(SHADES)]}"/>'


def text(x, y, content, anchor="start", size=11, weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="#222222">{escape(content)}</text>'
    )


def short(value):
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
