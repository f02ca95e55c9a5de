"""How many parameters store given knowledge, and how many bits given parameters store (Part 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knowcap.laws.law import Law
from knowcap.laws.plan.answer import Answer, Interval, Step
from knowcap.laws.plan.capacity import PRINTED, Rate, rate
from knowcap.laws.plan.chart import bits_chart
from knowcap.laws.plan.content import Content, bits_per_person, people_for, people_notes
from knowcap.laws.plan.fitted import unused
from knowcap.laws.plan.memory import inference_bytes, memory_results, memory_steps, scaled
from knowcap.laws.plan.setting import Setting, positive
from knowcap.laws.published import BIOS_NAMES, NEAR_PERFECT
from knowcap.laws.quantity import figure


_BOOKS = 14e9  # by the authors' estimate more bits than English Wikipedia and textbooks together hold


def size(content: Content, setting: Setting, laws: Mapping[str, Law] | None = None) -> Answer:
    """How many parameters it takes to store `content`: bits / bits per parameter, all parameters counted.

    Args:
        content: the knowledge to store.
        setting: exposures, architecture, precision, junk.
        laws: fitted ones by name (`exposures`, `capacity`), used in place of the paper's.
    """
    laws = laws or {}
    found = rate(setting, laws)
    needed = content.bits / found.value
    interval = None if found.interval is None else (content.bits / found.interval[1], content.bits / found.interval[0])
    steps = [
        *content.steps,
        *found.steps,
        Step("parameters", needed, "", f"{figure(content.bits)} bits / {figure(found.value)}"),
        *memory_steps(needed, setting.precision),
    ]
    results = {"num_parameters": needed, "bits": content.bits, "bits_per_parameter": found.value}
    results |= {"weight_bytes": inference_bytes(needed, setting.precision)} | memory_results(needed)
    warnings = [*found.warnings, *content.notes]
    if needed < 1:
        warnings.append(f"{figure(content.bits)} bits are fewer than one parameter holds")
    if not found.law.fitted and setting.junk == "none" and found.value > NEAR_PERFECT:
        roomy = content.bits / NEAR_PERFECT
        steps.append(
            Step(
                "to store nearly all facts",
                roomy,
                "",
                f"{NEAR_PERFECT} bits per parameter or fewer: Part 3.3, Result 1(b)",
            )
        )
        results["num_parameters_near_perfect"] = roomy
    headline = f"{figure(needed)} parameters hold {figure(content.bits)} bits."
    intervals = _intervals("num_parameters", interval, found)
    return Answer(
        "size",
        headline,
        results,
        intervals | _weight_interval(interval, setting) | scaled(intervals, "num_parameters"),
        steps,
        laws=(found.law,),
        chart=bits_chart(found, needed, content.bits, content.bits),
        ranges=_printed("num_parameters", found, lambda rate: content.bits / rate),
        ranges_of=PRINTED,
        warnings=(*warnings, *_range_warnings(needed, found.law), *unused(laws, (found.law,), "size")),
    )


def holds(num_parameters: float, setting: Setting, laws: Mapping[str, Law] | None = None) -> Answer:
    """How many bits a model can hold, and as how many biographies of the paper's kind.

    N people take N (log2(N0/N) + log2 S0) bits (Part 3.3, Def. 4.3), N0 names and S0 combinations of values.

    Args:
        num_parameters: all of them, embeddings included.
        setting: exposures, architecture, precision, junk.
        laws: fitted ones by name (`exposures`, `capacity`), used in place of the paper's.
    """
    laws = laws or {}
    positive("num_parameters", num_parameters)
    found = rate(setting, laws)
    bits = num_parameters * found.value
    interval = (
        None if found.interval is None else (num_parameters * found.interval[0], num_parameters * found.interval[1])
    )
    steps = [
        Step("parameters", num_parameters, "", "as given"),
        *found.steps,
        Step("bits", bits, "", f"{figure(num_parameters)} x {figure(found.value)}"),
        *_biographies(bits),
        *memory_steps(num_parameters, setting.precision),
    ]
    if bits >= _BOOKS:
        why = "by the authors' estimate more than English Wikipedia and textbooks together"
        steps.append(Step("for comparison", _BOOKS, "bits", why))
    people = people_for(bits)
    intervals = _intervals("bits", interval, found)
    if interval is not None:
        intervals["biographies"] = (people_for(interval[0]), people_for(interval[1]))
    results = {"bits": bits, "biographies": people, "bits_per_parameter": found.value}
    results |= {"weight_bytes": inference_bytes(num_parameters, setting.precision)} | memory_results(num_parameters)
    return Answer(
        "holds",
        f"{figure(num_parameters)} parameters can hold {figure(bits)} bits: {figure(people)} biographies of bioS.",
        results,
        intervals,
        steps,
        laws=(found.law,),
        chart=bits_chart(found, num_parameters, bits, None),
        ranges=_printed("bits", found, lambda rate: num_parameters * rate),
        ranges_of=PRINTED,
        warnings=(
            *found.warnings,
            *people_notes(bits),
            *_range_warnings(num_parameters, found.law),
            *unused(laws, (found.law,), "holds"),
        ),
    )


def _biographies(bits: float) -> list[Step]:
    people = people_for(bits)
    values = bits_per_person(BIOS_NAMES)
    if people < BIOS_NAMES:
        why = f"of {bits_per_person(people):.4g} bits: {values:.2f} of values, and log2({BIOS_NAMES:,}/N) of a name"
    else:
        why = f"of {values:.2f} bits, their values alone: more people than the {figure(BIOS_NAMES)} names"
    return [Step("biographies", people, "", why)]


def _printed(name: str, found: Rate, value: Callable[[float], float]) -> dict[str, Interval]:
    """The range of a number over the rates that the paper prints, if it prints a range."""
    if found.printed is None:
        return {}
    ends = sorted(value(rate) for rate in found.printed)
    return {name: (ends[0], ends[-1])}


def _intervals(name: str, interval: Interval | None, found: Rate) -> dict[str, Interval]:
    """Of the number asked for and of the rate."""
    if interval is None or found.interval is None:
        return {}
    return {name: interval, "bits_per_parameter": found.interval}


def _weight_interval(interval: Interval | None, setting: Setting) -> dict[str, Interval]:
    if interval is None:
        return {}
    low, high = (inference_bytes(end, setting.precision) for end in interval)
    return {"weight_bytes": (low, high)}


def _range_warnings(num_parameters: float, law: Law) -> list[str]:
    """Where a model is smaller or larger than those of the runs."""
    if "num_parameters" not in law.tested:
        return []
    low, high = law.tested["num_parameters"]
    if low <= num_parameters <= high:
        return []
    side = "smaller than the smallest" if num_parameters < low else "larger than the largest"
    return [
        f"{figure(num_parameters)} parameters are {side} of the runs behind the law ({figure(low)} to "
        f"{figure(high)}): extrapolated"
    ]
