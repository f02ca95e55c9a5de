"""Intervals of fitted constants: by profile and by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy

from knowcap.laws.solve import Model, covariance, minimize


Interval = tuple[float | None, float | None]

_DOUBLINGS = 14  # how far a profile is followed: 2^14 times the width that a parabola would have
_BISECTIONS = 22
FEW = 30  # units below which a bootstrap reweights instead of drawing
_ROUNDING = 1e-18  # a mean square of log residuals below this is rounding, not noise


def loss_scale(residual: np.ndarray, num_constants: int, delta: float) -> float:
    """What turns twice the rise of the objective into a squared t: variance of the slopes over mean curvature.

    With squares alone (infinite delta) this is the residual variance. With Huber's loss (M-estimation; Huber 1964) the
    curvature is the share of residuals within delta, smoothed by a normal kernel (Silverman's bandwidth), since few
    may lie in there.

    Args:
        residual: in units of the target, of shape (n,).
        num_constants: p; the scale is as of n - p points.
        delta: of the Huber loss.
    """
    points = len(residual)
    freedom = max(1, points - num_constants)
    variance = float((np.clip(residual, -delta, delta) ** 2).sum()) / freedom
    if np.isinf(delta):
        return variance
    quartiles = np.subtract(*np.percentile(residual, [75, 25])) / 1.349
    spread = min(float(residual.std()), float(quartiles)) or float(residual.std())
    width = max(0.9 * spread * points**-0.2, 1e-12)
    inside = [math.erf((delta - r) / width / 2**0.5) + math.erf((delta + r) / width / 2**0.5) for r in residual]
    return variance / max(float(np.mean(inside)) / 2, 1.0 / points)


def profile(
    model: Model,
    target: np.ndarray,
    theta: np.ndarray,
    *,
    delta: float = np.inf,
    level: float = 0.95,
    first: int | None = None,
) -> np.ndarray:
    """For each constant the values between which the best fit of all others is not significantly worse.

    The rise allowed is scale times t²/2, t of Student with n - p degrees of freedom: exact for laws that are linear in
    the logs, constants such as N_c included, which are ratios (Fieller's intervals).

    Args:
        model, target, delta: of the fit, see `knowcap.laws.solve.minimize`.
        theta: its optimum, of shape (p,).
        level: of confidence.
        first: how many of the constants, from the first on; all by default.

    Returns:
        Of shape (first, 2), infinite where the objective never rises so far.
    """
    points, width = len(target), len(theta)
    residual = model(theta[None])[0][0] - target
    scale = loss_scale(residual, width, delta)
    if points <= width or scale < _ROUNDING:
        return np.stack([theta, theta] if points > width else [theta - np.inf, theta + np.inf], 1)[:first]
    t = scipy.stats.t.ppf(0.5 + level / 2, points - width)
    objective = minimize(model, target, theta[None], delta=delta).objective[0]
    limit = objective + 0.5 * scale * t * t
    errors = np.sqrt(np.maximum(np.diag(covariance(model, theta)) * scale, 1e-24))
    number = np.repeat(np.arange(width)[:first], 2)
    unit = np.tile([-1.0, 1.0], len(number) // 2) * errors[number] * t
    free = np.ones((len(number), width), dtype=bool)
    free[np.arange(len(number)), number] = False

    def fit(distance: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = near.copy()
        start[np.arange(len(number)), number] = theta[number] + unit * distance
        found = minimize(model, target, start, delta=delta, free=free, max_iterations=60)
        return found.theta, found.objective > limit

    return _cross(fit, theta, number, unit)


def _cross(
    fit: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    theta: np.ndarray,
    number: np.ndarray,
    unit: np.ndarray,
) -> np.ndarray:
    """Where `fit` goes above its limit, in each direction: doubling first, then halving. Two columns."""
    near = np.tile(theta, (len(number), 1))
    below, above = np.zeros(len(number)), np.full(len(number), np.inf)
    distance = np.ones(len(number))
    for _ in range(_DOUBLINGS):
        found, high = fit(distance, near)
        open_ends = np.isinf(above)
        above = np.where(open_ends & high, distance, above)
        below = np.where(open_ends & ~high, distance, below)
        near = np.where((open_ends & ~high)[:, None], found, near)
        if not np.isinf(above).any():
            break
        distance = np.where(np.isinf(above), distance * 2, distance)
    for _ in range(_BISECTIONS):
        middle = np.where(np.isinf(above), below, (below + above) / 2)
        found, high = fit(middle, near)
        inside = ~high & ~np.isinf(above)
        above, below = np.where(high & ~np.isinf(above), middle, above), np.where(inside, middle, below)
        near = np.where(inside[:, None], found, near)
    distance = np.where(np.isinf(above), np.inf, (below + above) / 2)
    return (theta[number] + unit * distance).reshape(-1, 2)


def random_weights(num_points: int, num_bootstraps: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Weights of shape (num_bootstraps, num_points): how often each point was drawn, with replacement.

    Of fewer than 30 points (or groups), many a draw would leave one or two and no fit; there the weights are
    exponential instead of counts, so that no point drops out (the Bayesian bootstrap, Rubin 1981).

    Args:
        num_points, num_bootstraps: the shape of the result.
        seed: of the random generator.
        groups: of shape (num_points,); points of one group (a training run) are drawn together.
    """
    random = np.random.Generator(np.random.Philox(seed))
    member = np.arange(num_points) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(member.max()) + 1
    if units < FEW:
        weights = random.standard_exponential((num_bootstraps, units))
        weights *= units / weights.sum(1, keepdims=True)
    else:
        weights = random.multinomial(units, np.full(units, 1 / units), size=num_bootstraps).astype(float)
    return weights[:, member]


def bootstrap(
    model: Model,
    target: np.ndarray,
    theta: np.ndarray,
    *,
    delta: float = np.inf,
    num_bootstraps: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Constants of refits under `random_weights`, each started at theta: shape (num_bootstraps, p)."""
    weights = random_weights(len(target), num_bootstraps, seed, groups)
    start = np.tile(theta, (num_bootstraps, 1))
    return minimize(model, target, start, weights=weights, delta=delta, max_iterations=100).theta


def percentiles(samples: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The middle `level` of samples of shape (B, …): shape (…, 2)."""
    low, high = np.percentile(samples, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return np.stack([low, high], -1)


def interval(low: float, high: float) -> Interval:
    """The ends for JSON: None for an infinite end."""
    return (float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)
