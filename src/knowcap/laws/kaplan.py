"""Kaplan's laws of one quantity (parameters, tokens or compute) and of two (Kaplan et al. 2020)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve, log_sum, logs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import student


_OPTIONS = Options()
PF_DAY = 8.64e19  # FLOP
_NAMES = {
    "kaplan-n": ("N_c", "alpha_N", "num_parameters"),
    "kaplan-d": ("D_c", "alpha_D", "num_tokens"),
    "kaplan-c": ("C_c", "alpha_C", "flops"),
}


def fit_kaplan_n(num_parameters: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """L(N) = (N_c / N)^alpha_N, of models not limited by data or steps. Kaplan's N has no embeddings.

    Args:
        num_parameters: of shape (n,).
        loss: nats per token, of shape (n,).
    """
    return _fit("kaplan-n", num_parameters, loss, options)


def fit_kaplan_d(num_tokens: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """L(D) = (D_c / D)^alpha_D, of large models stopped early on D tokens. Arguments as in `fit_kaplan_n`."""
    return _fit("kaplan-d", num_tokens, loss, options)


def fit_kaplan_c(flops: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS) -> Fit:
    """L(C) = (C_c / C)^alpha_C, of the best model for each compute. C_c is in FLOP, and in PF-days under `derived`.

    Args:
        flops, loss: of shape (n,).
    """
    fit = _fit("kaplan-c", flops, loss, options)
    fit.derived["C_c_pf_days"] = fit.constants["C_c"] / PF_DAY
    low, high = fit.intervals["C_c"]
    fit.derived_intervals["C_c_pf_days"] = (
        None if low is None else low / PF_DAY,
        None if high is None else high / PF_DAY,
    )
    return fit


def _fit(law: str, x: np.ndarray, loss: np.ndarray, options: Options) -> Fit:
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
    curve = Curve(law, (scale, exponent), (True, False), model, points, predict)
    fit = fit_curve(curve, start, options)
    if fit.constants[exponent] <= 0:
        fit.warnings.append(f"loss does not fall with {column}: {exponent} is {fit.constants[exponent]:.3g}")
    fit.warnings += _bend(log_x, y, column)
    return fit


def _bend(log_x: np.ndarray, y: np.ndarray, column: str) -> list[str]:
    """A warning if a parabola in the logs fits far better than a line (t test, p < 0.001)."""
    if len(np.unique(log_x)) < 4 or len(y) < 5:
        return []
    x = (log_x - log_x.mean()) / log_x.std()
    basis = np.stack([np.ones_like(x), x, x * x], 1)
    found, *_ = np.linalg.lstsq(basis, y, rcond=None)
    variance = float(((basis @ found - y) ** 2).sum()) / (len(y) - 3)
    error = np.sqrt(variance * np.linalg.inv(basis.T @ basis)[2, 2])
    if variance < 1e-18 or abs(found[2]) < student(0.999, len(y) - 3) * error:
        return []
    change = "flattens" if found[2] > 0 else "steepens"
    return [
        f"log loss {change} with log {column}, but the law is a straight line: its constants depend on the range; "
        "a floor of the loss (chinchilla-parametric) or a second quantity (kaplan-nd) may be missing"
    ]


def kaplan_nd_loss(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D, nats per token (equation 1.5)."""
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    alpha_d = constants["alpha_D"]
    return ((constants["N_c"] / n) ** (constants["alpha_N"] / alpha_d) + constants["D_c"] / d) ** alpha_d


def overfitting(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """The relative increase of the loss at D tokens over that of unlimited data: L(N, D) / L(N, inf) - 1 (4.2)."""
    return (
        kaplan_nd_loss(constants, num_parameters, num_tokens) / kaplan_nd_loss(constants, num_parameters, np.inf) - 1
    )


def tokens_needed(constants: Mapping[str, float], num_parameters: Any, at_most: float = 0.02) -> np.ndarray:
    """Tokens with which `overfitting` is `at_most`; 0.02 gives Kaplan's D = 5e3 N^0.74 (4.4)."""
    n, ratio = np.asarray(num_parameters, dtype=float), constants["alpha_N"] / constants["alpha_D"]
    return constants["D_c"] * (n / constants["N_c"]) ** ratio / ((1 + at_most) ** (1 / constants["alpha_D"]) - 1)


def kaplan_ns_loss(constants: Mapping[str, float], num_parameters: Any, min_steps: Any) -> np.ndarray:
    """L(N, S_min) = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S, nats per token (equation 1.6)."""
    n, s = np.asarray(num_parameters, dtype=float), np.asarray(min_steps, dtype=float)
    return (constants["N_c"] / n) ** constants["alpha_N"] + (constants["S_c"] / s) ** constants["alpha_S"]


def fit_kaplan_nd(
    num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray, options: Options = _OPTIONS
) -> Fit:
    """The law of `kaplan_nd_loss`, of runs stopped when the test loss no longer falls; arrays of shape (n,)."""
    x, y = logs(num_parameters, num_tokens)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_c, d_c, alpha_n, alpha_d = (theta[:, i, None] for i in range(4))
        size, data = alpha_n / alpha_d * (n_c - x), d_c - y
        total, (size_share, data_share) = log_sum(size, data)
        parts = [alpha_n * size_share, alpha_d * data_share, size_share * (n_c - x), total - size_share * size]
        return alpha_d * total, np.stack(parts, -1)

    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        return kaplan_nd_loss(constants, columns["num_parameters"], columns["num_tokens"])

    level = float(np.log(loss).mean())
    starts = [
        (x.mean() + level / alpha_n + shift, y.mean() + level / alpha_d - shift, alpha_n, alpha_d)
        for alpha_n, alpha_d in itertools.product((0.05, 0.1, 0.2, 0.4), repeat=2)
        for shift in (-3.0, 0.0, 3.0)
    ]
    points = {"num_parameters": num_parameters, "num_tokens": num_tokens, "observed": loss}
    curve = Curve(
        "kaplan-nd", ("N_c", "D_c", "alpha_N", "alpha_D"), (True, True, False, False), model, points, predict
    )
    fit = fit_curve(curve, np.array(starts), options)
    most = overfitting(fit.constants, num_parameters, num_tokens)
    fit.extra["overfitting"] = {"smallest": float(most.min()), "largest": float(most.max())}
    fit.derived |= {
        "data_exponent": fit.constants["alpha_N"] / fit.constants["alpha_D"],
        "data_coefficient": float(tokens_needed(fit.constants, 1.0)),
    }
    if most.max() < 0.01:
        fit.warnings.append(
            f"no run is limited by its data: loss is at most {100 * most.max():.2g} % above that of unlimited data, "
            "so D_c and alpha_D are poorly determined; add runs on fewer tokens"
        )
    return fit


def fit_kaplan_ns(
    num_parameters: np.ndarray,
    steps: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """The law of `kaplan_ns_loss`, on curves after their warm-up.

    Args:
        num_parameters, loss: of shape (n,).
        steps: S_min, of shape (n,); see `min_steps`.
    """
    x, s = logs(num_parameters, steps)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_c, s_c, alpha_n, alpha_s = (theta[:, i, None] for i in range(4))
        total, (size, time) = log_sum(alpha_n * (n_c - x), alpha_s * (s_c - s))
        return total, np.stack([alpha_n * size, alpha_s * time, size * (n_c - x), time * (s_c - s)], -1)

    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        return kaplan_ns_loss(constants, columns["num_parameters"], columns["min_steps"])

    level = float(np.mean(loss))
    starts = [
        (x.mean() + np.log(level * (1 - part)) / alpha_n, s.mean() + np.log(level * part) / alpha_s, alpha_n, alpha_s)
        for alpha_n, alpha_s, part in itertools.product((0.05, 0.1, 0.2, 0.4), (0.2, 0.5, 1.0), (0.1, 0.4))
    ]
    points = {"num_parameters": num_parameters, "min_steps": steps, "observed": loss}
    names, in_logs = ("N_c", "S_c", "alpha_N", "alpha_S"), (True, True, False, False)
    curve = Curve("kaplan-ns", names, in_logs, model, points, predict)
    return fit_curve(curve, np.array(starts), options)
