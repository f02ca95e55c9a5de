"""Intervals of fitted constants: by profile and by bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy

from knowcap.laws.sandwich import Robust
from knowcap.laws.solve import Model, covariance, minimize, minimize_linear


Interval = tuple[float | None, float | None]

_DOUBLINGS = 14  # how far a profile is followed: 2^14 times the width that a parabola would have
_CHORDS, _CLOSE = 40, 1e-6
_MANY = 2000  # points from which on a refit is linear
_PART = 1_000_000  # weights at once
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
    inside = scipy.special.ndtr((delta - residual) / width) - scipy.special.ndtr((-delta - residual) / width)
    return variance / max(float(inside.mean()), 1.0 / points)


def profile(
    model: Model,
    target: np.ndarray,
    theta: np.ndarray,
    *,
    delta: float = np.inf,
    level: float = 0.95,
    first: int | None = None,
    robust: Robust | None = None,
) -> np.ndarray:
    """For each constant the values between which the best fit of all others is not significantly worse.

    The rise allowed is scale times t²/2, t of Student with n - p degrees of freedom: exact for laws that are linear in
    the logs, constants such as N_c included, which are ratios (Fieller's intervals). With a sandwich variance, each
    constant's scale is what makes its variance that of the sandwich, and t has the sandwich's degrees of freedom.

    Args:
        model, target, delta: of the fit, see `knowcap.laws.solve.minimize`.
        theta: its optimum, of shape (p,).
        level: of confidence.
        first: how many of the constants, from the first on; all by default.
        robust: of all constants, see `knowcap.laws.sandwich`; the residual variance alone if absent.

    Returns:
        Of shape (first, 2), infinite where the objective never rises so far.
    """
    points, width = len(target), len(theta)
    residual = model(theta[None])[0][0] - target
    scale = loss_scale(residual, width, delta)
    if points <= width or scale < _ROUNDING:
        return np.stack([theta, theta] if points > width else [theta - np.inf, theta + np.inf], 1)[:first]
    unit = np.maximum(np.diag(covariance(model, theta)), 1e-300)
    scales, freedom = np.full(width, scale), np.full(width, float(points - width))
    if robust is not None:
        scales, freedom = np.maximum(robust.variance / unit, _ROUNDING), robust.freedom
    t = student(level, freedom)
    objective = minimize(model, target, theta[None], delta=delta).objective[0]
    number = np.repeat(np.arange(width)[:first], 2)
    rise = (0.5 * scales * t * t)[number]
    step = np.tile([-1.0, 1.0], len(number) // 2) * np.sqrt(np.maximum(unit * scales, 1e-24))[number] * t[number]
    free = np.ones((len(number), width), dtype=bool)
    free[np.arange(len(number)), number] = False

    def fit(distance: np.ndarray, near: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = near.copy()
        start[np.arange(len(which)), number[which]] = theta[number[which]] + step[which] * distance
        found = minimize(model, target, start, delta=delta, free=free[which], max_iterations=60)
        return found.theta, np.sqrt(np.maximum(found.objective - objective, 0.0) / rise[which])

    distance = _cross(fit, np.tile(theta, (len(number), 1)))
    return (theta[number] + step * distance).reshape(-1, 2)


def student(level: float, freedom: np.ndarray | float) -> np.ndarray:
    """Student's t of a two-sided interval at `level`."""
    return scipy.special.stdtrit(freedom, 0.5 + level / 2)


def _cross(
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], near: np.ndarray
) -> np.ndarray:
    """The distance at which each profile's height reaches 1; infinite if it never does.

    Heights are roots of the rise, straight lines for a parabola: doubled until above 1, then followed by the chord
    (regula falsi, the Illinois variant).

    Args:
        fit: (distances, starts, which profiles) → (constants, heights).
        near: starts at distance zero, of shape (k, p).
    """
    number = len(near)
    below, above = np.zeros(number), np.full(number, np.inf)
    low, high = np.full(number, -1.0), np.full(number, np.inf)  # height less 1 at both ends
    live, distance = np.arange(number), np.ones(number)
    for _ in range(_DOUBLINGS):
        found, height = fit(distance[live], near[live], live)
        over = height > 1
        above[live[over]], high[live[over]] = distance[live[over]], height[over] - 1
        under = live[~over]
        near[under], below[under], low[under] = found[~over], distance[under], height[~over] - 1
        distance[under] *= 2
        live = under
        if not len(live):
            break
    live, side = np.flatnonzero(np.isfinite(above)), np.zeros(number)
    for _ in range(_CHORDS):
        middle = below[live] - low[live] * (above[live] - below[live]) / (high[live] - low[live])
        middle = np.clip(middle, *(below[live] + share * (above[live] - below[live]) for share in (0.02, 0.98)))
        found, height = fit(middle, near[live], live)
        over = height > 1
        up, down = live[over], live[~over]
        again = side[live] == np.where(over, 1, -1)
        low[live[over & again]] *= 0.5
        high[live[~over & again]] *= 0.5
        side[live] = np.where(over, 1, -1)
        above[up], high[up] = middle[over], height[over] - 1
        below[down], low[down], near[down] = middle[~over], height[~over] - 1, found[~over]
        done = np.minimum(np.abs(height - 1), (above[live] - below[live]) / above[live]) < _CLOSE
        distance[live] = middle
        live = live[~done]
        if not len(live):
            break
    return np.where(np.isfinite(above), distance, np.inf)


def random_weights(
    num_points: int, num_bootstraps: int, seed: int, groups: np.ndarray | None = None, smooth: bool = False
) -> np.ndarray:
    """Weights of shape (num_bootstraps, num_points): how often each point was drawn, with replacement.

    Of fewer than 30 points (or groups), many a draw would leave one or two and no fit; there the weights are
    exponential instead of counts, so that no point drops out (the Bayesian bootstrap, Rubin 1981). They are better,
    too, where the Huber loss clips most residuals (`smooth`): the few near zero alone bend the objective then, and
    counts leave out a third of these.

    Args:
        num_points, num_bootstraps: the shape of the result.
        seed: of the random generator.
        groups: of shape (num_points,); points of one group (a training run) are drawn together.
        smooth: exponential weights however many points there are.
    """
    return np.concatenate(list(_weights(num_points, num_bootstraps, seed, groups, smooth)))


def _weights(
    num_points: int, num_bootstraps: int, seed: int, groups: np.ndarray | None, smooth: bool
) -> Iterator[np.ndarray]:
    """`random_weights` in parts of some millions of numbers."""
    random = np.random.Generator(np.random.Philox(seed))
    member = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = num_points if member is None else int(member.max()) + 1
    each = max(1, _PART // num_points)
    for first in range(0, num_bootstraps, each):
        number = min(each, num_bootstraps - first)
        if smooth or units < FEW:
            weights = random.standard_exponential((number, units))
            weights *= units / weights.sum(1, keepdims=True)
        else:
            weights = random.multinomial(units, np.full(units, 1 / units), size=number).astype(float)
        yield weights if member is None else weights[:, member]


def bootstrap(
    model: Model,
    target: np.ndarray,
    theta: np.ndarray,
    delta: float = np.inf,
    num_bootstraps: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
    above: float = 1.0,
    smooth: bool = False,
) -> np.ndarray:
    """Constants of refits under `random_weights`, each started at theta: shape (num_bootstraps, p).

    From 2,000 points on, refits move so little that the law is taken for linear in its constants.
    """
    parts = []
    drawn = _weights(len(target), num_bootstraps, seed, groups, smooth)
    if len(target) >= _MANY and above == 1:
        prediction, jacobian = (part[0] for part in model(theta[None]))
        for weights in drawn:
            parts.append(theta + minimize_linear(jacobian, prediction - target, weights, delta))
        return np.concatenate(parts)
    for weights in drawn:
        start = np.tile(theta, (len(weights), 1))
        parts.append(
            minimize(model, target, start, weights=weights, delta=delta, above=above, max_iterations=100).theta
        )
    return np.concatenate(parts)


def percentiles(samples: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The middle `level` of samples of shape (B, …): shape (…, 2)."""
    low, high = np.percentile(samples, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return np.stack([low, high], -1)


def interval(low: float, high: float) -> Interval:
    """The ends for JSON: None for an infinite end."""
    return (float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)
