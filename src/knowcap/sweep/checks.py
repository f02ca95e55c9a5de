"""The checks of a sweep's cells before the first one starts; a problem of many cells is reported once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from knowcap.recipe import KEYS, ModelSection, QuantizationSection, Recipe, section_keys, shaping_keys
from knowcap.run.estimate import check_model, check_texts
from knowcap.run.folder import bytes_needed, folder_problems
from knowcap.run.launch import Launcher, process_problems
from knowcap.run.preflight import check_corpus, check_settings
from knowcap.sweep.cells import Cell


CORPUS_KEYS = shaping_keys("texts", "tokens", "windows")
TEXTS_KEYS = tuple(name for name in CORPUS_KEYS if not KEYS[name].amount)
_model_values = attrgetter(*section_keys(ModelSection, QuantizationSection))
_corpus_values, _texts_values = attrgetter(*CORPUS_KEYS), attrgetter(*TEXTS_KEYS)


def corpus_key(recipe: Recipe) -> tuple[Any, ...]:
    """Equal for recipes of the same corpus, up to the seed."""
    return _corpus_values(recipe)


def texts_key(recipe: Recipe) -> tuple[Any, ...]:
    """Equal for recipes whose texts, tokens and windows differ only in number."""
    return _texts_values(recipe)


def recipe_problems(cells: Sequence[Cell]) -> list[str]:
    """The problems of the recipes: of each one's keys, and of each distinct corpus."""
    found: list[tuple[str, str]] = []
    corpora: dict[tuple[Any, ...], Cell] = {}
    for cell in cells:
        bad: set[str] = set()
        found += [(problem, cell.name) for problem in check_settings(cell.recipe, bad)]
        if not bad:
            corpora.setdefault(corpus_key(cell.recipe), cell)
    for cell in corpora.values():
        found += [(problem, cell.name) for problem in check_corpus(cell.recipe, set())]
    return _reported_once(found)


def start_problems(cells: Sequence[Cell], launcher: Launcher | None = None) -> list[str]:
    """The problems of cells with valid recipes: their folders, the space on the disk, their devices.

    Args:
        cells: those of one sweep.
        launcher: trains and scores them through accelerate.
    """
    found = [(problem, cell.name) for cell in cells for problem in folder_problems(cell.recipe)]
    problems = _reported_once(found)
    todo = [cell for cell in cells if not (cell.run_dir / "model").is_dir()]
    if todo and not problems:
        problems += _room_problems(todo)
    return problems + _machine_problems(todo, launcher)


def text_problems(cells: Iterable[Cell]) -> list[str]:
    """Problems that appear only when texts are tokenized and models built (`estimate.check_texts`, `check_model`):
    seconds for each kind of text and of model.
    """
    kinds: dict[tuple[Any, ...], Cell] = {}
    models: dict[str, Cell] = {}
    for cell in cells:
        if not (cell.run_dir / "model").is_dir():
            kinds.setdefault(texts_key(cell.recipe), cell)
            models.setdefault(repr([texts_key(cell.recipe), _model_values(cell.recipe)]), cell)
    found = [(problem, cell.name) for cell in kinds.values() for problem in check_texts(cell.recipe)]
    if not found:
        found = [(problem, cell.name) for cell in models.values() for problem in check_model(cell.recipe)]
    return _reported_once(found)


def _room_problems(cells: Sequence[Cell]) -> list[str]:
    """A problem if all cells together do not fit on the disk, where one alone does."""
    folder = Path(cells[0].recipe.output_dir).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    needed, free = sum(bytes_needed(cell.recipe) for cell in cells), shutil.disk_usage(nearest).free
    if needed <= free:
        return []
    return [
        f"output_dir: {nearest} has {free / 1e6:,.0f} MB free, the {len(cells):,} cells need about "
        f"{needed / 1e6:,.0f} MB together; free some space or choose another output_dir"
    ]


def _machine_problems(cells: Sequence[Cell], launcher: Launcher | None) -> list[str]:
    """What cells ask of this machine and it does not have. torch is imported only where something is asked."""
    kinds = {(c.recipe.precision, c.recipe.train_batch_size, c.recipe.gradient_accumulation_steps): c for c in cells}
    asking = [cell for (precision, *_), cell in kinds.items() if launcher is not None or precision == "fp16"]
    if not asking:
        return []
    if launcher is not None and (problems := launcher.problems()):
        return problems
    return _reported_once(
        (problem, cell.name) for cell in asking for problem in process_problems(cell.recipe, launcher)
    )


def _reported_once(found: Iterable[tuple[str, str]]) -> list[str]:
    """Each problem once, with the name of the first cell that has it and the number of others."""
    cells: dict[str, list[str]] = {}
    for problem, name in found:
        cells.setdefault(problem, []).append(name)
    return [f"{names[0]}{_others(len(names) - 1)}: {problem}" for problem, names in cells.items()]


def _others(count: int) -> str:
    return "" if count == 0 else f" and {count:,} other{'s' if count > 1 else ''}"


def cluster_problems(cpus: float, gpus: float, nodes: Iterable[Mapping[str, float]]) -> list[str]:
    """A problem if no node of a Ray cluster has the resources that one cell needs.

    Args:
        cpus, gpus: of one cell; a GPU may be shared by fractions.
        nodes: the resources of each node, by Ray's names (`CPU`, `GPU`).
    """
    nodes = list(nodes)
    problems = []
    if cpus <= 0 or gpus < 0:
        return [f"cpus_per_cell={cpus:g}, gpus_per_cell={gpus:g}: expected more than 0 CPUs and 0 GPUs or more"]
    if gpus > 1:
        problems.append(
            f"gpus_per_cell={gpus:g}: a cell is one process, which uses one GPU; expected 1 or a fraction of it"
        )
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        problems.append(
            f"a cell needs {cpus:g} CPUs and {gpus:g} GPUs, but no node of the cluster has them "
            f"({most or 'none'}); lower --cpus_per_cell or --gpus_per_cell"
        )
    return problems
