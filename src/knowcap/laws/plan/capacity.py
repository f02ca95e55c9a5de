"""How many bits a parameter holds: by exposures, architecture, precision and junk, after Part 3.3 or a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from knowcap.laws.law import Law
from knowcap.laws.plan.answer import Interval, Step
from knowcap.laws.plan.fitted import interval_of
from knowcap.laws.plan.setting import Setting
from knowcap.laws.published import (
    ARCHITECTURES,
    BITS_PER_PARAMETER,
    CAPACITY_SOURCE,
    GPT2_RUNS,
    JUNK,
    PEAK_BITS_PER_PARAMETER,
    PRECISIONS,
    USEFUL_SHARE,
)
from knowcap.laws.quantity import figure


_PART_33 = Law(
    "capacity",
    {f"bits_per_parameter_at_{exposures}": bits for exposures, bits in BITS_PER_PARAMETER.items()},
    "Allen-Zhu and Li, Part 3.3, at its peak, GPT2 on bioS",
    tested=GPT2_RUNS | {"exposures": (100.0, 1000.0)},
)


@dataclass(frozen=True)
class Rate:
    """Bits per parameter, how they come about, and by which law.

    Attributes:
        value: bits per parameter.
        interval: of a fit.
        steps: how the value comes about.
        law: that it is by.
        warnings: where the law does not apply.
        printed: the range that a paper prints for it, which is no interval of a stated confidence.
    """

    value: float
    interval: Interval | None
    steps: tuple[Step, ...]
    law: Law
    warnings: tuple[str, ...]
    printed: Interval | None = None


PRINTED = "the bits per parameter that Part 3.3 prints (Result 1)"


def rate(setting: Setting, laws: Mapping[str, Law]) -> Rate:
    """Bits per parameter at a setting, by the fitted laws `exposures` or `capacity` if there, else Part 3.3's."""
    exposures = most_exposures(laws) if setting.exposures is None else setting.exposures
    if "exposures" in laws:
        base = _junked(_by_exposures(laws["exposures"], exposures), setting.junk, exposures)
    elif "capacity" in laws:
        base = _junked(_by_capacity(laws["capacity"], setting.exposures), setting.junk, exposures)
    else:
        base = _published(setting.junk, exposures)
    value, interval, printed, steps = base.value, base.interval, base.printed, list(base.steps)
    divisors, why = ARCHITECTURES[setting.architecture]
    divided = _between(divisors, exposures)
    kept, _, kept_why = PRECISIONS[setting.precision]
    for what, factor, source in (
        (f"architecture {setting.architecture}", 1 / divided, why),
        (f"precision {setting.precision}", kept, kept_why),
    ):
        value *= factor
        interval = None if interval is None else (interval[0] * factor, interval[1] * factor)
        printed = None if printed is None else (printed[0] * factor, printed[1] * factor)
        steps.append(
            Step(f"x {what}", factor, "", f"Part 3.3, {source}" if factor != 1 or "Result" in source else source)
        )
    steps.append(Step("= bits per parameter", value))
    return replace(
        base,
        value=value,
        interval=interval,
        printed=printed,
        steps=tuple(steps),
        warnings=base.warnings + tuple(_warnings(setting, base, exposures)),
    )


def most_exposures(laws: Mapping[str, Law]) -> float:
    """The largest number of exposures among the runs behind the law that is used."""
    return laws["exposures"].tested.get("exposures", (1.0, 1000.0))[1] if "exposures" in laws else 1000.0


def exposures_for(bits_per_parameter: float, setting: Setting, laws: Mapping[str, Law]) -> float | None:
    """The fewest exposures at which a parameter holds `bits_per_parameter`; None if the law's most are too few.

    Solved by halving the interval in log exposures; the law grows with exposures.
    """
    low = math.log(1 if setting.junk == "none" else min(JUNK[setting.junk][0]))
    high = math.log(most_exposures(laws))

    def held(log_exposures: float) -> float:
        return rate(replace(setting, exposures=max(1.0, math.exp(log_exposures))), laws).value

    if held(high) < bits_per_parameter * (1 - 1e-9):
        return None
    if held(low) >= bits_per_parameter:
        return math.exp(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < bits_per_parameter else (low, middle)
    return math.exp(high)


def _published(junk: str, exposures: float) -> Rate:
    anchors, source = BITS_PER_PARAMETER, "Part 3.3"
    if junk != "none":
        anchors, source = JUNK[junk]
        source = f"7/8 of the tokens are junk: Part 3.3, {source}"
    elif exposures in CAPACITY_SOURCE:
        source = CAPACITY_SOURCE[int(exposures)]
    if not min(anchors) <= exposures <= max(anchors):
        source += f", as at {max(anchors)} exposures"
    elif exposures not in anchors:
        below, above = _neighbours(anchors, exposures)
        source += f", between {below} and {above} exposures (straight in logarithms)"
    value = _between(anchors, exposures)
    steps = (Step("bits per parameter, GPT2", value, "", f"{figure(exposures)} exposures; {source}"),)
    warnings = []
    if exposures > max(anchors):
        such = " with such junk" if junk != "none" else ""
        warnings.append(
            f"exposures={figure(exposures)}: Part 3.3 has runs{such} of up to {max(anchors)}; the effect of more "
            "is not known and not counted"
        )
    elif junk == "none" and exposures < 100:
        warnings.append(
            "below 100 exposures the figure is a rule from a lecture (0.1 bits per parameter at one exposure), "
            "not on published runs"
        )
    printed = (value, PEAK_BITS_PER_PARAMETER) if junk == "none" and exposures == 1000 else None
    return Rate(value, None, steps, _PART_33, tuple(warnings), printed)


def _by_exposures(law: Law, exposures: float) -> Rate:
    """R / (1 + (half_exposures / exposures)^gamma), as `knowcap fit exposures` has it."""

    def held(constants: Mapping[str, float]) -> float:
        ratio = constants["half_exposures"] / exposures
        return constants["bits_per_parameter"] / (1 + ratio ** constants["gamma"])

    value, interval = held(law.constants), interval_of(law, held)
    why = f"{figure(exposures)} exposures; {law.source}: R / (1 + (half / exposures)^gamma)"
    low, high = law.tested.get("exposures", (0.0, math.inf))
    warnings = list(law.warnings)
    if not low <= exposures <= high:
        warnings.append(
            f"exposures={figure(exposures)} is outside those of the runs behind {law.source}, {figure(low)} to "
            f"{figure(high)}: extrapolated"
        )
    return Rate(value, interval, (Step("bits per parameter", value, "", why),), law, tuple(warnings))


def _by_capacity(law: Law, exposures: float | None) -> Rate:
    """R of a fit without exposures."""
    value = law.constants["bits_per_parameter"]
    warnings = list(law.warnings)
    if exposures is not None:
        warnings.append(
            f"exposures={figure(exposures)} is not applied: {law.source} holds for the exposures of its own runs; fit "
            "the law exposures for other numbers"
        )
    steps = (Step("bits per parameter", value, "", f"{law.source}"),)
    return Rate(
        value, interval_of(law, lambda constants: constants["bits_per_parameter"]), steps, law, tuple(warnings)
    )


def _junked(found: Rate, junk: str, exposures: float) -> Rate:
    """A fitted rate among junk: by the ratio of the paper's rates with and without it."""
    if junk == "none":
        return found
    factor = _between(JUNK[junk][0], exposures) / _between(BITS_PER_PARAMETER, exposures)
    interval = None if found.interval is None else (found.interval[0] * factor, found.interval[1] * factor)
    step = Step(f"x junk {junk}", factor, "", f"7/8 of the tokens; Part 3.3, {JUNK[junk][1]}")
    return replace(found, value=found.value * factor, interval=interval, steps=(*found.steps, step))


def _warnings(setting: Setting, base: Rate, exposures: float) -> list[str]:
    warnings = []
    changed = [
        f"architecture {setting.architecture}" * (setting.architecture != "gpt2"),
        f"precision {setting.precision}" * (PRECISIONS[setting.precision][0] != 1),
        f"junk {setting.junk}" * (setting.junk != "none"),
    ]
    changed = [text for text in changed if text]
    if len(changed) > 1:
        warnings.append(f"{' and '.join(changed)} were not measured together; their factors are multiplied")
    if setting.architecture != "gpt2" and exposures < 100:
        warnings.append(f"architecture {setting.architecture}: no figure below 100 exposures; that of 100 is taken")
    if setting.precision == "int4" and (base.law.fitted or exposures != 1000):
        warnings.append("int4 keeps 0.35 of the bits at 1000 exposures (0.7 of 2); the same share is taken here")
    if setting.junk != "none":
        warnings.append(f"junk is as in the paper: {1 - USEFUL_SHARE:g} of the tokens; other shares are not known")
    return warnings


def _between(anchors: Mapping[int, float], exposures: float) -> float:
    """The value at `exposures`, straight between the anchors in logarithms, and constant beyond them."""
    if exposures <= min(anchors):
        return anchors[min(anchors)]
    if exposures >= max(anchors):
        return anchors[max(anchors)]
    below, above = _neighbours(anchors, exposures)
    share = math.log(exposures / below) / math.log(above / below)
    return anchors[below] ** (1 - share) * anchors[above] ** share


def _neighbours(anchors: Mapping[int, float], exposures: float) -> tuple[int, int]:
    return max(e for e in anchors if e <= exposures), min(e for e in anchors if e > exposures)
