"""How long a model of given size must be trained to hold given knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from knowcap.laws.plan.answer import Answer, Content, Interval, PlanError, Step
from knowcap.laws.plan.capacity import exposures_for, most_exposures, rate
from knowcap.laws.plan.content import people_for, positive
from knowcap.laws.plan.fitted import interval_of, unused
from knowcap.laws.plan.quantity import figure
from knowcap.laws.plan.setting import Setting
from knowcap.laws.plan.training import LOSS_LAWS, Hardware, Training, doubled
from knowcap.laws.published import BIOS_TOKENS, Law


_LECTURE = "the authors' lecture on Part 3.3 says that doubling a model asks for more than twice the training tokens"


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
        laws: fitted ones by name, which go before the papers'.
        tokens_per_exposure: tokens that tell all of the knowledge once; None: as long as the paper's biographies.

    Raises:
        PlanError: numbers out of range, or knowledge that the model cannot hold however often it is seen.
    """
    laws, hardware = laws or {}, hardware or Hardware()
    needed = content.bits / positive("num_parameters", num_parameters)
    exposures, why = _exposures(needed, num_parameters, content.bits, setting, laws)
    found = rate(replace(setting, exposures=exposures), laws)
    once = _tokens_once(content, tokens_per_exposure)
    training = Training(num_parameters, once.value or 0.0, replace(setting, exposures=exposures))
    hours = training.gpu_hours(hardware)
    share = f"{figure(content.bits)} bits / {figure(num_parameters)} parameters"
    results = {
        "exposures": exposures, "tokens": training.tokens, "flops": training.flops, "gpu_hours": hours,
        "hours": hours / hardware.num_gpus, "bits_per_parameter_needed": needed,
        "bits_held": min(content.bits, num_parameters * found.value),
    }  # fmt: skip
    steps = [
        *content.steps,
        Step("bits per parameter needed", needed, "", share),
        Step("exposures", exposures, "", why),
        *found.steps,
        once,
        *training.steps(hardware),
    ]
    used = [found.law, *(laws[law.law] for law, _ in LOSS_LAWS if law.law in laws)]
    warnings = [*_shortfall(needed, found.value, content.bits), *found.warnings, *content.notes, _LECTURE]
    if tokens_per_exposure is None:
        warnings.append("texts are taken to be as long as the paper's; tokens_per_exposure says otherwise")
    return Answer(
        "train",
        f"{figure(exposures)} exposures: {figure(training.tokens)} tokens, {figure(training.flops)} FLOPs, "
        f"{figure(hours)} GPU-hours on {hardware.gpu}.",
        results,
        _intervals(needed, setting, laws, {name: results[name] / exposures for name in tuple(results)[:5]}),
        steps,
        doubled(training, needed, laws),
        used,
        (*warnings, *unused(laws, used, "train")),
    )


def _exposures(
    needed: float, num_parameters: float, bits: float, setting: Setting, laws: Mapping[str, Law]
) -> tuple[float, str]:
    """How many, and why."""
    if setting.exposures is not None:
        return setting.exposures, "as given"
    if "capacity" in laws and "exposures" not in laws:
        raise PlanError(
            f"{laws['capacity'].source} says nothing of other numbers of exposures than its runs'; give exposures, or "
            "a fit of the law exposures"
        )
    exposures = exposures_for(needed, setting, laws)
    if exposures is None:
        tried = most_exposures(laws)
        most = rate(replace(setting, exposures=tried), laws).value
        raise PlanError(
            f"{figure(num_parameters)} parameters hold {figure(num_parameters * most)} bits after {figure(tried)} "
            f"exposures, and {figure(bits)} are to be stored; give {figure(bits / most)} parameters or more, or "
            "exposures, to see what a training would cost all the same"
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
    """Tokens that tell all knowledge once."""
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
