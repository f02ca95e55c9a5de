"""Compute-optimal parameters and tokens by a loss law, for a budget of C = 6 N D FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from knowcap.laws.published import PF_DAY, Law


Constants = Mapping[str, float]
PARAMETRIC = ("chinchilla-parametric", "kaplan-nd")


def optimum(law: Law, flops: float, constants: Constants | None = None) -> tuple[float, float]:
    """Parameters and tokens at which a budget gives the least loss.

    - parametric, E + A/N^alpha + B/D^beta: N = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)),
      D = C / (6 N) (Hoffmann et al. 2022, eq. 4). Kaplan's L(N, D): alpha = alpha_N / alpha_D, beta = 1.
    - envelope, IsoFLOP: N = k C^a and D = l C^b, as fitted.
    - Kaplan's allocation: by C_min = C / 2, at the critical batch size (section 6); D = C / (6 N).

    Args:
        law: one of those.
        flops: C.
        constants: in place of the law's own.
    """
    c = law.constants if constants is None else constants
    if law.law in PARAMETRIC:
        a, alpha, b, beta = _terms(law.law, c)
        scale = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        size = scale * (flops / 6) ** (beta / (alpha + beta))
        return size, flops / (6 * size)
    if law.law == "kaplan-allocation":
        size = c["coefficient_parameters"] * (flops / 2 / PF_DAY) ** c["exponent_parameters"]
        return size, flops / (6 * size)
    size = c["coefficient_parameters"] * flops ** c["exponent_parameters"]
    return size, c["coefficient_tokens"] * flops ** c["exponent_tokens"]


def tokens_exponent(law: Law) -> float:
    """How tokens grow with parameters along the optimum: D as N to this power."""
    c = law.constants
    if law.law in PARAMETRIC:
        _, alpha, _, beta = _terms(law.law, c)
        return alpha / beta
    if law.law == "kaplan-allocation":
        return (1 - c["exponent_parameters"]) / c["exponent_parameters"]
    return c["exponent_tokens"] / c["exponent_parameters"]


def loss(law: Law, num_parameters: float, num_tokens: float, constants: Constants | None = None) -> float | None:
    """Nats a token that a parametric law foretells; None for the others, which foretell none."""
    c = law.constants if constants is None else constants
    if law.law == "chinchilla-parametric":
        return c["E"] + c["A"] / num_parameters ** c["alpha"] + c["B"] / num_tokens ** c["beta"]
    if law.law == "kaplan-nd":
        inner = (c["N_c"] / num_parameters) ** (c["alpha_N"] / c["alpha_D"]) + c["D_c"] / num_tokens
        return inner ** c["alpha_D"]
    return None


def exponent_parameters(law: Law) -> float:
    """a of N = k C^a."""
    if law.law in PARAMETRIC:
        _, alpha, _, beta = _terms(law.law, law.constants)
        return beta / (alpha + beta)
    return law.constants["exponent_parameters"]


def _terms(law: str, c: Constants) -> tuple[float, float, float, float]:
    """A, alpha, B, beta."""
    if law == "kaplan-nd":
        alpha = c["alpha_N"] / c["alpha_D"]
        return math.exp(alpha * math.log(c["N_c"])), alpha, c["D_c"], 1.0
    return c["A"], c["alpha"], c["B"], c["beta"]
