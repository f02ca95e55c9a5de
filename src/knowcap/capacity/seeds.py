"""Several runs that differ in their seed alone: their mean, with an interval that training seeds are in."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy

from knowcap.capacity.tables import CapacityError
from knowcap.recipe import shaping_keys
from knowcap.recipe_file import METADATA_KEYS


_FREE = (*shaping_keys("run", "draws"), *METADATA_KEYS)
logger = logging.getLogger(__name__)


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
        CapacityError: fewer than two capacities, different models or settings, or a missing interval that is needed.
    """
    _check(capacities)
    figures = np.array([c["bits_per_parameter"] for c in capacities])
    level = capacities[0]["confidence_level"] if confidence_level is None else confidence_level
    if not 0.0 < level < 1.0:
        raise CapacityError(f"confidence_level is {level}, expected one between 0 and 1; pass 0.95, say")
    runs, deviation = len(figures), float(figures.std(ddof=1))
    error = _entity_error(capacities, needed=same_entities)
    half = float(scipy.stats.t.ppf(0.5 + level / 2, runs - 1)) * deviation / math.sqrt(runs)
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


def seed_groups(models: list[dict[str, Any]], recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model that several runs of one recipe trained with different seeds.

    Args:
        models: contents of capacity.json, with `run`, `folder` (in the run) and `entities_scored`.
        recipes: the recipe.yaml of each one's run; {} where there is none, which is grouped with nothing.

    Returns:
        what `seed_interval` gives, with `runs`, `folder`, `seeds`, and whatever all of the group's models share. A
        seed that several runs have counts once.
    """
    groups: dict[str, dict[Any, tuple[dict[str, Any], dict[str, Any]]]] = {}
    for model, recipe in zip(models, recipes, strict=True):
        if recipe:
            setting = {key: value for key, value in recipe.items() if key not in _FREE}
            asked = [model[key] for key in ("folder", "entities_scored", "confidence_level", "scoring", "context")]
            quantization = model.get("quantization") or {}
            asked.append({name: quantization.get(name) for name in ("method", "group_size", "symmetric", "exclude")})
            key = json.dumps([setting, asked], sort_keys=True, default=str)
            groups.setdefault(key, {}).setdefault(recipe.get("seed"), (model, recipe))
    entries = []
    for group in groups.values():
        try:
            entries += [_entry(list(group.values()))] if len(group) > 1 else []
        except CapacityError as error:
            runs = ", ".join(model["run"] for model, _ in group.values())
            logger.warning("no mean over the seeds of %s: %s", runs, error)
    return entries


def same_entities(recipe: dict[str, Any]) -> bool:
    """Whether runs of a recipe are taught the same entities whatever their seed: a data set's, or a table's."""
    return recipe.get("dataset_name") is not None or recipe.get("corpus") == "table"


def recipe_of(run_dir: Path) -> dict[str, Any]:
    """A run folder's recipe.yaml; {} where there is none."""
    import yaml

    path = run_dir / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _check(capacities: Sequence[dict[str, Any]]) -> None:
    """Holds capacities to be of two runs or more, of one setting."""
    if len(capacities) < 2:
        raise CapacityError(
            f"got {len(capacities)} run, expected two or more that differ in their seed; train another"
        )
    for key in ("model_name", "num_parameters", "num_entities", "exposures", "precision", "scoring", "context"):
        found = {str(c[key]) for c in capacities}
        if len(found) > 1:
            raise CapacityError(f"{key} is {sorted(found)}, expected one; pass runs that differ in their seed alone")


def _entity_error(capacities: Sequence[dict[str, Any]], needed: bool) -> float | None:
    """The standard error of one run over its entities; None where a run has no interval."""
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
    accuracies = [m.get("memorizable_accuracy") for m in models]
    means = {
        "max_bits_per_parameter": sum(m["max_bits_per_parameter"] for m in models) / len(models),
        "memorizable_accuracy": None if None in accuracies else sum(accuracies) / len(models),
    }
    told = {"runs": [m["run"] for m in models], "seeds": [recipe.get("seed") for _, recipe in group]}
    return shared | means | told | seed_interval(models, same_entities=same_entities(group[0][1]))
