"""Intervals of what a law predicts for runs that the table does not have.

Three things make a prediction wrong: the law's constants are uncertain, runs are noisy, and no law is exact beyond its
table. The first is the spread of a bootstrap, the second the scatter of residuals. The third is learned from the table
itself: the law is fitted to the smaller runs and predicts the larger ones (a rollout), and what the errors exceed the
first two by is the law's misfit. It grows as r (r + s), r the log of the factor that a run lies beyond the table and s
the log of the factor that the table spans: so errs a straight line through runs that lie on a parabola.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from knowcap.laws.intervals import student
from knowcap.laws.law import SIZES
from knowcap.report.text_table import text_table


_NO_INPUTS = ("observed", "fitted", "row", "run", "max_knowledge_bits")
_NEAR = 0.1  # runs whose sizes follow one another by less than this in logs are of one budget
_CUTS = 8
_LEAST_BUDGETS = 3  # in the smaller part of a table
_LEAST_EXPLAINED = 5  # larger runs of which R² is computed
_LEAST_REACH = 0.1  # in logs; a run that is hardly beyond a table says nothing of the misfit per factor
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


class Prediction(NamedTuple):
    """Predicted values with the ends of their intervals, each of shape (rows,)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Refitted:
    """What refits of a law predict for its points.

    Attributes:
        predicted: logarithms, of shape (B, n).
        spread: their standard deviation under a bootstrap of the points that each refit used, of shape (B, n).
    """

    predicted: np.ndarray
    spread: np.ndarray


def spread_of(drawn: np.ndarray, axis: int = 0) -> np.ndarray:
    """Half the distance between the 16th and the 84th percentile: the standard deviation of normal values."""
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(drawn, [15.87, 84.13], axis=axis)
        return (high - low) / 2


@dataclass(frozen=True)
class Refit:
    """How a law is fitted again.

    Attributes:
        num_constants: that are free.
        run: weights of the points, of shape (B, n) → what the refits under those weights predict.
    """

    num_constants: int
    run: Callable[[np.ndarray], Refitted]


@dataclass(frozen=True)
class Reach:
    """The smallest and the largest log of each input of a law among its runs.

    Attributes:
        low, high: by column, and of `size`.
    """

    low: Mapping[str, float]
    high: Mapping[str, float]

    @classmethod
    def of(cls, points: Mapping[str, Any], rows: np.ndarray | slice = slice(None)) -> Reach:
        """Of the chosen points."""
        columns = inputs(points)
        return cls(
            {name: float(column[rows].min()) for name, column in columns.items()},
            {name: float(column[rows].max()) for name, column in columns.items()},
        )

    @property
    def span(self) -> float:
        """Log of the factor from the smallest run to the largest."""
        return self.high.get("size", 0.0) - self.low.get("size", 0.0)

    def beyond(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """How far rows lie outside, in logs: the farthest of their inputs, zero inside. Of shape (rows,).

        Args:
            columns: of `inputs`.
        """
        far = [np.zeros(1)]
        for name in self.low.keys() & columns.keys():
            far += [columns[name] - self.high[name], self.low[name] - columns[name]]
        return np.max(np.broadcast_arrays(*far), axis=0)


def inputs(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The logs of a law's inputs, and of how large a run is (`size`): FLOPs, or the product of what makes it up."""
    logs = {}
    for name, column in columns.items():
        values = np.atleast_1d(np.asarray(column))
        if name not in _NO_INPUTS and np.issubdtype(values.dtype, np.number) and (values > 0).all():
            logs[name] = np.log(values.astype(float))
    parts = ["flops"] if "flops" in logs else [name for name in SIZES if name in logs]
    if parts:
        logs["size"] = np.sum(np.broadcast_arrays(*(logs[name] for name in parts)), axis=0)
    elif "loss" in logs:  # a critical batch: large where the loss is low
        logs["size"] = -logs["loss"]
    return logs


@dataclass(frozen=True)
class Rollout:
    """A law fitted to the smaller runs of a table, and its errors on all larger ones.

    Attributes:
        largest: the size (FLOPs, or what stands for them) up to which runs were fitted, of shape (k,).
        num_points: fitted up to there, of shape (k,).
        cut: which of the k a held-out run belongs to, of shape (m,).
        error: log(observed / predicted), of shape (m,).
        spread: of the law's own prediction, in logs, of shape (m,).
        reach: how far beyond the fitted runs, in logs, of shape (m,).
        span: of the fitted runs, in logs, of shape (m,).
        observed: log of what was observed, of shape (m,).
    """

    largest: np.ndarray
    num_points: np.ndarray
    cut: np.ndarray
    error: np.ndarray
    spread: np.ndarray
    reach: np.ndarray
    span: np.ndarray
    observed: np.ndarray

    @property
    def explained(self) -> float:
        """R² on the larger runs, of the steps that predict five or more: below zero where their own mean is nearer to
        them than the law; NaN without such a step."""
        steps = [self.cut == k for k in np.unique(self.cut)]
        shares = [
            1 - float((self.error[rows] ** 2).sum() / ((self.observed[rows] - self.observed[rows].mean()) ** 2).sum())
            for rows in steps
            if rows.sum() >= _LEAST_EXPLAINED and np.ptp(self.observed[rows]) > 0
        ]
        return float(np.mean(shares)) if shares else float("nan")

    @property
    def root_mean_square(self) -> float:
        """Of the errors, with every cut of equal weight."""
        return float(np.sqrt(np.mean([np.mean(self.error[self.cut == k] ** 2) for k in np.unique(self.cut)])))


def cuts(size: np.ndarray, least: int) -> list[np.ndarray]:
    """Which runs are fitted in each step of a rollout: booleans (n,), the smallest budgets first.

    Runs whose sizes are nearly equal are one budget and stay together. The largest budget is never fitted.

    Args:
        size: log of how large each run is, of shape (n,).
        least: number of runs that a fit needs.
    """
    values = np.unique(size)
    ends = np.append(values[:-1][np.diff(values) > _NEAR], values[-1])
    possible = [
        size <= end
        for number, end in enumerate(ends[:-1], 1)
        if number >= _LEAST_BUDGETS and (size <= end).sum() >= least
    ]
    chosen = np.unique(np.linspace(0, len(possible) - 1, min(_CUTS, len(possible))).round().astype(int))
    return [possible[i] for i in chosen]


def roll_out(points: Mapping[str, np.ndarray], refit: Refit, chosen: list[np.ndarray] | None = None) -> Rollout | None:
    """Fits the law to ever more of the smaller runs and predicts all larger ones.

    Args:
        points: a fit's.
        refit: of the law.
        chosen: the runs of each step; of `cuts` by default.

    Returns:
        None if the table has too few runs, or too few budgets, to leave any out.
    """
    columns = inputs(points)
    if "size" not in columns:
        return None
    steps = cuts(columns["size"], refit.num_constants + 2) if chosen is None else chosen
    if not steps:
        return None
    target = np.log(points["observed"])
    with np.errstate(all="ignore"):
        found = refit.run(np.array(steps, dtype=float))
    parts = []
    for number, fitted in enumerate(steps):
        left = ~fitted
        seen = Reach.of(points, fitted)
        reach = seen.beyond({name: column[left] for name, column in columns.items()})
        error = target[left] - found.predicted[number][left]
        parts.append(
            (
                np.full(left.sum(), number),
                error,
                found.spread[number][left],
                reach,
                reach * 0 + seen.span,
                target[left],
            )
        )
    cut, error, spread, reach, span, observed = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = np.isfinite(error) & np.isfinite(spread)
    if not kept.any():
        return None
    return Rollout(
        np.exp(np.array([columns["size"][fitted].max() for fitted in steps])),
        np.array([int(fitted.sum()) for fitted in steps]),
        *(column[kept] for column in (cut, error, spread, reach, span, observed)),
    )


# Where a rollout is not possible: the misfit of the worst tenth of tables, see tests/benchmarks/predict.py.
WIDEST = 0.025


@dataclass(frozen=True)
class Band:
    """What the interval of a prediction is made of, beside the law's own spread.

    Attributes:
        noise: standard deviation of log residuals.
        degrees: points less constants.
        misfit: share of the value by which the law errs where r (r + s) is 1.
        steps: of the rollout that the misfit was learned from; zero if it could not be learned.
        reach: of the runs.
        farthest: how far beyond its runs the rollout has seen, in logs.
    """

    noise: float
    degrees: int
    misfit: float
    steps: int
    reach: Reach
    farthest: float

    def half_width(self, spread: np.ndarray, beyond: np.ndarray, level: float) -> np.ndarray:
        """Half the interval, in logs, of shape (rows,).

        Args:
            spread: standard deviation of the law's predictions under its bootstrap, in logs, of shape (rows,).
            beyond: how far the rows lie outside the table, in logs, of shape (rows,).
            level: of confidence.
        """
        known, learned = self.quantiles(level)
        grown = beyond * (beyond + self.reach.span)
        return np.hypot(known * np.hypot(self.noise, spread), learned * self.misfit * grown)

    def quantiles(self, level: float) -> tuple[float, float]:
        """What noise and spread, and misfit, are multiplied by: Student's t, normal for a misfit not learned."""
        return float(student(level, max(1, self.degrees))), float(student(level, self.steps or np.inf))

    def notes(self, beyond: float) -> list[str]:
        """What the reader of an interval has to know: a misfit that was not learned, or not tested so far.

        Args:
            beyond: how far the farthest of the rows lies outside the table, in logs.
        """
        if beyond < _LEAST_REACH:
            return []
        if not self.steps:
            return [
                "note: the table is too small to learn the law's misfit beyond it: the intervals take that of the "
                "worst tenth of tables; add smaller or larger runs"
            ]
        if beyond > self.farthest + 0.7:  # a factor of two
            return [
                f"note: the law was tested up to {np.exp(self.farthest):.2g} times beyond its runs, these lie up to "
                f"{np.exp(beyond):.2g} times beyond: the misfit is taken to grow in the same way"
            ]
        return []

    def to_dict(self) -> dict[str, Any]:
        """For a fit's JSON: what `knowcap.laws.law.predicted` needs beside the constants and their samples."""
        ends = {
            name: [float(np.exp(low)), float(np.exp(self.reach.high[name]))] for name, low in self.reach.low.items()
        }
        return {
            "noise": self.noise,
            "misfit": self.misfit,
            "steps": self.steps,
            "farthest": float(np.exp(self.farthest)),
            "quantiles": {f"{level:g}": list(self.quantiles(level)) for level in LEVELS},
            "inputs": ends,
        }


def learn_band(points: Mapping[str, np.ndarray], num_constants: int, rollout: Rollout | None) -> Band:
    """The noise of a fit's residuals, and the misfit that explains what its rollout's errors exceed noise and law by.

    The misfit of one step is the root of the mean excess of squared errors over the mean square of r (r + s); that of
    all is the root mean square over the steps.

    Args:
        points: a fit's, `observed` and `fitted` among them.
        num_constants: that are free.
        rollout: None where the table is too small.
    """
    residuals = np.log(points["observed"] / points["fitted"])
    degrees = max(1, len(residuals) - num_constants)
    noise = float(np.sqrt((residuals**2).sum() / degrees))
    seen = Reach.of(points)
    if rollout is None:
        return Band(noise, degrees, WIDEST, 0, seen, 0.0)
    squares = []
    for step in np.unique(rollout.cut):
        rows = rollout.cut == step
        excess = np.mean(rollout.error[rows] ** 2 - noise**2 - rollout.spread[rows] ** 2)
        reach = rollout.reach[rows]
        far = np.mean((np.maximum(reach, _LEAST_REACH) * (reach + rollout.span[rows])) ** 2)
        squares.append(max(0.0, float(excess)) / float(far))
    misfit = float(np.sqrt(np.mean(squares)))
    return Band(noise, degrees, misfit, len(squares), seen, float(rollout.reach.max()))


def predictions_text(name: str, rows: Mapping[str, np.ndarray], found: Prediction, band: Band, level: float) -> str:
    """A table of new runs with their predictions, and how far the misfit behind the intervals was tested.

    Args:
        name: of the predicted column.
        rows: the law's inputs.
        found: their predictions.
        band: of the fit.
        level: of the intervals.
    """
    beyond = np.broadcast_to(band.reach.beyond(inputs(rows)), found.value.shape)
    lines = [[*rows, name, f"{100 * level:g} %", "beyond the table"]]
    for i, value in enumerate(found.value):
        far = f"{np.exp(beyond[i]):.2g} times" if beyond[i] > 1e-3 else ""
        cells = [str(c[i]) if c.dtype.kind == "U" else f"{c[i]:.5g}" for c in rows.values()]
        lines.append([*cells, f"{value:.5g}", f"[{found.low[i]:.4g}, {found.high[i]:.4g}]", far])
    return "\n".join([text_table(lines), *band.notes(float(beyond.max()))])
