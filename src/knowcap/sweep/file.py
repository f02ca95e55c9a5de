"""Sweep files: YAML with a base recipe, a grid and a list of overrides; all problems are reported at once.

    base: gpt2/bios-1000-exposures        # a packaged recipe's name, or a path relative to this file
    grid: {model_name: [gpt2-rotary-2-2, gpt2-rotary-4-2], learning_rate: [1e-3, 5e-4], seed: [0, 1]}
    list: [{num_people: 10000, train_batch_size: 24}, {num_people: 20000, train_batch_size: 48}]
    best_of: learning_rate                # optional: the best of these is chosen, the others are shown
    compare: num_parameters               # optional: winners of equal num_parameters, or flops, are compared
    tolerance: 0.05                       # optional: relative difference up to which they are equal
    finding: {…}                          # optional: what the results are expected to show (`knowcap.findings`)

A grid is the product of its lists; every item of a list is combined with every combination of the grid. Overrides that
are the same in all cells are a list of one item. A file with a finding that rests on other sweeps' cells
(`finding: {sweeps: […]}`) may have no base, grid or list, and so no cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from knowcap.recipe import KEYS, Recipe, RecipeError, nearest, unknown_key
from knowcap.recipe.yaml_reader import YamlError, compose_file, plain
from knowcap.recipe_file import RECIPES_DIR, convert, locate_model, packaged_recipes, parse_number, read_recipe
from knowcap.sweep.cells import EQUAL, Cell, Sweep, cell_name, combine


SWEEPS = "sweeps"  # under output_dir, so that a sweep and a run may have one name
_PARTS = ("base", "grid", "list", "best_of", "compare", "tolerance", "finding")
_NOT_OVERRIDES = {"output_dir": "cannot be overridden; pass --output_dir to the command"}
MOST_CELLS = 20_000
_LONGEST_NAME = 200  # characters; file systems end at 255 bytes


@dataclass
class _Content:
    base: str = ""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    best_of: str | None = None
    compare: str | None = None
    tolerance: float = 0.05
    finding: Any = None


def load_sweep(config: str | Path, output_dir: str | Path | None = None, seeds: Sequence[int] = ()) -> Sweep:
    """Reads a sweep and checks it down to every cell's recipe (`knowcap.sweep.checks`).

    Args:
        config: a sweep file, or the name of a packaged sweep such as `quickstart`.
        output_dir: where the sweep's folder is made; by default, that of the base recipe.
        seeds: every cell is run with each of them; for a sweep that has no seeds of its own.

    Raises:
        RecipeError: with every problem of the file and of its cells' recipes.
    """
    sweep, problems = read_sweep(config, output_dir, seeds)
    if not problems:
        from knowcap.sweep.checks import recipe_problems

        problems = recipe_problems(sweep.cells)
    if problems:
        raise RecipeError(problems, config)
    return sweep


def read_sweep(
    config: str | Path, output_dir: str | Path | None = None, seeds: Sequence[int] = ()
) -> tuple[Sweep, list[str]]:
    """Like `load_sweep`, but returns the problems, and does not check the recipes."""
    file = find_sweep(config)
    problems: list[str] = []
    content = _read(file, problems)
    if seeds and ("seed" in content.grid or any("seed" in item for item in content.items)):
        problems.append("seeds: the file has seeds of its own; remove one of the two")
    elif seeds:
        content.grid["seed"] = list(seeds)
    for values in (content.grid.get("model_name", []), *content.items):
        _locate_models(values, file.parent)
    count = len(content.items) * math.prod(len(values) for values in content.grid.values())
    if count > MOST_CELLS:
        problems.append(f"grid and list make {count:,} cells, expected at most {MOST_CELLS:,}; make several sweeps")
    overrides = [] if problems else combine(content.items, content.grid)
    base = _find_base(file, content.base, problems)
    cells: tuple[Cell, ...] = ()
    folder = Path(output_dir or "runs") / SWEEPS / file.stem
    if base is not None and not problems:
        folder, cells = _cells(base, file.stem, content, overrides, output_dir, problems)
        problems += _name_problems(cells)
        _check_best_of(content, overrides, problems)
    asked = (content.best_of, content.compare, content.tolerance, content.finding)
    return Sweep(file.stem, file, content.base, folder, cells, *asked), problems


def _locate_models(values: Any, folder: Path) -> None:
    """Makes the paths of configurations among a grid's list of model_names, or an item's, absolute, in place."""
    for key in range(len(values)) if isinstance(values, list) else {"model_name"} & values.keys():
        if isinstance(name := values[key], str):
            values[key] = locate_model(name, folder)


def packaged_sweeps() -> dict[str, Path]:
    """The sweeps that come with knowcap, by name."""
    folder = RECIPES_DIR / "sweeps"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_sweep(config: str | Path) -> Path:
    """The file of a sweep: a path, or else a packaged name. Raises RecipeError with the names that exist."""
    if Path(config).is_file():
        return Path(config)
    packaged = packaged_sweeps()
    name = str(config).removesuffix(".yaml")
    if name in packaged:
        return packaged[name]
    problem = (
        f"no such file, nor one of the packaged sweeps ({', '.join(packaged) or 'none'}){nearest(name, packaged)}"
    )
    raise RecipeError([problem], f"sweep {str(config)!r}")


def _read(file: Path, problems: list[str]) -> _Content:
    """The file's parts, with the overrides' values converted."""
    try:
        root = compose_file(file)
    except YamlError as error:
        problems.append(f"cannot be read as YAML in UTF-8: {error}")
        return _Content()
    raw = None if root is None else plain(root, problems)
    if not isinstance(raw, dict):
        problems.append(f"expected {', '.join(_PARTS)}, such as `base: quickstart` and `grid: {{seed: [0, 1]}}`")
        return _Content()
    for name in raw:
        if name not in _PARTS:
            meant = nearest(name, _PARTS) or f"; expected {', '.join(_PARTS)}"
            problems.append(f"unknown key {name!r}{meant}")
    content = _Content(finding=raw.get("finding"))
    if isinstance(content.finding, dict) and "sweeps" in content.finding and not raw.keys() - {"finding"}:
        return content
    if isinstance(raw.get("base"), str):
        content.base = raw["base"]
    else:
        problems.append("base is missing; give a recipe's name or its path from this file, such as `base: quickstart`")
    if raw.get("grid") is None and raw.get("list") is None:
        problems.append(
            "grid and list are missing, so there is nothing to vary; give one, such as `grid: {seed: [0, 1]}`"
        )
    if "grid" in raw:
        content.grid = _grid(raw["grid"], problems)
    if "list" in raw:
        content.items = _items(raw["list"], content.grid, problems)
    if raw.get("best_of") is not None:
        content.best_of = str(raw["best_of"])
    _read_compare(raw, content, problems)
    return content


def _read_compare(raw: Mapping[str, Any], content: _Content, problems: list[str]) -> None:
    """`compare` and `tolerance`."""
    compare, tolerance = raw.get("compare"), raw.get("tolerance")
    if compare is not None:
        content.compare = str(compare)
        if compare not in EQUAL:
            problems.append(f"compare: got {compare!r}, expected {' or '.join(EQUAL)}{nearest(compare, EQUAL)}")
    if tolerance is not None:
        share = parse_number(str(tolerance))
        if compare is None:
            problems.append("tolerance has no effect without compare; leave it out, or add `compare: num_parameters`")
        elif share is None or not 0 <= share <= 1:
            problems.append(f"tolerance: got {tolerance!r}, expected a share from 0 to 1, such as 0.05")
        else:
            content.tolerance = float(share)


def _grid(raw: Any, problems: list[str]) -> dict[str, list[Any]]:
    if not isinstance(raw, dict) or not raw:
        problems.append("grid: empty or not a mapping; expected lists by recipe key, such as {seed: [0, 1]}")
        return {}
    grid: dict[str, list[Any]] = {}
    for name, values in raw.items():
        if not isinstance(values, list):
            problems.append(f"grid: {name}: got {values!r}, expected a list of values, such as [{values}]")
        elif not values:
            problems.append(f"grid: {name}: an empty list makes no cells; give values, or remove {name}")
        else:
            grid[name] = [_value(name, value, "grid", problems) for value in values]
            _known(name, "grid", problems)
    return grid


def _items(raw: Any, grid: Mapping[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    if not isinstance(raw, list) or not raw or not all(isinstance(item, dict) and item for item in raw):
        problems.append("list: empty, or an item is not a mapping; expected overrides such as [{num_people: 10000}]")
        return [{}]
    for name in dict.fromkeys(name for item in raw for name in item):
        _known(name, "list", problems)
        if name in grid:
            problems.append(f"{name} is in grid and in list; remove it from one of them")
    return [{name: _value(name, value, "list", problems) for name, value in item.items()} for item in raw]


def _known(name: str, where: str, problems: list[str]) -> None:
    if name in _NOT_OVERRIDES:
        problems.append(f"{where}: {name} {_NOT_OVERRIDES[name]}")
    elif name not in KEYS:
        problems.append(f"{where}: {unknown_key(name)}")


def _value(name: str, value: Any, where: str, problems: list[str]) -> Any:
    """The value as the key's type; one that cannot be converted is a problem and returned as it is."""
    if name not in KEYS:
        return value
    try:
        return convert(value, KEYS[name].type)
    except ValueError as error:
        problem = f"{where}: {KEYS[name].wrong_type(value, error)}"
        if problem not in problems:
            problems.append(problem)
        return value


def _find_base(file: Path, base: str, problems: list[str]) -> Path | None:
    """The base recipe's file: beside the sweep file, or packaged with knowcap."""
    packaged = packaged_recipes()
    if not base:
        return None
    beside = file.parent / base
    with suppress(OSError):  # a name that no file system has
        if beside.is_file() and not beside.samefile(file):
            return beside
    if base.removesuffix(".yaml") in packaged:
        return packaged[base.removesuffix(".yaml")]
    names = ", ".join(packaged) or "none"
    problems.append(
        f"base: {base!r} is neither a file beside {file} nor one of the packaged recipes ({names})"
        f"{nearest(base, packaged)}"
    )
    return None


def _cells(
    base: Path,
    name: str,
    content: _Content,
    overrides: Sequence[dict[str, Any]],
    output_dir: str | Path | None,
    problems: list[str],
) -> tuple[Path, tuple[Cell, ...]]:
    """The sweep's folder and cells. The base is read once for all cells that change the same keys."""
    read: dict[tuple[str, ...], Recipe] = {}
    folder, cells = None, []
    for changed in overrides:
        keys = tuple(changed)
        if keys not in read:
            read[keys], wrong, _ = read_recipe(base, changed)
            problems += [f"base: {problem}" for problem in wrong if f"base: {problem}" not in problems]
        if folder is None:
            folder = Path(output_dir or read[keys].output_dir) / SWEEPS / name
        called = cell_name(changed, content.grid, len(content.items) == 1)
        recipe = replace(read[keys], **(changed | {"run_name": called, "output_dir": str(folder)}))
        cells.append(Cell(called, changed, recipe))
    return folder or Path(output_dir or "runs") / SWEEPS / name, tuple(cells)


def _name_problems(cells: Sequence[Cell]) -> list[str]:
    problems = []
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            problems.append(f"{count} cells are named {name!r}; remove all but one, or give them a run_name in list")
    for name in (cell.name for cell in cells if len(cell.name) > _LONGEST_NAME):
        problem = f"a cell's name has {len(name)} characters, expected at most {_LONGEST_NAME}: {name[:80]}…"
        return [*problems, f"{problem}; give items of list a run_name, which replaces their other keys"]
    return problems


def _check_best_of(content: _Content, overrides: Sequence[Mapping[str, Any]], problems: list[str]) -> None:
    key = content.best_of
    if key is None or all(key in changed for changed in overrides):
        return
    varied = dict.fromkeys(name for changed in overrides for name in changed)
    hint = nearest(key, varied) or "; give it values in grid, or remove best_of"
    problems.append(f"best_of: {key!r} is not a key that every cell changes ({', '.join(varied)}){hint}")
