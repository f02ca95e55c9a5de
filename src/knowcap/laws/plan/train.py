"""How long a model of a given size must be trained to store given knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from knowcap.laws.law import Law, LawError, tokens_exponent
from knowcap.laws.plan.activations import Shape
from knowcap.laws.plan.answer import Answer, Interval, Step
from knowcap.laws.plan.capacity import Rate, exposures_for, most_exposures, rate
from knowcap.laws.plan.chart import bits_chart
from knowcap.laws.plan.content import Content, people_for, people_notes
from knowcap.laws.plan.fitted import interval_of, unused
from knowcap.laws.plan.memory import cost_of, memory_results, memory_steps, memory_warnings
from knowcap.laws.plan.setting import GPUS, Hardware, Setting, positive
from knowcap.laws.published import (
    BIOS_TOKENS,
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_PARAMETRIC,
    KAPLAN_ALLOCATION,
    MOE_ACTIVE_SHARE,
    USEFUL_SHARE,
)
from knowcap.laws.quantity import figure
from knowcap.report.duration import duration


LOSS_LAWS = (
    (HOFFMANN_ENVELOPE, "Hoffmann et al. 2022, approach 1"),
    (HOFFMANN_ISOFLOP, "Hoffmann et al. 2022, approach 2"),
    (HOFFMANN_PARAMETRIC, "Hoffmann et al. 2022, approach 3"),
    (KAPLAN_ALLOCATION, "Kaplan et al. 2020"),
)


@dataclass(frozen=True)
class Training:
    """A training at `setting`, whose exposures are set; `tokens_once` state all of the knowledge once."""

    num_parameters: float
    tokens_once: float
    setting: Setting

    @property
    def exposures(self) -> float:
        """How often each fact is seen."""
        return self.setting.exposures or 1.0

    @property
    def tokens(self) -> float:
        """Of all exposures, junk included."""
        return self.exposures * self.tokens_once / (1.0 if self.setting.junk == "none" else USEFUL_SHARE)

    @property
    def flops(self) -> float:
        """6 x parameters that a token passes through x tokens."""
        active = MOE_ACTIVE_SHARE if self.setting.architecture == "moe" else 1.0
        return 6 * active * self.num_parameters * self.tokens

    def gpu_hours(self, hardware: Hardware) -> float:
        """On one GPU."""
        return hardware.gpu_hours(self.flops)

    def steps(self, hardware: Hardware) -> list[Step]:
        """From exposures to hours."""
        junk = "" if self.setting.junk == "none" else f" / {USEFUL_SHARE:g}, the useful share"
        active = f" x {MOE_ACTIVE_SHARE:g} active" if self.setting.architecture == "moe" else ""
        peak, source = GPUS[hardware.gpu]
        hours = self.gpu_hours(hardware)
        rate = f"{hardware.utilisation:.4g} of {figure(peak)} FLOP/s, {source}"
        steps = [
            Step("tokens", self.tokens, "", f"exposures x tokens once{junk}"),
            Step("FLOPs", self.flops, "", f"6 x parameters{active} x tokens; without attention's own"),
            Step("GPU-hours", hours, "", rate),
        ]
        if hardware.num_gpus != 1:
            took = duration(3600 * hours / hardware.num_gpus)
            steps.append(Step("hours", hours / hardware.num_gpus, "", f"on {figure(hardware.num_gpus)} GPUs: {took}"))
        return steps


def doubled(training: Training, needed: float, laws: Mapping[str, Law]) -> list[dict[str, Any]]:
    """The data that a model of twice the parameters needs, by several laws: factors of tokens and of FLOPs.

    Args:
        training: of the model as it is.
        needed: bits per parameter that it holds.
        laws: fitted ones by name.
    """
    rows = []
    again = None
    if "exposures" in laws or "capacity" not in laws:
        again = exposures_for(needed / 2, replace(training.setting, exposures=None), laws)
    if again is not None:
        rows.append(_row(f"the same knowledge, {figure(again)} exposures", again / training.exposures))
    rows.append(_row("twice the knowledge, as many exposures", 2.0))
    for law, label in LOSS_LAWS:
        fit = laws.get(law.law)
        rows.append(_row(f"least loss: {label if fit is None else fit.source}", 2 ** tokens_exponent(fit or law)))
    return rows


def _row(what: str, factor: float) -> dict[str, Any]:
    return {"twice_the_parameters": what, "tokens_x": factor, "FLOPs_x": 2 * factor}


_LECTURE = "the authors' lecture on Part 3.3: doubling a model needs more than twice the training tokens"


def train(
    num_parameters: float,
    content: Content,
    setting: Setting,
    hardware: Hardware | None = None,
    laws: Mapping[str, Law] | None = None,
    tokens_per_exposure: float | None = None,
    shape: Shape | None = None,
) -> Answer:
    """How often the knowledge must be seen until the model holds it: exposures, tokens, FLOPs, GPU-hours.

    Args:
        num_parameters: all of them.
        content: the knowledge to store.
        setting: with its exposures, if set, or else the fewest that store the knowledge.
        hardware: what trains.
        laws: fitted ones by name, used in place of the papers'.
        tokens_per_exposure: tokens that state all of the knowledge once; None: as long as the paper's biographies.
        shape: for its activations; None: the memory is without them.

    Raises:
        LawError: numbers out of range, or knowledge that the model cannot hold however often it is seen.
    """
    laws, hardware = laws or {}, hardware or Hardware()
    needed = content.bits / positive("num_parameters", num_parameters)
    exposures, why = _exposures(needed, num_parameters, content.bits, setting, laws)
    found = rate(replace(setting, exposures=exposures), laws)
    once = _tokens_once(content, tokens_per_exposure)
    training = Training(num_parameters, once.value or 0.0, replace(setting, exposures=exposures))
    hours = training.gpu_hours(hardware)
    held = min(content.bits, num_parameters * found.value)
    results = {
        "exposures": exposures, "tokens": training.tokens, "flops": training.flops, "gpu_hours": hours,
        "hours": hours / hardware.num_gpus, "bits_per_parameter_needed": needed, "bits_held": held,
    }  # fmt: skip
    cost, cost_steps = cost_of(hours, hardware)
    per_exposure = {name: (results | cost)[name] / exposures for name in (*tuple(results)[:5], *cost)}
    results |= cost | memory_results(num_parameters, shape, setting.precision)
    steps = [
        *content.steps,
        Step("bits per parameter needed", needed, "", f"for {figure(num_parameters)} parameters"),
        Step("exposures", exposures, "", why),
        *(*found.steps, once, *training.steps(hardware)),
        *cost_steps,
        *memory_steps(num_parameters, setting.precision, shape),
    ]
    used = [found.law, *(laws[law.law] for law, _ in LOSS_LAWS if law.law in laws)]
    warnings = [*_shortfall(needed, found.value, content.bits), *found.warnings, *content.notes, _LECTURE]
    warnings += memory_warnings(num_parameters, hardware, shape) + _text_notes(content, tokens_per_exposure)
    return Answer(
        "train",
        _headline(results, hardware),
        results,
        _intervals(needed, setting, laws, per_exposure) | _held_interval(found, num_parameters, content.bits),
        steps,
        doubled(training, needed, laws),
        used,
        (*warnings, *unused(laws, used, "train")),
        bits_chart(found, num_parameters, held, content.bits),
    )


def _headline(results: Mapping[str, float], hardware: Hardware) -> str:
    """The answer in one sentence."""
    gpus = "one" if hardware.num_gpus == 1 else f"{figure(hardware.num_gpus)} of them"
    cost = f", for {figure(results['cost'])}" if "cost" in results else ""
    return (
        f"{figure(results['exposures'])} exposures: {figure(results['tokens'])} tokens, {figure(results['flops'])} "
        f"FLOPs, {figure(results['gpu_hours'])} GPU-hours on {hardware.gpu}: {duration(3600 * results['hours'])} on "
        f"{gpus}{cost}."
    )


def _text_notes(content: Content, tokens_per_exposure: float | None) -> list[str]:
    """What is assumed of the length of texts, where it is not given."""
    if tokens_per_exposure is not None:
        return []
    notes = people_notes(content.bits) if content.tokens is None else []
    return [*notes, "texts are assumed to be as long as the paper's; set tokens_per_exposure for others"]


def _held_interval(found: Rate, num_parameters: float, bits: float) -> dict[str, Interval]:
    """Of the bits held, which are never more than there are."""
    if found.interval is None:
        return {}
    low, high = (min(bits, num_parameters * end) for end in found.interval)
    return {"bits_held": (low, high)}


def _exposures(
    needed: float, num_parameters: float, bits: float, setting: Setting, laws: Mapping[str, Law]
) -> tuple[float, str]:
    """How many, and why."""
    if setting.exposures is not None:
        return setting.exposures, "as given"
    if "capacity" in laws and "exposures" not in laws:
        raise LawError(
            f"{laws['capacity'].source} holds for the exposures of its runs only; give exposures, or "
            "a fit of the law exposures"
        )
    exposures = exposures_for(needed, setting, laws)
    if exposures is None:
        tried = most_exposures(laws)
        most = rate(replace(setting, exposures=tried), laws).value
        raise LawError(
            f"{figure(num_parameters)} parameters hold {figure(num_parameters * most)} bits after {figure(tried)} "
            f"exposures, fewer than the {figure(bits)} to store; give {figure(bits / most)} parameters or more, or "
            "set exposures to plan the training anyway"
        )
    return exposures, f"the fewest at which a parameter holds {figure(needed)} bits"


def _intervals(
    needed: float, setting: Setting, laws: Mapping[str, Law], per_exposure: Mapping[str, float]
) -> dict[str, Interval]:
    """Of exposures, and of all that goes with their number, where the law `exposures` was fitted with intervals."""
    law = laws.get("exposures")
    if law is None or setting.exposures is not None:
        return {}

    def fewest(constants: Mapping[str, float]) -> float:
        other = {"exposures": replace(law, constants=constants, intervals={})}
        return exposures_for(needed, setting, other) or float("inf")

    interval = interval_of(law, fewest)
    if interval is None:
        return {}
    return {name: (interval[0] * factor, interval[1] * factor) for name, factor in per_exposure.items()}


def _tokens_once(content: Content, tokens_per_exposure: float | None) -> Step:
    """Tokens that state all knowledge once."""
    if tokens_per_exposure is not None:
        return Step("tokens once", positive("tokens_per_exposure", tokens_per_exposure), "", "as given")
    if content.tokens is not None:
        return Step("tokens once", content.tokens, "", f"{BIOS_TOKENS} GPT-2 tokens for six facts, as in bioS")
    people = people_for(content.bits)
    why = f"as {figure(people)} biographies of bioS, {BIOS_TOKENS} GPT-2 tokens each"
    return Step("tokens once", people * BIOS_TOKENS, "", why)


def _shortfall(needed: float, reached: float, bits: float) -> list[str]:
    if needed <= reached * (1 + 1e-6):
        return []
    return [
        f"at these exposures a parameter holds {figure(reached)} bits, so {figure(bits * reached / needed)} of the "
        f"{figure(bits)} bits are stored; the rest is not"
    ]
