"""The comparing stage: two runs or models, measured as far as they are not yet, then compared."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from knowcap.capacity import CAPACITY_FILE
from knowcap.capacity.comparison import compare, write_comparison
from knowcap.files import RECIPE_FILE
from knowcap.recipe import Recipe
from knowcap.report.table import comparison_text
from knowcap.run.folder import is_run_dir
from knowcap.run.pipeline import measure_model, recipe_of
from knowcap.scoring.measurement import NLL_FILE
from knowcap.scoring.mode import ScoringMode


logger = logging.getLogger(__name__)


def compare_models(a: str | Path, b: str | Path, *, dataset_name: str | None = None, **options: Any) -> str:
    """Measures what is not measured, compares, and writes the comparison beside A's capacity.json.

    Args:
        a, b: run folders, which stand for their models in full precision, model folders or Hub ids.
        dataset_name: what both are measured on; by default each one's own, and A's for a B that lies in no run folder.
        options: of `knowcap.run.pipeline.measure_model`: batch_size, limit, overwrite, launcher, scoring, context.

    Returns:
        The comparison in words.

    Raises:
        ValueError: a folder is no model, cannot be measured, or the two were not asked the same.
    """
    models = [str(Path(name) / "model") if is_run_dir(Path(name)) else str(name) for name in (a, b)]
    own = [_run_of(Path(model)) for model in models]
    recipe = Recipe() if own[0] is None else recipe_of(own[0])
    results = []
    for model, run_dir in zip(models, own, strict=True):
        texts = str(own[0] / "knowledge") if dataset_name is None and run_dir is None and own[0] else dataset_name
        results.append(_results_of(model, texts, options))
    result = compare(*results, confidence_level=recipe.confidence_level, seed=recipe.seed)
    path = write_comparison(*results, result)
    logger.info("[compare] %s and %s → %s", result["a"]["model"], result["b"]["model"], path)
    return comparison_text(result)


def _results_of(model: str, dataset_name: str | None, options: dict[str, Any]) -> Path:
    """The folder with a model's results, which are made unless they are there."""
    there = Path(model) / ScoringMode(options.get("scoring", "token"), options.get("context", "isolated")).folder
    if all((there / name).is_file() for name in (NLL_FILE, CAPACITY_FILE)) and not options.get("overwrite"):
        return there
    return measure_model(model, dataset_name, **options)


def _run_of(model: Path) -> Path | None:
    """The run folder that a model folder lies in, if any."""
    return next((parent for parent in model.absolute().parents if (parent / RECIPE_FILE).is_file()), None)
