"""The null control of knowledge that is names alone (random strings): an untaught name holds no bits either."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from knowcap.capacity.checks import LeakError
from knowcap.capacity.tables import CONTROL_FILE, CapacityError, Facts
from knowcap.facts import NAME


CHANCE_BITS = 20.0  # outsiders' names reach so many bits together, by chance, less than once in 2^20 times


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
    if measurement["control_kind"] != "outsiders":
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
