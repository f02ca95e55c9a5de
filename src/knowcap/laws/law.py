"""A scaling law: its constants, the loss it predicts, its compute-optimal allocation. Standard library alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


FLOPS_PER_PARAMETER_TOKEN = 6.0  # C = 6 N D (Kaplan et al. 2020, 2.1)
PF_DAY = 8.64e19  # FLOP
PARAMETRIC = ("chinchilla-parametric", "kaplan-nd")
SIZES = ("num_parameters", "num_tokens", "min_steps", "exposures")  # their product says how large a run is
Constants = Mapping[str, float]


class LawError(ValueError):
    """A law cannot be fitted or applied; the message has every problem and how to fix it.

    Attributes:
        problems: one message each.
    """

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        one = len(self.problems) == 1
        heading = f"{len(self.problems)} problems:\n"
        super().__init__(self.problems[0] if one else heading + "\n".join(f"  {p}" for p in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


@dataclass(frozen=True)
class Law:
    """A law with its constants.

    Attributes:
        law: its name, as in `knowcap fit`.
        constants: by name.
        source: where they come from.
        intervals: by constant, low and high; empty for a law quoted from a paper.
        samples: by constant, its values in the refits of a bootstrap; empty where the fit has none.
        confidence_level: of the intervals.
        tested: the smallest and largest value among the runs behind it, by quantity (num_parameters, num_tokens,
            flops).
        fitted: whether `knowcap fit` made it.
        warnings: those of its fit.
        prediction: what the intervals of its predictions are made of, from the fit's JSON; empty without a fit.
    """

    law: str
    constants: Constants
    source: str
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    confidence_level: float = 0.95
    tested: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fitted: bool = False
    warnings: tuple[str, ...] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Allocation:
    """The compute-optimal parameters and tokens for a budget of FLOPs."""

    flops: float
    num_parameters: float
    num_tokens: float


def optimum(law: str, constants: Constants, flops: float) -> Allocation:
    """Parameters and tokens with the lowest loss for a budget of C FLOPs.

    - parametric, E + A / N^alpha + B / D^beta: N = G (C / 6)^a, D = (C / 6)^b / G, see `optimal_exponents`. Kaplan's
      L(N, D): alpha = alpha_N / alpha_D, beta = 1.
    - envelope, IsoFLOP: N = k C^a and D = l C^b, as fitted.
    - Kaplan's allocation: by C_min = C / 2, at the critical batch size (section 6); D = C / (6 N).

    Args:
        law: the name of one of those.
        constants: of the law.
        flops: C.

    Raises:
        LawError: another law.
    """
    c = constants
    if law in PARAMETRIC:
        found = optimal_exponents(_terms(law, c))
        budget = flops / FLOPS_PER_PARAMETER_TOKEN
        return Allocation(flops, found["G"] * budget ** found["a"], budget ** found["b"] / found["G"])
    if law == "kaplan-allocation":
        size = c["coefficient_parameters"] * (flops / 2 / PF_DAY) ** c["exponent_parameters"]
        return Allocation(flops, size, flops / (FLOPS_PER_PARAMETER_TOKEN * size))
    if law not in ("chinchilla-envelope", "chinchilla-isoflop"):
        raise LawError(f"{law} has no compute-optimal allocation; expected one of Chinchilla's approaches")
    size = c["coefficient_parameters"] * flops ** c["exponent_parameters"]
    return Allocation(flops, size, c["coefficient_tokens"] * flops ** c["exponent_tokens"])


def optimal_exponents(constants: Constants) -> dict[str, float]:
    """a, b and G of N_opt = G (C / 6)^a, D_opt = (C / 6)^b / G, the parametric law's optimum (Hoffmann et al., eq. 4).

    Args:
        constants: A, B, alpha, beta.
    """
    alpha, beta = constants["alpha"], constants["beta"]
    both = alpha + beta
    g = (alpha * constants["A"] / (beta * constants["B"])) ** (1 / both)
    return {"a": beta / both, "b": alpha / both, "G": g}


def parametric_allocation(constants: Constants, flops: float) -> Allocation:
    """The lowest loss of the parametric law where 6 N D = flops, in closed form."""
    return optimum("chinchilla-parametric", constants, flops)


def power_allocation(constants: Constants, flops: float) -> Allocation:
    """coefficient x flops^exponent, as the IsoFLOP profiles and the envelope give it."""
    return optimum("chinchilla-isoflop", constants, flops)


def loss(law: Law, num_parameters: float, num_tokens: float) -> float | None:
    """Nats per token that a parametric law predicts; None for other laws, which predict no loss."""
    c = law.constants
    if law.law == "chinchilla-parametric":
        return c["E"] + c["A"] / num_parameters ** c["alpha"] + c["B"] / num_tokens ** c["beta"]
    if law.law == "kaplan-nd":
        inner = (c["N_c"] / num_parameters) ** (c["alpha_N"] / c["alpha_D"]) + c["D_c"] / num_tokens
        return inner ** c["alpha_D"]
    return None


def predicted(
    law: Law, found: Callable[[Constants], float], inputs: Mapping[str, float], level: float = 0.9
) -> tuple[float, float] | None:
    """The interval of what a fitted law predicts for a new run, as `knowcap.laws.fit.Fit.predict` gives it.

    Half of it, in logs, is the root of the sum of two squares: a quantile times the noise of runs and the spread of
    the law's samples, and a quantile times the misfit times r (r + s). There r is the log of the factor that the run
    lies beyond the table, s the log of the factor that the table spans.

    Args:
        law: with `prediction` and `samples`.
        found: constants → the predicted value, above zero.
        inputs: of the run, by the names in `prediction`'s inputs, such as num_parameters and num_tokens; those left
            out count as inside the table.
        level: of confidence: one of the quantiles in `prediction`.

    Returns:
        None for a law without a fit, a bootstrap, or that level.
    """
    band = law.prediction
    quantiles = (band.get("quantiles") or {}).get(f"{level:g}")
    if not quantiles or not law.samples:
        return None
    rows = zip(*(law.samples[name] for name in law.constants), strict=True)
    values = sorted(
        math.log(value) for row in rows if (value := found(dict(zip(law.constants, row, strict=True)))) > 0
    )
    spread = (values[round(0.8413 * (len(values) - 1))] - values[round(0.1587 * (len(values) - 1))]) / 2
    known = {name: float(value) for name, value in inputs.items() if name in band["inputs"]}
    parts = [name for name in ("flops",) if name in known] or [n for n in SIZES if n in known and n in band["inputs"]]
    if "size" in band["inputs"] and parts:
        known["size"] = math.prod(known[name] for name in parts)
    beyond = 0.0
    for name, value in known.items():
        low, high = band["inputs"][name]
        beyond = max(beyond, math.log(value / high), math.log(low / value))
    low, high = band["inputs"].get("size", (1.0, 1.0))
    misfit = band["misfit"] * beyond * (beyond + math.log(high / low))
    half = math.hypot(quantiles[0] * math.hypot(band["noise"], spread), quantiles[1] * misfit)
    value = found(law.constants)
    return value * math.exp(-half), value * math.exp(half)


def exponent_parameters(law: Law) -> float:
    """a of N = k C^a."""
    if law.law in PARAMETRIC:
        return optimal_exponents(_terms(law.law, law.constants))["a"]
    return law.constants["exponent_parameters"]


def tokens_exponent(law: Law) -> float:
    """How tokens grow with parameters along the optimum: D as N to this power."""
    c = law.constants
    if law.law in PARAMETRIC:
        terms = _terms(law.law, c)
        return terms["alpha"] / terms["beta"]
    if law.law == "kaplan-allocation":
        return (1 - c["exponent_parameters"]) / c["exponent_parameters"]
    return c["exponent_tokens"] / c["exponent_parameters"]


def _terms(law: str, c: Constants) -> Constants:
    """A, alpha, B, beta of the terms of a parametric law that fall with N and D."""
    if law == "kaplan-nd":
        alpha = c["alpha_N"] / c["alpha_D"]
        return {"A": math.exp(alpha * math.log(c["N_c"])), "alpha": alpha, "B": c["D_c"], "beta": 1.0}
    return c
