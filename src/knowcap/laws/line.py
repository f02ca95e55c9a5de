"""Power laws of the optimal size and tokens in the budget: the last step of Chinchilla's approaches 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowcap.capacity.student import t_quantile
from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import Interval, interval, percentiles


NAMES = ("exponent_parameters", "exponent_tokens", "coefficient_parameters", "coefficient_tokens")
_ENOUGH = 4  # budgets from which on the line's own scatter is judged


@dataclass(frozen=True)
class Optima:
    """The best sizes found for some budgets.

    Attributes:
        flops, num_parameters, num_tokens: of shape (k,).
        drawn: logs of the same three under the bootstrap, of shape (B, 3, k), NaN where a budget had no optimum.
    """

    flops: np.ndarray
    num_parameters: np.ndarray
    num_tokens: np.ndarray
    drawn: np.ndarray


def line_fit(law: str, optima: Optima, num_points: int, options: Options, extra: dict[str, Any]) -> Fit:
    """N = coefficient x C^exponent and the same for D, by least squares of the logs.

    Intervals are those of the regression (Student's t, k - 2 degrees of freedom: how far budgets lie off the line)
    from four budgets on, of the bootstrap over points or runs below that.
    """
    c = np.log(optima.flops)
    columns = (np.log(optima.num_parameters), np.log(optima.num_tokens))
    drawn = [_slopes(optima.drawn[:, 0], optima.drawn[:, i]) for i in (1, 2)]
    lines = [_slopes(c[None], column[None])[0] for column in columns]
    own = [_regression(c, column, options.confidence_level) for column in columns]
    with np.errstate(over="ignore"):
        scales = [np.exp(line[:, 1]) for line in drawn]
    samples = np.stack([drawn[0][:, 0], drawn[1][:, 0], *scales], -1)
    samples = samples[np.isfinite(samples).all(1)]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = samples.std(0) if len(samples) > 1 else ()
    values = [lines[0][0], lines[1][0], np.exp(lines[0][1]), np.exp(lines[1][1])]
    regression = dict(zip(NAMES, [own[0][0], own[1][0], _exp(own[0][1]), _exp(own[1][1])], strict=True))
    ends = percentiles(samples, options.confidence_level) if len(samples) > 1 else np.full((4, 2), np.nan)
    boot = {name: interval(*pair) for name, pair in zip(NAMES, ends, strict=True)}
    enough = len(c) >= _ENOUGH
    constants = {name: float(v) for name, v in zip(NAMES, values, strict=True)}
    fitted = np.exp(lines[0][1] + lines[0][0] * c)
    return Fit(
        law=law,
        constants=constants,
        intervals=regression if enough else boot,
        objective=float((np.log(fitted / optima.num_parameters) ** 2).sum()),
        objective_of="sum of squared log residuals of the optimal sizes",
        num_points=num_points,
        points={
            "flops": optima.flops,
            "num_tokens": optima.num_tokens,
            "observed": optima.num_parameters,
            "fitted": fitted,
        },
        predict=lambda table: _predict(constants, table),
        interval_method="regression" if enough else "bootstrap",
        confidence_level=options.confidence_level,
        profile_intervals=regression,
        bootstrap_intervals=boot,
        standard_errors={n: float(s) for n, s in zip(NAMES, errors, strict=False)},
        samples=samples,
        extra=extra,
    )


def _predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
    flops = np.asarray(columns["flops"], dtype=float)
    return constants["coefficient_parameters"] * flops ** constants["exponent_parameters"]


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope and intercept of each row's line through its finite points, NaN for fewer than two: (B, k) → (B, 2)."""
    there = np.isfinite(x) & np.isfinite(y)
    number = there.sum(1)
    x, y = np.where(there, x, 0.0), np.where(there, y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x.sum(1) / number, y.sum(1) / number
        dx, dy = np.where(there, x - mean_x[:, None], 0.0), np.where(there, y - mean_y[:, None], 0.0)
        spread = (dx * dx).sum(1)
        slope = np.where((number > 1) & (spread > 1e-12), (dx * dy).sum(1) / spread, np.nan)
    return np.stack([slope, mean_y - slope * mean_x], -1)


def _regression(x: np.ndarray, y: np.ndarray, level: float) -> tuple[Interval, Interval]:
    """Intervals of slope and intercept; open where two points make the line."""
    if len(x) < 3:
        return (None, None), (None, None)
    slope, start = _slopes(x[None], y[None])[0]
    spread = float(((x - x.mean()) ** 2).sum())
    error = np.sqrt(float(((y - start - slope * x) ** 2).sum()) / (len(x) - 2))
    half = t_quantile(0.5 + level / 2, len(x) - 2) * error
    wide = half * np.sqrt(1 / len(x) + x.mean() ** 2 / spread)
    half /= np.sqrt(spread)
    return interval(slope - half, slope + half), interval(start - wide, start + wide)


def _exp(ends: Interval) -> Interval:
    with np.errstate(over="ignore"):
        low, high = (None if end is None else float(np.exp(end)) for end in ends)
    return (low or None, high if high is None or np.isfinite(high) else None)
