"""Compute-optimal parameters and tokens for a budget of FLOPs, by every approach side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from knowcap.laws.law import Law, LawError, exponent_parameters, loss, optimum
from knowcap.laws.plan.answer import Answer, Interval, Step
from knowcap.laws.plan.chart import loss_chart
from knowcap.laws.plan.fitted import LOSS_LEVEL, interval_of, loss_interval, unused
from knowcap.laws.plan.memory import cost_of, memory_results, memory_steps, memory_warnings
from knowcap.laws.plan.setting import Hardware, positive
from knowcap.laws.published import (
    EPOCH_PARAMETRIC,
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_PARAMETRIC,
    KAPLAN_ALLOCATION,
    KAPLAN_OVERFITTING,
)
from knowcap.laws.quantity import figure
from knowcap.report.duration import duration


_APPROACHES = (
    ("1 envelope", "Hoffmann", HOFFMANN_ENVELOPE),
    ("2 IsoFLOP", "Hoffmann", HOFFMANN_ISOFLOP),
    ("3 parametric", "Hoffmann", HOFFMANN_PARAMETRIC),
    ("3 parametric", "Epoch's refit", EPOCH_PARAMETRIC),
    ("Kaplan", "Kaplan", KAPLAN_ALLOCATION),
)
_FITTED = {"chinchilla-envelope": "1 envelope", "chinchilla-isoflop": "2 IsoFLOP"}
_FITTED |= {"chinchilla-parametric": "3 parametric", "kaplan-nd": "Kaplan L(N, D)"}


def compute(
    flops: float,
    laws: Mapping[str, Law] | None = None,
    num_parameters: float | None = None,
    unique_tokens: float | None = None,
    hardware: Hardware | None = None,
) -> Answer:
    """Parameters and tokens of least loss for a budget, by Hoffmann's three approaches, Epoch's refit, Kaplan's law.

    Args:
        flops: the budget, C = 6 N D.
        laws: fitted ones by name; each replaces the same approach of the papers.
        num_parameters: a fixed size: the tokens and loss of the budget at that size, beside the optimum.
        unique_tokens: how many different tokens are available; more means repeated data, which no law here covers.
        hardware: what the budget is spent on.

    Raises:
        LawError: a number out of range, or a budget of less than one token.
    """
    laws, hardware = laws or {}, hardware or Hardware()
    _check(flops, num_parameters, unique_tokens)
    used = _chosen(laws)
    rows = [_row(approach, source, law, flops) for approach, source, law in used]
    if min(min(row["parameters"], row["tokens"]) for row in rows) < 1:
        raise LawError(f"flops={flops:g} is less than one parameter and one token take; give more FLOPs")
    results, intervals = _results(used, rows, flops)
    hours = hardware.gpu_hours(flops)
    cost, cost_steps = cost_of(hours, hardware)
    ranges = _ranges([row for row in rows if not row["approach"].startswith("Kaplan")])
    largest = num_parameters or ranges["num_parameters"][1]
    results |= {"gpu_hours": hours, "hours": hours / hardware.num_gpus} | cost | memory_results(largest)
    steps = [Step("budget", flops, "FLOPs", "C = 6 N D"), _time(hours, hardware), *cost_steps]
    if num_parameters is not None:
        steps += _fixed(num_parameters, flops, used)
        results["num_tokens"] = flops / (6 * num_parameters)
        losses, ends = _losses_at(num_parameters, results["num_tokens"], used)
        results, intervals = results | losses, intervals | ends
    steps += memory_steps(largest, "bf16")[:1]
    laws_used = [law for _, _, law in used]
    sizes, tokens = (_range(ends) for ends in ranges.values())
    return Answer(
        "compute",
        f"{sizes} parameters and {tokens} tokens, by the approach (Kaplan apart).",
        results,
        intervals,
        steps,
        table=rows,
        laws=laws_used,
        warnings=(
            *_limits(flops, laws_used, num_parameters, unique_tokens),
            *memory_warnings(largest, hardware),
            *unused(laws, laws_used, "compute"),
        ),
        chart=loss_chart([_label(row, law) for row, law in zip(rows, laws_used, strict=True)], flops, num_parameters),
        ranges=ranges,
        ranges_of="Chinchilla's approaches",
    )


def _results(
    used: Sequence[tuple[str, str, Law]], rows: Sequence[Mapping[str, Any]], flops: float
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Each approach's optimum and its loss, and the intervals of those that were fitted."""
    results: dict[str, float] = {"flops": flops}
    intervals: dict[str, Interval] = {}
    for (approach, _, law), row in zip(used, rows, strict=True):
        key = _key(approach, law)
        results |= {f"num_parameters_{key}": row["parameters"], f"num_tokens_{key}": row["tokens"]}
        if law.intervals:
            intervals |= _box(law, flops, key)
        if row["nats_a_token"] is not None:
            results[f"loss_{key}"] = row["nats_a_token"]
            ends = loss_interval(law, row["parameters"], row["tokens"])
            intervals |= {f"loss_{key}": ends} if ends else {}
    return results, intervals


def _losses_at(
    num_parameters: float, num_tokens: float, used: Sequence[tuple[str, str, Law]]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The loss of a given size by each law that predicts one, with the intervals of those that were fitted."""
    losses, intervals = {}, {}
    for approach, _, law in used:
        reached, name = loss(law, num_parameters, num_tokens), f"loss_at_size_{_key(approach, law)}"
        if reached is not None:
            losses[name] = reached
            ends = loss_interval(law, num_parameters, num_tokens)
            intervals |= {name: ends} if ends else {}
    return losses, intervals


def _ranges(rows: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """The least and the most of the approaches' parameters and tokens."""
    columns = {"num_parameters": "parameters", "num_tokens": "tokens"}
    return {name: (min(row[key] for row in rows), max(row[key] for row in rows)) for name, key in columns.items()}


def _label(row: Mapping[str, Any], law: Law) -> tuple[str, Law, float]:
    """An approach for the chart: `parametric, Hoffmann`, its law and its size."""
    return f"{row['approach'].split(' ', 1)[-1]}, {row['law_of']}", law, row["parameters"]


def _check(flops: float, num_parameters: float | None, unique_tokens: float | None) -> None:
    """Raises LawError with all that is wrong with the numbers."""
    problems = []
    for name, value in (("flops", flops), ("num_parameters", num_parameters), ("unique_tokens", unique_tokens)):
        try:
            positive(name, 1.0 if value is None else value)
        except LawError as error:
            problems += error.problems
    if not problems and num_parameters is not None and flops < 6 * num_parameters:
        problems.append(
            f"num_parameters={num_parameters:g}: {flops:g} FLOPs are {flops / 6 / num_parameters:.2g} tokens of "
            "training, expected one or more; give fewer parameters, or more FLOPs"
        )
    if problems:
        raise LawError(problems)


def _time(hours: float, hardware: Hardware) -> Step:
    """The GPU-hours of the budget."""
    took = duration(3600 * hours / hardware.num_gpus)
    why = f"{hardware.utilisation:.4g} of the peak of {hardware.gpu}; {took} on {figure(hardware.num_gpus)} of them"
    return Step("GPU-hours", hours, "", why)


def _chosen(laws: Mapping[str, Law]) -> list[tuple[str, str, Law]]:
    """The approaches, each by its fitted law, or else the papers'."""
    fitted = [(_FITTED[name], "your fit", law) for name, law in laws.items() if name in _FITTED]
    papers = [row for row in _APPROACHES if row[2].law not in laws]
    return sorted(fitted + papers, key=lambda row: row[0])


def _row(approach: str, source: str, law: Law, flops: float) -> dict[str, Any]:
    size, tokens = _optimum(law, flops)
    return {
        "approach": approach,
        "law_of": source,
        "parameters": size,
        "tokens": tokens,
        "tokens_a_parameter": tokens / size,
        "exponent_a": exponent_parameters(law),
        "nats_a_token": loss(law, size, tokens),
    }


def _optimum(law: Law, flops: float) -> tuple[float, float]:
    """Compute-optimal parameters and tokens."""
    found = optimum(law.law, law.constants, flops)
    return found.num_parameters, found.num_tokens


def _key(approach: str, law: Law) -> str:
    """The approach in a result's name."""
    other = "kaplan_nd" if law.law == "kaplan-nd" else "kaplan"
    name = {"1": "envelope", "2": "isoflop", "3": "parametric"}.get(approach[0], other)
    return "epoch" if law is EPOCH_PARAMETRIC else name


def _box(law: Law, flops: float, key: str) -> dict[str, Interval]:
    """Intervals of parameters and tokens from those of the constants."""
    found = {}
    for i, name in enumerate(("num_parameters", "num_tokens")):
        interval = interval_of(law, lambda constants, i=i: _optimum(replace(law, constants=constants), flops)[i])
        if interval is not None:
            found[f"{name}_{key}"] = interval
    return found


def _fixed(num_parameters: float, flops: float, used: list[tuple[str, str, Law]]) -> list[Step]:
    """The tokens and loss of the budget at a fixed size."""
    tokens = flops / (6 * num_parameters)
    steps = [
        Step("parameters, fixed", num_parameters, "", "as given"),
        Step("tokens with them", tokens, "", f"C / (6 N), {figure(tokens / num_parameters)} per parameter"),
    ]
    for approach, source, law in used:
        reached = loss(law, num_parameters, tokens)
        if reached is not None:
            best = loss(law, *_optimum(law, flops)) or 0.0
            why = f"{approach}, {source}; {reached - best:.4f} above the optimum's {best:.4f}"
            if ends := loss_interval(law, num_parameters, tokens):
                why += f"; {ends[0]:.4g} to {ends[1]:.4g} at {100 * LOSS_LEVEL:g} %"
            steps.append(Step("nats per token", reached, "", why))
    return steps


def _range(ends: Interval) -> str:
    low, high = map(figure, ends)
    return low if low == high else f"{low} to {high}"


_BEYOND = 1.5  # times the largest budget of the runs
_OVER_TRAINED = 4.0  # times the tokens per parameter that any approach advises
_CHINCHILLA = 6e23
_CONFIRMED = ", confirmed once, by Chinchilla at 5.76e23"
_BENT = "; Hoffmann found the frontier to bend, so large optima may be too large"


def _limits(
    flops: float, used: Sequence[Law], num_parameters: float | None = None, unique_tokens: float | None = None
) -> Iterator[str]:
    """Warnings about the optima of a budget.

    Args:
        flops: the budget.
        used: the laws that the optima are by.
        num_parameters: a fixed size.
        unique_tokens: how many different tokens are available.
    """
    for law in used:
        yield from law.warnings
    yield from _budget_warnings(flops, used)
    for law in used:
        yield from _beyond_fit(law, flops)
    optima = [_optimum(law, flops) for law in used]
    tokens = max(tokens for _, tokens in optima)
    if num_parameters is not None:
        tokens = flops / (6 * num_parameters)
    if unique_tokens is not None and tokens > unique_tokens:
        yield (
            f"{figure(tokens)} tokens of {figure(unique_tokens)} different ones are {figure(tokens / unique_tokens)} "
            "passes: repeated data, which no law here covers; losses will be higher than predicted"
        )
    if num_parameters is not None:
        ratio, most = tokens / num_parameters, max(tokens / size for size, tokens in optima)
        if ratio > _OVER_TRAINED * most:
            yield (
                f"{figure(ratio)} tokens per parameter are {figure(ratio / most)} times the optimum of any approach: "
                "over-training, which these laws were not fitted to; the predicted loss is a guess"
            )
        least = min(tokens / size for size, tokens in optima)
        if ratio * _OVER_TRAINED < least:
            yield (
                f"{figure(ratio)} tokens per parameter are {figure(least / ratio)} times fewer than any approach's "
                "optimum: under-training, which these laws were not fitted to; the predicted loss is a guess"
            )
    if KAPLAN_ALLOCATION in used:
        factor, power = KAPLAN_OVERFITTING
        least = factor * _optimum(KAPLAN_ALLOCATION, flops)[0] ** power
        yield (
            "Kaplan counts parameters without embeddings, with C_min = C / 2 at the critical batch size; its runs "
            "kept one learning rate schedule, which by Hoffmann made its models too large; to keep overfitting "
            f"small it needs {figure(least)} different tokens"
        )
    yield ("losses are on each paper's own text and tokenizer; 2 IsoFLOP is biased where its grids are off-centre")


def _budget_warnings(flops: float, used: Sequence[Law]) -> Iterator[str]:
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
    for (name, what), value in zip(names, _optimum(law, flops), strict=True):
        low, high = law.tested.get(name, (value, value))
        if not low <= value <= high:
            yield (
                f"{figure(value)} {what} are outside the runs behind {law.source} ({figure(low)} to {figure(high)}): "
                "extrapolated"
            )
