"""Many small robust least-squares fits at once, in plain numpy.

Grids of starts, bootstraps and profiles are the same fit with other starts, weights or fixed constants, so all of them
go through one batched Levenberg-Marquardt iteration. Shapes: B fits, n points, p constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


# Constants of shape (B, p) → predictions (B, n) and their derivatives (B, n, p).
Model = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_CHUNK = 400_000  # numbers in the largest array: about what a core's cache holds
_SMALLEST, _LARGEST = 1e-9, 1e12  # damping


@dataclass(frozen=True)
class Solution:
    """What B fits ended at.

    Attributes:
        theta: constants, of shape (B, p).
        objective: the sum over points of weight times loss, of shape (B,).
        converged: whether the next step would have changed nothing, of shape (B,).
    """

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    def best(self) -> np.ndarray:
        """The constants with the lowest objective, of shape (p,)."""
        return self.theta[int(np.argmin(self.objective))]


def huber(residual: np.ndarray, delta: float, above: float = 1.0) -> np.ndarray:
    """Half the square up to `delta`, a straight line beyond (Huber 1964); `delta` may be infinite.

    Residuals above zero count `above` times.
    """
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    return inside * (size - 0.5 * inside) * _side(residual, above)


def _side(residual: np.ndarray, above: float) -> np.ndarray | float:
    return 1.0 if above == 1 else np.where(residual > 0, above, 1.0)


def minimize(
    model: Model,
    target: np.ndarray,
    start: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    delta: float = np.inf,
    above: float = 1.0,
    free: np.ndarray | None = None,
    max_iterations: int = 300,
) -> Solution:
    """Minimizes the weighted sum of `huber(model(theta) - target)` from every start.

    Where a residual lies beyond delta its curvature is zero, and its share of the majorizing parabola takes its place
    as far as the step is damped: much damping is iteratively reweighted least squares, which always descends, none is
    Newton.

    Args:
        model: see `Model`.
        target: of shape (n,).
        start: of shape (B, p).
        weights: of shape (B, n) or (1, n); all 1 by default.
        delta: where the loss turns into a straight line, in units of the target.
        above: how often residuals above zero count.
        free: booleans of shape (p,) or (B, p): which constants may move.
    """
    rows, width = start.shape
    weights = np.ones((1, len(target))) if weights is None else weights
    free = np.broadcast_to(np.ones(width, dtype=bool) if free is None else free, start.shape)
    per_chunk = max(1, _CHUNK // max(1, len(target) * width))
    parts = []
    for first in range(0, rows, per_chunk):
        rows_of = slice(first, first + per_chunk)
        part = weights if len(weights) == 1 else weights[rows_of]
        # A step too far may overflow; its value is then no better and it is not taken.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            parts.append(_minimize(model, target, start[rows_of], part, (delta, above), free[rows_of], max_iterations))
    return Solution(
        np.concatenate([part.theta for part in parts]),
        np.concatenate([part.objective for part in parts]),
        np.concatenate([part.converged for part in parts]),
    )


def _minimize(
    model: Model,
    target: np.ndarray,
    start: np.ndarray,
    weights: np.ndarray,
    loss: tuple[float, float],
    free: np.ndarray,
    max_iterations: int,
) -> Solution:
    theta = np.array(start, dtype=float)
    weights = np.broadcast_to(weights, (len(theta), len(target)))
    damping = np.full(len(theta), 0.1)
    prediction, jacobian = model(theta)
    residual = prediction - target
    value = (weights * huber(residual, *loss)).sum(1)
    converged = np.zeros(len(theta), dtype=bool)
    live = np.arange(len(theta))  # fits that still move; residual and jacobian hold theirs alone
    for _ in range(max_iterations):
        step, gain = _step(
            residual, jacobian, weights[live] * _side(residual, loss[1]), damping[live], loss[0], free[live]
        )
        trial = theta[live] + step
        new_prediction, new_jacobian = model(trial)
        new_residual = new_prediction - target
        new_value = (weights[live] * huber(new_residual, *loss)).sum(1)
        better = new_value <= value[live]  # false for NaN
        settled = gain <= 1e-13 * value[live] + 1e-30
        took = live[better]
        theta[took], value[took] = trial[better], new_value[better]
        residual[better], jacobian[better] = new_residual[better], new_jacobian[better]
        damping[live] = np.clip(damping[live] * np.where(better, 0.2, 6.0), _SMALLEST, _LARGEST)
        converged[live] = settled
        still = ~settled & (damping[live] < _LARGEST)
        live, residual, jacobian = live[still], residual[still], jacobian[still]
        if not len(live):
            break
    return Solution(theta, value, converged)


def _step(
    residual: np.ndarray,
    jacobian: np.ndarray,
    weights: np.ndarray,
    damping: np.ndarray,
    delta: float,
    free: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The damped step of each fit, and how much its parabola falls by it."""
    size = np.abs(residual)
    slope = weights * np.clip(residual, -delta, delta)
    majorant = weights * np.where(size <= delta, 1.0, delta / np.maximum(size, 1e-300))
    curvature = weights * (size <= delta) + damping[:, None] * majorant
    kept = jacobian * free[:, None, :]
    gradient = np.matmul(slope[:, None, :], kept)[:, 0, :]
    hessian = np.matmul((kept * curvature[:, :, None]).transpose(0, 2, 1), kept)
    scale = np.sqrt(np.maximum(np.diagonal(hessian, axis1=1, axis2=2), 1e-200))
    unit = hessian / (scale[:, :, None] * scale[:, None, :])
    corner = np.arange(hessian.shape[1])
    # Levenberg's part: what hardly moves the predictions is held, rather than let go far on rounding errors.
    unit[:, corner, corner] = 1.0 + 1e-14 + 0.01 * damping[:, None]
    unit = np.where(np.isfinite(unit), unit, 0.0)
    step = -np.linalg.solve(unit, np.nan_to_num(gradient / scale)[:, :, None])[:, :, 0] / scale * free
    return np.nan_to_num(step), -0.5 * (gradient * step).sum(1)


def minimize_linear(jacobian: np.ndarray, residual: np.ndarray, weights: np.ndarray, delta: float) -> np.ndarray:
    """The weighted sum of `huber(residual + jacobian · step)`, least over step: of shape (B, p).

    All steps share one matrix of derivatives, so that many points cost matrix products alone.

    Args:
        jacobian: of shape (n, p).
        residual: at step zero, of shape (n,).
        weights: of shape (B, n).
        delta: of the Huber loss.
    """
    scale = np.sqrt(np.maximum((jacobian**2).sum(0), 1e-200))
    unit = jacobian / scale
    points, width = unit.shape
    outer = (unit[:, :, None] * unit[:, None, :]).reshape(points, -1)
    step, value = np.zeros((len(weights), width)), (weights * huber(residual, delta)).sum(1)
    damping = np.full(len(weights), 0.0 if np.isinf(delta) else 0.1)
    live = np.arange(len(weights))
    for _ in range(100):
        found, part = residual + step[live] @ unit.T, weights[live]
        size = np.abs(found)
        curvature = part * ((size <= delta) + damping[live, None] * np.minimum(1.0, delta / np.maximum(size, 1e-300)))
        hessian = (curvature @ outer).reshape(-1, width, width) + 1e-14 * np.eye(width)
        gradient = (part * np.clip(found, -delta, delta)) @ unit
        trial = step[live] - np.linalg.solve(hessian, gradient[..., None])[..., 0]
        new = (part * huber(residual + trial @ unit.T, delta)).sum(1)
        better, gain = new <= value[live], value[live] - new
        took = live[better]
        step[took], value[took] = trial[better], new[better]
        damping[live] = np.clip(damping[live] * np.where(better, 0.2, 6.0), _SMALLEST, _LARGEST)
        live = live[(~better | (gain > 1e-10 * value[live])) & (damping[live] < _LARGEST)]
        if not len(live):
            break
    return step / scale


def covariance(model: Model, theta: np.ndarray, curvature: float = 1.0) -> np.ndarray:
    """The inverse of `curvature` times the derivatives' product at theta (p,), by pseudo-inverse: shape (p, p)."""
    jacobian = model(theta[None])[1][0]
    scale = np.sqrt(np.maximum((jacobian**2).sum(0), 1e-200))
    unit = jacobian / scale
    return np.linalg.pinv(curvature * unit.T @ unit, hermitian=True) / np.outer(scale, scale)


def condition_number(model: Model, theta: np.ndarray) -> float:
    """How far from round the valley of the objective is at theta (p,): largest by smallest curvature."""
    jacobian = model(theta[None])[1][0]
    values = np.linalg.svd(jacobian, compute_uv=False)
    with np.errstate(over="ignore"):
        return float((values[0] / values[-1]) ** 2) if values[-1] > 0 else float("inf")
