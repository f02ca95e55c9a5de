"""Collecting a sweep's results into a folder small enough to be committed: no weights, no plots."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.files import (
    CAPACITY_FILE,
    CARD_FILE,
    CELLS_FILE,
    EXTRACTION_FILE,
    RECIPE_FILE,
    TRAINING_FILE,
    FileError,
    locked,
    whole_folder,
)
from knowcap.findings.results import CELLS
from knowcap.findings.selection import settings
from knowcap.recipe import RecipeError
from knowcap.recipe_file import read_recipe
from knowcap.sealed import check_text, read_result, write_result
from knowcap.sweep import Cell
from knowcap.sweep.table import row_of
from knowcap.sweep.workers import is_finished, quantized_dirs


logger = logging.getLogger(__name__)


def collect(sweep_dir: Path, results: Path) -> Path:
    """Copies the finished cells of a sweep's folder; cells collected before stay, unless the same cell is there again.

    Args:
        sweep_dir: the sweep's folder, such as runs/sweeps/01-plateau; its name is that of the sweep file.
        results: gets a folder of that name with cells.json, and a folder of each cell with its card, capacity.json and
            the results of its quantized copies and of extraction.

    Returns:
        the written cells.json.

    Raises:
        FileError: there is no finished cell.
        RecipeError: a cell's recipe cannot be read.
    """
    runs = sorted(path.parent for path in sweep_dir.glob(f"*/{RECIPE_FILE}"))
    cells = [_cell(run_dir) for run_dir in runs]
    finished = [cell for cell in cells if is_finished(cell)]
    if not finished:
        raise FileError(
            f"{sweep_dir} has no finished cell ({len(cells)} begun); expected the folder of a sweep, such as "
            "runs/sweeps/01-plateau"
        )
    folder = results / sweep_dir.resolve().name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CELLS_FILE
    known: dict[str, Any] = read_result(file)["cells"] if file.is_file() else {}
    new = {}
    for cell in finished:
        new[cell.name] = {
            "settings": settings(cell.recipe),
            "row": {key: _number(value) for key, value in row_of(cell).items()},
            "train_seconds": read_result(cell.run_dir / "model" / TRAINING_FILE, ("train_seconds",))["train_seconds"],
        }
        _copy(cell, folder / CELLS / cell.name)
    replaced = sum(name in known and known[name] != content for name, content in new.items())
    together = dict(sorted((known | new).items()))
    write_result(file, {"schema_version": 1, "sweep": folder.name, "cells": together})
    logger.info(
        "[findings] %s: %d cells collected (%d replaced, %d of before kept), %d begun and not finished → %s",
        folder.name, len(new), replaced, len(known.keys() - new.keys()), len(cells) - len(finished), file,
    )  # fmt: skip
    return file


def _cell(run_dir: Path) -> Cell:
    """A run folder as a cell of its sweep."""
    check_text(run_dir / RECIPE_FILE)
    recipe, problems, _ = read_recipe(run_dir / RECIPE_FILE)
    if problems:
        raise RecipeError(problems, run_dir / RECIPE_FILE)
    return Cell(run_dir.name, {}, replace(recipe, run_name=run_dir.name, output_dir=str(run_dir.parent)))


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _copy(cell: Cell, folder: Path) -> None:
    """A cell's small files."""
    with locked(cell.run_dir), whole_folder(folder) as made:
        model = cell.run_dir / "model"
        shutil.copyfile(model / CAPACITY_FILE, made / CAPACITY_FILE)
        if (model / CARD_FILE).is_file():
            text = (model / CARD_FILE).read_text(encoding="utf-8")
            (made / CARD_FILE).write_text(without_plots(text), encoding="utf-8")
        copies = {name: path / CAPACITY_FILE for name, path in quantized_dirs(cell).items()}
        copies |= {f"extraction/{path.parent.name}": path for path in _extractions(cell.run_dir)}
        for name, path in copies.items():
            (made / name).mkdir(parents=True)
            shutil.copyfile(path, made / name / path.name)


def _extractions(run_dir: Path) -> Iterable[Path]:
    return sorted(run_dir.glob(f"extraction/[!.]*/{EXTRACTION_FILE}"))


def without_plots(card: str) -> str:
    """A card without its pictures, which are not collected."""
    kept: list[str] = []
    for line in card.splitlines():
        if line.startswith("![") or (not line and kept and not kept[-1]):
            continue
        kept.append(line)
    return "\n".join(kept) + "\n"
