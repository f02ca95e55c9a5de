"""Chinchilla's three approaches side by side on one table."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.laws.fit import UNITS_WITHHELD, Fit, Options, beyond, finite, number, span, write_law
from knowcap.laws.fitting import Runs, fit_law
from knowcap.laws.intervals import Interval
from knowcap.laws.isoflop import fit_isoflop
from knowcap.laws.law import Allocation, LawError, optimum
from knowcap.laws.parametric import parametric_loss
from knowcap.report.text_table import text_table


APPROACHES = ("chinchilla-envelope", "chinchilla-isoflop", "chinchilla-parametric")
_PARAMETRIC_NAMES = {"exponent_parameters": "a", "exponent_tokens": "b"}


@dataclass
class Comparison:
    """The fits of all approaches to the same runs.

    Attributes:
        fits: by law, where the table allows it.
        missing: why an approach has no fit.
        allocations: by budget in FLOPs, then by law.
        bias: the error of approach 2's exponents on the same sizes and budgets without noise, if the fitted
            parametric law were true.
        differences: sentences about approaches that differ by more than their intervals.
    """

    fits: dict[str, Fit]
    missing: dict[str, str]
    allocations: dict[float, dict[str, Allocation]]
    bias: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def exponent(self, law: str, name: str) -> tuple[float, Interval]:
        """An exponent of the optimum with its interval: exponent_parameters or exponent_tokens."""
        return exponent(self.fits[law], name)

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return finite(
            {
                "law": "chinchilla",
                "approaches": {law: fit.to_dict() for law, fit in self.fits.items()},
                "missing": self.missing,
                "allocations": [
                    {"flops": flops}
                    | {n: {"num_parameters": a.num_parameters, "num_tokens": a.num_tokens} for n, a in of.items()}
                    for flops, of in self.allocations.items()
                ],
                "isoflop_bias": self.bias,
                "notes": self.notes,
                "warnings": self.warnings,
                "differences": self.differences,
            }
        )

    def text(self) -> str:
        """The printed table: exponents with intervals and the optimal allocations, a column per approach."""
        names = list(self.fits)
        rows = [["", *names]]
        for row, ours in (
            ("exponent of parameters", "exponent_parameters"),
            ("exponent of tokens", "exponent_tokens"),
        ):
            rows.append(
                [
                    row,
                    *(f"{number(self.exponent(n, ours)[0])} {span(self.exponent(n, ours)[1])}" for n in names),
                ]
            )
        for budget, found in self.allocations.items():
            rows.append([f"{budget:.3g} FLOPs: parameters", *(number(found[n].num_parameters) for n in names)])
            rows.append([f"{budget:.3g} FLOPs: tokens", *(number(found[n].num_tokens) for n in names)])
        lines = [text_table(rows)]
        lines += self.missing.values()
        lines += self.differences
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def write(self, path: str | Path) -> Path:
        """Writes the JSON file, whole or not at all, and returns its path."""
        return write_law(path, self.to_dict())


def compare_approaches(table: Runs, budgets: Sequence[float] = (), **options: Any) -> Comparison:
    """Fits all three approaches, as far as the table has what they need.

    Args:
        table: as in `fit_law`; training curves (`run`, several rows each) for the envelope, budgets for IsoFLOP.
        budgets: FLOPs to allocate.
        options: of `fit_law`.

    Raises:
        LawError: no approach can be fitted.
    """
    fits, missing = {}, {}
    for law in APPROACHES:
        try:
            own: dict[str, Any] = options if law == "chinchilla-parametric" else options | {"objective": None}
            fits[law] = fit_law(law, table, **own)
        except LawError as error:
            missing[law] = str(error)
    if not fits:
        raise LawError([f"{why}" for why in missing.values()])
    doubtful = any(fit.extra.get("doubtful_units") for fit in fits.values())
    allocations = {
        flops: {law: optimum(fit.law, fit.constants, flops) for law, fit in fits.items()}
        for flops in (() if doubtful else budgets)
    }
    comparison = Comparison(fits, missing, allocations)
    if doubtful and budgets:
        comparison.warnings.append(UNITS_WITHHELD)
    for law, fit in fits.items():
        comparison.notes += [f"{law}: {text}" for text in fit.notes]
        comparison.warnings += [f"{law}: {text}" for text in fit.warnings]
    for flops in budgets:
        outside = [f"{law} {text}" for law, fit in fits.items() if (text := beyond(fit, flops))]
        if outside:
            comparison.warnings.append(f"{flops:.3g} FLOPs: {'; '.join(outside)}")
    _add_bias(comparison)
    comparison.differences = differences(comparison.fits)
    return comparison


def exponent(fit: Fit, name: str) -> tuple[float, Interval]:
    """An exponent of an approach's optimum with its interval: exponent_parameters or exponent_tokens."""
    if fit.law == "chinchilla-parametric":
        return fit.derived[_PARAMETRIC_NAMES[name]], fit.derived_intervals[_PARAMETRIC_NAMES[name]]
    return fit.constants[name], fit.intervals[name]


def differences(fits: Mapping[str, Fit]) -> list[str]:
    """A sentence for each pair of approaches whose exponents differ by more than their intervals: the distance is
    above the root of the sum of the squared halves.

    Args:
        fits: by the name of the approach.
    """
    found = []
    for one, other in itertools.combinations(fits, 2):
        values, halves = [], []
        for law in (one, other):
            value, (low, high) = exponent(fits[law], "exponent_parameters")
            values.append(value)
            halves.append(np.inf if low is None or high is None else (high - low) / 2)
        if abs(values[0] - values[1]) <= np.hypot(*halves):
            continue
        larger = (one, other)[int(values[1] > values[0])]
        found.append(
            f"{one} and {other} differ by more than their intervals: exponents of parameters "
            f"{number(values[0])} and {number(values[1])}, so {larger} gives larger models on fewer tokens at "
            "budgets beyond the table; `knowcap fit best` has their errors on the table's own larger runs"
        )
    return found


def isoflop_bias(
    constants: dict[str, float], num_parameters: np.ndarray, budget: np.ndarray, window: float | None = None
) -> dict[str, float]:
    """Approach 2's exponents on noiseless losses of the parametric law, less the law's own.

    Args:
        constants: A, B, E, alpha, beta.
        num_parameters, budget: the grid of sizes and FLOPs, of shape (n,).
        window: see `fit_isoflop`.
    """
    tokens = budget / (6 * num_parameters)
    loss = parametric_loss(constants, num_parameters, tokens)
    found = fit_isoflop(num_parameters, tokens, loss, budget, Options(num_bootstraps=10), window=window).constants
    true = constants["beta"] / (constants["alpha"] + constants["beta"])
    return {
        "exponent_parameters": found["exponent_parameters"] - true,
        "exponent_tokens": found["exponent_tokens"] - (1 - true),
    }


def _add_bias(comparison: Comparison) -> None:
    if not {"chinchilla-isoflop", "chinchilla-parametric"} <= set(comparison.fits):
        return
    isoflop, parametric = comparison.fits["chinchilla-isoflop"], comparison.fits["chinchilla-parametric"]
    budgets = isoflop.extra["budgets"]
    sizes = np.concatenate([budget["sizes"] for budget in budgets])
    flops = np.concatenate([np.full(len(budget["sizes"]), budget["budget"]) for budget in budgets])
    try:
        comparison.bias = isoflop_bias(parametric.constants, sizes, flops, isoflop.extra["window"])
    except LawError as error:
        comparison.notes.append(f"the bias of approach 2 on this grid cannot be computed: {error}")
        return
    off = comparison.bias["exponent_parameters"]
    comparison.notes.append(
        f"if chinchilla-parametric's law were true, approach 2 would find an exponent of parameters "
        f"{abs(off):.2g} too {'high' if off > 0 else 'low'} on these sizes and budgets, without any noise"
    )
