"""How long a model of given size must be trained to hold given knowledge, and what doubling it asks of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from knowcap.laws.published import (
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_PARAMETRIC,
    KAPLAN_ALLOCATION,
    MOE_ACTIVE_SHARE,
    USEFUL_SHARE,
    Law,
)
from knowcap.plan.allocation import tokens_exponent
from knowcap.plan.answer import Answer, PlanError, Step, figure
from knowcap.plan.capacity import MOST_EXPOSURES, Setting, exposures_for, rate
from knowcap.plan.content import Content, people, people_for, positive
from knowcap.plan.fitted import unused
from knowcap.plan.gpus import GPUS, gpu_hours


@dataclass(frozen=True)
class Hardware:
    """What trains: `num_gpus` of a GPU (a key of GPUS) at `utilisation`, the share of its peak that is reached."""

    gpu: str = "h100-sxm"
    utilisation: float = 0.4
    num_gpus: float = 1

    def __post_init__(self) -> None:
        gpu_hours(0.0, self.gpu, self.utilisation)
        positive("num_gpus", self.num_gpus)


def train(
    num_parameters: float,
    content: Content,
    setting: Setting,
    hardware: Hardware | None = None,
    laws: Mapping[str, Law] | None = None,
    tokens_per_exposure: float | None = None,
) -> Answer:
    """How often the knowledge must be seen until the model holds it: exposures, tokens, FLOPs, GPU-hours.

    Args:
        num_parameters: all of them.
        content: what is to be stored.
        setting: if it has exposures, those; else the fewest by which the knowledge is held.
        hardware: what trains.
        laws: fitted ones by name (`exposures`, `capacity`), which go before the paper's.
        tokens_per_exposure: tokens that tell all of the knowledge once; None: as long as the paper's biographies.

    Raises:
        PlanError: numbers out of range, or knowledge that the model cannot hold however often it is seen.
    """
    laws, hardware = laws or {}, hardware or Hardware()
    positive("num_parameters", num_parameters)
    needed = content.bits / num_parameters
    exposures, why = _exposures(needed, num_parameters, content.bits, setting, laws)
    setting = replace(setting, exposures=exposures)
    found = rate(setting, laws)
    told = _tokens_once(content, tokens_per_exposure)
    case = _Case(num_parameters, exposures, told.value or 0.0, setting)
    hours = gpu_hours(case.flops, hardware.gpu, hardware.utilisation)
    steps = [
        *content.steps,
        Step(
            "bits per parameter needed",
            needed,
            "",
            f"{figure(content.bits)} bits / {figure(num_parameters)} parameters",
        ),
        Step("exposures", exposures, "", why),
        told,
        Step("tokens", case.tokens, "", case.tokens_why),
        Step("FLOPs", case.flops, "", case.flops_why),
        Step(
            "GPU-hours",
            hours,
            "",
            f"{hardware.gpu}: {_peak(hardware)} of {figure(GPUS[hardware.gpu][0])} FLOP/s, {GPUS[hardware.gpu][1]}",
        ),
    ]
    if hardware.num_gpus != 1:
        steps.append(Step("hours", hours / hardware.num_gpus, "", f"on {figure(hardware.num_gpus)} GPUs"))
    results = {
        "exposures": exposures, "tokens": case.tokens, "flops": case.flops, "gpu_hours": hours,
        "hours": hours / hardware.num_gpus, "bits_per_parameter_needed": needed,
        "bits_held": min(content.bits, num_parameters * found.value),
    }  # fmt: skip
    return Answer(
        "train",
        f"{figure(exposures)} exposures: {figure(case.tokens)} tokens, {figure(case.flops)} FLOPs, "
        f"{figure(hours)} GPU-hours on {hardware.gpu}.",
        results,
        steps=steps,
        table=_doubled(case, needed, setting, laws),
        laws=(found.law,),
        warnings=(
            *_shortfall(needed, found.value, content.bits),
            *found.warnings,
            *_assumed(content, tokens_per_exposure),
            *content.notes,
            *unused(laws, (found.law,), "train"),
        ),
    )


@dataclass(frozen=True)
class _Case:
    """A training: parameters, exposures, tokens that tell the knowledge once."""

    num_parameters: float
    exposures: float
    tokens_once: float
    setting: Setting

    @property
    def tokens(self) -> float:
        return self.exposures * self.tokens_once / (1.0 if self.setting.junk == "none" else USEFUL_SHARE)

    @property
    def tokens_why(self) -> str:
        junk = "" if self.setting.junk == "none" else f" / {USEFUL_SHARE:g}, the useful share"
        return f"exposures x tokens once{junk}"

    @property
    def flops(self) -> float:
        active = MOE_ACTIVE_SHARE if self.setting.architecture == "moe" else 1.0
        return 6 * active * self.num_parameters * self.tokens

    @property
    def flops_why(self) -> str:
        active = f" x {MOE_ACTIVE_SHARE:g} active" if self.setting.architecture == "moe" else ""
        return f"6 x parameters{active} x tokens; attention's own are left out"


def _exposures(
    needed: float, num_parameters: float, bits: float, setting: Setting, laws: Mapping[str, Law]
) -> tuple[float, str]:
    """How many, and why."""
    if setting.exposures is not None:
        return setting.exposures, "as given"
    if "capacity" in laws and "exposures" not in laws:
        raise PlanError(
            f"{laws['capacity'].source} says nothing of other numbers of exposures than its runs'; give exposures, or a "
            "fit of the law exposures"
        )
    exposures = exposures_for(needed, setting, laws)
    if exposures is None:
        most = rate(replace(setting, exposures=float(MOST_EXPOSURES)), laws).value
        raise PlanError(
            f"{figure(num_parameters)} parameters hold {figure(num_parameters * most)} bits after {MOST_EXPOSURES} "
            f"exposures, and {figure(bits)} are to be stored; give {figure(bits / most)} parameters or more, or exposures "
            "to see what a training would cost all the same"
        )
    return exposures, f"the fewest at which a parameter holds {figure(needed)} bits"


def _tokens_once(content: Content, tokens_per_exposure: float | None) -> Step:
    """Tokens that tell all knowledge once."""
    if tokens_per_exposure is not None:
        return Step("tokens once", positive("tokens_per_exposure", tokens_per_exposure), "", "as given")
    if content.tokens is not None:
        return Step("tokens once", content.tokens, "", "73.9 GPT-2 tokens for six facts, as in bioS")
    number = people_for(content.bits)
    share = content.bits / people(max(1.0, number)).bits
    return Step("tokens once", share * 73.9 * max(1.0, number), "", f"{figure(number)} biographies of bioS, 73.9 each")


def _doubled(case: _Case, needed: float, setting: Setting, laws: Mapping[str, Law]) -> list[dict[str, Any]]:
    """What a model of twice the parameters asks of the data, by several laws; factors of tokens and FLOPs."""
    rows = []
    again = None
    if "exposures" in laws or "capacity" not in laws:
        again = exposures_for(needed / 2, replace(setting, exposures=None), laws)
    if again is not None:
        factor = again / case.exposures
        rows.append(_row(f"the same knowledge: {figure(again)} exposures", factor))
    rows.append(_row("twice the knowledge, as many exposures", 2.0))
    for law, label in (
        (HOFFMANN_ENVELOPE, "least loss, Hoffmann 1"),
        (HOFFMANN_ISOFLOP, "least loss, Hoffmann 2"),
        (HOFFMANN_PARAMETRIC, "least loss, Hoffmann 3"),
        (KAPLAN_ALLOCATION, "least loss, Kaplan"),
    ):
        rows.append(_row(label, 2 ** tokens_exponent(law)))
    return rows


def _row(what: str, factor: float) -> dict[str, Any]:
    return {"twice_the_parameters": what, "tokens_x": factor, "FLOPs_x": 2 * factor}


def _shortfall(needed: float, reached: float, bits: float) -> list[str]:
    if needed <= reached * (1 + 1e-6):
        return []
    return [
        f"at these exposures a parameter holds {figure(reached)} bits, so {figure(bits * reached / needed)} of the "
        f"{figure(bits)} bits are stored; the rest is not"
    ]


def _assumed(content: Content, tokens_per_exposure: float | None) -> list[str]:
    if tokens_per_exposure is not None:
        return []
    return ["texts are taken to be as long as the paper's; tokens_per_exposure says otherwise"]


def _peak(hardware: Hardware) -> str:
    return f"{hardware.utilisation:.0%}"
