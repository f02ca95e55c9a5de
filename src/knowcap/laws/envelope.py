"""Chinchilla's approach 1: the envelope of training curves at fixed sizes (Hoffmann et al. 2022, 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.line import Optima, line_fit


_OPTIONS = Options()
_VALUES = 1500  # log-spaced FLOPs at which curves are compared, as in the paper
_SIZES = 4  # different sizes: two of them between others


@dataclass(frozen=True)
class Curves:
    """Training curves on common FLOP values.

    Attributes:
        log_flops: of shape (v,).
        loss, log_tokens: of shape (runs, v); loss is infinite outside a curve.
        log_size: of shape (runs,).
        points: rows of the table in them.
    """

    log_flops: np.ndarray
    loss: np.ndarray
    log_tokens: np.ndarray
    log_size: np.ndarray
    points: int


def fit_envelope(
    runs: np.ndarray,
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    flops: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """Which size has the lowest loss for each compute, and a power law through that.

    Hoffmann et al. fit the line to 1,500 FLOP values, over which the best size is a staircase; a line through a
    staircase of k steps is too flat by 1 - 1 / k². Here each size counts once, in the (geometric) middle of the
    stretch of compute in which it is best; the smallest and the largest size, whose stretches have no outer end, are
    left out.

    Args:
        runs: which curve a row belongs to, of shape (n,); several curves may have one size.
        num_parameters, num_tokens, flops: at the row, of shape (n,).
        loss: smoothed training or test loss, nats per token, of shape (n,).

    Raises:
        LawError: no curves, fewer than four sizes, or fewer than two that are best somewhere.
    """
    curves = _curves(runs, num_parameters, num_tokens, flops, loss)
    sizes = np.unique(curves.log_size)
    if len(sizes) < _SIZES:
        raise LawError(f"chinchilla-envelope: got curves of {len(sizes)} sizes, expected {_SIZES} or more; add runs")
    found = _middles(curves, np.ones(len(curves.log_size), dtype=bool), sizes)
    there = np.isfinite(found[0])
    if there.sum() < 2:
        raise LawError(
            f"chinchilla-envelope: {int(there.sum())} of {len(sizes)} sizes are best at some compute between others, "
            "expected 2 or more: the curves cross too late or not at all; add sizes, or train the larger ones longer"
        )
    random = np.random.Generator(np.random.Philox(options.seed))
    number = len(curves.log_size)
    draws = random.integers(number, size=(options.num_bootstraps, number))
    drawn = np.full((options.num_bootstraps, 3, len(sizes)), np.nan)
    for i, draw in enumerate(draws):
        drawn[i] = _middles(curves, np.isin(np.arange(number), draw), sizes)
    flops_at, size_at, tokens_at = np.exp(found[:, there])
    optima = Optima(flops_at, size_at, tokens_at, drawn)
    middles = [
        {"flops": float(c), "num_parameters": float(n), "num_tokens": float(d)}
        for c, n, d in zip(flops_at, size_at, tokens_at, strict=True)
    ]
    fit = line_fit("chinchilla-envelope", optima, curves.points, options, {"best_at": middles})
    _doubt(fit, curves, sizes, there)
    return fit


def _curves(
    runs: np.ndarray, num_parameters: np.ndarray, num_tokens: np.ndarray, flops: np.ndarray, loss: np.ndarray
) -> Curves:
    """Interpolates each run's loss in log FLOPs, between its own first and last row."""
    names, member = np.unique(runs, return_inverse=True)
    log_c, log_d = np.log(flops), np.log(num_tokens)
    long = [np.flatnonzero(member == i) for i in range(len(names))]
    long = [rows[np.argsort(log_c[rows], kind="stable")] for rows in long if len(rows) >= 3]
    if not long:
        raise LawError(
            f"chinchilla-envelope: got {len(names)} runs of fewer than 3 rows each, expected curves: several rows "
            "(steps) for each value of the column run"
        )
    values = np.linspace(min(log_c[r[0]] for r in long), max(log_c[r[-1]] for r in long), _VALUES)
    losses = np.stack([np.interp(values, log_c[r], loss[r], left=np.inf, right=np.inf) for r in long])
    tokens = np.stack([np.interp(values, log_c[r], log_d[r]) for r in long])
    mixed = [str(names[member[r[0]]]) for r in long if np.ptp(np.log(num_parameters[r])) > 1e-9]
    if mixed:
        raise LawError(
            f"chinchilla-envelope: runs of more than one size: {', '.join(mixed[:5])}; expected one size a run"
        )
    return Curves(values, losses, tokens, np.log(np.array([num_parameters[r[0]] for r in long])), sum(map(len, long)))


def _middles(curves: Curves, used: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """log FLOPs, log size and log tokens in the middle of each size's stretch: (3, sizes), NaN where there is none."""
    found = np.full((3, len(sizes)), np.nan)
    losses = curves.loss[used]
    winner = np.flatnonzero(used)[np.argmin(losses, axis=0)]
    best = np.where(np.isfinite(losses.min(0)), curves.log_size[winner], np.nan)
    inner = np.unique(curves.log_size[used])[1:-1]
    for i in np.flatnonzero(np.isin(sizes, inner)):
        at = np.flatnonzero(best == sizes[i])
        if len(at) and at[0] > 0 and at[-1] < _VALUES - 1 and best[at[-1] + 1] > sizes[i]:
            middle = at[np.argmin(np.abs(at - at.mean()))]  # noise makes neighbours alternate where they cross
            tokens = curves.log_tokens[winner[middle], middle]
            found[:, i] = (curves.log_flops[at].mean(), sizes[i], tokens)
    return found


def _doubt(fit: Fit, curves: Curves, sizes: np.ndarray, there: np.ndarray) -> None:
    fit.extra["num_sizes"], fit.extra["num_runs"] = len(sizes), len(curves.log_size)
    if there.sum() < 3:
        fit.warnings.append("two sizes make a line whatever they are; add a third")
    if lost := len(sizes) - 2 - int(there.sum()):
        fit.warnings.append(f"{lost} of {len(sizes)} sizes between others are best at no compute in the curves' range")
    if len(curves.log_size) == len(sizes):
        fit.notes.append(
            "one run a size: where the learning rate was to fall at the end, losses before it are "
            "too high; Hoffmann et al. had four lengths"
        )
