"""The charts of a sweep's page: the frontier of all runs, and each run's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from knowcap.report.plots import COLORS
from knowcap.sweep.svg import GREY, Axis, Chart, mark


_POINTS = 150  # of a curve, at most
Row = Mapping[str, Any]


def frontier(rows: Sequence[Row]) -> str:
    """Learned bits against parameters, both logarithmic, with the lines of 2 bits and 1 bit per parameter, as SVG.

    A colour and a shape are a number of entities N, whose knowledge in all is a dotted line; what lost against
    another value of the sweep's `best_of` is hollow. What holds no bits has no place here and is counted below.
    """
    shown = [row for row in rows if row["knowledge_bits"] > 0]
    sizes = sorted({row["num_entities"] for row in rows})
    x_low, x_high = _ends([row["num_parameters"] for row in rows])
    y_low, y_high = _ends([row["knowledge_bits"] for row in shown] + [row["max_knowledge_bits"] for row in rows])
    chart = Chart(
        860, 485, Axis(x_low, x_high, 70, 620, True), Axis(y_low, y_high, 410, 15, True), "bits against parameters"
    )
    chart.grid("parameters", "knowledge learned (bits)")
    for at, (ratio, dash) in enumerate(((2, ""), (1, "6 4"))):
        x = [max(x_low, y_low / ratio), min(x_high, y_high / ratio)]
        if x[0] < x[1]:
            chart.line([(value, ratio * value) for value in x], GREY, dash, 1.2)
        chart.segment(640, 30 + 20 * at, 664, 30 + 20 * at, GREY, dash, 1.2)
        chart.text(672, 34 + 20 * at, f"R = {ratio}: {ratio} bit{'s' if ratio > 1 else ''} per parameter")
    for number, size in enumerate(sizes):
        color, at = COLORS[number % len(COLORS)], 78 + 22 * number
        for most in sorted({row["max_knowledge_bits"] for row in rows if row["num_entities"] == size}):
            chart.line([(x_low, most), (x_high, most)], color, "2 3", 1)
        chart.parts.append(mark(652, at, number, color, True, ""))
        chart.text(672, at + 4, f"N = {size:,} (dotted: all there is)")
    for row in sorted(shown, key=lambda row: row["won"] is True):
        number = sizes.index(row["num_entities"])
        color, told = COLORS[number % len(COLORS)], f"{row['run']}: {row['bits_per_parameter']:.3f} bits per parameter"
        chart.mark(row["num_parameters"], row["knowledge_bits"], number, color, row["won"] is not False, told)
    if len(shown) < len(rows):
        text = f"{len(rows) - len(shown)} of {len(rows)} hold no bits (zero or below) and are not shown"
        chart.text(620, 474, text, "end", GREY)
    return chart.svg()


def training(history: Mapping[str, Any]) -> str:
    """A run's loss against tokens, from its training.json, as SVG; and bits per parameter, if they were measured."""
    losses = [(e["tokens"], e["loss"]) for e in history.get("log_history", []) if e.get("loss") is not None]
    if not losses:
        return ""
    losses = _thinned(losses)
    values = [loss for _, loss in losses]
    room = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    x = Axis(0.0, float(losses[-1][0]) or 1.0, 52, 335)
    chart = Chart(
        400, 210, x, Axis(min(values) - room, max(values) + room, 165, 10), f"loss of {history['model_name']}"
    )
    chart.grid("tokens", "loss (nats a token)")
    chart.line(losses, COLORS[0])
    bits = [(e["tokens"], e["bits_per_parameter"]) for e in history.get("knowledge_history", [])]
    if bits:
        most = history["knowledge_history"][-1]["max_bits_per_parameter"]
        low, high = min(0.0, *(value for _, value in bits)), max(most, *(value for _, value in bits))
        right = Chart(400, 210, x, Axis(low, 1.05 * high, 165, 10), "")
        right.line(bits, COLORS[1])
        right.line([(0.0, most), (x.high, most)], COLORS[1], "2 3", 1)
        for value in right.y.ticks():
            right.text(341, right.y.at(value) + 4, f"{value:g}", "start", COLORS[1])
        right.text(395, 205, "bits per parameter", "end", COLORS[1])
        chart.parts += right.parts
    return chart.svg()


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room around the values, a decade or more apart."""
    low, high = min(values) / 2, max(values) * 2
    gap = max(1.0, (10 * low / high) ** 0.5)
    return low / gap, high * gap


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many points, evenly, the last one among them."""
    step = -(-len(points) // _POINTS)
    return points[::-step][::-1]
