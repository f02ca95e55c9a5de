"""The comparing stage: two runs or models, measured as far as they are not yet, then compared."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from knowcap.capacity import CAPACITY_FILE
from knowcap.capacity.tables import NLL_FILE
from knowcap.compare import compare, describe, write_comparison
from knowcap.recipe import Recipe
from knowcap.run import measure_folder, recipe_of
from knowcap.run_folder import RECIPE_FILE, is_run_dir


logger = logging.getLogger(__name__)


def compare_folders(a: Path, b: Path, *, dataset_dir: Path | None = None, **options: Any) -> str:
    """Measures what is not measured, compares, and writes the comparison beside A's capacity.json.

    Args:
        a, b: run folders, which stand for their models in full precision, or model folders.
        dataset_dir: what both are measured on; by default each one's own, and A's for a B that lies in no run folder.
        options: of `knowcap.run.measure`: batch_size, limit, overwrite, launcher.

    Returns:
        The comparison in words.

    Raises:
        ValueError: a folder is no model, cannot be measured, or the two were not asked the same.
    """
    models = [folder / "model" if is_run_dir(folder) else folder for folder in (a, b)]
    own = [_run_of(model) for model in models]
    recipe = Recipe() if own[0] is None else recipe_of(own[0])
    for model, run_dir in zip(models, own, strict=True):
        measured = (model / NLL_FILE).is_file() and (model / CAPACITY_FILE).is_file()
        if measured and not options.get("overwrite"):
            continue
        texts = own[0] / "knowledge" if dataset_dir is None and run_dir is None and own[0] else dataset_dir
        measure_folder(model, texts, **options)
    result = compare(*models, confidence_level=recipe.confidence_level, seed=recipe.seed)
    path = write_comparison(*models, result)
    logger.info("[compare] %s and %s → %s", result["a"]["model"], result["b"]["model"], path)
    return describe(result)


def _run_of(model: Path) -> Path | None:
    """The run folder that a model folder lies in, if any."""
    return next((parent for parent in model.absolute().parents if (parent / RECIPE_FILE).is_file()), None)
