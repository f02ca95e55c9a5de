"""Run folders: which recipe they belong to, whether there is space on the disk, and their recipe.yaml."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from knowcap.files import (
    CAPACITY_FILE,
    FRONTIER_FILE,
    KNOWLEDGE_FILE,
    LOCK_FILE,
    MEASURED,
    RECIPE_FILE,
    REPORT_FILE,
    REPORT_JSON_FILE,
    SOFT_LOCK_FILE,
    FileError,
    WriteError,
    not_writable,
    whole_file,
    write_json,
)
from knowcap.models import is_config, parameters_of, snapshot_name
from knowcap.models.architectures import read_config
from knowcap.provenance import git_revision, versions
from knowcap.recipe import FAKE_QUANTIZER, KEYS, Recipe, RecipeError
from knowcap.recipe.plain_names import pattern_in
from knowcap.recipe_file import locate_model, read_recipe
from knowcap.sealed import check_text, sealed_text


logger = logging.getLogger(__name__)

# Everything that stages make in a run folder; nothing else in it is ever deleted.
OUTPUTS = (
    "knowledge", "model", "checkpoints", "quantized", "extraction", MEASURED, "plots", CAPACITY_FILE, REPORT_FILE,
    REPORT_JSON_FILE, FRONTIER_FILE, *(Path(FRONTIER_FILE).with_suffix(end).name for end in (".pdf", ".svg")),
)  # fmt: skip
_BYTES_PER_BIOGRAPHY = 400  # zstd-compressed Parquet, its scored facts included
_FIX = "choose another run_name or pass --overwrite_output_dir"


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run folder; a data set folder has a recipe.yaml too, but beside a knowledge.json."""
    return (folder / RECIPE_FILE).is_file() and not (folder / KNOWLEDGE_FILE).is_file()


def is_run_of(recipe: Recipe) -> bool:
    """Whether the recipe's run folder has a run of the recipe, finished or not."""
    return (recipe.run_dir / RECIPE_FILE).is_file() and not _foreign(recipe, recipe.run_dir)


def claim_run_dir(recipe: Recipe, overwrite: bool = False) -> Path:
    """Makes the run folder with its recipe.yaml, or reuses one of the same recipe; returns the folder.

    Args:
        recipe: with its run_name.
        overwrite: delete the outputs of an earlier run first; only those, and only beside a recipe.yaml.

    Raises:
        RecipeError: the folder belongs to another recipe, is not a run folder, or cannot be written.
    """
    run_dir = recipe.run_dir
    problems = folder_problems(recipe, overwrite)
    if problems:
        raise RecipeError(problems, run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _delete_outputs(run_dir)
        file = run_dir / RECIPE_FILE
        recipe = _with_snapshot(recipe, run_dir)
        if overwrite or not file.is_file() or read_recipe(file)[0] != _located(recipe, run_dir):
            with whole_file(file, own=True) as made:  # several processes may start together
                made.write_text(recipe_yaml(recipe, versions(), git_revision()), encoding="utf-8")
    except WriteError:
        raise
    except OSError as error:
        raise RecipeError([not_writable(run_dir, error)], run_dir) from error
    return run_dir


def folder_problems(recipe: Recipe, overwrite: bool = False) -> list[str]:
    """Why the recipe's run folder cannot be used, if so; changes nothing."""
    run_dir = recipe.run_dir
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        return [f"output_dir: {nearest} is a file, expected a folder; choose another output_dir or run_name"]
    problems = []
    if (mark := pattern_in(str(run_dir.absolute()))) is not None:
        problems.append(
            f"output_dir: {run_dir.absolute()} has {mark}, which load_dataset reads as a pattern: the data set "
            "there could not be loaded; choose another output_dir or run_name"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        problems.append(not_writable(nearest, "no permission"))
    names = [path.name for path in run_dir.iterdir()] if nearest == run_dir else []
    contents = [name for name in names if name not in (LOCK_FILE, SOFT_LOCK_FILE) and not name.endswith(".partial")]
    if RECIPE_FILE in contents and not overwrite:
        problems += _foreign(recipe, run_dir)
    elif contents and RECIPE_FILE not in contents:
        problems.append(
            f"{run_dir} has {', '.join(sorted(contents)[:5])} but no {RECIPE_FILE}, so it is not a run folder; "
            "choose another run_name or output_dir, or empty it"
        )
    needed, free = bytes_needed(recipe) - _size(run_dir), shutil.disk_usage(nearest).free
    if needed > free:
        problems.append(
            f"output_dir: {nearest} has {free / 1e6:,.0f} MB free, the run needs about {needed / 1e6:,.0f} MB; "
            "make room or choose another output_dir"
        )
    return problems


def _foreign(recipe: Recipe, run_dir: Path) -> list[str]:
    """A problem if the folder's recipe differs in a key that may not change within a run."""
    try:
        check_text(run_dir / RECIPE_FILE)
    except FileError as error:
        return [str(error)]
    there, problems, _ = read_recipe(run_dir / RECIPE_FILE)
    if problems:
        return [f"{run_dir / RECIPE_FILE} cannot be used: {'; '.join(problems)}; {_FIX}"]
    rounded = FAKE_QUANTIZER if recipe.fake_quantization_bits is not None else ()
    fixed = [name for name, key in KEYS.items() if not key.free or name in rounded]
    there, recipe = _compared(there), _compared(recipe)
    values = [(name, getattr(there, name), getattr(recipe, name)) for name in fixed]
    differing = [f"{name} is {old!r} there and {new!r} here" for name, old, new in values if old != new]
    return [f"{run_dir} belongs to another recipe: {', '.join(differing)}; {_FIX}"] if differing else []


def _compared(recipe: Recipe) -> Recipe:
    """The recipe with its configuration's model_name by content, so that its place does not matter."""
    if not is_config(recipe.model_name):
        return recipe
    try:
        return replace(recipe, model_name=snapshot_name(recipe.model_name))
    except ValueError:
        return recipe  # it is no longer there


def _with_snapshot(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe of a run folder: the configuration that its model_name names is copied there, and named instead."""
    if not is_config(recipe.model_name):
        return recipe
    name = snapshot_name(recipe.model_name)
    if not (run_dir / name).is_file():
        write_json(run_dir / name, read_config(recipe.model_name))
    return replace(recipe, model_name=name)


def _located(recipe: Recipe, run_dir: Path) -> Recipe:
    return replace(recipe, model_name=locate_model(recipe.model_name, run_dir))


def _delete_outputs(run_dir: Path) -> None:
    """Deletes the outputs of stages, finished or not; recipe.yaml stays, so that this is still a run folder."""
    for name in OUTPUTS:
        for path in (run_dir / name, run_dir / f".{name}.partial", run_dir / f".{name}.old"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def bytes_needed(recipe: Recipe) -> int:
    """The approximate size of a run: texts, scored facts, checkpoints with AdamW's moments, quantized copies."""
    try:
        weights = 4 * (recipe.num_parameters or parameters_of(recipe, recipe.vocab_size).num_parameters)
    except ValueError:
        weights = 0  # reported by the checks of the recipe and its model
    biographies = (recipe.num_people + recipe.control_people) * min(recipe.renderings, recipe.exposures)
    if recipe.dataset_name is not None:
        biographies = _texts_of(recipe)
    copies = 1 + len(recipe.quantize_bits)
    return biographies * _BYTES_PER_BIOGRAPHY * copies + weights * (3 * (recipe.save_total_limit + 1) + copies)


def _texts_of(recipe: Recipe) -> int:
    """About how many texts the recipe's data set has; 0 if it cannot be read."""
    from knowcap.dataset.importing import source_of

    try:
        return source_of(recipe).knowledge().num_people * recipe.renderings
    except ValueError:
        return 0  # reported by the check of the recipe


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def recipe_yaml(recipe: Recipe, package_versions: dict[str, str], revision: str | None) -> str:
    """The text of a run folder's recipe.yaml: the resolved recipe, then the revision and versions."""
    import yaml

    content: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()}
    content |= {"git_revision": revision, "versions": package_versions}
    return sealed_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
