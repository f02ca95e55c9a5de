"""Fitting a law that predicts the logarithm of a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import Interval, bootstrap, interval, percentiles, profile, random_weights
from knowcap.laws.law import LawError
from knowcap.laws.predict import Refit, Refitted, spread_of
from knowcap.laws.solve import Model, Solution, condition_number, minimize


@dataclass(frozen=True)
class Curve:
    """A law and the points to fit it to.

    Attributes:
        law: its name.
        names: of the constants; the solver may have more of them after these.
        logs: whether the solver has the logarithm of a constant.
        model: predicts log of what was observed.
        points: columns by name, `observed` among them, each of shape (n,).
        predict: (constants, columns) → the law's prediction.
        delta: of the Huber loss on log residuals; infinite is least squares.
        groups: of shape (n,): points that belong together, such as those of one run.
        method: which intervals are the law's own; with groups, those of the groups.
    """

    law: str
    names: tuple[str, ...]
    logs: tuple[bool, ...]
    model: Model
    points: dict[str, np.ndarray]
    predict: Callable[[Mapping[str, float], Mapping[str, Any]], np.ndarray]
    delta: float = np.inf
    groups: np.ndarray | None = None
    method: str = "profile"

    @property
    def target(self) -> np.ndarray:
        """The logarithm of what was observed, of shape (n,)."""
        return np.log(self.points["observed"])

    def constants(self, theta: np.ndarray) -> np.ndarray:
        """The solver's constants (…, p) as the law's (…, len(names))."""
        kept = theta[..., : len(self.names)]
        with np.errstate(over="ignore"):
            return np.where(self.logs, np.exp(np.where(self.logs, kept, 0.0)), kept)


def fit_curve(curve: Curve, starts: np.ndarray, options: Options) -> Fit:
    """The best of all starts (S, p), with intervals.

    Raises:
        LawError: as many constants as points, or more.
    """
    points, width = len(curve.target), starts.shape[1]
    if points <= width:
        raise LawError(
            f"{curve.law} has {width} constants: got {points} point{'s' * (points != 1)}, "
            f"expected {width + 1} or more; add runs"
        )
    theta = minimize(curve.model, curve.target, starts, delta=curve.delta, max_iterations=40)
    best = theta.theta[np.argsort(theta.objective)[:8]]
    solution = minimize(curve.model, curve.target, best, delta=curve.delta, max_iterations=500)
    return with_intervals(curve, solution.best(), float(solution.objective.min()), options)


def with_intervals(curve: Curve, theta: np.ndarray, objective: float, options: Options) -> Fit:
    """The fit at its optimum theta (p,), whose objective is the sum of losses of log residuals."""
    squares, level = np.isinf(curve.delta), options.confidence_level
    ends = profile(curve.model, curve.target, theta, delta=curve.delta, level=level, first=len(curve.names))
    drawn = bootstrap(
        curve.model,
        curve.target,
        theta,
        delta=curve.delta,
        num_bootstraps=options.num_bootstraps,
        seed=options.seed,
        groups=curve.groups,
    )
    samples = curve.constants(drawn)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = samples.std(0)
    groups = 0 if curve.groups is None else len(np.unique(curve.groups))
    kinds = {
        "groups": _named(curve, curve.constants(_padded(_of_groups(theta, drawn, groups, level), len(theta)).T).T),
        "profile": _named(curve, curve.constants(_padded(ends, len(theta)).T).T),
        "bootstrap": _named(curve, percentiles(samples, level)),
    }
    method = curve.method if curve.groups is None else "groups"
    constants = {name: float(v) for name, v in zip(curve.names, curve.constants(theta), strict=True)}
    return Fit(
        law=curve.law,
        constants=constants,
        intervals=kinds[method],
        objective=2 * objective if squares else objective,
        objective_of="sum of squared log residuals" if squares else f"sum of Huber losses ({curve.delta:g}), log loss",
        num_points=len(curve.target),
        points=curve.points | {"fitted": np.exp(curve.model(theta[None])[0][0])},
        formula=curve.predict,
        refit=Refit(len(theta), lambda weights: refitted(curve, theta, drawn, weights)),
        interval_method=method,
        confidence_level=level,
        profile_intervals=kinds["profile"],
        bootstrap_intervals=kinds["bootstrap"],
        standard_errors={n: float(s) for n, s in zip(curve.names, errors, strict=True)},
        condition_number=condition_number(curve.model, theta),
        samples=samples,
    )


_STARTS, _DRAWS = 8, 24  # starts of a refit; refits of its own bootstrap


def refitted(curve: Curve, theta: np.ndarray, drawn: np.ndarray, weights: np.ndarray) -> Refitted:
    """Refits under weights of the points, each from theta and from some of the bootstrap's constants, and how far the
    predictions of each vary under a bootstrap of the points that it uses.

    Args:
        curve: the law and its points.
        theta: its optimum, of shape (p,).
        drawn: constants of the bootstrap, of shape (k, p).
        weights: of the points, of shape (B, n).
    """
    starts = np.vstack([theta[None], drawn[np.isfinite(drawn).all(1)][: _STARTS - 1]])

    def fit(begun: np.ndarray, weighted: np.ndarray) -> Solution:
        return minimize(curve.model, curve.target, begun, weights=weighted, delta=curve.delta, max_iterations=100)

    found = fit(np.tile(starts, (len(weights), 1)), np.repeat(weights, len(starts), axis=0))
    each = np.arange(len(weights))
    best = found.theta.reshape(len(weights), len(starts), -1)[
        each, found.objective.reshape(len(weights), -1).argmin(1)
    ]
    random = random_weights(len(curve.target), _DRAWS, 0, curve.groups)
    again = fit(np.repeat(best, _DRAWS, axis=0), (weights[:, None] * random).reshape(-1, weights.shape[1]))
    varied = curve.model(again.theta)[0].reshape(len(weights), _DRAWS, -1)
    return Refitted(curve.model(best)[0], spread_of(varied, 1))


def _of_groups(theta: np.ndarray, drawn: np.ndarray, groups: int, level: float) -> np.ndarray:
    """theta ± t s, with s the standard deviation of the bootstrap over groups and t of Student: percentiles of so few
    groups are too narrow. Two groups' worth of freedom goes to a line through them, in t and in s. Shape (p, 2)."""
    if groups < 3:
        return np.stack([theta - np.inf, theta + np.inf], 1)
    half = scipy.stats.t.ppf(0.5 + level / 2, groups - 2) * drawn.std(0) * np.sqrt(groups / (groups - 2))
    return np.stack([theta - half, theta + half], 1)


def _padded(ends: np.ndarray, width: int) -> np.ndarray:
    """Ends (k, 2) with rows for the solver's own constants, so that they translate like theta."""
    return np.vstack([ends, np.zeros((width - len(ends), 2))])


def _named(curve: Curve, ends: np.ndarray) -> dict[str, Interval]:
    """Ends (k, 2) by name; a log that runs off to zero or infinity is an open end."""
    found = {}
    for name, log, (low, high) in zip(curve.names, curve.logs, ends, strict=True):
        found[name] = interval(-np.inf if log and low == 0 else low, high)
    return found


def log_sum(*terms: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """log of the sum of exp of the terms, and each term's share of the sum; safe from overflow.

    Args:
        terms: logarithms, of shapes that broadcast together.
    """
    largest = terms[0]
    for term in terms[1:]:
        largest = np.maximum(largest, term)
    shares = [np.exp(term - largest) for term in terms]
    total = sum(shares[1:], shares[0])
    return largest + np.log(total), [share / total for share in shares]


def logs(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Natural logarithms, as float64."""
    return tuple(np.log(np.asarray(column, dtype=float)) for column in columns)
