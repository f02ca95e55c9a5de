"""Variances of least-squares constants that hold under unequal and shared noise (the sandwich estimator).

A constant's variance is summed over clusters: single points, or points that share noise, such as the runs of one size.
Residuals are corrected for their leverage (CR2, which is HC2 for single points; Bell and McCaffrey 2002), and the
degrees of freedom of each variance follow from how evenly the clusters contribute to it (Satterthwaite's
approximation, as in Pustejovsky and Tipton 2018), so that intervals are wide enough for a handful of clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy


_OWN = 1e-9  # a direction with a leverage this near to 1 is fitted by its cluster alone


@dataclass(frozen=True)
class Robust:
    """What the noise of clusters makes of the constants, each of shape (p,).

    Attributes:
        variance: of the constants.
        freedom: degrees of freedom of the variances.
        kept: share of the variance that is left where residuals are not corrected for their leverage, as in a
            bootstrap that reweights the clusters.
    """

    variance: np.ndarray
    freedom: np.ndarray
    kept: np.ndarray


def robust(jacobian: np.ndarray, residual: np.ndarray, groups: np.ndarray | None = None) -> Robust:
    """The sandwich variance of each constant of a least-squares fit at its optimum.

    Args:
        jacobian: derivatives of the predictions, of shape (n, p).
        residual: prediction less target, of shape (n,).
        groups: the cluster of each point, of shape (n,); every point is its own if absent.
    """
    scale = np.sqrt(np.maximum((jacobian**2).sum(0), 1e-200))
    left, values, right = np.linalg.svd(jacobian / scale, full_matrices=False)
    kept = values > 1e-12 * values[0]
    left, root = left[:, kept], right[kept].T / values[kept]  # points (n, r) and constants (p, r), in the fit's axes
    if groups is None:
        moments, squares, shares, leverages = _of_points(left, residual)
    else:
        member = np.unique(groups, return_inverse=True)[1].reshape(-1)
        moments, squares, shares, leverages = _of_clusters(left, residual, member)
    along = root @ moments.T  # what each cluster adds to each constant: (p, G)
    variance = (along**2).sum(1)
    freedom = np.array([_freedom(row, squares, shares) for row in root])
    kept = 1 - np.einsum("pi,ij,pj->p", root, leverages, root) / np.maximum((root**2).sum(1), 1e-300)
    return Robust(variance / scale**2, freedom, np.maximum(kept, _OWN))


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _of_points(left: np.ndarray, residual: np.ndarray) -> _Parts:
    """The clusters' sums of corrected residuals (G, r), the squares and shares (G, r, r) of `_freedom`, and the sum of
    squared leverages (r, r).
    """
    leverage = np.minimum((left**2).sum(1), 1.0)
    rest = 1 - leverage
    factor = np.where(rest > _OWN, 1 / np.sqrt(np.maximum(rest, _OWN)), 0.0)
    outer = left[:, :, None] * left[:, None, :]
    moments = left * (factor * residual)[:, None]
    squares, shares = outer * (factor**2)[:, None, None], outer * factor[:, None, None]
    return moments, squares, shares, (left * leverage[:, None]).T @ left


def _of_clusters(left: np.ndarray, residual: np.ndarray, member: np.ndarray) -> _Parts:
    moments, squares, shares, leverages = [], [], [], np.zeros((left.shape[1],) * 2)
    for number in range(int(member.max()) + 1):
        rows = left[member == number]
        _, values, axes = np.linalg.svd(rows, full_matrices=False)
        share = np.minimum(values**2, 1.0)
        rest = 1 - share
        factor = np.where(rest > _OWN, 1 / np.sqrt(np.maximum(rest, _OWN)), 0.0)
        # (I - H)^(-1/2) times the rows: only what lies in the span of the rows matters.
        moments.append(((axes.T * factor) @ axes) @ (rows.T @ residual[member == number]))
        squares.append((axes.T * (share * factor**2)) @ axes)
        shares.append((axes.T * (share * factor)) @ axes)
        leverages += (axes.T * share**2) @ axes
    return np.array(moments), np.array(squares), np.array(shares), leverages


def _freedom(row: np.ndarray, squares: np.ndarray, shares: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of a constant's variance, if noise were equal and independent.

    The variance is a quadratic form of normal noise, with the matrix diag(a) - P P' over clusters: a_g is the squared
    length of what a cluster's residuals are multiplied by, and P_g its part in the fitted directions.
    """
    a = np.einsum("i,gij,j->g", row, squares, row)
    parts = shares @ row
    own = (parts**2).sum(1)
    total = float(a.sum() - own.sum())
    square = float((a**2).sum() - 2 * (a * own).sum() + ((parts.T @ parts) ** 2).sum())
    return max(total, 1e-300) ** 2 / max(square, 1e-300)


def widest(of: list[Robust], level: float) -> Robust:
    """For each constant the variance, with its degrees of freedom, that makes the widest interval at `level`."""
    half = [r.variance * scipy.special.stdtrit(r.freedom, 0.5 + level / 2) ** 2 for r in of]
    chosen, each = np.argmax(half, axis=0), np.arange(len(of[0].variance))
    parts = zip(*((r.variance, r.freedom, r.kept) for r in of), strict=True)
    return Robust(*(np.array(part)[chosen, each] for part in parts))


def undetermined(jacobian: np.ndarray) -> np.ndarray:
    """Which constants can move, some of them together, without a change of any prediction: booleans (p,).

    Args:
        jacobian: derivatives of the predictions at the fit, of shape (n, p) with n >= p. A constant that moves none
            by itself, such as a floor of zero, is not among them.
    """
    size = np.sqrt((jacobian**2).sum(0))
    moves = size > 1e-100
    found = np.zeros(len(size), dtype=bool)
    if moves.any():
        _, values, right = np.linalg.svd(jacobian[:, moves] / size[moves], full_matrices=False)
        found[moves] = (np.abs(right[values < _OWN * values[0]]) > _OWN**0.5).any(0)
    return found


def unclipped(residual: np.ndarray, delta: float) -> float:
    """How much of the squares of Huber's scores, clip(residual, -delta, delta), is of residuals within delta.

    1 where all are, as for least squares, and 0 where none is. A clipped score is what it is however far the fit was
    drawn to its point, so this is the share that leverage and degrees of freedom apply to.

    Args:
        residual: of shape (n,).
        delta: of the Huber loss; may be infinite.
    """
    size = np.abs(residual)
    total = float((np.minimum(size, delta) ** 2).sum())
    return float((size[size <= delta] ** 2).sum()) / total if total > 0 else 1.0


def correlated(residual: np.ndarray, groups: np.ndarray) -> float:
    """How likely groups' means of independent residuals would differ as much: p of the analysis of variance.

    Args:
        residual: of shape (n,).
        groups: of each point, of shape (n,). Groups of one point each, or a single group, give 1.
    """
    member = np.unique(groups, return_inverse=True)[1].reshape(-1)
    number, points = int(member.max()) + 1, len(residual)
    if not 1 < number < points:
        return 1.0
    counts = np.bincount(member)
    means = np.bincount(member, residual) / counts
    between = float((counts * (means - residual.mean()) ** 2).sum()) / (number - 1)
    within = float(((residual - means[member]) ** 2).sum()) / (points - number)
    return float(scipy.special.fdtrc(number - 1, points - number, between / max(within, 1e-300)))
