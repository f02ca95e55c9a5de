"""The cells that a statement is about: selected by recipe keys, grouped where they differ in their seed alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcap.recipe import KEYS, Recipe, shaping_keys
from knowcap.sweep import Cell, Sweep
from knowcap.sweep.cells import value_name


SWEEP, RUN_NAME = "sweep", "run_name"  # what selects cells besides recipe keys
FIRST_SEED = 10  # seeds 0 to 9 are for development: no verdict uses them
_NOT_COMPARED = (  # what changes no result
    *shaping_keys("run"), "logging_steps", "save_steps", "save_total_limit", "report_to", "dataloader_num_workers",
    "measure_every", "measure_limit", "eval_batch_size",
)  # fmt: skip
Selection = Mapping[str, tuple[Any, ...]]  # key: the values of which a cell has one


@dataclass(frozen=True)
class Group:
    """Cells of one recipe that differ in their seed, and in the value of their sweep's `best_of`.

    Attributes:
        cells: by the value of `best_of` as text ("" without), then by seed; each with its sweep's name.
        first: one of them, with its sweep.
    """

    cells: Mapping[str, Mapping[int, tuple[str, Cell]]]
    first: tuple[Sweep, Cell]

    @property
    def recipe(self) -> Recipe:
        """Of one of the cells."""
        return self.first[1].recipe

    @property
    def seeds(self) -> frozenset[int]:
        """The verdict seeds that every value of `best_of` has."""
        found = [frozenset(seed for seed in by_seed if seed >= FIRST_SEED) for by_seed in self.cells.values()]
        return frozenset.intersection(*found)


def selected(sweeps: Iterable[Sweep], selection: Selection) -> list[Group]:
    """The groups of the selected cells; a cell that two sweeps have in common counts once.

    Args:
        sweeps: those that a finding rests on.
        selection: recipe keys, `sweep` and `run_name` (of an item of a sweep's list); {} selects all cells.
    """
    found: dict[str, dict[str, dict[int, tuple[str, Cell]]]] = {}
    first: dict[str, tuple[Sweep, Cell]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            if not all(value_of(sweep, cell, key) in values for key, values in selection.items()):
                continue
            best = sweep.best_of
            key = json.dumps(settings(cell.recipe, ("seed", *([best] if best else []))), sort_keys=True)
            first.setdefault(key, (sweep, cell))
            chosen = value_name(best, getattr(cell.recipe, best)) if best else ""
            found.setdefault(key, {}).setdefault(chosen, {}).setdefault(cell.recipe.seed, (sweep.name, cell))
    return [Group(cells, first[key]) for key, cells in found.items()]


def value_of(sweep: Sweep, cell: Cell, key: str) -> Any:
    """What a selection compares with its values."""
    if key == SWEEP:
        return sweep.name
    if key == RUN_NAME:
        return cell.overrides.get(RUN_NAME)
    return getattr(cell.recipe, key)


def settings(recipe: Recipe, without: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of a recipe that shape its results and differ from their defaults, as JSON has them; paths as names.

    So recipes of before a key existed are equal to those that have its default.
    """
    left_out = {*_NOT_COMPARED, *without}
    return {
        name: _plain(name, value)
        for name, value in vars(recipe).items()
        if name not in left_out and value != KEYS[name].default
    }


def _plain(name: str, value: Any) -> Any:
    if name == "model_name":  # a run folder has its configuration as NAME-<digest>.json
        plain = value_name(name, value).removesuffix(".json")
        return re.sub(r"-[0-9a-f]{8}$", "", plain) if value.endswith(".json") else plain
    if KEYS[name].path and value is not None:
        return Path(value).name
    return json.loads(json.dumps(value, default=str)) if isinstance(value, (tuple, dict)) else value


def _values(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """What selects a cell, by key, as an error shows it."""
    names = [key for key in KEYS if key not in (*_NOT_COMPARED, "seed")]
    shown = {SWEEP: sweep.name, RUN_NAME: cell.overrides.get(RUN_NAME)}
    return shown | {key: value_name(key, getattr(cell.recipe, key)) for key in names if key != sweep.best_of}


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The keys in which groups differ, with their values."""
    found: dict[str, list[str]] = {}
    shown = [_values(*group.first) for group in groups]
    for key in dict.fromkeys(key for values in shown for key in values):
        values = list(dict.fromkeys(str(of_group.get(key)) for of_group in shown))
        if len(values) > 1:
            found[key] = values
    return found
