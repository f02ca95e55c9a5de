"""The best learning rate and batch by parameters and tokens: the step law (Li et al. 2025, arXiv 2503.04715).

learning rate = c N^a D^b and batch = c D^b, in tokens; printed: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571, of N without
embeddings from 6e7 to 1e9 or so, tuned by grids of both for each N and D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError


LAW = "step-law"
_RATE = ("rate_coefficient", "exponent_rate_parameters", "exponent_rate_tokens")
_BATCH = ("batch_coefficient", "exponent_batch_tokens")
_OPTIONS = Options()
_NEAR = 0.0025  # runs whose loss is within this share of the least of their N and D are best ones, as in the paper


def best_rate_and_batch(constants: Mapping[str, Any], num_parameters: Any, num_tokens: Any) -> tuple[Any, Any]:
    """The learning rate and the tokens in a batch with the lowest loss.

    Args:
        constants: of the law.
        num_parameters, num_tokens: N and D.
    """
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    rate = constants[_RATE[0]] * n ** constants[_RATE[1]] * d ** constants[_RATE[2]]
    return rate, constants[_BATCH[0]] * d ** constants[_BATCH[1]]


def fit_step_law(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    learning_rate: np.ndarray,
    batch_tokens: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """Least squares of the logarithms of the best learning rates and batches.

    For each N and D they are the geometric means over the runs within 0.25 % of the least loss. The fit predicts the
    learning rate; `best_rate_and_batch` gives both.

    Args:
        num_parameters, num_tokens, learning_rate, batch_tokens: of the runs, of shape (n,).
        loss: nats per token, of shape (n,).

    Raises:
        LawError: fewer than five pairs of N and D, or one size or number of tokens alone.
    """
    pairs = np.stack([num_parameters, num_tokens], 1)
    settings, group = np.unique(pairs, axis=0, return_inverse=True)
    best, edge = _best(group.reshape(-1), learning_rate, batch_tokens, loss)
    if len(settings) < 5 or (np.ptp(settings, axis=0) == 0).any():
        raise LawError(
            f"{LAW}: got {len(settings)} pairs of parameters and tokens, expected 5 or more that differ in both"
        )
    points = {"num_parameters": settings[:, 0], "num_tokens": settings[:, 1]}
    options = replace(options, groups=None, shared={})
    x, y = np.log(settings.T)
    one = np.ones_like(x)
    fit = _line(LAW, _RATE, np.stack([one, x, y], 1), points | {"observed": best[:, 0]}, options)
    batch = _line(LAW, _BATCH, np.stack([one, y], 1), points | {"observed": best[:, 1]}, options)
    for name in ("constants", "intervals", "profile_intervals", "bootstrap_intervals", "standard_errors"):
        getattr(fit, name).update(getattr(batch, name))
    if fit.samples is not None and batch.samples is not None:
        fit.samples = np.hstack([fit.samples, batch.samples])
    fit.objective_of = "sum of squared log residuals of the learning rate"
    fit.extra["batch"] = {"residual_standard_deviation": float(batch.residuals.std()), "observed": best[:, 1].tolist()}
    if edge:
        fit.warnings.append(
            f"in {edge} of {len(settings)} pairs of parameters and tokens the best learning rate or batch is the "
            "largest or smallest tried, so the true best one may lie beyond; widen the grids"
        )
    if abs(float(np.corrcoef(x, y)[0, 1])) > 0.95:
        fit.warnings.append(
            "num_tokens follows num_parameters in these runs, so their exponents trade off; vary one at a time"
        )
    return fit


def _best(group: np.ndarray, rate: np.ndarray, batch: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, int]:
    """The best rate and batch of each group (k, 2), and in how many one of them is at the end of those tried."""
    found, edge = [], 0
    for i in range(group.max() + 1):
        rows = np.flatnonzero(group == i)
        near = rows[loss[rows] <= (1 + _NEAR) * loss[rows].min()]
        found.append([np.exp(np.log(column[near]).mean()) for column in (rate, batch)])
        least = rows[np.argmin(loss[rows])]
        tried = [column[rows] for column in (rate, batch)]
        at = [column[least] in (all_.min(), all_.max()) for column, all_ in zip((rate, batch), tried, strict=True)]
        edge += any(end and len(np.unique(all_)) > 1 for end, all_ in zip(at, tried, strict=True))
    return np.array(found), edge


def _line(law: str, names: tuple[str, ...], basis: np.ndarray, points: dict[str, np.ndarray], options: Options) -> Fit:
    """log observed = basis @ (log coefficient, exponents)."""

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta @ basis.T, np.broadcast_to(basis, (len(theta), *basis.shape)).copy()

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        return best_rate_and_batch(
            {**dict.fromkeys((*_RATE, *_BATCH), 1.0), **constants}, columns["num_parameters"], columns["num_tokens"]
        )[0]

    start, *_ = np.linalg.lstsq(basis, np.log(points["observed"]), rcond=None)
    curve = Curve(law, names, (True,) + (False,) * (len(names) - 1), model, points, predict)
    return fit_curve(curve, start[None], options)
