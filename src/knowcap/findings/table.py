"""The table of findings: the paper's figure, ours with its interval, and a verdict; for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from knowcap.findings.statement import Statement
from knowcap.findings.statistic import LEVEL, NOT_RUN
from knowcap.findings.verdicts import Judged, Verdict
from knowcap.report.text_table import text_table


_WIDTH = 64  # characters of the terminal table's second column
NOTE = (
    f"Ours: mean over seeds with the {100 * LEVEL:g} % t interval. holds: the interval is wholly within the limits; "
    "does not hold: wholly outside; undecided: neither, or fewer than 3 seeds."
)


def findings_text(verdicts: Sequence[Verdict], cards: str) -> str:
    """The table for a terminal: a line for each finding, and one for each of its statements.

    Args:
        verdicts: from `judge`.
        cards: the folder of the results, for the line about cards.
    """
    lines = [("", "finding", "ours", "expected", "seeds", "verdict")]
    for found in verdicts:
        finding = found.finding
        title, number = f"{finding.title} ({finding.scale})", str(finding.number)
        lines += _wrapped(title, "", (number, "", "", "", found.verdict))
        lines += _wrapped(f"paper: {finding.paper}")
        for one in found.statements:
            rest = ("", ours_text(one), one.statement.limits, seeds_text(one), f"  {one.verdict}")
            lines += _wrapped(one.statement.says, "  ", rest)
            if one.missing and one.verdict != NOT_RUN:
                lines += _wrapped(f"missing: {missing_text(one)}", "    ")
        shown = [f"{cards}/{sweep}" for sweep in dict.fromkeys(sweep for sweep, _ in found.results)]
        lines += _wrapped(f"cards: {', '.join(shown)}") if shown else []
    return f"{text_table(lines, left=(1, 2, 3, 4, 5))}\n{NOTE}"


def _wrapped(text: str, indent: str = "  ", rest: Sequence[str] = ("",) * 5) -> list[tuple[str, ...]]:
    """A row with its text in the second column, which goes on in rows below if it is long."""
    first, *more = wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)
    return [(rest[0], first, *rest[1:]), *(("", line, "", "", "", "") for line in more)]


def ours_text(one: Judged) -> str:
    """Such as `ratio 0.52 [0.47, 0.58]`."""
    if one.estimate is None:
        return one.ours
    return f"{one.statement.statistic} {one.ours}{f', {one.reason}' if one.reason else ''}"


def describe(statement: Statement) -> str:
    """The statistic in words, such as `ratio of int8_bits_per_parameter`."""
    column = " / ".join(statement.columns)
    of = "" if column == "bits_per_parameter" else f" of {column}"
    along = f" along {statement.along}" if statement.along else ""
    over = f", {statement.over} of several cells" if statement.over else ""
    return f"{statement.statistic}{of}{along}{over}"


def seeds_text(one: Judged) -> str:
    """The seeds of the estimate."""
    return "" if one.estimate is None else ", ".join(map(str, one.estimate.seeds))


def missing_text(one: Judged, most: int = 6) -> str:
    """The cells that a statement lacks, by name."""
    more = f" and {len(one.missing) - most} more" if len(one.missing) > most else ""
    return f"{len(one.missing)} of {one.num_cells} cells: {', '.join(one.missing[:most])}{more}"


def findings_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The table as JSON."""
    return {"schema_version": 1, "findings": [_finding(found) for found in verdicts]}


def _finding(found: Verdict) -> dict[str, Any]:
    finding = found.finding
    return {
        **{key: getattr(finding, key) for key in ("name", "number", "title", "scale", "paper")},
        "verdict": found.verdict,
        "statements": [_statement(one) for one in found.statements],
    }


def _statement(one: Judged) -> dict[str, Any]:
    statement, found = one.statement, one.estimate
    return {
        "says": statement.says,
        "statistic": statement.statistic,
        "column": " / ".join(statement.columns),
        "at_least": statement.at_least,
        "at_most": statement.at_most,
        "verdict": one.verdict,
        "value": None if found is None else found.value,
        "interval": None if found is None else [found.low, found.high],
        "seeds": [] if found is None else list(found.seeds),
        "of_logarithm": None if found is None else found.log,
        "reason": one.reason,
        "chosen": list(one.chosen),
        "missing": list(one.missing),
        "num_cells": one.num_cells,
    }
