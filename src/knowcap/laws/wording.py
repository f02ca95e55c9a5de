"""Fits as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from knowcap.laws.allocation import allocate, beyond
from knowcap.laws.fit import Fit
from knowcap.laws.intervals import Interval


if TYPE_CHECKING:
    from knowcap.laws.compare import Comparison

_DIGITS = 5


def describe(fit: Fit, budgets: Sequence[float] = ()) -> str:
    """Constants with their intervals, what follows from them, and all notes and warnings.

    Args:
        fit: of any law.
        budgets: FLOPs whose best spending is told; for laws of Chinchilla.
    """
    percent = f"{100 * fit.confidence_level:g} %"
    lines = [f"{fit.law}: {fit.num_points} points, {fit.objective_of} {number(fit.objective)}", ""]
    rows = [["constant", "value", percent, "bootstrap", "standard error"]]
    for name, value in fit.constants.items():
        ends = [span(fit.intervals[name]), span(fit.bootstrap_intervals.get(name, (None, None)))]
        rows.append([name, number(value), *ends, number(fit.standard_errors.get(name))])
    for name, value in fit.derived.items():
        ends = span(fit.derived_intervals[name]) if name in fit.derived_intervals else ""
        rows.append([name, number(value), ends, "", number(fit.standard_errors.get(name))])
    lines += table(rows)
    lines += [
        "",
        f"Intervals: {fit.interval_method}. Residuals: {100 * fit.residuals.std():.2g} % (standard deviation).",
    ]
    lines += _details(fit)
    if budgets:
        lines += [
            "",
            *table([["FLOPs", "parameters", "tokens", "tokens per parameter", ""], *_budget_rows(fit, budgets)]),
        ]
    lines += [f"note: {note}" for note in fit.notes] + [f"warning: {text}" for text in fit.warnings]
    return "\n".join(lines)


def _details(fit: Fit) -> list[str]:
    """What one law tells beyond its constants."""
    lines = []
    for place in fit.extra.get("saturates_at", ()):
        at = f"{number(place['num_parameters'])} parameters {span(tuple(place['interval']))}"
        lines.append(f"{number(place['max_knowledge_bits'])} bits fill a model of {at}.")
    for level in fit.extra.get("levels", ()):
        value = level["bits_per_parameter"]
        told = (
            level["why_not"]
            if value is None
            else f"{number(value)} {span(tuple(level['interval']))} bits per parameter"
        )
        lines.append(f"{level['exposures']:g} exposures: {told}")
    return lines


def _budget_rows(fit: Fit, budgets: Sequence[float]) -> list[list[str]]:
    rows = []
    for budget in budgets:
        found = allocate(fit, budget)
        ratio = number(found.num_tokens / found.num_parameters)
        rows.append(
            [f"{budget:.3g}", number(found.num_parameters), number(found.num_tokens), ratio, beyond(fit, budget)]
        )
    return rows


def describe_comparison(comparison: Comparison) -> str:
    """The approaches in columns: exponents with intervals, and the best spending of each budget."""
    names = list(comparison.fits)
    rows = [["", *names]]
    for row, ours in (("exponent of parameters", "exponent_parameters"), ("exponent of tokens", "exponent_tokens")):
        rows.append(
            [
                row,
                *(f"{number(comparison.exponent(n, ours)[0])} {span(comparison.exponent(n, ours)[1])}" for n in names),
            ]
        )
    for budget, found in comparison.allocations.items():
        rows.append([f"{budget:.3g} FLOPs: parameters", *(number(found[n].num_parameters) for n in names)])
        rows.append([f"{budget:.3g} FLOPs: tokens", *(number(found[n].num_tokens) for n in names)])
    lines = table(rows)
    lines += comparison.missing.values()
    lines += [f"note: {note}" for note in comparison.notes]
    return "\n".join(lines + [f"warning: {text}" for text in comparison.warnings])


def number(value: float | None) -> str:
    """Five digits, with an exponent where the number is far from 1."""
    return "-" if value is None else f"{value:.{_DIGITS}g}"


def span(ends: Interval) -> str:
    """[low, high] in four digits; a dash for an open end."""
    return "[{}, {}]".format(*("-" if end is None else f"{end:.4g}" for end in ends))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return ["  ".join(row).rstrip() for row in padded]
