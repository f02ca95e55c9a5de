"""Kaplan's laws of one quantity: L = (X_c / X)^alpha for parameters, tokens or compute (Kaplan et al. 2020, 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.capacity.student import t_quantile
from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, Options
from knowcap.laws.terms import logs


PF_DAY = 8.64e19  # FLOP
_OPTIONS = Options()
_NAMES = {
    "kaplan-n": ("N_c", "alpha_N", "num_parameters"),
    "kaplan-d": ("D_c", "alpha_D", "num_tokens"),
    "kaplan-c": ("C_c", "alpha_C", "flops"),
}


def fit_kaplan_n(num_parameters: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """L(N) = (N_c / N)^alpha_N, of models that data and steps don't hold back. Kaplan's N has no embeddings.

    Args:
        num_parameters: of shape (n,).
        loss: nats per token, of shape (n,).
    """
    return _fit("kaplan-n", num_parameters, loss, options)


def fit_kaplan_d(num_tokens: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """L(D) = (D_c / D)^alpha_D, of large models stopped early on D tokens. Arguments as in `fit_kaplan_n`."""
    return _fit("kaplan-d", num_tokens, loss, options)


def fit_kaplan_c(
    flops: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS, *, groups: np.ndarray | None = None
) -> Fit:
    """L(C) = (C_c / C)^alpha_C, of the best model for each compute. C_c is in FLOP, and in PF-days under `derived`.

    Args:
        flops, loss: of shape (n,).
        groups: runs that several points belong to, of shape (n,); intervals are then of the bootstrap over runs.
    """
    fit = _fit("kaplan-c", flops, loss, options, groups)
    fit.derived["C_c_pf_days"] = fit.constants["C_c"] / PF_DAY
    low, high = fit.intervals["C_c"]
    fit.derived_intervals["C_c_pf_days"] = (
        None if low is None else low / PF_DAY,
        None if high is None else high / PF_DAY,
    )
    return fit


def _fit(law: str, x: np.ndarray, loss: np.ndarray, options: Options, groups: np.ndarray | None = None) -> Fit:
    scale, exponent, column = _NAMES[law]
    (log_x, y) = logs(x, loss)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = theta[:, 0, None] - log_x
        alpha = theta[:, 1, None]
        return alpha * distance, np.stack([alpha + 0 * distance, distance], -1)

    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        return (constants[scale] / np.asarray(columns[column], dtype=float)) ** constants[exponent]

    points = {column: np.asarray(x, dtype=float), "observed": np.asarray(loss, dtype=float)}
    alpha = -float(np.polyfit(log_x, y, 1)[0]) if np.ptp(log_x) > 0 else 0.0
    alpha = alpha if abs(alpha) > 1e-9 else 1e-9
    start = np.array([[log_x.mean() + y.mean() / alpha, alpha]])
    curve = Curve(law, (scale, exponent), (True, False), model, points, predict, groups=groups)
    fit = fit_curve(curve, start, options)
    if fit.constants[exponent] <= 0:
        fit.warnings.append(f"loss does not fall with {column}: {exponent} is {fit.constants[exponent]:.3g}")
    fit.warnings += _bend(log_x, y, column)
    return fit


def _bend(log_x: np.ndarray, y: np.ndarray, column: str) -> list[str]:
    """Says where a parabola in the logs is far better than a line (t test at 1 in 1000)."""
    if len(np.unique(log_x)) < 4 or len(y) < 5:
        return []
    x = (log_x - log_x.mean()) / log_x.std()
    basis = np.stack([np.ones_like(x), x, x * x], 1)
    found, *_ = np.linalg.lstsq(basis, y, rcond=None)
    variance = float(((basis @ found - y) ** 2).sum()) / (len(y) - 3)
    error = np.sqrt(variance * np.linalg.inv(basis.T @ basis)[2, 2])
    if variance < 1e-18 or abs(found[2]) < t_quantile(0.9995, len(y) - 3) * error:
        return []
    way = "flattens" if found[2] > 0 else "steepens"
    return [
        f"log loss {way} with log {column}, where the law has a straight line: its constants depend on the range; "
        "a floor of the loss (chinchilla-parametric) or a second quantity (kaplan-nd) may be missing"
    ]
