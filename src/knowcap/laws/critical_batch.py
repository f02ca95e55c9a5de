"""The critical batch size B_crit(L) = B_star / L^(1 / alpha_B) (Kaplan et al. 2020, 5.1; McCandlish et al. 2018).

To reach a loss with batches of B tokens takes S steps and E = B S tokens, with (S / S_min - 1)(E / E_min - 1) = 1 and
B_crit = E_min / S_min, so S = S_min (1 + B_crit / B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve, logs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError


_OPTIONS = Options()
_TARGETS = 8  # losses at which curves are compared
_BATCHES = 3  # batch sizes that must reach a loss
_NAMES, _LOGS = ("B_star", "alpha_B"), (True, False)


def critical_batch(constants: Mapping[str, float], loss: Any) -> np.ndarray:
    """B_crit(L) in tokens."""
    return constants["B_star"] / np.asarray(loss, dtype=float) ** (1 / constants["alpha_B"])


def min_steps(step: Any, batch_tokens: Any, loss: Any, b_star: float, alpha_b: float) -> np.ndarray:
    """S_min = S / (1 + B_crit(L) / B): the steps that a far larger batch would have needed (equation 5.4).

    Args:
        step, batch_tokens, loss: of one shape.
        b_star, alpha_b: of B_crit(L) = b_star / L^(1 / alpha_b), in tokens; Kaplan has 2.1e8 and 0.21.
    """
    critical = b_star / np.asarray(loss, dtype=float) ** (1 / alpha_b)
    return np.asarray(step, dtype=float) / (1 + critical / np.asarray(batch_tokens, dtype=float))


def kaplan_allocation(constants: Mapping[str, float], b_star: float, alpha_b: float, flops: Any) -> dict[str, float]:
    """Compute-optimal training by L(N, S_min) at the critical batch size (Kaplan et al. 2020, 6 and B.1).

    C_min = 6 N B_crit(L) S_min is minimized for the loss reached; there the loss is 1 + alpha_N / alpha_S times that
    of the converged model, and steps grow slowly with C_min.

    Args:
        constants: N_c, S_c, alpha_N, alpha_S.
        b_star, alpha_b: of B_crit(L) = b_star / L^(1 / alpha_b), tokens.
        flops: C_min.

    Returns:
        num_parameters, num_tokens, batch_tokens, min_steps, loss, and exponent_parameters, of N_opt = …
        C_min^exponent.
    """
    alpha_n, alpha_s = constants["alpha_N"], constants["alpha_S"]
    share = alpha_n / alpha_s  # of the size term, that the step term is
    exponent = (1 / alpha_n) / (1 / alpha_n + 1 / alpha_s + 1 / alpha_b)

    def log_compute(loss: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        size = loss / (1 + share)
        log_n = np.log(constants["N_c"]) - np.log(size) / alpha_n
        log_s = np.log(constants["S_c"]) - np.log(share * size) / alpha_s
        log_b = np.log(b_star) - np.log(loss) / alpha_b
        return np.log(6) + log_n + log_b + log_s, log_n, log_b, log_s

    # log C is linear in log L: two values of L give the line.
    at_one, at_e = (log_compute(np.exp(v))[0] for v in (0.0, 1.0))
    loss = float(np.exp((np.log(flops) - at_one) / (at_e - at_one)))
    _, log_n, log_b, log_s = log_compute(np.array(loss))
    return {
        "num_parameters": float(np.exp(log_n)),
        "num_tokens": float(np.exp(log_b + log_s)),
        "batch_tokens": float(np.exp(log_b)),
        "min_steps": float(np.exp(log_s)),
        "loss": loss,
        "exponent_parameters": float(exponent),
    }


def fit_critical_batch(batch_tokens: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """From critical batch sizes that were measured at several losses; arrays of shape (n,)."""
    b, level = logs(batch_tokens, loss)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alpha = theta[:, 1, None]
        return theta[:, 0, None] - level / alpha, np.stack([1 + 0 * level / alpha, level / alpha**2], -1)

    slope, start = np.polyfit(level, b, 1)
    points = {"loss": loss, "observed": batch_tokens}
    curve = Curve("critical-batch", _NAMES, _LOGS, model, points, lambda k, c: critical_batch(k, c["loss"]))
    fit = fit_curve(curve, np.array([[start, -1 / slope if abs(slope) > 1e-9 else 1e9]]), options)
    if fit.constants["alpha_B"] <= 0:
        fit.warnings.append("the critical batch does not grow as the loss falls: alpha_B is negative")
    return fit


def fit_critical_batch_curves(
    runs: np.ndarray,
    batch_tokens: np.ndarray,
    step: np.ndarray,
    loss: np.ndarray,
    num_parameters: np.ndarray | None = None,
    options: Options = _OPTIONS,
) -> Fit:
    """From training curves at several batch sizes, read where they cross the same losses.

    Args:
        runs: which curve a row belongs to, of shape (n,).
        batch_tokens, step, loss: of shape (n,); loss in nats per token.
        num_parameters: S_min differs by size; one size if absent.

    Raises:
        LawError: no loss that curves of three batch sizes reach, or no two losses.
    """
    sizes = np.zeros(len(loss)) if num_parameters is None else num_parameters
    _, first, run = np.unique(runs, return_index=True, return_inverse=True)
    crossings = [
        _crossings(*(column[sizes == size] for column in (run, batch_tokens, step, loss))) for size in np.unique(sizes)
    ]
    crossings = [found for found in crossings if len(found)]
    if not crossings:
        batches = len(np.unique(batch_tokens))
        raise LawError(
            f"critical-batch: no loss is reached at {_BATCHES} batch sizes of one model size (got {batches} batch "
            f"sizes in {len(np.unique(runs))} runs), expected curves of one size at {_BATCHES} batch sizes or more"
        )
    number = np.concatenate([np.full(len(found), i) for i, found in enumerate(crossings)])
    found = np.concatenate(crossings)
    groups = found[:, 0]
    if options.groups is not None:  # of whole runs
        groups = options.groups[first][groups.astype(int)]
    own = replace(options, groups=groups, shared={})
    return _fit_crossings(number, found[:, 1], found[:, 2], found[:, 3], own)


def _crossings(runs: np.ndarray, batch: np.ndarray, step: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Rows of run number, batch tokens, steps and loss, of every curve that crosses each of some losses."""
    curves = []
    for run in np.unique(runs):
        rows = np.flatnonzero(runs == run)
        rows = rows[np.argsort(step[rows], kind="stable")]
        lowest = np.minimum.accumulate(loss[rows])
        falls = np.concatenate([[True], lowest[1:] < lowest[:-1]])
        curves.append((run, batch[rows[0]], np.log(step[rows][falls]), np.log(lowest[falls])))
    ends = sorted(float(c[3][-1]) for c in curves)
    tops = sorted((float(c[3][0]) for c in curves), reverse=True)
    if len(curves) < _BATCHES:
        return np.zeros((0, 4))
    low, high = ends[_BATCHES - 1], tops[_BATCHES - 1]
    levels = np.linspace(high, low, _TARGETS) if high > low else np.array([low])
    rows = []
    for level in levels:
        reached = [
            (run, size, float(np.exp(np.interp(-level, -losses, steps))), float(np.exp(level)))
            for run, size, steps, losses in curves
            if losses[-1] <= level + 1e-12 and losses[0] >= level - 1e-12
        ]
        if len({row[1] for row in reached}) >= _BATCHES:
            rows += reached
    return np.array(rows) if rows else np.zeros((0, 4))


def _fit_crossings(size: np.ndarray, batch: np.ndarray, step: np.ndarray, loss: np.ndarray, options: Options) -> Fit:
    """S = S_min (1 + B_crit / B), with an S_min of its own for each size and loss."""
    _, cell = np.unique(np.stack([size, loss.round(12)], 1), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    cells = int(cell.max()) + 1
    if len(np.unique(loss.round(12))) < 2:
        raise LawError("critical-batch: the curves share one loss only, expected two or more; add longer curves")
    b, level, target = logs(batch, loss, step)
    own = np.eye(cells)[cell]

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        b_star, alpha = theta[:, 0, None], theta[:, 1, None]
        ratio = np.logaddexp(0.0, b_star - level / alpha - b)
        share = -np.expm1(-ratio)
        parts = np.stack([share, share * level / alpha**2], -1)
        jacobian = np.concatenate([parts, np.broadcast_to(own, (len(theta), *own.shape))], -1)
        return ratio + theta[:, 2 + cell], jacobian

    starts = []
    for alpha in (0.1, 0.2, 0.4):
        for shift in (-2.0, 0.0, 2.0):
            b_star = b.mean() + level.mean() / alpha + shift
            over = target - np.logaddexp(0.0, b_star - level / alpha - b)
            means = (own * over[:, None]).sum(0) / own.sum(0)
            starts.append(np.concatenate([[b_star, alpha], means]))
    points = {"batch_tokens": batch, "loss": loss, "observed": step}
    curve = Curve(
        "critical-batch",
        _NAMES,
        _LOGS,
        model,
        points,
        lambda k, c: critical_batch(k, c["loss"]),
    )
    fit = fit_curve(curve, np.array(starts), options)
    crit = critical_batch(fit.constants, loss)
    cover = crit / batch
    fit.extra["critical_batch_range"] = [float(crit.min()), float(crit.max())]
    if cover.max() < 0.3 or cover.min() > 3:
        where = "above" if cover.max() < 0.3 else "below"
        fit.warnings.append(
            f"all batches lie {where} the critical one ({crit.min():.3g} to {crit.max():.3g} tokens), so the steps "
            f"hardly depend on it; add batches on the other side"
        )
    return fit
