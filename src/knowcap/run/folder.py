"""Run folders: whose they are, whether there is room to write, and what they record about their making."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from knowcap.files import LOCK_FILE, RECIPE_FILE, SOFT_LOCK_FILE, not_writable
from knowcap.models import ModelError, closed_form_parameters
from knowcap.provenance import git_revision, versions
from knowcap.recipe import KEYS, Recipe, RecipeError
from knowcap.recipe_file import read_recipe


logger = logging.getLogger(__name__)

# All that any stage makes in a run folder; nothing else there is ever deleted.
OUTPUTS = (
    "knowledge", "model", "checkpoints", "quantized", "extraction", "plots", "capacity.json", "report.md",
    "report.json", "bits_vs_parameters.png",
)  # fmt: skip
_BYTES_PER_BIOGRAPHY = 400  # zstd-compressed Parquet, its scored facts included
_MEND = "choose another run_name or pass --overwrite_output_dir"


def is_run_dir(folder: Path) -> bool:
    """Whether a folder is a run's; a data set folder has a recipe.yaml too, beside its knowledge.json."""
    return (folder / RECIPE_FILE).is_file() and not (folder / "knowledge.json").is_file()


def claim_run_dir(recipe: Recipe, overwrite: bool = False) -> Path:
    """Makes the run folder with its recipe.yaml, or goes on with one of the same recipe; returns the folder.

    Args:
        recipe: with its run_name.
        overwrite: delete what a run left there first. Only what knowcap makes is deleted, only beside a recipe.yaml.

    Raises:
        RecipeError: the folder is of another recipe or no run folder, or it can't be written; nothing is changed then.
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
        if overwrite or not file.is_file() or read_recipe(file)[0] != recipe:
            # A name of its own, so that processes started together don't meet in one file.
            partial = run_dir / f".{RECIPE_FILE}.{os.getpid()}.partial"
            partial.write_text(recipe_yaml(recipe, versions(), git_revision()), encoding="utf-8")
            partial.replace(file)
    except OSError as error:
        raise RecipeError([not_writable(run_dir, error)], run_dir) from error
    return run_dir


def folder_problems(recipe: Recipe, overwrite: bool = False) -> list[str]:
    """What speaks against working in the recipe's run folder; changes nothing."""
    run_dir = recipe.run_dir
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        return [f"output_dir: {nearest} is a file, expected a folder; choose another output_dir or run_name"]
    problems = []
    if not os.access(nearest, os.W_OK | os.X_OK):
        problems.append(not_writable(nearest, "no permission"))
    names = [path.name for path in run_dir.iterdir()] if nearest == run_dir else []
    contents = [name for name in names if name not in (LOCK_FILE, SOFT_LOCK_FILE) and not name.endswith(".partial")]
    if RECIPE_FILE in contents and not overwrite:
        problems += _foreign(recipe, run_dir)
    elif contents and RECIPE_FILE not in contents:
        problems.append(
            f"{run_dir} holds {', '.join(sorted(contents)[:5])} but no {RECIPE_FILE}, so it's no run folder; "
            "choose another run_name or output_dir, or empty it yourself"
        )
    needed, free = bytes_needed(recipe) - _size(run_dir), shutil.disk_usage(nearest).free
    if needed > free:
        problems.append(
            f"output_dir: {nearest} has {free / 1e6:,.0f} MB free, the run needs about {needed / 1e6:,.0f} MB; "
            "make room or choose another output_dir"
        )
    return problems


def _foreign(recipe: Recipe, run_dir: Path) -> list[str]:
    """A problem where the folder's recipe differs in a key that isn't free to change."""
    there, problems, _ = read_recipe(run_dir / RECIPE_FILE)
    if problems:
        return [f"{run_dir / RECIPE_FILE} can't be used: {'; '.join(problems)}; {_MEND}"]
    fixed = [name for name, key in KEYS.items() if not key.metadata.get("free")]
    values = [(name, getattr(there, name), getattr(recipe, name)) for name in fixed]
    differing = [f"{name} is {old!r} there and {new!r} here" for name, old, new in values if old != new]
    return [f"{run_dir} belongs to another recipe: {', '.join(differing)}; {_MEND}"] if differing else []


def _delete_outputs(run_dir: Path) -> None:
    """Deletes what stages made, finished or not; recipe.yaml stays, to be replaced, so that the folder stays ours."""
    for name in OUTPUTS:
        for path in (run_dir / name, run_dir / f".{name}.partial", run_dir / f".{name}.old"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def bytes_needed(recipe: Recipe) -> int:
    """About what a run writes: texts, scored facts, checkpoints with AdamW's moments, the model's quantized copies."""
    try:
        sizes = {"vocab_size": recipe.vocab_size, "block_size": recipe.block_size, "head_dim": recipe.head_dim}
        weights = 4 * closed_form_parameters(recipe.model_name, **sizes)
    except ModelError:
        weights = 0  # told by the recipe's own check
    biographies = (recipe.num_people + recipe.control_people) * min(recipe.renderings, recipe.exposures)
    if recipe.dataset_name is not None:
        biographies = _texts_of(recipe)
    copies = 1 + len(recipe.quantize_bits)
    return biographies * _BYTES_PER_BIOGRAPHY * copies + weights * (3 * (recipe.save_total_limit + 1) + copies)


def _texts_of(recipe: Recipe) -> int:
    """About how many texts the recipe's data set has, as one of knowcap has them; 0 where it can't be had."""
    from knowcap.dataset.importing import source_of

    try:
        return source_of(recipe).knowledge().num_people * recipe.renderings
    except ValueError:
        return 0  # told by the recipe's own check


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def recipe_yaml(recipe: Recipe, package_versions: dict[str, str], revision: str | None) -> str:
    """The text of a run folder's recipe.yaml: the resolved recipe, then with what it was made."""
    import yaml

    content: dict[str, Any] = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()}
    content |= {"git_revision": revision, "versions": package_versions}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
