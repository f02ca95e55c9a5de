"""The two checks that stand before the number: the null control holds nothing, and R is at most R_max."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from knowcap.capacity.tables import CapacityError, Facts, mean
from knowcap.facts import NAME
from knowcap.scoring.measurement import CONTROL_FILE, OUTSIDERS, SHUFFLED


# The control leaks where it is above zero by more than this many standard errors and by more than this many bits.
LEAK_STANDARD_ERRORS = 4.0
LEAK_BITS = 0.01

# Own values against swapped ones: as many standard errors, of as many entities at least; less is called a tie.
SWAP_STANDARD_ERRORS = 5.0
FEWEST_PAIRS = 50
ROUNDING_BITS = 1e-4

CHANCE_BITS = 20.0  # outsiders' names reach so many bits together, by chance, less than once in 2^20 times

_WHAT_TO_CHECK = (
    "Check that no text before a value depends on it (a/an, pronouns), that each value is scored at its first mention "
    "and with all its tokens, that knowledge.json says which attributes determine others, that no control entity is "
    "in the training corpus, and that log2_candidates counts equally likely values"
)

# The rounding by which bits may exceed their maximum, as a share of log2_candidates.
RELATIVE_TOLERANCE = 1e-6


class LeakError(CapacityError):
    """The null control holds bits that no weights can hold: something outside the model tells the values."""


def check_control(control: Facts, facts: Facts, measurement: dict[str, Any]) -> list[float]:
    """Holds the null control's value bits to be zero or less within noise, in sum and by attribute.

    By attribute too, since a model that is sure of wrong values is far below zero in sum, where one attribute's leak
    drowns. Shuffled values are the table's own, and weights may well hold which values the table has: that is worth
    log2(1 + (candidates - 1) / N) bits at most in expectation (Jensen, over the chi-square distance), and is no leak.

    Returns:
        Value bits per control entity and their standard error; NaN for a knowledge that has names only.

    Raises:
        CapacityError: where the control lacks an attribute, or has fewer than two entities.
        LeakError: says how much, which attributes, and what to check; a warning where the bits are not to be a bound.
    """
    values = [a for a in facts.attributes if a != NAME]
    if not values:
        return [math.nan, math.nan]
    missing = [a for a in values if a not in control.attributes]
    if missing:
        raise CapacityError(f"{CONTROL_FILE} has no rows for {missing}, so a leak would not be seen; score again")
    if len(control.nll) < 2:
        raise CapacityError(f"{CONTROL_FILE} holds {len(control.nll)} entity, expected 2 or more; score more")
    columns = [control.attributes.index(a) for a in values]
    bits = control.bits[:, columns]
    total = _mean_and_error(np.nansum(bits, axis=1))
    found = {a: _mean_and_error(bits[:, i]) for i, a in enumerate(values)}
    allowed = np.zeros(len(values))
    if measurement["control_kind"] == SHUFFLED:
        references = np.array([mean(control.references[:, column]) for column in columns])
        allowed = np.logaddexp2(0.0, references - math.log2(measurement["num_entities"]))
    leaks = [a for a, bound in zip(values, allowed, strict=True) if _leaks(*found[a], float(bound))]
    if leaks or _leaks(*total, float(allowed.sum())):
        _tell_leak(_leak_message(total, {a: found[a] for a in leaks or values}, len(bits)), is_bound(measurement))
    return total


def is_bound(measurement: dict[str, Any]) -> bool:
    """Whether bits are to be a lower bound on what the weights hold, as knowledge.json has it."""
    return measurement["knowledge"].get("bound", True)


def check_swapped(control: Facts, swapped: Facts, bound: bool = True) -> None:
    """Holds the control's own values to be as surprising as one another's.

    Outsiders' values were never taught, so it makes no difference which outsider's values a text says, however sure
    of wrong ones the model is: own and swapped are exchangeable. A leak (a copy, a gender that the name tells) makes
    the own values likelier. Held by attribute: the share of entities whose own value is the likelier, a half; and the
    mean difference, zero.

    Args:
        control, swapped: the same entities in the same order.
        bound: whether the bits are to be a bound.

    Raises:
        LeakError: says which attributes, and how far; a warning where the bits are not to be a bound.
    """
    found = []
    for a in control.attributes:
        if a == NAME or a not in swapped.attributes:
            continue
        own, other = control.nll[:, control.attributes.index(a)], swapped.nll[:, swapped.attributes.index(a)]
        difference = (other - own)[~np.isnan(other - own)] / math.log(2)  # bits by which the own are likelier
        if difference.size < FEWEST_PAIRS:
            continue
        excess = float(((difference > ROUNDING_BITS).mean() - (difference < -ROUNDING_BITS).mean()) / 2)
        value, error = _mean_and_error(difference)
        likelier = excess > SWAP_STANDARD_ERRORS * 0.5 / math.sqrt(difference.size)
        if likelier or (value > LEAK_BITS and value > SWAP_STANDARD_ERRORS * error):
            found.append(
                f"{a}: likelier in {50 + 100 * excess:.1f} % of the cases, by {value:+.3f} ± {error:.3f} bits"
            )
    if found:
        _tell_leak(
            f"outsiders' own values are likelier than other outsiders' in the same texts: {'; '.join(found)} "
            f"(mean ± standard error, {len(control.nll)} entities; expected 50 % and 0 within noise). The model was "
            f"never taught either, so something outside the weights tells them. {_WHAT_TO_CHECK}",
            bound,
        )


def check_names(control: Facts, measurement: dict[str, Any]) -> list[float]:
    """Holds outsiders' names to hold zero bits or less.

    A name of theirs was drawn uniformly from the N0 names, so whatever a model says, it is expected to need log2 N0
    bits or more for it (Gibbs), and 2^bits is 1 or less in expectation: its probabilities of all names add up to 1.
    So the bits of all outsiders together exceed `CHANCE_BITS` with a chance of 2^-CHANCE_BITS at most (Markov), for
    any model and however few outsiders. As they are drawn from the names that N entities and the outsiders before them
    have left, log2(N0 / (N0 - N - n + 1)) bits each are allowed besides: which names are not taught, weights may know.

    Where one name is the beginning of another the probabilities may add up to more: that warns instead.

    Args:
        control: names of n outsiders.
        measurement: says what was scored, and how.

    Returns:
        Name bits per outsider and their standard error; NaN where the control is no outsiders, whose names alone could
        not be exchanged.

    Raises:
        CapacityError: no names in the control, or more entities than names.
        LeakError: says how much, and what to check.
    """
    if measurement["control_kind"] != OUTSIDERS:
        return [math.nan, math.nan]
    if NAME not in control.attributes:
        raise CapacityError(f"{CONTROL_FILE} has no rows for names, so a leak would not be seen; score again")
    bits = control.bits[:, control.attributes.index(NAME)]
    bits = bits[~np.isnan(bits)]
    num_names, count = measurement["knowledge"]["name_log2_candidates"], bits.size
    taken = (measurement["num_entities"] + count - 1) * 2.0**-num_names
    if taken >= 1.0:
        raise CapacityError(
            f"{measurement['num_entities']} entities and {count} outsiders, but knowledge.json declares "
            f"2^{num_names:g} names; expected as many names as there are entities and outsiders, or more: mend "
            "name_log2_candidates"
        )
    value = float(bits.mean())
    error = float(bits.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    excess = math.fsum(bits) + count * math.log1p(-taken) / math.log(2)
    if excess > CHANCE_BITS:
        message = (
            f"the null control holds bits: name {value:+.4f} ± {error:.4f} (mean ± standard error over {count} "
            f"control entities), {excess:.1f} together beyond what may be, expected less than {CHANCE_BITS:g}, since "
            "the model was never taught these names. Check that no control entity is in the training corpus, "
            "that a name's nll is summed over all its tokens, and that name_log2_candidates counts equally likely "
            "names"
        )
        if measurement["name_is_prefix_free"]:
            raise LeakError(message)
        warnings.warn(f"{message}. It can be so, since one name begins another", stacklevel=3)
    return [value, error]


def check_maximum(result: dict[str, Any], facts: Facts, measurement: dict[str, Any]) -> None:
    """Holds R to R_max, in sum and by attribute: raises where that is a theorem, elsewhere warns.

    It is one for N distinct names, none the beginning of another, all scored after the same context: their
    probabilities add up to 1 at most. A value's bits never exceed log2_candidates anyway.

    Args:
        result: of the metric.
        facts: what the metric was given.
        measurement: says what was scored, and how.

    Raises:
        CapacityError: says how far above, and what to check.
    """
    references = {a: mean(facts.references[:, column]) for column, a in enumerate(facts.attributes)}
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
    message = f"more bits than there are: {'; '.join(shown)}"
    everyone = measurement["entities_scored"] == measurement["num_entities"]
    if everyone and measurement["context"] == "isolated" and measurement["name_is_prefix_free"]:
        raise CapacityError(
            f"{message}. All entities were scored, each name after the same context and none the beginning of "
            "another, so this cannot be; check that a name's nll is summed over all its tokens, that names are "
            "distinct, and num_entities"
        )
    warnings.warn(
        f"{message}. It can be so, since not all entities were scored, contexts differ, or one name begins another; "
        "read the figure with that in mind, or score all entities, isolated",
        stacklevel=3,
    )


def _leaks(value: float, error: float, allowed: float) -> bool:
    """Whether a control of `value` ± `error` bits is above what may be there."""
    excess = value - allowed
    return excess > LEAK_BITS and excess > LEAK_STANDARD_ERRORS * error


def _tell_leak(message: str, bound: bool) -> None:
    """Raises for a leak, or warns where knowledge.json says that there may be one."""
    if bound:
        raise LeakError(message)
    warnings.warn(
        f"{message}. It is no error here, since the data set's knowledge.json says bound: false: its texts may tell "
        "facts before stating them, so the figure is not a bound on what the weights hold",
        stacklevel=4,
    )


def _leak_message(total: list[float], found: dict[str, list[float]], num_entities: int) -> str:
    """What leaks, how much, and what to check."""
    shown = ", ".join(f"{a} {value:+.4f} ± {error:.4f}" for a, (value, error) in found.items())
    return (
        f"the null control holds bits: {shown} (mean ± standard error over {num_entities} control entities; all "
        f"values together {total[0]:+.4f} ± {total[1]:.4f}). Expected zero or less within noise, since the model was "
        f"never taught these values: something outside the weights tells them. {_WHAT_TO_CHECK}"
    )


def _mean_and_error(values: np.ndarray) -> list[float]:
    """[mean, standard error] of the numbers that are not NaN; the error of a single one is NaN."""
    stated = values[~np.isnan(values)]
    error = float(stated.std(ddof=1)) / math.sqrt(stated.size) if stated.size > 1 else math.nan
    return [mean(values), error]
