"""The comparing stage: two runs or models, measured if necessary, then compared."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from knowcap.capacity.comparison import compare, write_comparison
from knowcap.files import CAPACITY_FILE, NLL_FILE, RECIPE_FILE
from knowcap.recipe import Recipe
from knowcap.report.table import comparison_text
from knowcap.run.folder import is_run_dir
from knowcap.run.pipeline import measure_model, recipe_of
from knowcap.run.places import results_place
from knowcap.scoring.mode import ScoringMode


logger = logging.getLogger(__name__)


def compare_models(a: str | Path, b: str | Path, *, dataset_name: str | None = None, **options: Any) -> str:
    """Measures what is not yet measured, compares, and writes the comparison beside A's capacity.json.

    Args:
        a, b: run folders (their models in full precision), model folders or Hub ids.
        dataset_name: the data set of both; by default each model's own, and A's if B is not in a run folder.
        options: of `knowcap.run.pipeline.measure_model`: batch_size, limit, overwrite, launcher, scoring, context,
            start_token, window, loading.

    Returns:
        The comparison as text.

    Raises:
        ValueError: a folder is not a model or cannot be measured, or the models were scored on different facts.
    """
    models = [str(Path(name) / "model") if is_run_dir(Path(name)) else str(name) for name in (a, b)]
    own = [_run_of(Path(model)) for model in models]
    recipe = Recipe() if own[0] is None else recipe_of(own[0])
    results = []
    for model, run_dir in zip(models, own, strict=True):
        texts = str(own[0] / "knowledge") if dataset_name is None and run_dir is None and own[0] else dataset_name
        results.append(_results_of(model, texts, options))
    a_dir, b_dir = results
    result = compare(a_dir, b_dir, confidence_level=recipe.confidence_level, seed=recipe.seed)
    path = write_comparison(a_dir, b_dir, result)
    logger.info("[compare] %s and %s → %s", result["a"]["model"], result["b"]["model"], path)
    return comparison_text(result)


def _results_of(model: str, dataset_name: str | None, options: dict[str, Any]) -> Path:
    """The folder with a model's results; measures the model if they do not exist."""
    folder = Path(model) / ScoringMode.of(options).folder
    run_dir = _run_of(Path(model))
    own = run_dir is None or results_place(run_dir, dataset_name) is None
    finished = all((folder / name).is_file() for name in (NLL_FILE, CAPACITY_FILE))
    if own and finished and not options.get("overwrite"):
        return folder
    return measure_model(model, dataset_name, **options)


def _run_of(model: Path) -> Path | None:
    """The run folder that contains a model folder, if any."""
    return next((parent for parent in model.absolute().parents if (parent / RECIPE_FILE).is_file()), None)
