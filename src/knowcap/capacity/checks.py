"""The checks of a measurement: the null control holds nothing, and R is at most R_max."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from knowcap.capacity.tables import CapacityError, Facts, mean
from knowcap.facts import NAME
from knowcap.files import CONTROL_FILE
from knowcap.scoring.measurement import OUTSIDERS, SHUFFLED


# The control leaks if it is above zero by more than this many standard errors and more than this many bits.
LEAK_STANDARD_ERRORS = 4.0
LEAK_BITS = 0.01

# Own values compared with swapped ones: standard errors, the fewest entities, and differences that count as ties.
SWAP_STANDARD_ERRORS = 5.0
MIN_PAIRS = 50
ROUNDING_BITS = 1e-4

CHANCE_BITS = 20.0  # which outsiders' names reach together by chance with probability 2^-20 at most

# Why a number is no lower bound, as capacity.json has it.
HINTS = "the texts may hint at a fact before they state it (bound: false in knowledge.json)"
EXCHANGED_ONLY = (
    "the data set has no entities that were held out of training, so the null control exchanges values only: it "
    "cannot show a hint outside the values, a value that follows from its own entity's name, or a tokenizer that was "
    "fitted to the entities"
)

_WHAT_TO_CHECK = (
    "Check that no text before a value depends on it (a/an, pronouns), that each value is scored at its first mention "
    "and with all its tokens, that knowledge.json declares which attributes determine others, that no control entity "
    "is in the training corpus, and that log2_candidates counts equally likely values"
)

# By how much bits may exceed their maximum through rounding, relative to log2_candidates.
RELATIVE_TOLERANCE = 1e-6


class LeakError(CapacityError):
    """The null control holds bits that the weights cannot hold: something outside the model reveals the values."""


def check_control(control: Facts, attributes: Sequence[str], measurement: dict[str, Any]) -> list[float]:
    """Checks that the null control's value bits are zero or less within noise, in sum and by attribute.

    By attribute as well, since a model that is certain of wrong values is far below zero in sum, which would hide the
    leak of one attribute. Shuffled values are those of the table, and the weights may hold which values occur: that is
    worth log2(1 + (candidates - 1) / N) bits at most in expectation (Jensen, over the chi-square distance), and is no
    leak.

    Args:
        control: the facts of the control.
        attributes: those of the measured facts.
        measurement: of both.

    Returns:
        Value bits per control entity and their standard error; NaN if there are names only.

    Raises:
        CapacityError: the control lacks an attribute, or has fewer than two entities.
        LeakError: the control holds bits; a warning if the bits are not meant to be a bound.
    """
    values = [a for a in attributes if a != NAME]
    if not values:
        return [math.nan, math.nan]
    missing = [a for a in values if a not in control.attributes]
    if missing:
        raise CapacityError(f"{CONTROL_FILE} has no rows for {missing}, so a leak would not be detected; score again")
    if len(control.nll) < 2:
        raise CapacityError(f"{CONTROL_FILE} has {len(control.nll)} entity, expected 2 or more; score more")
    columns = [control.attributes.index(a) for a in values]
    bits = control.bits[:, columns]
    total = _mean_and_error(np.nansum(bits, axis=1))
    found = {a: _mean_and_error(bits[:, i]) for i, a in enumerate(values)}
    allowed = np.zeros(len(values))
    if measurement["control_kind"] == SHUFFLED:
        references = np.array([mean(control.references[:, column]) for column in columns])
        allowed = np.logaddexp2(0.0, references - math.log2(measurement["num_entities"]))
    leaks = [a for a, bound in zip(values, allowed, strict=True) if _leaks(found[a][0], found[a][1], float(bound))]
    if leaks or _leaks(total[0], total[1], float(allowed.sum())):
        _report_leak(_leak_message(total, {a: found[a] for a in leaks or values}, len(bits)), is_bound(measurement))
    return total


def is_bound(measurement: dict[str, Any]) -> bool:
    """Whether the texts allow the bits to be a lower bound on what the weights hold, by knowledge.json."""
    return measurement["knowledge"].get("bound", True)


def bound_reason(measurement: dict[str, Any]) -> str | None:
    """Why the bits are no lower bound on what the weights hold; None if they are one.

    Values exchanged among the entities of training have the same surroundings as the own ones, so they show nothing of
    what the surroundings say. Only entities that the model never met do.
    """
    if not is_bound(measurement):
        return HINTS
    return EXCHANGED_ONLY if measurement["control_kind"] == SHUFFLED else None


def check_swapped(control: Facts, swapped: Facts, bound: bool = True) -> None:
    """Checks that the control's own values are as likely as those of other control entities.

    The model was not trained on outsiders, so own and swapped values are exchangeable, however certain of wrong values
    it is. A leak (a copy, a gender that follows from the name) makes the own values more likely. Checked by attribute:
    the share of entities whose own value is more likely, expected one half, and the mean difference, expected zero.

    Args:
        control, swapped: the facts of the same entities in the same order.
        bound: whether the bits are meant to be a bound.

    Raises:
        LeakError: own values are more likely; a warning if the bits are not meant to be a bound.
    """
    found = []
    for a in control.attributes:
        if a == NAME or a not in swapped.attributes:
            continue
        own, other = control.nll[:, control.attributes.index(a)], swapped.nll[:, swapped.attributes.index(a)]
        difference = (other - own)[~np.isnan(other - own)] / math.log(2)  # bits by which own values are more likely
        if difference.size < MIN_PAIRS:
            continue
        excess = float(((difference > ROUNDING_BITS).mean() - (difference < -ROUNDING_BITS).mean()) / 2)
        value, error = _mean_and_error(difference)
        more_likely = excess > SWAP_STANDARD_ERRORS * 0.5 / math.sqrt(difference.size)
        if more_likely or (value > LEAK_BITS and value > SWAP_STANDARD_ERRORS * error):
            found.append(
                f"{a}: more likely in {50 + 100 * excess:.1f} % of the cases, by {value:+.3f} ± {error:.3f} bits"
            )
    if found:
        _report_leak(
            f"outsiders' own values are more likely than other outsiders' in the same texts: {'; '.join(found)} "
            f"(mean ± standard error, {len(control.nll)} entities; expected 50 % and 0 within noise). The model was "
            f"trained on neither, so something outside the weights reveals them. {_WHAT_TO_CHECK}",
            bound,
        )


def check_names(control: Facts, measurement: dict[str, Any]) -> list[float]:
    """Checks that outsiders' names hold zero bits or less: no name space is declared that is larger than the names
    need, and no tokenizer knows the people.

    An outsider's name was drawn uniformly from the N0 names, so any model needs log2 N0 bits or more for it in
    expectation (Gibbs), and 2^bits is 1 or less in expectation, since its probabilities of all names add up to 1. So
    the bits of all outsiders together exceed `CHANCE_BITS` with probability 2^-CHANCE_BITS at most (Markov), for any
    model and number of outsiders. As they are drawn from the names that N entities and the outsiders before them have
    left, another log2(N0 / (N0 - N - n + 1)) bits each are allowed: the weights may hold which names are taken.

    If one name is a prefix of another, the probabilities may add up to more, and this is a warning.

    Args:
        control: the names of n outsiders.
        measurement: the measurement of the control.

    Returns:
        Name bits per outsider and their standard error; NaN if the control has no outsiders, as names cannot be
        exchanged.

    Raises:
        CapacityError: the control has no names, or there are more entities than names.
        LeakError: outsiders' names hold bits.
    """
    if measurement["control_kind"] != OUTSIDERS:
        return [math.nan, math.nan]
    if NAME not in control.attributes:
        raise CapacityError(f"{CONTROL_FILE} has no rows for names, so a leak would not be detected; score again")
    bits = control.bits[:, control.attributes.index(NAME)]
    bits = bits[~np.isnan(bits)]
    num_names, count = measurement["knowledge"]["name_log2_candidates"], bits.size
    taken = (measurement["num_entities"] + count - 1) * 2.0**-num_names
    if taken >= 1.0:
        raise CapacityError(
            f"{measurement['num_entities']} entities and {count} outsiders, but knowledge.json declares "
            f"2^{num_names:g} names; expected at least as many names as entities and outsiders; correct "
            "name_log2_candidates"
        )
    value = float(bits.mean())
    error = float(bits.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    excess = math.fsum(bits) + count * math.log1p(-taken) / math.log(2)
    if excess > CHANCE_BITS:
        message = (
            f"the null control holds bits: name {value:+.4f} ± {error:.4f} (mean ± standard error over {count} "
            f"control entities), {excess:.1f} together beyond the allowed bits, expected less than {CHANCE_BITS:g}, "
            "since the model was not trained on these names. Check that no control entity is in the training corpus, "
            "that a name's nll is summed over all its tokens, and that name_log2_candidates counts equally likely "
            "names"
        )
        if measurement["name_is_prefix_free"]:
            raise LeakError(message)
        warnings.warn(f"{message}. This is possible, since one name is a prefix of another", stacklevel=3)
    return [value, error]


def check_maximum(result: dict[str, Any], references: dict[str, float], measurement: dict[str, Any]) -> None:
    """Checks that R is at most R_max, in sum and by attribute: raises where that is a theorem, otherwise warns.

    It is a theorem for N distinct names, none a prefix of another, all scored after the same context: their
    probabilities add up to 1 at most. A value's bits never exceed log2_candidates.

    Args:
        result: the result of the metric.
        references: log2 of the candidates of each attribute.
        measurement: the measurement of the facts.

    Raises:
        CapacityError: R exceeds R_max where that is impossible.
    """
    over = {
        a: r
        for a, r in result["attributes"].items()
        if r["bits_per_entity"] - r["max_bits_per_entity"] > RELATIVE_TOLERANCE * references[a]
    }
    excess = result["knowledge_bits"] - result["max_knowledge_bits"]
    if not over and excess <= RELATIVE_TOLERANCE * abs(result["max_knowledge_bits"]):
        return
    shown = [f"{result['bits_per_parameter']:.6f} bits per parameter of {result['max_bits_per_parameter']:.6f}"]
    for a, r in over.items():
        shown.append(f"{a} {r['bits_per_entity']:.6f} bits per entity of {r['max_bits_per_entity']:.6f}")
    message = f"bits exceed their maximum: {'; '.join(shown)}"
    all_scored = measurement["entities_scored"] == measurement["num_entities"]
    if all_scored and measurement["context"] == "isolated" and measurement["name_is_prefix_free"]:
        raise CapacityError(
            f"{message}. All entities were scored, each name after the same context and none a prefix of another, so "
            "this is impossible; check that a name's nll is summed over all its tokens, that names are distinct, and "
            "num_entities"
        )
    warnings.warn(
        f"{message}. This is possible, since not all entities were scored, contexts differ, or one name is a prefix "
        "of another; score all entities with context isolated for a comparable number",
        stacklevel=3,
    )


def _leaks(value: float, error: float, allowed: float) -> bool:
    """Whether a control of `value` ± `error` bits is above the allowed bits."""
    excess = value - allowed
    return excess > LEAK_BITS and excess > LEAK_STANDARD_ERRORS * error


def _report_leak(message: str, bound: bool) -> None:
    """Raises LeakError, or warns if knowledge.json has bound: false."""
    if bound:
        raise LeakError(message)
    warnings.warn(
        f"{message}. This is a warning since the data set's knowledge.json has bound: false: its texts may reveal "
        "facts before they state them, so the number is not a bound on what the weights hold",
        stacklevel=4,
    )


def _leak_message(total: list[float], found: dict[str, list[float]], num_entities: int) -> str:
    """The message of a leak: what leaks, how much, and what to check."""
    shown = ", ".join(f"{a} {value:+.4f} ± {error:.4f}" for a, (value, error) in found.items())
    return (
        f"the null control holds bits: {shown} (mean ± standard error over {num_entities} control entities; all "
        f"values together {total[0]:+.4f} ± {total[1]:.4f}). Expected zero or less within noise, since the model was "
        f"not trained on these values: something outside the weights reveals them. {_WHAT_TO_CHECK}"
    )


def _mean_and_error(values: np.ndarray) -> list[float]:
    """[mean, standard error] of the numbers that are not NaN; the error of a single number is NaN."""
    stated = values[~np.isnan(values)]
    error = float(stated.std(ddof=1)) / math.sqrt(stated.size) if stated.size > 1 else math.nan
    return [mean(values), error]
