"""Fitting a law that predicts the logarithm of a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import Interval, bootstrap, interval, percentiles, profile, random_weights, student
from knowcap.laws.law import LawError
from knowcap.laws.predict import Refit, Refitted, spread_of
from knowcap.laws.sandwich import Robust, correlated, robust, unclipped, undetermined, widest
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
        above: how often residuals count in which the law is above the observed.
        in_logs: whether the model predicts the logarithm of the observed, and residuals are of logs.
        described: the objective in words; by delta if empty.
        method: which intervals are the law's own, `sandwich` or `bootstrap`.
    """

    law: str
    names: tuple[str, ...]
    logs: tuple[bool, ...]
    model: Model
    points: dict[str, np.ndarray]
    predict: Callable[[Mapping[str, float], Mapping[str, Any]], np.ndarray]
    delta: float = np.inf
    above: float = 1.0
    in_logs: bool = True
    described: str = ""
    method: str = "sandwich"

    @property
    def target(self) -> np.ndarray:
        """What the model predicts: the logarithm of the observed, or that itself, of shape (n,)."""
        return np.log(self.points["observed"]) if self.in_logs else self.points["observed"]

    @property
    def objective_of(self) -> str:
        """What is minimized."""
        huber = f"sum of Huber losses ({self.delta:g}), log loss"
        return self.described or ("sum of squared log residuals" if np.isinf(self.delta) else huber)

    def log_prediction(self, theta: np.ndarray) -> np.ndarray:
        """Logarithms of the law's predictions at constants (B, p): (B, n); NaN where these are below zero."""
        prediction = self.model(theta)[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            return prediction if self.in_logs else np.log(prediction)

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
    """The fit at its optimum theta (p,), whose objective is the sum of losses of log residuals.

    Intervals are the widest over the clusterings of the points that `_clusters` finds and `_counted` counts.
    """
    squares, level, first = np.isinf(curve.delta), options.confidence_level, len(curve.names)
    prediction, jacobian = (part[0] for part in curve.model(theta[None]))
    residual = prediction - curve.target
    clusters, main = _clusters(curve, residual, options)
    sandwiches = _counted({name: robust(jacobian, residual, groups) for name, groups in clusters.items()}, main)
    stretch = {name: _stretch(sandwich, level) for name, sandwich in sandwiches.items()}
    whole = unclipped(residual, curve.delta)
    if "points" in stretch:  # a cluster's sum of clipped scores still gives way where its points are fitted
        stretch["points"] **= whole

    def draw(groups: np.ndarray | None) -> np.ndarray:
        number, seed, smooth = options.num_bootstraps, options.seed, whole < _SMOOTH
        return bootstrap(curve.model, curve.target, theta, curve.delta, number, seed, groups, curve.above, smooth)

    drawn = {name: draw(groups) for name, groups in clusters.items() if name == main or curve.method == "bootstrap"}

    def by_profile(sandwich: Robust | None) -> np.ndarray:
        return profile(curve.model, curve.target, theta, delta=curve.delta, level=level, first=first, robust=sandwich)

    if curve.method == "bootstrap":
        own = _widest([_corrected(theta, drawn[name], sandwiches[name], stretch[name], level) for name in clusters])
        own = np.where(undetermined(jacobian)[:, None], [-np.inf, np.inf], own)[:first]
    else:
        own = by_profile(widest(list(sandwiches.values()), level))
    samples = curve.constants(drawn[main])
    with np.errstate(over="ignore", invalid="ignore"):
        errors = samples.std(0)
    constants = {name: float(v) for name, v in zip(curve.names, curve.constants(theta), strict=True)}
    return Fit(
        law=curve.law,
        constants=constants,
        intervals=_named(curve, own),
        objective=2 * objective if squares else objective,
        objective_of=curve.objective_of,
        num_points=len(curve.target),
        points=curve.points | {"fitted": np.exp(curve.log_prediction(theta[None])[0])},
        formula=curve.predict,
        refit=Refit(len(theta), lambda weights: refitted(curve, theta, drawn[main], clusters[main], weights)),
        interval_method=curve.method,
        clusters=tuple(clusters),
        stretch=float(np.median(stretch[main])),
        confidence_level=level,
        profile_intervals=_named(curve, by_profile(None)) if curve.above == 1 else {},
        bootstrap_intervals=_named(curve, percentiles(drawn[main], level)[:first]),
        standard_errors={n: float(s) for n, s in zip(curve.names, errors, strict=True)},
        condition_number=condition_number(curve.model, theta),
        samples=samples,
    )


_DOUBTED, _SURE = 0.3, 0.01  # p of independent residuals: below which clusters count, and below which they alone do
_SMOOTH = 0.5  # share of unclipped scores, below which a bootstrap reweights points instead of drawing them
_KEPT = 0.5  # share of a constant's variance in clusters' residuals, above which these clusters determine it


def _clusters(curve: Curve, residual: np.ndarray, options: Options) -> tuple[dict[str, np.ndarray | None], str]:
    """Clusterings of the points, and which of them the samples are of.

    The table's own groups, or none; with sizes and shared columns whose residuals go together. A test at the usual
    0.05 would miss half of the noise that narrows an interval; at 0.3 intervals of independent noise become a little
    wider at times (tests/benchmarks/coverage.py has the rates).
    """
    main = "points" if options.groups is None else "groups"
    found, least = {main: options.groups}, _SURE
    sizes = curve.points.get("num_parameters")
    for name, column in (("sizes", sizes), *options.shared.items()):
        if column is None or not (p := correlated(residual, column)) < _DOUBTED:
            continue
        found[name] = column
        if p < least:
            main, least = name, p
    return found, main


def _counted(sandwiches: dict[str, Robust], main: str) -> dict[str, Robust]:
    """The same, in which single points have no variance where they do not count.

    Where clusters share noise for sure, points taken for independent overstate the variance of constants that runs
    within clusters determine (of exponents, where seeds share a factor), and understate that of others. They still
    count for constants that the clusters themselves fit: of those a cluster's residuals keep little.
    """
    if main == "points" or "points" not in sandwiches:
        return sandwiches
    points, determined = sandwiches["points"], sandwiches[main].kept > _KEPT
    return sandwiches | {"points": replace(points, variance=np.where(determined, 0.0, points.variance))}


def _stretch(sandwich: Robust, level: float) -> np.ndarray:
    """What a bootstrap's percentiles lack of an interval: the leverage of reweighted residuals, and Student's t over
    the normal quantile. Shape (p,)."""
    return student(level, sandwich.freedom) / student(level, np.inf) / np.sqrt(sandwich.kept)


def _corrected(
    theta: np.ndarray, drawn: np.ndarray, sandwich: Robust, stretch: np.ndarray, level: float
) -> np.ndarray:
    """Percentiles of a bootstrap, stretched about theta, of shape (p, 2); of no width where nothing counts."""
    stretch = np.where(sandwich.variance > 0, stretch, 0.0)
    return theta[:, None] + stretch[:, None] * (percentiles(drawn, level) - theta[:, None])


def _widest(ends: list[np.ndarray]) -> np.ndarray:
    """The widest interval of each constant: k of shape (p, 2) → (p, 2)."""
    every = np.array(ends)
    chosen = (every[..., 1] - every[..., 0]).argmax(0)
    return every[chosen, np.arange(every.shape[1])]


_STARTS, _DRAWS = 8, 24  # starts of a refit; refits of its own bootstrap


def refitted(
    curve: Curve, theta: np.ndarray, drawn: np.ndarray, groups: np.ndarray | None, weights: np.ndarray
) -> Refitted:
    """Refits under weights of the points, each from theta and from some of the bootstrap's constants, and how far the
    predictions of each vary under a bootstrap of the points that it uses.

    Args:
        curve: the law and its points.
        theta: its optimum, of shape (p,).
        drawn: constants of the bootstrap, of shape (k, p).
        groups: of the points, see `Options`.
        weights: of the points, of shape (B, n).
    """
    starts = np.vstack([theta[None], drawn[np.isfinite(drawn).all(1)][: _STARTS - 1]])

    def fit(begun: np.ndarray, weighted: np.ndarray) -> Solution:
        return minimize(
            curve.model,
            curve.target,
            begun,
            weights=weighted,
            delta=curve.delta,
            above=curve.above,
            max_iterations=100,
        )

    found = fit(np.tile(starts, (len(weights), 1)), np.repeat(weights, len(starts), axis=0))
    each = np.arange(len(weights))
    best = found.theta.reshape(len(weights), len(starts), -1)[
        each, found.objective.reshape(len(weights), -1).argmin(1)
    ]
    smooth = unclipped(curve.model(theta[None])[0][0] - curve.target, curve.delta) < _SMOOTH
    random = random_weights(len(curve.target), _DRAWS, 0, groups, smooth)
    again = fit(np.repeat(best, _DRAWS, axis=0), (weights[:, None] * random).reshape(-1, weights.shape[1]))
    varied = curve.log_prediction(again.theta).reshape(len(weights), _DRAWS, -1)
    return Refitted(curve.log_prediction(best), spread_of(varied, 1))


def _named(curve: Curve, ends: np.ndarray) -> dict[str, Interval]:
    """The solver's ends (k, 2) as the law's, by name; a log that runs off to zero or infinity is an open end."""
    found = {}
    for name, log, (low, high) in zip(curve.names, curve.logs, curve.constants(ends.T).T, strict=True):
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
