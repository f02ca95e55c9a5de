"""How to spend a budget of FLOPs on parameters and tokens, by a fitted law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowcap.laws.fit import Fit, LawError


FLOPS_PER_PARAMETER_TOKEN = 6.0  # C = 6 N D (Kaplan et al. 2020, 2.1)


@dataclass(frozen=True)
class Allocation:
    """Parameters and tokens for a budget.

    Attributes:
        flops: the budget.
        num_parameters, num_tokens: what it buys, best.
    """

    flops: float
    num_parameters: float
    num_tokens: float


def optimal_exponents(constants: Mapping[str, float]) -> dict[str, float]:
    """a and b of N_opt = G (C / 6)^a, D_opt = (C / 6)^b / G of the parametric law, and G (Hoffmann et al. 2022, eq.
    4).
    """
    alpha, beta = constants["alpha"], constants["beta"]
    both = alpha + beta
    g = (alpha * constants["A"] / (beta * constants["B"])) ** (1 / both)
    return {"a": beta / both, "b": alpha / both, "G": g}


def parametric_allocation(constants: Mapping[str, float], flops: float) -> Allocation:
    """The least loss of the parametric law where 6 N D = flops, in closed form."""
    found = optimal_exponents(constants)
    budget = flops / FLOPS_PER_PARAMETER_TOKEN
    return Allocation(flops, found["G"] * budget ** found["a"], budget ** found["b"] / found["G"])


def power_allocation(constants: Mapping[str, float], flops: float) -> Allocation:
    """coefficient x flops^exponent, as the IsoFLOP profiles and the envelope give it."""
    return Allocation(
        flops,
        constants["coefficient_parameters"] * flops ** constants["exponent_parameters"],
        constants["coefficient_tokens"] * flops ** constants["exponent_tokens"],
    )


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


def allocate(fit: Fit, flops: float) -> Allocation:
    """The best parameters and tokens for a budget by any of the three approaches.

    Raises:
        LawError: another law.
    """
    if not fit.law.startswith("chinchilla-"):
        raise LawError(f"{fit.law} has no best spending of a budget; expected one of Chinchilla's approaches")
    parametric = fit.law == "chinchilla-parametric"
    return (parametric_allocation if parametric else power_allocation)(fit.constants, flops)


def beyond(fit: Fit, budget: float) -> str:
    """How far a budget lies outside the FLOPs that a law was fitted to; empty inside."""
    if "flops" in fit.points:
        low, high = fit.ranges["flops"]
    else:
        flops = 6 * fit.points["num_parameters"] * fit.points["num_tokens"]
        low, high = float(flops.min()), float(flops.max())
    if budget > 1.001 * high:
        return f"extrapolated: {budget / high:.2g} times the largest run"
    return f"extrapolated: {budget / low:.2g} of the smallest run" if budget < 0.999 * low else ""
