"""Kaplan's laws of two quantities: parameters with tokens, and parameters with steps (Kaplan et al. 2020, 4 and 5)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, Options
from knowcap.laws.terms import log_sum, logs


_OPTIONS = Options()


def kaplan_nd_loss(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D, nats per token (equation 1.5)."""
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    alpha_d = constants["alpha_D"]
    return ((constants["N_c"] / n) ** (constants["alpha_N"] / alpha_d) + constants["D_c"] / d) ** alpha_d


def overfitting(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """By how much of itself the loss at D tokens is above that of endless data: L(N, D) / L(N, inf) - 1 (4.2)."""
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


def min_steps(step: Any, batch_tokens: Any, loss: Any, b_star: float, alpha_b: float) -> np.ndarray:
    """S_min = S / (1 + B_crit(L) / B): the steps that a far larger batch would have needed (equation 5.4).

    Args:
        step, batch_tokens, loss: of one shape.
        b_star, alpha_b: of B_crit(L) = b_star / L^(1 / alpha_b), in tokens; Kaplan has 2.1e8 and 0.21.
    """
    critical = b_star / np.asarray(loss, dtype=float) ** (1 / alpha_b)
    return np.asarray(step, dtype=float) / (1 + critical / np.asarray(batch_tokens, dtype=float))


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
            f"data hold back no run: loss is at most {100 * most.max():.2g} % above that of endless data, "
            "so D_c and alpha_D rest on little; add runs on fewer tokens"
        )
    return fit


def fit_kaplan_ns(
    num_parameters: np.ndarray,
    steps: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
    *,
    groups: np.ndarray | None = None,
) -> Fit:
    """The law of `kaplan_ns_loss`, on curves after their warm-up.

    Args:
        num_parameters, loss: of shape (n,).
        steps: S_min, of shape (n,); see `min_steps`.
        groups: the runs that points belong to, of shape (n,); intervals are then of the bootstrap over runs.
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
    curve = Curve("kaplan-ns", names, in_logs, model, points, predict, groups=groups)
    return fit_curve(curve, np.array(starts), options)
