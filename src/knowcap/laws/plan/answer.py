"""An answer of the planner: what it found, step by step, by which law, and how it reads."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knowcap.laws.law import Law
from knowcap.laws.quantity import figure
from knowcap.report.text_table import text_table


_WIDTH = 119
Interval = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """One line of the reasoning: a quantity, its value or None, its unit, and why."""

    what: str
    value: float | None
    unit: str = ""
    why: str = ""


# The unit of a result by how its name begins, longest first.
_UNITS = (
    ("bits_per_parameter", "bits per parameter"), ("num_parameters", "parameters"), ("num_tokens", "tokens"),
    ("tokens", "tokens"), ("bits", "bits"), ("flops", "FLOPs"), ("gpu_hours", "GPU-hours"), ("hours", "hours"),
    ("exposures", "exposures of each fact"), ("biographies", "people"), ("weight_bytes", "bytes"),
    ("training_bytes", "bytes"), ("inference_bytes", "bytes"), ("activation_bytes", "bytes"),
    ("logits_bytes", "bytes"), ("peak_bytes", "bytes"), ("cache_bytes", "bytes"),
    ("loss", "nats per token"), ("cost", "in the currency of the price"), ("half_width", "%"),
)  # fmt: skip


def unit_of(name: str) -> str:
    """The unit of a result; empty for a name that has none here."""
    return next((unit for start, unit in _UNITS if name.startswith(start)), "")


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Attributes:
        label: in the legend.
        points: (x, y), by rising x.
        band: the lowest and highest y at each x; empty without an interval.
    """

    label: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """Loss or bits against the number of parameters, or another quantity against another, with the answer on it.

    Attributes:
        y_label: what is on the vertical axis.
        lines: of the laws.
        marks: (label, x, y) of answers; y None: a size without a loss or bits.
        x_label: what is on the other axis, which is logarithmic.
        level: a horizontal line with its label, such as the bits to store.
        log_y: whether the vertical axis is logarithmic.
    """

    y_label: str
    lines: Sequence[Line]
    marks: Sequence[tuple[str, float, float | None]]
    level: tuple[str, float] | None = None
    log_y: bool = True
    x_label: str = "parameters"


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        question: size, holds, train, compute, memory, passes or next.
        headline: the answer in one sentence.
        results: the numbers, by name.
        intervals: of those results that a fitted law gives one for.
        steps: how they come about.
        table: one row per approach or case, all with the same keys.
        laws: those that were used.
        warnings: where the laws do not apply, and what was assumed.
        chart: of loss or bits against size, for the page.
        ranges: by result, the least and the most of several papers or as a paper prints it; no interval of confidence.
        ranges_of: what they are over.
    """

    question: str
    headline: str
    results: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    table: Sequence[Mapping[str, Any]] = ()
    laws: Sequence[Law] = ()
    warnings: Sequence[str] = ()
    chart: Chart | None = None
    ranges: Mapping[str, Interval] = field(default_factory=dict)
    ranges_of: str = ""

    @property
    def units(self) -> dict[str, str]:
        """The unit of each result."""
        return {name: unit_of(name) for name in self.results}

    def content(self) -> dict[str, Any]:
        """The content of `--json`. A result without an interval has null for one."""
        return {
            "question": self.question,
            "headline": self.headline,
            "results": dict(self.results),
            "units": self.units,
            "intervals": {name: _listed(self.intervals.get(name)) for name in self.results},
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "ranges_of": self.ranges_of if self.ranges else None,
            "steps": [vars(step) for step in self.steps],
            "table": [dict(row) for row in self.table],
            "laws": [_law_content(law) for law in self.laws],
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """The printed text: the answer, its interval, the steps, the laws, the warnings."""
        parts = [self.headline, *self._interval_lines()]
        if self.steps:
            parts += ["", *_step_lines(self.steps)]
        if self.table:
            parts += ["", *_table_lines(self.table)]
        if self.laws:
            parts += [""] + [_wrapped(f"law   {law_text(law)}") for law in self.laws]
        parts += [_wrapped(f"note  {warning}") for warning in self.warnings]
        return "\n".join(parts)

    @property
    def without_interval(self) -> str:
        """Why an answer has no interval."""
        if not self.laws:
            return "nothing is fitted or quoted, all is counted"
        return "the fit has none" if _fitted(self.laws) else "every law is quoted from a paper"

    def _interval_lines(self) -> list[str]:
        if self.intervals:
            return [
                _interval_line(name, ends)
                for name, ends in self.intervals.items()
                if not name.startswith("inference_bytes_")  # JSON and the page have them
            ]
        why = self.without_interval
        if not self.ranges:
            return [f"no interval: {why}"]
        return [f"no interval: {why}; by {self.ranges_of}:", *(_interval_line(n, e) for n, e in self.ranges.items())]


def _interval_line(name: str, ends: Interval) -> str:
    return f"{name}: {figure(ends[0])} to {figure(ends[1])} {unit_of(name)}".rstrip()


def _fitted(laws: Sequence[Law]) -> bool:
    return any(law.fitted for law in laws)


def law_text(law: Law) -> str:
    """A law with its source, and whether it has an interval."""
    return f"{law.law}: {law.source}; {_kind(law)}"


def _kind(law: Law) -> str:
    """Whether a law has an interval, and what it is."""
    if not law.fitted:
        return "quoted, no interval"
    if not law.intervals:
        return "no interval"
    level = f"intervals at {100 * law.confidence_level:g} %"
    if law.samples:
        return f"{level}, by its bootstrap"
    return (
        level
        if len(law.intervals) == 1
        else f"{level}, by the corners of its constants' intervals: wider than necessary"
    )


def _law_content(law: Law) -> dict[str, Any]:
    intervals = {name: list(law.intervals[name]) if name in law.intervals else None for name in law.constants}
    content = {"law": law.law, "source": law.source, "fitted": law.fitted, "constants": dict(law.constants)}
    return content | {"intervals": intervals}


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _step_lines(steps: Sequence[Step]) -> list[str]:
    shown = [(step.what, "" if step.value is None else figure(step.value, step.unit), step.why) for step in steps]
    first, second = (max(len(row[i]) for row in shown) for i in (0, 1))
    lines = []
    for what, value, why in shown:
        line = f"  {what:<{first}}  {value:>{second}}  {why}".rstrip()
        indent = " " * (first + second + 6)
        lines += textwrap.wrap(line, _WIDTH, subsequent_indent=indent, drop_whitespace=True) if why else [line]
    return lines


def _table_lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns aligned: texts to the left, numbers to the right; an interval as low to high."""
    header = list(table[0])
    cells = [[cell_text(row[name]) for name in header] for row in table]
    left = [i for i, name in enumerate(header) if all(isinstance(row[name], str) for row in table)]
    lines = text_table([[name.replace("_", " ") for name in header], *cells], left)
    return [f"  {line}" for line in lines.split("\n")]


def cell_text(value: Any) -> str:
    """A cell of a table: a text, a number, an interval, or - for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return f"{figure(value[0])} to {figure(value[1])}"
    return figure(value)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=" " * 6)
