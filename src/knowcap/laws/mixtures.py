"""Mixtures of experts: loss by active and total parameters, and tokens.

The law is Hoffmann et al.'s with an effective number of parameters, N_active^(1 - w) N_total^w, as Clark et al. 2022
(arXiv 2202.01169) put dense and routed models on one line; w is 0 where inactive parameters are worth nothing, 1 where
they are worth as much as active ones. Ludziejewski et al. 2025 (arXiv 2502.05172) let both terms depend on the number
of experts: `joint_loss` is their law with their constants.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve, log_sum, logs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.parametric import DELTA, project


LAW = "mixtures"
NAMES = ("A", "B", "E", "alpha", "beta", "weight_of_total")
# Ludziejewski et al. 2025, Table 3.
JOINT = {
    "a": 35.91, "alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098, "b": 35.98, "beta": -0.1775, "omega": 0.5529,
    "zeta": -0.0259, "E_start": 2.0732, "E_max": 290.4521, "c": 1.3637,
}  # fmt: skip
_OPTIONS = Options()
_FEW = 3.0  # mixtures whose share of active parameters spans less than this factor hardly show w


def effective_parameters(constants: Mapping[str, Any], num_active_parameters: Any, num_parameters: Any) -> np.ndarray:
    """N_active^(1 - w) N_total^w; a dense model's is its number of parameters.

    Args:
        constants: weight_of_total, w.
        num_active_parameters: those that a token passes through.
        num_parameters: all of them.
    """
    active, total = (np.asarray(n, dtype=float) for n in (num_active_parameters, num_parameters))
    return active * (total / active) ** constants["weight_of_total"]


def mixture_loss(
    constants: Mapping[str, Any], num_active_parameters: Any, num_parameters: Any, num_tokens: Any
) -> np.ndarray:
    """E + A / N_effective^alpha + B / D^beta, nats per token."""
    n = effective_parameters(constants, num_active_parameters, num_parameters)
    d = np.asarray(num_tokens, dtype=float)
    return constants["E"] + constants["A"] / n ** constants["alpha"] + constants["B"] / d ** constants["beta"]


def joint_loss(num_active_parameters: Any, num_tokens: Any, num_experts: Any) -> np.ndarray:
    """Ludziejewski et al.'s law (equation 6) with their constants, of runs up to 2.7e9 active parameters.

    Args:
        num_active_parameters: N_act, without embeddings.
        num_tokens: D.
        num_experts: E, of which one is active; 1 is a dense model.
    """
    c = JOINT
    n, d = np.asarray(num_active_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    few = 1 / (1 / c["E_start"] - 1 / c["E_max"])
    log_experts = -np.log(1 / (np.asarray(num_experts, dtype=float) - 1 + few) + 1 / c["E_max"])
    size = c["a"] * np.exp(c["delta"] * log_experts) * n ** (c["alpha"] + c["gamma"] * log_experts)
    data = c["b"] * np.exp(c["omega"] * log_experts) * d ** (c["beta"] + c["zeta"] * log_experts)
    return size + data + c["c"]


def fit_mixtures(
    num_parameters: np.ndarray,
    num_active_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """Summed Huber loss (1e-3) of log loss, least over all six constants. Dense models may be among the runs.

    Args:
        num_parameters, num_active_parameters, num_tokens: total and active N, and D, of shape (n,).
        loss: nats per token, of shape (n,).
    """
    active, more, tokens = logs(num_active_parameters, num_parameters / num_active_parameters, num_tokens)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta, weight = (theta[:, i, None] for i in range(6))
        size = active + weight * more
        total, (of_size, of_data, floor) = log_sum(a - alpha * size, b - beta * tokens, e)
        parts = [of_size, of_data, floor + 0 * total, -size * of_size, -tokens * of_data, -alpha * more * of_size]
        return total, np.stack(parts, -1)

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        active = columns.get("num_active_parameters", columns["num_parameters"])
        return mixture_loss(constants, active, columns["num_parameters"], columns["num_tokens"])

    points = {
        "num_parameters": num_parameters, "num_active_parameters": num_active_parameters, "num_tokens": num_tokens,
        "observed": loss,
    }  # fmt: skip
    starts = []
    for weight, shift in itertools.product((0.0, 0.3, 0.6, 1.0), (0.0, 0.1)):
        base = project(np.exp(active + weight * more), num_tokens, loss, DELTA).theta
        starts.append(
            [*np.maximum(base[:3] - [0, 0, shift], [-5.0, -5.0, -2.0]), *np.clip(base[3:], 0.05, 1.5), weight]
        )
    is_log = (True, True, True, False, False, False)
    curve = Curve(LAW, NAMES, is_log, model, points, predict, delta=DELTA, method="bootstrap")
    fit = fit_curve(curve, np.array(starts), options)
    _add_warnings(fit, np.exp(more))
    return fit


def _add_warnings(fit: Fit, total_per_active: np.ndarray) -> None:
    """Where the weight of inactive parameters is not determined."""
    span = float(total_per_active.max() / total_per_active.min())
    if span < 1.01:
        fit.warnings.append(
            "all runs have the same share of active parameters, so weight_of_total trades off against A; add dense "
            "models or mixtures of other shares"
        )
    elif span < _FEW:
        fit.warnings.append(
            f"the shares of active parameters span a factor of {span:.2g} only, so weight_of_total is loose; add runs"
        )
    weight = fit.constants["weight_of_total"]
    if not -0.05 <= weight <= 1.05:
        fit.warnings.append(
            f"weight_of_total is {weight:.2g}, outside 0 to 1: the runs differ in more than sizes and tokens"
        )
