"""Why the constants of a fit may not be what they seem, as far as any law can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.fit import Fit
from knowcap.laws.table import Taken
from knowcap.laws.units import unit_doubts


_NARROW = 4.0  # a column that spans less than this factor hardly bends a law
_LOOSE = 0.5  # half of an exponent's interval, as a share of it
_WIDE = 1e3  # ratio of the ends of a coefficient's interval
_STIFF = 1e9  # condition number
_OUTLIER = 12.0  # residuals beyond this many times the median size
_POOR = 0.2  # standard deviation of log residuals
_OF_BITS = ("capacity", "exposures")


def table_doubts(law: str, taken: Taken, given: Mapping[str, object]) -> list[str]:
    """Units that look wrong, rows that repeat, and data that the law is not about."""
    doubts = unit_doubts(taken.values, given)
    numbers = np.stack([column for name, column in taken.values.items() if name != "run"], 1)
    if repeats := len(numbers) - len(np.unique(numbers, axis=0)):
        doubts.append(f"{repeats} of {len(numbers)} rows repeat another one, so intervals are too narrow; remove them")
    if law not in _OF_BITS:
        for name in ("exposures", "epochs", "num_epochs"):
            most = _largest(given.get(name))
            if most > 4:
                doubts.append(
                    f"{name} is up to {most:g}: this law is about fresh data and has no term "
                    "for repeated ones, so it holds for these runs' way of repeating at best"
                )
                break
    return doubts


def _largest(column: Any) -> float:
    """The largest number of a column; zero if there is none."""
    try:
        return float(np.nanmax(np.array(list(column), dtype=float))) if column is not None else 0.0
    except (TypeError, ValueError):
        return 0.0


def tell_doubts(fit: Fit) -> None:
    """Adds warnings about narrow ranges, loose constants, a stiff fit, outliers and poor residuals."""
    inputs = {k: v for k, v in fit.points.items() if k not in ("observed", "fitted", "max_knowledge_bits")}
    for name, column in inputs.items():
        span = float(column.max() / column.min())
        if 1 < span < _NARROW and name != "loss":
            fit.warnings.append(f"{name} spans a factor of {span:.2g} only: anything beyond is far extrapolated")
    fit.warnings += [text for name in fit.constants if (text := _loose(fit, name))]
    if fit.condition_number is not None and fit.condition_number > _STIFF:
        fit.warnings.append(
            f"constants trade off against one another (condition number {fit.condition_number:.1g}): "
            "trust predictions within the range, not single constants"
        )
    _outliers(fit)
    if (deviation := float(fit.residuals.std())) > _POOR:
        fit.warnings.append(
            f"runs lie {100 * deviation:.0f} % off the law (standard deviation): it describes them poorly"
        )


def _loose(fit: Fit, name: str) -> str | None:
    low, high = fit.intervals[name]
    value = fit.constants[name]
    if low is None or high is None:
        ends = f"[{'-' if low is None else f'{low:.3g}'}, {'-' if high is None else f'{high:.3g}'}]"
        return f"the data cannot pin {name}: its interval {ends} is open"
    if name.startswith(("alpha", "beta", "exponent", "gamma")):
        if high - low > 2 * _LOOSE * abs(value):
            return f"the data hardly pin {name}: {low:.3g} to {high:.3g}"
    elif low > 0 and high / low > _WIDE:
        return f"the data pin {name} to a factor of 1e{math.log10(high / low):.0f} only: {low:.2g} to {high:.2g}"
    return None


def _outliers(fit: Fit) -> None:
    size = np.abs(fit.residuals)
    limit = _OUTLIER * float(np.median(size))
    far = np.flatnonzero(size > limit) if limit > 1e-9 and len(size) >= 10 else np.array([], dtype=int)
    if len(far):
        shown = ", ".join(f"{fit.points['observed'][i]:.4g} for {fit.points['fitted'][i]:.4g}" for i in far[:3])
        fit.warnings.append(
            f"{len(far)} of {len(size)} points lie over {_OUTLIER:g} times the median residual off the law "
            f"(observed {shown}{'…' * (len(far) > 3)}); see what the constants are without them"
        )
