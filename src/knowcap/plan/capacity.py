"""How many bits a parameter holds: by exposures, architecture, precision and junk, after Part 3.3 or a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from knowcap.laws.published import (
    ARCHITECTURES,
    BITS_PER_PARAMETER,
    CAPACITY_SOURCE,
    GPT2_RUNS,
    JUNK,
    PRECISIONS,
    USEFUL_SHARE,
    Law,
)
from knowcap.plan.answer import Interval, PlanError, Step
from knowcap.plan.fitted import interval_of
from knowcap.plan.quantity import figure


MOST_EXPOSURES = max(BITS_PER_PARAMETER)
_PART_33 = Law(
    "capacity",
    {f"bits_per_parameter_at_{exposures}": bits for exposures, bits in BITS_PER_PARAMETER.items()},
    "Allen-Zhu and Li, Part 3.3, at its peak, GPT2 on bioS",
    tested=GPT2_RUNS | {"exposures": (100.0, 1000.0)},
)


@dataclass(frozen=True)
class Setting:
    """How a model is trained and kept.

    Attributes:
        exposures: how often each fact is seen; None: as in the runs of a fitted law, or 1000.
        architecture: a key of ARCHITECTURES.
        precision: a key of PRECISIONS.
        junk: none, or a key of JUNK: 7/8 of the tokens tell of others.
    """

    exposures: float | None = None
    architecture: str = "gpt2"
    precision: str = "bf16"
    junk: str = "none"

    def __post_init__(self) -> None:
        problems = [
            f"{key}={value!r}, expected {' or '.join(known)}; choose one"
            for key, value, known in (
                ("architecture", self.architecture, tuple(ARCHITECTURES)),
                ("precision", self.precision, tuple(PRECISIONS)),
                ("junk", self.junk, ("none", *JUNK)),
            )
            if value not in known
        ]
        if self.exposures is not None and not (math.isfinite(self.exposures) and self.exposures >= 1):
            problems.append(
                f"exposures={self.exposures:g}, expected 1 or more: what is not seen once cannot be stored, and no "
                "law here is about part of a pass; raise exposures"
            )
        elif self.exposures is not None and self.junk != "none" and self.exposures < min(JUNK[self.junk][0]):
            problems.append(
                f"exposures={self.exposures:g} with junk={self.junk}: the paper has no figure below "
                f"{min(JUNK[self.junk][0])} exposures; raise exposures, or leave junk out"
            )
        if problems:
            raise PlanError("\n".join(problems))


@dataclass(frozen=True)
class Rate:
    """Bits per parameter, how they come about, and by which law."""

    value: float
    interval: Interval | None
    steps: tuple[Step, ...]
    law: Law
    warnings: tuple[str, ...]


def rate(setting: Setting, laws: Mapping[str, Law]) -> Rate:
    """Bits per parameter at a setting, by the fitted laws `exposures` or `capacity` if there, else Part 3.3's."""
    base = _fitted(setting, laws) or _published(setting)
    value, interval, steps = base.value, base.interval, list(base.steps)
    divisors, why = ARCHITECTURES[setting.architecture]
    divided = _between(divisors, setting.exposures or MOST_EXPOSURES)
    kept, _, kept_why = PRECISIONS[setting.precision]
    for what, factor, source in (
        (f"architecture {setting.architecture}", 1 / divided, why),
        (f"precision {setting.precision}", kept, kept_why),
    ):
        value *= factor
        interval = None if interval is None else (interval[0] * factor, interval[1] * factor)
        steps.append(
            Step(f"x {what}", factor, "", f"Part 3.3, {source}" if factor != 1 or "Result" in source else source)
        )
    steps.append(Step("= bits per parameter", value))
    return replace(
        base,
        value=value,
        interval=interval,
        steps=tuple(steps),
        warnings=base.warnings + tuple(_doubts(setting, base)),
    )


def exposures_for(bits_per_parameter: float, setting: Setting, laws: Mapping[str, Law]) -> float | None:
    """The fewest exposures at which a parameter holds so many bits; None where the law's largest number is too few.

    Solved by halving the interval in log exposures; the law grows with exposures.
    """
    low = math.log(1 if setting.junk == "none" else min(JUNK[setting.junk][0]))
    high = math.log(MOST_EXPOSURES)

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


def _published(setting: Setting) -> Rate:
    exposures = MOST_EXPOSURES if setting.exposures is None else setting.exposures
    anchors, source = BITS_PER_PARAMETER, "Part 3.3"
    if setting.junk != "none":
        anchors, source = JUNK[setting.junk]
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
        junk = " with such junk" if setting.junk != "none" else ""
        warnings.append(
            f"exposures={figure(exposures)}: Part 3.3 has runs{junk} of up to {max(anchors)}; what more would do "
            "is not known, and nothing is counted for it"
        )
    elif setting.junk == "none" and exposures < 100:
        warnings.append(
            "below 100 exposures the figure rests on a rule of a lecture (0.1 bits per parameter at one exposure), "
            "not on published runs"
        )
    return Rate(value, None, steps, _PART_33, tuple(warnings))


def _fitted(setting: Setting, laws: Mapping[str, Law]) -> Rate | None:
    """The rate by a fitted law, if one is given; `exposures` goes before `capacity`, which knows of no exposures."""
    if "exposures" in laws:
        law = laws["exposures"]
        exposures = MOST_EXPOSURES if setting.exposures is None else setting.exposures

        def held(constants: Mapping[str, float]) -> float:
            return constants["coefficient"] * exposures ** constants["exponent"]

        value, why = held(law.constants), f"{figure(exposures)} exposures; coefficient x exposures^exponent"
        return _junked(
            Rate(value, interval_of(law, held), (Step("bits per parameter", value, "", why),), law, law.warnings),
            setting,
        )
    if "capacity" not in laws:
        return None
    law = laws["capacity"]
    value = law.constants["bits_per_parameter"]
    warnings = list(law.warnings)
    if setting.exposures is not None:
        warnings.append(
            f"exposures={figure(setting.exposures)} is not applied: {law.source} holds for the exposures of its own "
            "runs; fit the law exposures to ask for another number"
        )
    steps = (Step("bits per parameter", value, "", f"{law.source}"),)
    return _junked(Rate(value, law.intervals.get("bits_per_parameter"), steps, law, tuple(warnings)), setting)


def _junked(found: Rate, setting: Setting) -> Rate:
    """A fitted rate among junk: by the ratio of the paper's rates with and without it."""
    if setting.junk == "none":
        return found
    exposures = MOST_EXPOSURES if setting.exposures is None else setting.exposures
    factor = _between(JUNK[setting.junk][0], exposures) / _between(BITS_PER_PARAMETER, exposures)
    interval = None if found.interval is None else (found.interval[0] * factor, found.interval[1] * factor)
    step = Step(f"x junk {setting.junk}", factor, "", f"7/8 of the tokens; Part 3.3, {JUNK[setting.junk][1]}")
    return replace(found, value=found.value * factor, interval=interval, steps=(*found.steps, step))


def _doubts(setting: Setting, base: Rate) -> list[str]:
    doubts = []
    exposures = MOST_EXPOSURES if setting.exposures is None else setting.exposures
    changed = [
        f"architecture {setting.architecture}" * (setting.architecture != "gpt2"),
        f"precision {setting.precision}" * (PRECISIONS[setting.precision][0] != 1),
        f"junk {setting.junk}" * (setting.junk != "none"),
    ]
    changed = [text for text in changed if text]
    if len(changed) > 1:
        doubts.append(f"{' and '.join(changed)} were not measured together; their factors are multiplied")
    if setting.architecture != "gpt2" and exposures < 100:
        doubts.append(f"architecture {setting.architecture}: no figure below 100 exposures; that of 100 is taken")
    if setting.precision == "int4" and (base.law.fitted or exposures != 1000):
        doubts.append("int4 keeps 0.35 of the bits at 1000 exposures (0.7 of 2); the same share is taken here")
    if setting.junk != "none":
        doubts.append(f"junk is as in the paper: {1 - USEFUL_SHARE:g} of the tokens; other shares are not known")
    return doubts


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
