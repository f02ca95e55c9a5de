"""Collected results of sweeps: a folder for each, with cells.json and the small files of every cell.

    model_cards/findings/01-plateau/
    ├── cells.json                 the settings and results of every cell
    └── cells/NAME/                README.md (the cell's card), capacity.json, quantized and extraction results

They are read without torch, and compared: a number in cells.json is that of the cell's capacity.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcap.files import CAPACITY_FILE, CELLS_FILE, EXTRACTION_FILE, FileError
from knowcap.findings.selection import settings
from knowcap.sealed import read_result
from knowcap.sweep import Cell, Sweep


CELLS = "cells"  # folder of the cells' folders
QUANTIZED = ("int8", "int4", "int8_gptq", "int4_gptq")
# Columns of a row that the cell's capacity.json has, under its name there.
_SAME = {
    "num_parameters": "num_parameters",
    "num_entities": "num_entities",
    "exposures": "exposures",
    "knowledge_bits": "knowledge_bits",
    "max_knowledge_bits": "max_knowledge_bits",
    "bits_per_parameter": "bits_per_parameter",
    "max_bits_per_parameter": "max_bits_per_parameter",
    "memorizable_accuracy": "memorizable_accuracy",
    "seed": "seed",
}


@dataclass(frozen=True)
class Result:
    """A cell's results.

    Attributes:
        row: its row in the sweep's results file.
        settings: of its recipe (`knowcap.findings.selection.settings`).
        seconds: of training.
        folder: of its card and JSON files.
    """

    row: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: float | None
    folder: Path

    def number(self, column: str) -> float:
        """A column of the row, or a path such as capacity.attributes.name.accuracy into the cell's JSON files.

        Raises:
            FileError: there is no such number; the message names what there is.
        """
        value, (file, _, path) = self.row.get(column), column.partition(".")
        if path:
            value = _inside(self.folder / CAPACITY_FILE if file == "capacity" else self._extraction(), path)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            there = ", ".join(name for name, found in self.row.items() if isinstance(found, (int, float)))
            raise FileError(f"cell {self.folder.name} has no number {column!r} ({value!r}); its columns are {there}")
        return float(value)

    def _extraction(self) -> Path:
        """The cell's extraction result; of several, the statement cannot mean one."""
        found = sorted(self.folder.glob(f"extraction/*/{EXTRACTION_FILE}"))
        if len(found) != 1:
            names = ", ".join(path.parent.name for path in found) or "none"
            raise FileError(f"{self.folder} has {len(found)} extraction results ({names}), expected one")
        return found[0]


def _inside(file: Path, path: str) -> Any:
    """What a JSON file has at a path of names and, in lists, of positions from 0."""
    value: Any = read_result(file)
    for name in path.split("."):
        items = {str(n): item for n, item in enumerate(value)} if isinstance(value, list) else value
        if not isinstance(items, dict) or name not in items:
            there = ", ".join(items) if isinstance(items, dict) else f"the value {items!r}"
            raise FileError(f"{file} has no {path}: at {name!r} there is {there}")
        value = items[name]
    return value


def read_results(folder: Path, sweep: Sweep) -> dict[str, Result]:
    """The results of a sweep's cells by name; {} if none are collected.

    Args:
        folder: with a folder for each sweep, such as model_cards/findings.
        sweep: from `load_sweep`.

    Raises:
        FileError: a result is of other settings than its cell in the sweep file, or a number differs from that of the
            cell's capacity.json.
    """
    file = folder / sweep.name / CELLS_FILE
    if not file.is_file():
        return {}
    known, cells = read_result(file)["cells"], {cell.name: cell for cell in sweep.cells}
    found = {}
    for name, content in known.items():
        if name in cells:  # others are of an earlier form of the sweep file, and count for nothing
            result = Result(content["row"], content["settings"], content["train_seconds"], file.parent / CELLS / name)
            _check_settings(file, cells[name], result)
            _check_numbers(file, result)
            found[name] = result
    return found


def _check_settings(file: Path, cell: Cell, result: Result) -> None:
    """Raises FileError unless a result is of its cell's recipe."""
    expected = settings(cell.recipe)
    different = sorted(
        key for key in expected.keys() | result.settings.keys() if expected.get(key) != result.settings.get(key)
    )
    if different:
        shown = ", ".join(f"{key} {result.settings.get(key)!r} (now {expected.get(key)!r})" for key in different)
        raise FileError(
            f"{file}: cell {cell.name} was run with other settings than the sweep file has now: {shown}; undo the "
            "change of the file, or run and collect the cell again"
        )


def _check_numbers(file: Path, result: Result) -> None:
    """Raises FileError if a number of the row is not that of the cell's own files."""
    checked = [(result.folder / CAPACITY_FILE, _SAME)]
    for name in QUANTIZED:
        if result.row.get(f"{name}_bits_per_parameter") is not None:
            own = {f"{name}_bits_per_parameter": "bits_per_parameter"}
            checked.append((result.folder / name / CAPACITY_FILE, own))
    for path, columns in checked:
        if not path.is_file():
            raise FileError(f"{file}: cell {result.folder.name} has no {path}; collect it again")
        capacity = read_result(path)
        for column, key in columns.items():
            if result.row.get(column) != capacity.get(key):
                raise FileError(
                    f"{file}: {column} of cell {result.folder.name} is {result.row.get(column)!r}, but "
                    f"{capacity.get(key)!r} in {path}; one of them was changed: collect the cell again"
                )
