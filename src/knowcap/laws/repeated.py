"""What passes over the same data are worth, in loss (Muennighoff et al. 2023) and in bits (Part 3.3): formulas alone.

The laws' fits are in `data_constrained` and `capacity`. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.law import optimal_exponents


PASSES = (1, 2, 4, 8, 16, 32, 64)


def capacity_at(constants: Mapping[str, float], exposures: Any) -> np.ndarray:
    """R(e) = R / (1 + (half_exposures / e)^gamma): bits per parameter after e exposures of each fact."""
    e = np.asarray(exposures, dtype=float)
    return constants["bits_per_parameter"] / (1 + (constants["half_exposures"] / e) ** constants["gamma"])


def effective_tokens(constants: Mapping[str, float], num_tokens: Any, unique_tokens: Any) -> np.ndarray:
    """D' = U + U R_D (1 - exp(-r / R_D)) with r = D / U - 1 further passes over U unique tokens (equation 5).

    Args:
        constants: R_D; at R_D further passes a repeated token is worth 1 - 1/e of a fresh one, on average.
        num_tokens: D, trained on, repeats included.
        unique_tokens: U.
    """
    d = np.asarray(num_tokens, dtype=float)
    u = np.minimum(np.asarray(unique_tokens, dtype=float), d)
    return u * _worth(d / u - 1, constants["R_D"])


def effective_parameters(
    constants: Mapping[str, float], num_parameters: Any, num_tokens: Any, unique_tokens: Any
) -> np.ndarray:
    """N' = U_N + U_N R_N (1 - exp(-r / R_N)) with r = N / U_N - 1 (equation 6).

    U_N is the size for which U tokens are compute-optimal, or N if that is less. Without R_N it is N.
    """
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    if "R_N" not in constants:
        return n + 0 * d
    u = np.minimum(np.asarray(unique_tokens, dtype=float), d)
    g = optimal_exponents(constants)["G"]
    enough = np.minimum(n, (u * g) ** (constants["beta"] / constants["alpha"]) * g)
    return enough * _worth(n / enough - 1, constants["R_N"])


def _worth(more: np.ndarray, scale: Any) -> np.ndarray:
    """1 + R (1 - exp(-more / R)); for an infinite R it is 1 + more."""
    scale = np.minimum(scale, 1e12)
    return 1 - scale * np.expm1(-more / scale)


def data_constrained_loss(
    constants: Mapping[str, float], num_parameters: Any, num_tokens: Any, unique_tokens: Any
) -> np.ndarray:
    """E + A / N'^alpha + B / D'^beta, nats per token; arguments as in `effective_parameters`."""
    n = effective_parameters(constants, num_parameters, num_tokens, unique_tokens)
    d = effective_tokens(constants, num_tokens, unique_tokens)
    return constants["E"] + constants["A"] / n ** constants["alpha"] + constants["B"] / d ** constants["beta"]


def value_of_pass(
    loss: Mapping[str, float],
    num_parameters: float,
    unique_tokens: float,
    passes: float,
    bits: Mapping[str, float] | None = None,
    max_knowledge_bits: float = np.inf,
) -> dict[str, float]:
    """What one more pass over the same data adds after `passes` of them, in loss and in bits.

    The two laws differ: a repeated token loses value for the loss after some `R_D` passes, while facts are stored best
    about `half_exposures` (with gamma above 1, bits per pass rise up to there).

    Args:
        loss: constants of this law.
        num_parameters: of the model.
        unique_tokens: of the data, each fact once.
        passes: so far, 1 or more.
        bits: constants of the law `exposures`; None leaves bits out.
        max_knowledge_bits: of the data.

    Returns:
        fresh_share (what its tokens are worth, as a share of fresh ones), loss_before, loss_after, and with `bits`
        bits_before, bits_after (summed over facts).
    """
    trained = unique_tokens * np.array([passes, passes + 1.0])
    tokens = effective_tokens(loss, trained, unique_tokens)
    losses = data_constrained_loss(loss, num_parameters, trained, unique_tokens)
    found = {
        "fresh_share": float(np.diff(tokens)[0] / unique_tokens),
        "loss_before": float(losses[0]),
        "loss_after": float(losses[1]),
    }
    if bits is not None:
        held = num_parameters * capacity_at(bits, np.array([passes, passes + 1.0]))
        held = np.minimum(held, bits.get("saturation", 1.0) * max_knowledge_bits)
        found |= {"bits_before": float(held[0]), "bits_after": float(held[1])}
    return found
