"""The planner's charts: what is drawn for an answer, and the drawing as SVG. Standard library alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape

from knowcap.laws.law import FLOPS_PER_PARAMETER_TOKEN, Law, loss
from knowcap.laws.plan.activations import CHECKPOINTING, Shape
from knowcap.laws.plan.answer import Chart, Line
from knowcap.laws.plan.capacity import Rate
from knowcap.laws.plan.fitted import loss_interval
from knowcap.laws.quantity import figure


_POINTS = 41
_REACH = 30.0  # a chart goes from the answer's size divided by this to it times this


def bits_chart(found: Rate, num_parameters: float, bits: float, to_store: float | None) -> Chart:
    """Bits held against parameters at a rate, with the answer's size.

    Args:
        found: bits per parameter, with its interval if it has one.
        num_parameters, bits: of the answer.
        to_store: all bits of the knowledge, beyond which a model holds no more; None: not limited.
    """
    most = math.inf if to_store is None else to_store
    sizes = _sizes(num_parameters, num_parameters)
    points = [(size, min(most, size * found.value)) for size in sizes]
    band = []
    if found.interval is not None:
        low, high = found.interval
        band = [(min(most, size * low), min(most, size * high)) for size in sizes]
    label = f"{figure(found.value)} bits per parameter"
    level = None if to_store is None else (f"to store: {figure(to_store)} bits", to_store)
    return Chart("bits held", [Line(label, points, band)], [("answer", num_parameters, bits)], level)


def loss_chart(used: Sequence[tuple[str, Law, float]], flops: float, num_parameters: float | None) -> Chart:
    """Loss against parameters for a budget, with every approach's optimum.

    Args:
        used: label, law and optimal size of each approach.
        flops: the budget.
        num_parameters: a fixed size, if one is asked for.
    """
    sizes = _sizes(min(size for *_, size in used), max(size for *_, size in used), num_parameters)
    lines, marks = [], []
    for label, law, size in used:
        best = loss(law, size, flops / (FLOPS_PER_PARAMETER_TOKEN * size))
        marks.append((label, size, best))
        if best is None:
            continue
        pairs = [(n, flops / (FLOPS_PER_PARAMETER_TOKEN * n)) for n in sizes]
        points = [(n, loss(law, n, d) or 0.0) for n, d in pairs]
        lines.append(Line(label, points, _band(law, pairs)))
    if num_parameters is not None:
        marks.append(("the given size", num_parameters, None))
    highest = 1.35 * min((y for line in lines for _, y in line.points), default=1.0)
    kept = [_below(line, highest) for line in lines]
    return Chart("loss, nats per token", kept, marks, log_y=False)


def _band(law: Law, pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The interval of a fitted law's loss at each size."""
    if not law.prediction:
        return []
    found = []
    for size, tokens in pairs:
        ends = loss_interval(law, size, tokens)
        if ends is None:
            return []
        found.append(ends)
    return found


def _below(line: Line, highest: float) -> Line:
    """The part of a curve whose values are small enough to be shown."""
    kept = [i for i, (_, y) in enumerate(line.points) if y <= highest]
    band = [line.band[i] for i in kept] if line.band else []
    return Line(line.label, [line.points[i] for i in kept], band)


def _sizes(least: float, most: float, other: float | None = None) -> list[float]:
    """Sizes around all of these, evenly in logarithms."""
    low = math.log(min(least, other or least) / _REACH)
    high = math.log(max(most, other or most) * _REACH)
    return [math.exp(low + (high - low) * i / (_POINTS - 1)) for i in range(_POINTS)]


_WIDTH, _HEIGHT = 360.0, 250.0  # as wide as a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 10.0, 12.0, 38.0
_COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#be123c")


def passes_chart(value: Callable[[float], Mapping[str, float]], passes: float) -> Chart:
    """What one more pass is worth against the passes so far: for the loss, and in bits, in per cent of the first.

    Args:
        value: of a number of passes, as `knowcap.laws.repeated.value_of_pass` has it.
        passes: so far.
    """
    most = math.log(max(1000.0, 10 * passes))
    counts = [math.exp(most * i / (_POINTS - 1)) for i in range(_POINTS)]

    def gain(k: float) -> float:
        found = value(k)
        return found["bits_after"] - found["bits_before"]

    first = gain(1.0) or 1.0
    worth = (
        ("for the loss, % of fresh tokens", lambda k: 100 * value(k)["fresh_share"]),
        ("bits stored, % of the second pass's", lambda k: 100 * gain(k) / first),
    )
    lines = [Line(label, [(k, share(k)) for k in counts]) for label, share in worth]
    marks = [(label, passes, share(passes)) for label, share in worth]
    return Chart("one more pass is worth, %", lines, marks, log_y=False, x_label="passes so far")


def memory_chart(shape: Shape, states: float, most: float, gpu: str) -> Chart:
    """Bytes of a training on a GPU against the sequences that it holds at once, by checkpointing.

    Args:
        shape: of the answer.
        states: bytes of weights, gradients and optimizer states on a GPU.
        most: bytes that the GPU has.
        gpu: its name.
    """
    held = shape.per_device_train_batch_size
    high = math.log(max(64.0, 8 * held))
    counts = [math.exp(high * i / (_POINTS - 1)) for i in range(_POINTS)]

    def total(way: Shape, sequences: float) -> float:
        return states + replace(way, per_device_train_batch_size=sequences).peak_bytes

    ways = {name: replace(shape, gradient_checkpointing=name) for name in CHECKPOINTING}
    lines = [Line(f"checkpointing {name}", [(b, total(way, b)) for b in counts]) for name, way in ways.items()]
    mark = (f"checkpointing {shape.gradient_checkpointing}", held, total(shape, held))
    level = (f"{figure(most)} bytes of {gpu}", most)
    return Chart("bytes of training on a GPU", lines, [mark], level, x_label="sequences on a GPU")


class _Axis:
    """An axis of a chart: values to pixels, and its ticks."""

    def __init__(self, values: Sequence[float], log: bool, start: float, end: float):
        low, high = min(values), max(values)
        if not log:
            room = 0.05 * ((high - low) or abs(high) or 1.0)
            low, high = low - room, high + room
        elif high <= low * 1.001:
            low, high = low / 2, high * 2
        self.log, self.start, self.end = log, start, end
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)

    def at(self, value: float) -> float:
        """The pixel of a value, kept within the axis."""
        place = math.log10(value) if self.log else value
        share = min(1.0, max(0.0, (place - self.low) / (self.high - self.low)))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on the axis: powers of ten, or 1, 2 and 5 of them."""
        if self.log:
            step = max(1, math.ceil((self.high - self.low) / 4))
            powers = [10.0**i for i in range(math.ceil(self.low), math.floor(self.high) + 1, step)]
            return powers if len(powers) > 1 else self._within_powers()
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]

    def _within_powers(self) -> list[float]:
        """1, 2 and 5 times the powers of ten, for a logarithmic axis that is shorter than two of them."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        return [m * 10.0**i for i in powers for m in (1, 2, 5) if self.low <= math.log10(m) + i <= self.high]


def svg(chart: Chart) -> str:
    """The chart as an SVG image with a legend below it, as HTML. It takes the width that there is."""
    xs = [x for line in chart.lines for x, _ in line.points] or [x for _, x, _ in chart.marks]
    xs += [x for _, x, _ in chart.marks]
    ys = [y for line in chart.lines for _, y in line.points]
    ys += [y for _, _, y in chart.marks if y is not None] + ([chart.level[1]] if chart.level else [])
    ys += [end for line in chart.lines for ends in line.band for end in ends if not chart.log_y or end > 0]
    across = _Axis(xs, True, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(ys or [0.0, 1.0], chart.log_y, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, chart), *_lines(chart, across, up), *_marks(chart, across, up)]
    title = escape(f"{chart.y_label} against {chart.x_label}, with the answer")
    return (
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{title}" '
        f'style="width:100%;max-width:640px;height:auto;font:11px sans-serif">{"".join(parts)}</svg>'
        f"{_legend(chart)}"
    )


def _grid(across: _Axis, up: _Axis, chart: Chart) -> list[str]:
    parts = []
    for value in across.ticks():
        x = across.at(value)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(_text(x, _HEIGHT - _BOTTOM + 14, short(value), "middle"))
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(_text(_LEFT - 5, y + 4, short(value) if up.log else f"{value:.4g}", "end"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, chart.x_label, "middle"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    label = _text(0, 0, chart.y_label, "middle")
    return [*parts, f'<g transform="translate(11 {middle:.1f}) rotate(-90)">{label}</g>']


def _lines(chart: Chart, across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for number, line in enumerate(chart.lines):
        color = _COLORS[number % len(_COLORS)]
        if line.band and line.points:
            ends = list(zip(line.points, line.band, strict=True))
            outline = [(x, high) for (x, _), (_, high) in ends] + [(x, low) for (x, _), (low, _) in reversed(ends)]
            parts.append(f'<path d="{_path(outline, across, up)}Z" fill="{color}" fill-opacity=".15"/>')
        parts.append(f'<path d="{_path(line.points, across, up)}" fill="none" stroke="{color}" stroke-width="2"/>')
    if chart.level is not None:
        y = up.at(chart.level[1])
        path = f"M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"
        parts.append(f'<path d="{path}" stroke="currentColor" stroke-opacity=".6" stroke-dasharray="4 3"/>')
    return parts


def _path(points: Sequence[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    return "M" + "L".join(f"{across.at(x):.1f} {up.at(y):.1f}" for x, y in points) if points else "M0 0"


def _marks(chart: Chart, across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for label, size, value in chart.marks:
        x, color = across.at(size), color_of(chart, label)
        if value is None:
            path = f"M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"
            parts.append(f'<path d="{path}" stroke="{color}" stroke-width="1.5" stroke-dasharray="2 3"/>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{up.at(value):.1f}" r="5" fill="{color}" stroke="#fff"/>')
    return parts


def color_of(chart: Chart, label: str) -> str:
    """A mark has the colour of the curve of its name, or else one of its own."""
    names = [line.label for line in chart.lines]
    if label in names:
        return _COLORS[names.index(label) % len(_COLORS)]
    others = [name for name, *_ in chart.marks if name not in names]
    return _COLORS[(len(names) + others.index(label)) % len(_COLORS)]


def _legend(chart: Chart) -> str:
    rows = [(color_of(chart, label), f"{label}: {figure(size)} {chart.x_label}") for label, size, _ in chart.marks]
    marked = {label for label, *_ in chart.marks}
    rows += [(_COLORS[i % len(_COLORS)], line.label) for i, line in enumerate(chart.lines) if line.label not in marked]
    if chart.level is not None:
        rows.append(("currentColor", f"dashed: {chart.level[0]}"))
    items = "".join(
        f'<li style="margin:0 1em 0 0;display:inline-block"><span style="color:{color}">●</span> {escape(text)}</li>'
        for color, text in rows
    )
    return f'<ul style="list-style:none;margin:.3em 0 0;padding:0;font-size:.85em">{items}</ul>'


def short(value: float) -> str:
    """1.2M, 70B, 1e18."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if scale <= value < 1e15:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}".replace("e+", "e")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'
