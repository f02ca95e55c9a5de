"""An answer of the planner: what it found, step by step, by which law, and how it reads."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knowcap.laws.law import Law
from knowcap.laws.quantity import figure


_WIDTH = 119
Interval = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """One line of the reasoning: a quantity, its value or None, its unit, and why."""

    what: str
    value: float | None
    unit: str = ""
    why: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        question: size, holds, train or compute.
        headline: the answer in one sentence.
        results: the numbers, by name.
        intervals: of those results that a fitted law gives one for.
        steps: how they come about.
        table: one row per approach or case, all with the same keys.
        laws: those that were used.
        warnings: where the laws do not apply, and what was assumed.
    """

    question: str
    headline: str
    results: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    table: Sequence[Mapping[str, Any]] = ()
    laws: Sequence[Law] = ()
    warnings: Sequence[str] = ()

    def content(self) -> dict[str, Any]:
        """The content of `--json`. A result without an interval has null for one."""
        return {
            "question": self.question,
            "headline": self.headline,
            "results": dict(self.results),
            "intervals": {name: _listed(self.intervals.get(name)) for name in self.results},
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
            parts += [""] + [_wrapped(f"law   {law.law}: {law.source}; {_kind(law)}") for law in self.laws]
        parts += [_wrapped(f"note  {warning}") for warning in self.warnings]
        return "\n".join(parts)

    def _interval_lines(self) -> list[str]:
        if self.intervals:
            return [f"{name}: {figure(low)} to {figure(high)}" for name, (low, high) in self.intervals.items()]
        return [
            "no interval: " + ("every law is quoted from a paper" if not _fitted(self.laws) else "the fit has none")
        ]


def _fitted(laws: Sequence[Law]) -> bool:
    return any(law.fitted for law in laws)


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
    from knowcap.report.table import text_table  # imported late: it needs pyarrow

    header = list(table[0])
    cells = [[_cell(row[name]) for name in header] for row in table]
    left = [i for i, name in enumerate(header) if all(isinstance(row[name], str) for row in table)]
    lines = text_table([[name.replace("_", " ") for name in header], *cells], left)
    return [f"  {line}" for line in lines.split("\n")]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return f"{figure(value[0])} to {figure(value[1])}"
    return figure(value)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=" " * 6)
