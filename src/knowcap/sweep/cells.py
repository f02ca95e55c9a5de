"""The cells of a sweep: each a recipe with a name of its own; and which of them are best."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from knowcap.files import CONFIG_FILE
from knowcap.recipe import Recipe


_SHORT = {
    "model_name": "",
    "num_people": "N",
    "learning_rate": "lr",
    "num_parameters": "P",
    "train_batch_size": "batch",
    "seed": "seed",
}
EQUAL = ("num_parameters", "num_active_parameters", "flops")  # what cells that are compared may have in common
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its run folder.
        overrides: the keys of the base recipe that it changes, with values of the keys' types.
        recipe: the whole recipe; its output_dir is the sweep's folder.
    """

    name: str
    overrides: Overrides
    recipe: Recipe

    @property
    def run_dir(self) -> Path:
        """Its run folder."""
        return Path(self.recipe.output_dir) / self.name


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked.

    Attributes:
        name: the file's stem.
        file: the sweep file.
        base: the base recipe, as named in the file.
        folder: of its run folders, table and page: output_dir/sweeps/name.
        cells: in the order of the file, the last key changing fastest.
        best_of: the key whose best value is chosen among cells that are equal in all other keys; None: of none.
        compare: the column in which cells must be equal to be compared (`knowcap.sweep.compare`); None: they are not.
        tolerance: the relative difference up to which they are equal.
        finding: the file's `finding`, as text (`knowcap.findings` reads it); None: there is none.
    """

    name: str
    file: Path
    base: str
    folder: Path
    cells: tuple[Cell, ...]
    best_of: str | None
    compare: str | None = None
    tolerance: float = 0.05
    finding: Any = None


def combine(items: Sequence[Overrides], grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The overrides of every cell: each item combined with each combination of the grid's values."""
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [{**item, **combination} for item in items for combination in combinations]


def cell_name(overrides: Overrides, grid: Mapping[str, Sequence[Any]], alone: bool = False) -> str:
    """A run folder's name from the keys that a cell changes: `gpt2-rotary-2-2_lr0.001_seed0`.

    A `run_name` among the overrides replaces all of them except the grid's.

    Args:
        overrides: the cell's.
        grid: the sweep's grid; its keys are always in the name, so that the grid can grow.
        alone: the list has one item, so that its keys are the same in all cells: with a grid, they are left out.
    """
    shown = overrides
    if "run_name" in overrides or (alone and grid):
        shown = {key: value for key, value in overrides.items() if key == "run_name" or key in grid}
    return "_".join(_part(key, value) for key, value in shown.items())


def _part(key: str, value: Any) -> str:
    text = re.sub(r"[^A-Za-z0-9.+=-]+", "-", value_name(key, value)).strip("-")
    if key == "run_name":
        return text
    return f"{_SHORT[key]}{text}" if key in _SHORT else f"{key}-{text}"


def value_name(key: str, value: Any) -> str:
    """A key's value as text; of a configuration's path its folder or stem."""
    if key == "model_name" and Path(str(value)).is_absolute():  # a configuration
        path = Path(value)
        return path.parent.name if path.name == CONFIG_FILE else path.stem
    if isinstance(value, dict):
        return "-".join(f"{name}-{item}" for name, item in value.items()) or "none"
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def varied_keys(sweep: Sweep) -> list[str]:
    """The keys in which cells differ."""
    keys = dict.fromkeys(key for cell in sweep.cells for key in cell.overrides if key != "run_name")
    return [key for key in keys if len({repr(getattr(cell.recipe, key)) for cell in sweep.cells}) > 1]


def groups(sweep: Sweep) -> list[list[Cell]]:
    """Groups of cells that differ only in the sweep's `best_of`; without one, every cell is a group."""
    found: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        rest = {key: value for key, value in cell.overrides.items() if key not in (sweep.best_of, "run_name")}
        key = cell.name if sweep.best_of is None else json.dumps(rest, sort_keys=True, default=str)
        found.setdefault(key, []).append(cell)
    return list(found.values())


def choose(sweep: Sweep, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    """Whether each cell is the best of its group, by its name: the one with the most bits per parameter.

    None, not known yet, while a cell of the group is not finished. The first one wins a tie.

    Args:
        sweep: the sweep.
        rows: the results of finished cells by name.
    """
    won: dict[str, bool | None] = {}
    for cells in groups(sweep):
        names = [cell.name for cell in cells]
        done = all(name in rows for name in names)
        best = max(names, key=lambda name: rows[name]["bits_per_parameter"]) if done else None
        won |= {name: name == best if done else None for name in names}
    return won


def describe_winners(sweep: Sweep, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per group: the best cell and the others, with their bits per parameter."""
    by_name = {row["run"]: row for row in rows}
    lines, best_of = [], cast(str, sweep.best_of)  # no groups without it
    for cells in groups(sweep) if sweep.best_of is not None else ():
        done = [cell for cell in cells if cell.name in by_name]
        ranked = sorted(done, key=lambda cell: -by_name[cell.name]["bits_per_parameter"])
        texts = [_value_and_bits(cell, best_of, by_name[cell.name]["bits_per_parameter"]) for cell in ranked]
        missing = f"; {len(cells) - len(done)} of {len(cells)} not finished" if len(done) < len(cells) else ""
        if texts:
            common = _common(cells[0], best_of)
            others = f", before {', '.join(texts[1:])}" if texts[1:] else ""
            verb = "leads with" if missing else "best with"
            lines.append(f"{common}: {verb} {texts[0]}{others}{missing}")
    return lines


def _value_and_bits(cell: Cell, key: str, bits: float) -> str:
    return f"{key} {cell.overrides[key]} ({bits:.3f})"


def _common(cell: Cell, key: str) -> str:
    """The overrides that the cells of a group have in common."""
    rest = [f"{k} {value_name(k, value)}" for k, value in cell.overrides.items() if k not in (key, "run_name")]
    return ", ".join(rest) or "all cells"
