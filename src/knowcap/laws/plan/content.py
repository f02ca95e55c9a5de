"""What is to be stored, in bits: a number, so many of the paper's people, or a table of facts."""

from __future__ import annotations

import math
from pathlib import Path

from knowcap.laws.plan.answer import Content, PlanError, Step
from knowcap.laws.plan.quantity import figure
from knowcap.laws.published import BIOS_NAMES, BIOS_TOKENS, BIOS_VALUES


def content_of(
    bits: float | None = None,
    num_people: float | None = None,
    facts: str | Path | None = None,
    facts_templates: str | Path | None = None,
    entity_space: float | None = None,
) -> Content:
    """The knowledge that one of `bits`, `num_people`, `facts` describes.

    Raises:
        PlanError: none or several of them are given, a number is out of range, or the table has problems.
    """
    given = [name for name, v in (("bits", bits), ("num_people", num_people), ("facts", facts)) if v is not None]
    if len(given) != 1:
        raise PlanError(f"got {' and '.join(given) or 'nothing'} to store; give one of bits, num_people, facts")
    if facts is None and (facts_templates is not None or entity_space is not None):
        raise PlanError("facts_templates and entity_space are about a table of facts; give facts, or leave them out")
    if bits is not None:
        return Content(positive("bits", bits), None, (Step("bits to store", bits, "bits", "as given"),))
    if num_people is not None:
        return people(num_people)
    from knowcap.laws.plan.facts_table import table_content

    return table_content(Path(facts or "").expanduser(), facts_templates, entity_space)


def positive(name: str, value: float) -> float:
    """The value. Raises PlanError unless it is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise PlanError(f"{name}={value:g}, expected a finite number above 0; mend it")
    return value


def bits_per_person(num_people: float) -> float:
    """log2(N0 / N) + log2 S0: what is known of one of N people of bioS (Part 3.3, Def. 4.3), in bits."""
    return math.log2(BIOS_NAMES / num_people) + math.log2(BIOS_VALUES)


def people(num_people: float) -> Content:
    """N people of bioS. Raises PlanError for more people than names."""
    if not 1 <= num_people <= BIOS_NAMES:
        raise PlanError(f"num_people={num_people:g}, expected 1 to {BIOS_NAMES:,}, the names there are; mend it")
    each = bits_per_person(num_people)
    steps = (
        Step("bits a person", each, "bits", "log2(N0/N) + log2 S0 (47.59): Part 3.3, Def. 4.3"),
        Step("bits to store", num_people * each, "bits", f"x {figure(num_people)} people"),
    )
    return Content(num_people * each, num_people * BIOS_TOKENS, steps)


def people_for(bits: float) -> float:
    """How many people of bioS have so many bits: N (log2(N0/N) + log2 S0) = bits, solved by halving.

    Beyond N0 people there are no names left; as many as have those values, each log2 S0 bits.
    """
    low, high = 0.0, float(BIOS_NAMES)
    if bits >= high * bits_per_person(high):
        return bits / bits_per_person(high)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * bits_per_person(middle) < bits else (low, middle)
    return high
