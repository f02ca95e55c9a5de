"""The command that makes a damaged file again, for error messages."""

from __future__ import annotations

from pathlib import Path

from knowcap.files import (
    ANSWERS_FILE,
    CAPACITY_FILE,
    CELLS_FILE,
    CONTROL_FILE,
    EXTRACTION_FILE,
    KNOWLEDGE_FILE,
    NLL_FILE,
    QUANTIZATION_FILE,
    RECIPE_FILE,
    SWAPPED_FILE,
    TRAINING_FILE,
    TUNING_FILE,
)


_SCORED = (NLL_FILE, CONTROL_FILE, SWAPPED_FILE)
_EXTRACTED = (TUNING_FILE, ANSWERS_FILE, EXTRACTION_FILE)


def repair(path: Path) -> str:
    """What makes a file of a run, of a model or of a data set again: one clause, such as `knowcap measure …`.

    Args:
        path: the file; it need not exist.
    """
    folder = path.parent
    run_dir = next((p for p in path.parents if _is_run(p)), folder)
    name, where = path.name, str(run_dir)
    if name.startswith("."):
        return "delete it and run the same command again"
    if name == CELLS_FILE or any((p / CELLS_FILE).is_file() for p in path.parents[1:4]):
        return "restore it from a copy, or collect the cell again with `knowcap findings --collect`"
    if name == CAPACITY_FILE:
        return f"`knowcap measure {where}` computes it again from {NLL_FILE}"
    if name in _SCORED:
        return f"`knowcap measure {where} --overwrite` scores the model again"
    if name in _EXTRACTED or (folder / TUNING_FILE).is_file():
        return f"`knowcap extract {where} --overwrite` makes it again"
    if name == QUANTIZATION_FILE or (folder / QUANTIZATION_FILE).is_file():
        return f"`knowcap quantize {where} --overwrite` makes the copy again"
    if name == TRAINING_FILE or (folder / TRAINING_FILE).is_file():
        return f"restore it from a copy, or delete {folder} and train again with `knowcap run`"
    for place in (folder, folder.parent):
        if (place / KNOWLEDGE_FILE).is_file() or (name == KNOWLEDGE_FILE and place == folder):
            return f"delete {place} and make the data set again with `knowcap run` or `knowcap data`"
    if name == RECIPE_FILE:
        return "restore it from a copy, or choose another run_name"
    return "delete it and run the command that writes it again"


def _is_run(folder: Path) -> bool:
    return (folder / RECIPE_FILE).is_file() and not (folder / KNOWLEDGE_FILE).is_file()
