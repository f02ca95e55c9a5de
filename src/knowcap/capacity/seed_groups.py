"""Which runs differ in their seed alone, and their means."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from knowcap.capacity.comparison_errors import CompareError
from knowcap.capacity.seeds import seed_interval
from knowcap.recipe_file import METADATA_KEYS


_FREE = ("seed", "run_name", "output_dir", *METADATA_KEYS)
logger = logging.getLogger(__name__)


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
        except CompareError as error:
            runs = ", ".join(model["run"] for model, _ in group.values())
            logger.warning("no mean over the seeds of %s: %s", runs, error)
    return entries


def same_entities(recipe: dict[str, Any]) -> bool:
    """Whether runs of a recipe are taught the same entities whatever their seed: a data set's, or a table's."""
    return recipe.get("dataset_name") is not None or recipe.get("corpus") == "table"


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


def recipe_of(run_dir: Path) -> dict[str, Any]:
    """A run folder's recipe.yaml; {} where there is none."""
    import yaml

    path = run_dir / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
