"""The parametric law by variable projection: a search over two exponents, A, B and E solved within.

For given exponents the law is linear in A, B and E, none of which is negative, so what is left is a surface over
(alpha, beta) that is nearly round, where the five constants at once lie in a long thin valley (Golub and Pereyra
1973).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knowcap.laws.solve import huber
from knowcap.laws.terms import logs


_LOW, _HIGH, _GRID = 0.02, 2.5, 14  # exponents of the first grid
_ROUNDS, _SIZE, _SHRINK = 10, 5, 0.5  # then smaller and smaller grids about the best
_REWEIGHTINGS = 12


@dataclass(frozen=True)
class Projection:
    """The best exponents and what goes with them.

    Attributes:
        theta: log A, log B, log E, alpha, beta; a constant of zero is exp(-700).
        condition_number: of the surface over the two exponents at its lowest point.
    """

    theta: np.ndarray
    condition_number: float


def project(num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray, delta: float) -> Projection:
    """Least Huber loss of log loss over the exponents, by grids that close in on the best.

    Args:
        num_parameters, num_tokens, loss: of shape (n,).
        delta: of the Huber loss.
    """
    x, y = logs(num_parameters, num_tokens)
    grid = np.geomspace(_LOW, _HIGH, _GRID)
    exponents = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    width = np.log(_HIGH / _LOW) / (_GRID - 1)
    best, best_value, linear = exponents[0], np.inf, np.zeros(3)
    for number in range(_ROUNDS + 1):
        value, found = _surface(exponents, x, y, loss, delta)
        lowest = int(np.argmin(value))
        if value[lowest] < best_value:
            best, best_value, linear = exponents[lowest], value[lowest], found[lowest]
        offsets = np.linspace(-1, 1, _SIZE) * width * _SHRINK**number
        exponents = best * np.exp(np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2))
    scale = np.array([np.exp(best[0] * x.mean()), np.exp(best[1] * y.mean()), 1.0])
    theta = np.concatenate([np.log(np.maximum(linear * scale, np.exp(-700))), best])
    return Projection(theta, _roundness(best, x, y, loss))


def _basis(exponents: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """N^-alpha, D^-beta and 1, centred so that none is far from 1: (B, n, 3)."""
    size = np.exp(-exponents[:, 0, None] * (x - x.mean()))
    data = np.exp(-exponents[:, 1, None] * (y - y.mean()))
    return np.stack([size, data, np.ones_like(size)], -1)


def _surface(
    exponents: np.ndarray, x: np.ndarray, y: np.ndarray, loss: np.ndarray, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The objective (B,) and the non-negative A, B, E (B, 3) at exponents (B, 2), by iteratively reweighted least
    squares.

    The residual is linearized about the last fit: log f - log L is (f - f_last) / f_last + log(f_last / L).
    """
    basis = _basis(exponents, x, y)
    log_loss = np.log(loss)
    fitted = np.broadcast_to(loss, basis.shape[:2])
    weights = np.ones_like(fitted)
    best, best_value = np.zeros((len(exponents), 3)), np.full(len(exponents), np.inf)
    for _ in range(_REWEIGHTINGS):
        linear = _non_negative(basis / fitted[..., None], 1 - np.log(fitted) + log_loss, weights)
        new = np.maximum((basis @ linear[..., None])[..., 0], 1e-300)
        residual = np.log(new) - log_loss
        value = huber(residual, delta).sum(1)
        better = value < best_value
        best[better], best_value[better] = linear[better], value[better]
        fitted = new
        weights = delta / np.maximum(np.abs(residual), delta)
    return best_value, best


def _non_negative(basis: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares with no negative coefficient: the best of all seven sets of coefficients that may be
    above zero.
    """
    weighted = (basis * weights[..., None]).transpose(0, 2, 1)
    normal = weighted @ basis
    right = (weighted @ target[..., None])[..., 0]
    best, best_value = np.zeros(right.shape), np.zeros(len(right))
    for chosen in ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,)):
        at = np.ix_(range(len(right)), chosen, chosen)
        part = normal[at]
        part = part + 1e-13 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(chosen))
        found = np.linalg.solve(part, right[:, chosen][..., None])[..., 0]
        value = -(found * right[:, chosen]).sum(1)  # of the squares, up to a constant and a factor
        better = (found >= 0).all(1) & (value < best_value)
        best_value[better] = value[better]
        best[better] = 0.0
        best[np.ix_(better, chosen)] = found[better]
    return best


def _roundness(best: np.ndarray, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> float:
    """Condition number of the least-squares surface over the exponents: derivatives less what A, B and E take up."""
    basis = _basis(best[None], x, y)[0] / loss[:, None]
    slopes = np.stack([basis[:, 0] * (x - x.mean()), basis[:, 1] * (y - y.mean())], 1)
    linear, *_ = np.linalg.lstsq(basis, np.ones(len(loss)), rcond=None)
    slopes = slopes * linear[:2]
    left = slopes - basis @ np.linalg.lstsq(basis, slopes, rcond=None)[0]
    values = np.linalg.svd(left, compute_uv=False)
    return float((values[0] / values[1]) ** 2) if values[1] > 0 else float("inf")
