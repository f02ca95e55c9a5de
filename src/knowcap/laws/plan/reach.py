"""Where the laws of loss do not reach: budgets beyond the runs, repeated data, over-training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from knowcap.laws.plan.allocation import optimum
from knowcap.laws.plan.quantity import figure
from knowcap.laws.published import KAPLAN_ALLOCATION, KAPLAN_OVERFITTING, Law


_BEYOND = 1.5  # times the largest budget of the runs
_OVER_TRAINED = 4.0  # times the tokens a parameter that any approach advises
_CHINCHILLA = 6e23
_CONFIRMED = ", confirmed once, by Chinchilla at 5.76e23"
_BENT = "; Hoffmann found the frontier to bend, so large optima may be too large"


def doubts(
    flops: float, used: Sequence[Law], num_parameters: float | None = None, unique_tokens: float | None = None
) -> Iterator[str]:
    """What to say beside the optima of a budget.

    Args:
        flops: the budget.
        used: the laws that the optima are by.
        num_parameters: a size that is settled.
        unique_tokens: how many different tokens there are.
    """
    for law in used:
        yield from law.warnings
    yield from _budget(flops, used)
    for law in used:
        yield from _beyond_fit(law, flops)
    optima = [optimum(law, flops) for law in used]
    tokens = max(tokens for _, tokens in optima)
    if num_parameters is not None:
        tokens = flops / (6 * num_parameters)
    if unique_tokens is not None and tokens > unique_tokens:
        yield (
            f"{figure(tokens)} tokens of {figure(unique_tokens)} different ones are {figure(tokens / unique_tokens)} "
            "passes: repeated data, for which no law here holds; losses will be higher than foretold"
        )
    if num_parameters is not None:
        ratio, most = tokens / num_parameters, max(tokens / size for size, tokens in optima)
        if ratio > _OVER_TRAINED * most:
            yield (
                f"{figure(ratio)} tokens a parameter are {figure(ratio / most)} times what any approach advises: "
                "over-training, which these laws were not fitted to; take the foretold loss as a guess"
            )
    if KAPLAN_ALLOCATION in used:
        factor, power = KAPLAN_OVERFITTING
        least = factor * optimum(KAPLAN_ALLOCATION, flops)[0] ** power
        yield (
            "Kaplan counts parameters without embeddings, with C_min = C / 2 at the critical batch size; its runs "
            "kept one learning rate schedule, which Hoffmann blames for models too large; to keep overfitting small "
            f"it asks for {figure(least)} different tokens"
        )
    yield ("losses are on each paper's own text and tokenizer; 2 IsoFLOP is biased where its grids are off-centre")


def _budget(flops: float, used: Sequence[Law]) -> Iterator[str]:
    """Where the budget is beyond the runs: once for the papers' laws, once for each fit."""
    known = [law for law in used if "flops" in law.tested]
    groups = [("Hoffmann's runs", [law for law in known if not law.fitted])]
    groups += [(f"the runs behind {law.source}", [law]) for law in known if law.fitted]
    for runs, laws in groups:
        if not laws:
            continue
        low = min(law.tested["flops"][0] for law in laws)
        high = max(law.tested["flops"][1] for law in laws)
        if flops > high * _BEYOND:
            yield (
                f"the budget is {figure(flops / high)} times the largest of {runs} ({high:.2g} FLOPs): extrapolated"
                + ("" if laws[0].fitted else _CONFIRMED if flops <= _CHINCHILLA else _BENT)
            )
        elif flops < low:
            yield f"the budget is below the smallest of {runs} ({low:.2g} FLOPs): extrapolated"


def _beyond_fit(law: Law, flops: float) -> Iterator[str]:
    """Where the optimum of a fit lies beyond its runs."""
    if not law.fitted:
        return
    names = ("num_parameters", "parameters"), ("num_tokens", "tokens")
    for (name, what), value in zip(names, optimum(law, flops), strict=True):
        low, high = law.tested.get(name, (value, value))
        if not low <= value <= high:
            yield (
                f"{figure(value)} {what} are outside the runs behind {law.source} ({figure(low)} to {figure(high)}): "
                "extrapolated"
            )
