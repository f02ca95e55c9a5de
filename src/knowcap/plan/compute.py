"""Compute-optimal size and tokens for a budget of FLOPs, by every approach side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knowcap.laws.published import (
    EPOCH_PARAMETRIC,
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_PARAMETRIC,
    KAPLAN_ALLOCATION,
    KAPLAN_OVERFITTING,
    Law,
)
from knowcap.plan.allocation import exponent_parameters, loss, optimum
from knowcap.plan.answer import Answer, Interval, Step, figure
from knowcap.plan.content import positive
from knowcap.plan.fitted import outermost, unused


_APPROACHES = (
    ("1 envelope", "Hoffmann", HOFFMANN_ENVELOPE),
    ("2 IsoFLOP", "Hoffmann", HOFFMANN_ISOFLOP),
    ("3 parametric", "Hoffmann", HOFFMANN_PARAMETRIC),
    ("3 parametric", "Epoch's refit", EPOCH_PARAMETRIC),
    ("Kaplan", "Kaplan", KAPLAN_ALLOCATION),
)
_FITTED = {"chinchilla-envelope": "1 envelope", "chinchilla-isoflop": "2 IsoFLOP"}
_FITTED |= {"chinchilla-parametric": "3 parametric", "kaplan-nd": "Kaplan L(N, D)"}
_FAR = 4.0  # times more tokens a parameter than any approach advises: over-training
_SLOPPY = 1.5  # times beyond the runs' budgets before it is told


def compute(
    flops: float,
    laws: Mapping[str, Law] | None = None,
    num_parameters: float | None = None,
    unique_tokens: float | None = None,
) -> Answer:
    """Parameters and tokens of least loss for a budget, by Hoffmann's three approaches, Epoch's refit, and Kaplan's law.

    Args:
        flops: the budget, C = 6 N D.
        laws: fitted ones by name; each stands in place of the papers' same approach.
        num_parameters: a size that is settled: what the budget gives with it, beside the optimum.
        unique_tokens: how many different tokens there are; beyond them data are repeated, which no law here covers.

    Raises:
        PlanError: a number that is not above zero.
    """
    laws = laws or {}
    for name, value in (("flops", flops), ("num_parameters", num_parameters), ("unique_tokens", unique_tokens)):
        if value is not None:
            positive(name, value)
    used = _chosen(laws)
    rows = [_row(approach, source, law, flops) for approach, source, law in used]
    sizes, tokens = [row["parameters"] for row in rows], [row["tokens"] for row in rows]
    results: dict[str, float] = {"flops": flops}
    intervals: dict[str, Interval] = {}
    for (approach, _, law), row in zip(used, rows, strict=True):
        key = _key(approach, law)
        results |= {f"num_parameters_{key}": row["parameters"], f"num_tokens_{key}": row["tokens"]}
        if law.intervals:
            intervals |= _box(law, flops, key)
    steps = [Step("budget", flops, "FLOPs", "C = 6 N D")]
    if num_parameters is not None:
        steps += _settled(num_parameters, flops, used)
        results["num_tokens"] = flops / (6 * num_parameters)
    hoffmann = [row for row in rows if not row["approach"].startswith("Kaplan")]
    return Answer(
        "compute",
        f"{_range([r['parameters'] for r in hoffmann])} parameters and {_range([r['tokens'] for r in hoffmann])} tokens, "
        "by the approach (Kaplan apart).",
        results,
        intervals,
        steps,
        table=rows,
        laws=tuple(law for _, _, law in used),
        warnings=(
            *_doubts(flops, used, sizes, tokens, num_parameters, unique_tokens),
            *unused(laws, [law for _, _, law in used], "compute"),
        ),
    )


def _chosen(laws: Mapping[str, Law]) -> list[tuple[str, str, Law]]:
    """The approaches, each by the fitted law if there is one, else by the papers'."""
    fitted = [(_FITTED[name], "your fit", law) for name, law in laws.items() if name in _FITTED]
    papers = [row for row in _APPROACHES if row[2].law not in laws]
    return sorted(fitted + papers, key=lambda row: row[0])


def _row(approach: str, source: str, law: Law, flops: float) -> dict[str, Any]:
    size, tokens = optimum(law, flops)
    return {
        "approach": approach,
        "law_of": source,
        "parameters": size,
        "tokens": tokens,
        "tokens_a_parameter": tokens / size,
        "exponent_a": exponent_parameters(law),
        "nats_a_token": loss(law, size, tokens),
    }


def _key(approach: str, law: Law) -> str:
    """The approach in a result's name."""
    name = {"1": "envelope", "2": "isoflop", "3": "parametric"}.get(approach[0], "kaplan")
    return "epoch" if law is EPOCH_PARAMETRIC else name


def _box(law: Law, flops: float, key: str) -> dict[str, Interval]:
    """Intervals of parameters and tokens from those of the constants."""
    found = {}
    for i, name in enumerate(("num_parameters", "num_tokens")):
        interval = outermost(law, lambda constants, i=i: optimum(law, flops, constants)[i])
        if interval is not None:
            found[f"{name}_{key}"] = interval
    return found


def _settled(num_parameters: float, flops: float, used: list[tuple[str, str, Law]]) -> list[Step]:
    """What the budget gives with a size that is settled."""
    tokens = flops / (6 * num_parameters)
    steps = [
        Step("parameters, settled", num_parameters, "", "as given"),
        Step("tokens with them", tokens, "", f"C / (6 N), {figure(tokens / num_parameters)} a parameter"),
    ]
    for approach, source, law in used:
        reached = loss(law, num_parameters, tokens)
        if reached is not None:
            best = loss(law, *optimum(law, flops)) or 0.0
            steps.append(
                Step(
                    "nats a token",
                    reached,
                    "",
                    f"{approach}, {source}; {reached - best:.4f} above the optimum's {best:.4f}",
                )
            )
    return steps


def _range(values: list[float]) -> str:
    low, high = figure(min(values)), figure(max(values))
    return low if low == high else f"{low} to {high}"


def _doubts(
    flops: float,
    used: list[tuple[str, str, Law]],
    sizes: list[float],
    tokens: list[float],
    num_parameters: float | None,
    unique_tokens: float | None,
) -> list[str]:
    """Where the laws do not reach, and what was assumed."""
    doubts = [f"{text}" for _, _, law in used for text in law.warnings]
    tested = [law.tested["flops"] for _, _, law in used if "flops" in law.tested]
    if tested:
        low, high = min(r[0] for r in tested), max(r[1] for r in tested)
        if flops > high * _SLOPPY:
            confirmed = ", confirmed once, at 5.76e23 (Chinchilla)" if flops <= 6e23 else ""
            doubts.append(
                f"the budget is {figure(flops / high)} times the largest of Hoffmann's runs ({high:.2g} FLOPs): "
                f"extrapolated{confirmed}; Hoffmann found the frontier to bend, so large optima may be too large"
            )
        elif flops < low:
            doubts.append(f"the budget is below the smallest of Hoffmann's runs ({low:.2g} FLOPs): extrapolated")
    if unique_tokens is not None and max(tokens) > unique_tokens:
        doubts.append(
            f"{figure(max(tokens))} tokens of {figure(unique_tokens)} different ones are {figure(max(tokens) / unique_tokens)} "
            "passes: repeated data, for which no law here holds; losses will be higher than foretold"
        )
    if num_parameters is not None:
        ratio, most = flops / (6 * num_parameters**2), max(t / n for t, n in zip(tokens, sizes, strict=True))
        if ratio > _FAR * most:
            doubts.append(
                f"{figure(ratio)} tokens a parameter are {figure(ratio / most)} times what any approach advises: "
                "over-training, which these laws were not fitted to; take the foretold loss as a guess"
            )
    if any(law is KAPLAN_ALLOCATION for _, _, law in used):
        factor, power = KAPLAN_OVERFITTING
        least = factor * optimum(KAPLAN_ALLOCATION, flops)[0] ** power
        doubts.append(
            "Kaplan counts parameters without embeddings, with C_min = C / 2 at the critical batch size; its runs kept one "
            f"learning rate schedule, which Hoffmann blames for models too large; overfitting needs {figure(least)} tokens"
        )
    doubts.append(
        "losses are on each paper's own text and tokenizer, and 2 IsoFLOP is biased where its grids are off-centre"
    )
    return doubts
