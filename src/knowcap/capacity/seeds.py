"""Several runs that differ in their seed alone: their mean, with an interval that training seeds are in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from knowcap.capacity.comparison_errors import CompareError
from knowcap.capacity.student import t_quantile


def seed_interval(
    capacities: Sequence[dict[str, Any]], *, same_entities: bool = False, confidence_level: float | None = None
) -> dict[str, Any]:
    """Mean bits per parameter of several runs with different seeds, and a t interval of it.

    What is estimated is the expectation over seeds and over entities as these were drawn. With s the standard
    deviation of the S runs' figures, and e the standard error of one run over its entities (root mean square of the
    runs', each read back from its bootstrap interval as half its width over the normal quantile):

    - Where each seed draws its own entities, as recipes of knowcap do, the runs are independent in both respects and
      differ by both: half the width is t s / sqrt(S), Student's t with S - 1 degrees of freedom. Adding e would count
      the entities twice.
    - Where all runs were taught the same entities (a published data set, a user's table), these do not average out:
      it is the root of (t s / sqrt(S))² + (z e)². It covers more than it says where seeds matter as much as entities;
      one t for both, with Welch's and Satterthwaite's degrees of freedom, covers too little for two runs.

    Args:
        capacities: contents of capacity.json, two or more.
        same_entities: whether all runs were taught the same entities.
        confidence_level: by default that of the capacities.

    Returns:
        `bits_per_parameter` (the mean), `confidence_interval`, `confidence_level`, `num_seeds`, `standard_deviation`
        over seeds, `entity_standard_error`, `same_entities`.

    Raises:
        CompareError: fewer than two capacities, some of other models or settings, or some without an interval where it
            is needed.
    """
    _check(capacities)
    figures = np.array([c["bits_per_parameter"] for c in capacities])
    level = capacities[0]["confidence_level"] if confidence_level is None else confidence_level
    if not 0.0 < level < 1.0:
        raise CompareError(f"confidence_level is {level}, expected one between 0 and 1; pass 0.95, say")
    runs, deviation = len(figures), float(figures.std(ddof=1))
    error = _entity_error(capacities, needed=same_entities)
    half = t_quantile(0.5 + level / 2, runs - 1) * deviation / math.sqrt(runs)
    if same_entities:
        half = math.hypot(half, NormalDist().inv_cdf(0.5 + level / 2) * error)
    mean = float(figures.mean())
    return {
        "bits_per_parameter": mean,
        "confidence_interval": [mean - half, mean + half],
        "confidence_level": level,
        "num_seeds": runs,
        "standard_deviation": deviation,
        "entity_standard_error": error,
        "same_entities": same_entities,
    }


def _check(capacities: Sequence[dict[str, Any]]) -> None:
    """Holds capacities to be of two runs or more, of one setting."""
    if len(capacities) < 2:
        raise CompareError(f"got {len(capacities)} run, expected two or more that differ in their seed; train another")
    for key in ("model_name", "num_parameters", "num_entities", "exposures", "precision", "scoring", "context"):
        found = {str(c[key]) for c in capacities}
        if len(found) > 1:
            raise CompareError(f"{key} is {sorted(found)}, expected one; pass runs that differ in their seed alone")


def _entity_error(capacities: Sequence[dict[str, Any]], needed: bool) -> float | None:
    """The standard error of one run over its entities; None where a run has no interval."""
    widths = []
    for c in capacities:
        low, high = c["confidence_interval"]
        if low is None or high is None:
            if needed:
                raise CompareError("a run has no confidence interval (one entity); expected two entities or more")
            return None
        widths.append((high - low) / (2 * NormalDist().inv_cdf(0.5 + c["confidence_level"] / 2)))
    return math.sqrt(float(np.mean(np.square(widths))))
