"""Runs that differ only in their seed: their mean, with an interval that includes the variation between seeds."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist, stdev
from typing import Any, cast

import numpy as np

from knowcap.capacity.tables import CapacityError
from knowcap.files import RECIPE_FILE
from knowcap.recipe import KEYS, shaping_keys
from knowcap.recipe.yaml_reader import load_mapping
from knowcap.recipe_file import METADATA_KEYS
from knowcap.sealed import check_text


_FREE = (*shaping_keys("run", "draws"), *METADATA_KEYS)
_DEFAULTS = {name: key.default for name, key in KEYS.items() if not key.required}  # of runs from before a key existed
logger = logging.getLogger(__name__)


def seed_interval(
    capacities: Sequence[dict[str, Any]], *, same_entities: bool = False, confidence_level: float | None = None
) -> dict[str, Any]:
    """Mean bits per parameter of several runs with different seeds, with a t interval.

    It estimates the expectation over seeds and over drawn entities. With s the standard deviation of the S runs, and e
    the standard error of one run over its entities (root mean square over the runs, each half the width of the
    bootstrap interval divided by the normal quantile):

    - If each seed draws its own entities, as knowcap's recipes do, runs vary independently with both: half the width
      is t s / sqrt(S), with Student's t of S - 1 degrees of freedom. Adding e would count the entities twice.
    - If all runs were trained on the same entities (a published data set, a user's table), these do not average out:
      half the width is the root of (t s / sqrt(S))² + (z e)². It is conservative if seeds matter as much as entities;
      one t for both, with Welch's and Satterthwaite's degrees of freedom, covers too little for two runs.

    Args:
        capacities: contents of capacity.json, two or more.
        same_entities: whether all runs were trained on the same entities.
        confidence_level: the level of the interval, by default that of the capacities.

    Returns:
        `bits_per_parameter` (the mean), `confidence_interval`, `confidence_level`, `num_seeds`, `standard_deviation`
        over seeds, `entity_standard_error`, `same_entities`.

    Raises:
        CapacityError: fewer than two capacities, different models or settings, or a missing interval that is needed.
    """
    _check(capacities)
    values = np.array([c["bits_per_parameter"] for c in capacities])
    level = capacities[0]["confidence_level"] if confidence_level is None else confidence_level
    if not 0.0 < level < 1.0:
        raise CapacityError(f"confidence_level is {level}, expected a number between 0 and 1; pass 0.95 for example")
    runs, deviation = len(values), float(values.std(ddof=1))
    error = _entity_error(capacities, needed=same_entities)
    half = t_half_width(values.tolist(), level)
    if same_entities:
        half = math.hypot(half, NormalDist().inv_cdf(0.5 + level / 2) * cast(float, error))
    mean = float(values.mean())
    return {
        "bits_per_parameter": mean,
        "confidence_interval": [mean - half, mean + half],
        "confidence_level": level,
        "num_seeds": runs,
        "standard_deviation": deviation,
        "entity_standard_error": error,
        "same_entities": same_entities,
    }


def t_half_width(numbers: Sequence[float], level: float) -> float:
    """Half the width of Student's t interval of the mean of two numbers or more.

    Args:
        numbers: one for each seed.
        level: of the interval, such as 0.95.
    """
    from scipy.special import stdtrit  # of the extra `laws`; measuring does without it

    return float(stdtrit(len(numbers) - 1, 0.5 + level / 2)) * stdev(numbers) / math.sqrt(len(numbers))


def seed_groups(models: list[dict[str, Any]], recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model that several runs of one recipe trained with different seeds.

    Args:
        models: contents of capacity.json, with `run`, `folder` (in the run) and `entities_scored`.
        recipes: the recipe.yaml of each model's run; {} if there is none, which is not grouped.

    Returns:
        The results of `seed_interval` with `runs`, `folder`, `seeds`, and all keys on which the group's models agree.
        A seed that several runs have counts once.
    """
    groups: dict[str, dict[Any, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for model, recipe in zip(models, recipes, strict=True):
        if recipe:
            setting = {key: value for key, value in (_DEFAULTS | recipe).items() if key not in _FREE}
            scored = [model[key] for key in ("folder", "entities_scored", "confidence_level", "scoring", "context")]
            quantization = model.get("quantization") or {}
            scored.append({name: quantization.get(name) for name in ("method", "group_size", "symmetric", "exclude")})
            key = json.dumps([setting, scored], sort_keys=True, default=str)
            groups.setdefault(key, {}).setdefault(recipe.get("seed"), (model, recipe))
    entries = []
    for group in groups.values():
        try:
            entries += [_entry(list(group.values()))] if len(group) > 1 else []
        except CapacityError as error:
            runs = ", ".join(model["run"] for model, _ in group.values())
            logger.warning("there is no mean over the seeds of %s: %s", runs, error)
    return entries


def same_entities(recipe: dict[str, Any]) -> bool:
    """Whether runs of a recipe have the same entities for every seed: those of a data set or a table."""
    return recipe.get("dataset_name") is not None or recipe.get("corpus") == "table"


def recipe_of(run_dir: Path) -> dict[str, Any]:
    """A run folder's recipe.yaml; {} if there is none. Raises YamlError or FileError for a broken one."""
    path = run_dir / RECIPE_FILE
    if not path.is_file():
        return {}
    check_text(path)
    return load_mapping(path)


def _check(capacities: Sequence[dict[str, Any]]) -> None:
    """Raises CapacityError unless the capacities are of two or more runs of one setting."""
    if len(capacities) < 2:
        raise CapacityError(
            f"got {len(capacities)} run, expected two or more that differ in their seed; train another one"
        )
    for key in ("model_name", "num_parameters", "num_entities", "exposures", "precision", "scoring", "context"):
        found = {str(c[key]) for c in capacities}
        if len(found) > 1:
            raise CapacityError(
                f"{key} is {sorted(found)}, expected one value; pass runs that differ only in their seed"
            )


def _entity_error(capacities: Sequence[dict[str, Any]], needed: bool) -> float | None:
    """The standard error of one run over its entities; None if a run has no interval."""
    widths = []
    for c in capacities:
        low, high = c["confidence_interval"]
        if low is None or high is None:
            if needed:
                raise CapacityError("a run has no confidence interval (one entity); expected two entities or more")
            return None
        widths.append((high - low) / (2 * NormalDist().inv_cdf(0.5 + c["confidence_level"] / 2)))
    return math.sqrt(float(np.mean(np.square(widths))))


def _entry(group: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    models = [model for model, _ in group]
    shared = {key: value for key, value in models[0].items() if all(m.get(key) == value for m in models[1:])}
    accuracies: list[Any] = [m.get("memorizable_accuracy") for m in models]
    means = {
        "max_bits_per_parameter": sum(m["max_bits_per_parameter"] for m in models) / len(models),
        "memorizable_accuracy": None if None in accuracies else sum(accuracies) / len(models),
    }
    members = {"runs": [m["run"] for m in models], "seeds": [recipe.get("seed") for _, recipe in group]}
    return shared | means | members | seed_interval(models, same_entities=same_entities(group[0][1]))
