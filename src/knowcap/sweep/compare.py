"""Comparing the cells of a sweep with each other where they are of equal size: of as many parameters, or FLOP.

Cells are compared that are equal in the task (people, texts, and exposures unless FLOP are compared) and differ in
what shapes training: architecture, optimizer, batch. Of a `best_of` the best run is taken first, for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from knowcap.capacity.seeds import t_half_width
from knowcap.recipe import KEYS
from knowcap.report.table import Table, number
from knowcap.sweep.cells import Cell, Sweep, value_name, varied_keys


_LEVEL = 0.95
_SHOWN = ("model_name", "optimizer", "lr_scheduler_type", "exposures")  # first, wherever they vary
Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Entry:
    """What is compared: the cells that differ only in their seed, and in the value of `best_of`.

    Attributes:
        setting, compared: keys that vary in the sweep, with the values of these cells.
        cells: the cells.
        size: their parameters or FLOP, a mean over cells.
    """

    setting: Values
    compared: Values
    cells: tuple[Cell, ...]
    size: float


def entries(sweep: Sweep, sizes: Mapping[str, float]) -> list[Entry]:
    """The entries of a sweep, in its order; those without a cell in `sizes` (by its name) are left out."""
    compared, setting = _keys(sweep)
    found: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        found.setdefault(repr([_values(cell, keys) for keys in (setting, compared)]), []).append(cell)
    made = []
    for cells in found.values():
        known = [sizes[cell.name] for cell in cells if cell.name in sizes]
        if known:
            made.append(Entry(_values(cells[0], setting), _values(cells[0], compared), tuple(cells), fmean(known)))
    return made


def _values(cell: Cell, keys: Sequence[str]) -> Values:
    return tuple((key, getattr(cell.recipe, key)) for key in keys)


def _keys(sweep: Sweep) -> tuple[list[str], list[str]]:
    """The keys whose values are compared, and those that must be equal; neither those of what follows training."""
    later = ("quantization", "extraction", "run", "draws")
    varied = [key for key in varied_keys(sweep) if key != sweep.best_of and KEYS[key].shapes not in later]
    traded = ("exposures",) if sweep.compare == "flops" else ()  # fewer exposures pay for more parameters
    compared = [key for key in varied if KEYS[key].shapes == "training" or key in traded]
    return sorted(compared, key=lambda key: key not in _SHOWN), [key for key in varied if key not in compared]


def _shown_keys(sweep: Sweep) -> list[str]:
    """The compared keys without those that follow from others in every cell, such as a setting of one model."""
    kept, _ = _keys(sweep)
    for key in reversed(kept):
        rest = [other for other in kept if other != key]
        if key not in _SHOWN and len(_kinds(sweep, rest)) == len(_kinds(sweep, kept)):
            kept = rest
    return kept


def _kinds(sweep: Sweep, keys: Sequence[str]) -> set[str]:
    return {repr(_values(cell, keys)) for cell in sweep.cells}


def contests(sweep: Sweep, found: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of one setting whose sizes are all equal within the tolerance; an entry that has no equal is alone."""
    settings: dict[str, list[Entry]] = {}
    for entry in found:
        settings.setdefault(repr(entry.setting), []).append(entry)
    return [group for same in settings.values() for group in _alike(same, sweep.tolerance)]


def _alike(same: Sequence[Entry], tolerance: float) -> list[list[Entry]]:
    """Splits at the largest gap between sizes until each part is within the tolerance."""
    ordered = sorted(same, key=lambda entry: entry.size)
    if ordered[-1].size <= ordered[0].size * (1 + tolerance):
        return [ordered]
    gaps = [b.size / a.size for a, b in zip(ordered, ordered[1:], strict=False)]
    cut = gaps.index(max(gaps)) + 1
    return [*_alike(ordered[:cut], tolerance), *_alike(ordered[cut:], tolerance)]


def comparison_tables(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each contest, the best entry first, and a line about those that have no equal; [] unless asked.

    Args:
        sweep: with `compare`.
        rows: of finished cells, with `won`.
    """
    if sweep.compare is None:
        return []
    by_name = {row["run"]: row for row in rows if row["won"]}
    found = entries(sweep, {name: row[sweep.compare] for name, row in by_name.items()})
    groups = contests(sweep, found)
    tables = [_table(sweep, group, by_name) for group in groups if len(group) > 1]
    alone = [_alone(sweep, group[0], found) for group in groups if len(group) == 1]
    if alone:
        title = f"Not comparable: no other cell of equal {sweep.compare} (within {100 * sweep.tolerance:g} %)"
        head = (_named(_shown_keys(sweep)), sweep.compare, "the nearest")
        tables.append(Table(title, [head, *alone], left=(0, 2)))
    finished = sum(row["won"] is not None for row in rows)
    if tables and (waiting := len(sweep.cells) - finished):
        note = f" {waiting:,} of {len(sweep.cells):,} cells are not finished, or not all of their `best_of`."
        tables[-1] = replace(tables[-1], note=f"{tables[-1].note}{note}".strip())
    return tables


def _table(sweep: Sweep, group: Sequence[Entry], by_name: Mapping[str, Mapping[str, Any]]) -> Table:
    bits = [
        {c.recipe.seed: by_name[c.name]["bits_per_parameter"] for c in entry.cells if c.name in by_name}
        for entry in group
    ]
    order = sorted(range(len(group)), key=lambda i: -fmean(bits[i].values()))
    keys = [key for key in _shown_keys(sweep) if len({repr(dict(entry.compared)[key]) for entry in group}) > 1]
    chosen = () if sweep.best_of is None else (sweep.best_of,)
    lines = []
    for i in order:
        entry = group[i]
        won = [c for c in entry.cells if c.name in by_name]
        picked = [", ".join(dict.fromkeys(f"{getattr(c.recipe, key)}" for c in won)) for key in chosen]
        size = number(entry.size, _form(sweep))
        seeds = "one seed" if len(bits[i]) == 1 else f"{len(bits[i])} seeds"
        gap = "best" if i == order[0] else difference(bits[order[0]], bits[i])
        lines.append((_label(entry, keys), *picked, size, number(fmean(bits[i].values())), seeds, gap))
    head = (_named(keys), *chosen, sweep.compare or "", "bits/param", "", "best minus this")
    here = ", ".join(_pair(key, value) for key, value in group[0].setting)
    title = f"Compared at equal {sweep.compare} (within {100 * sweep.tolerance:g} %){f': {here}' if here else ''}"
    left = (0, *(1 for _ in chosen), len(head) - 2, len(head) - 1)
    return Table(title, [head, *lines], left, f"± half the {100 * _LEVEL:g} % t interval, paired over seeds.")


def difference(best: Mapping[int, float], other: Mapping[int, float]) -> str:
    """The mean of best minus other over the seeds of both, with the t interval's half width; such as
    `+0.062 ± 0.020`, `+0.004 ± 0.020, not distinguished` or `+0.062, one seed`."""
    pairs = [best[seed] - other[seed] for seed in best if seed in other]
    if not pairs:
        return f"{fmean(best.values()) - fmean(other.values()):+.3f}, no seed in common"
    mean = fmean(pairs)
    if len(pairs) == 1:
        return f"{mean:+.3f}, one seed"
    half = t_half_width(pairs, _LEVEL)
    return f"{mean:+.3f} ± {half:.3f}{'' if abs(mean) > half else ', not distinguished'}"


def _alone(sweep: Sweep, entry: Entry, found: Sequence[Entry]) -> tuple[str, str, str]:
    """An entry without an equal: its name, its size, and the nearest entry of its setting."""
    keys = _shown_keys(sweep)
    others = [other for other in found if other.setting == entry.setting and other is not entry]
    nearest = min(others, key=lambda other: abs(math.log(other.size / entry.size)), default=None)
    if nearest is None:
        text = "none in this setting"
    else:
        text = f"{_label(nearest, keys)}, {100 * (nearest.size / entry.size - 1):+.0f} %"
    here = ", ".join(_pair(key, value) for key, value in entry.setting)
    name = _label(entry, keys)
    return f"{name}, {here}" if here else name, number(entry.size, _form(sweep)), text


def expected_contests(sweep: Sweep, sizes: Mapping[str, float]) -> list[str]:
    """Which cells will be compared, as lines, from the sizes of all cells before any is run; [] unless asked."""
    if sweep.compare is None:
        return []
    found = entries(sweep, sizes)
    lines = []
    for group in contests(sweep, found):
        here = ", ".join(_pair(key, value) for key, value in group[0].setting)
        names = "; ".join(_label(entry, _shown_keys(sweep)) for entry in group)
        if len(group) == 1:
            lines.append(f"not comparable: {' | '.join(_alone(sweep, group[0], found))}")
        else:
            lines.append(f"equal {sweep.compare}{f' ({here})' if here else ''}: {names}")
    return lines


def _form(sweep: Sweep) -> str:
    return ".3e" if sweep.compare == "flops" else ",.0f"


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "cells"


def _label(entry: Entry, keys: Sequence[str]) -> str:
    """The values of keys, such as `llama-2-2, optimizer muon`."""
    values = dict(entry.compared)
    return ", ".join(_pair(key, values[key]).removeprefix("model_name ") for key in keys) or "all cells"


def _pair(key: str, value: Any) -> str:
    """Such as `num_people 1,000`; a configuration's name without its folder."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{key} {f'{value:,}' if whole else value_name(key, value)}"


def architecture_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Table | None:
    """One line for each architecture: bits per parameter, training FLOP and stored bit, at each number of exposures.

    Of several cells (people, learning rates) the one with the most bits per parameter is shown, a mean over seeds.

    Returns:
        the table; None for less than two architectures and numbers of exposures.
    """
    cells = {cell.name: cell for cell in sweep.cells}
    found: dict[tuple[str, Any], dict[str, list[Mapping[str, Any]]]] = {}
    kinds: dict[str, set[str]] = {}  # several configurations may have one model_type
    for row in rows:
        kinds.setdefault(row["model_name"], set()).add(cells[row["run"]].recipe.model_name)
    for row in rows:
        rest = {k: v for k, v in cells[row["run"]].overrides.items() if k not in ("seed", "run_name")}
        name = row["model_name"]
        if len(kinds[name]) > 1:
            name = f"{name}, {value_name('model_name', cells[row['run']].recipe.model_name)}"
        groups = found.setdefault((name, row["exposures"]), {})
        groups.setdefault(str(rest), []).append(row)
    if len(found) < 2:
        return None
    best = {where: max(groups.values(), key=_mean_bits) for where, groups in found.items()}
    names = list(dict.fromkeys(name for name, _ in best))
    counts = sorted({exposures for _, exposures in best if exposures is not None})
    lines = []
    for name in names:
        sizes = sorted({row["num_parameters"] for (model, _), runs in best.items() if model == name for row in runs})
        line = [name, "; ".join(f"{size:,}" for size in sizes)]
        for exposures in counts:
            runs = best.get((name, exposures))
            line += ["", "", ""] if runs is None else _figures(runs)
        lines.append(tuple(line))
    columns = ("bits/param", "bits/FLOP", "bits/stored bit")
    head = ("architecture", "parameters", *(f"{column} @ {count:,}" for count in counts for column in columns))
    note = (
        "@: exposures. bits/FLOP: bits of knowledge per FLOP of training; bits/stored bit: of the model as trained "
        "(and quantized). Of several runs the best, a mean over seeds."
    )
    return Table("By architecture", [head, *lines], note=note)


def _mean_bits(runs: Sequence[Mapping[str, Any]]) -> float:
    return fmean(row["bits_per_parameter"] for row in runs)


def _figures(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bits per parameter, FLOP and stored bit, such as `0.026 (int8 0.104, int4 0.145)`."""
    stored = []
    for key in ("bits_per_stored_bit", "int8_bits_per_stored_bit", "int4_bits_per_stored_bit"):
        values = [row[key] for row in runs if row.get(key) is not None]
        stored.append(number(fmean(values)) if values else "")
    copies = [f"{name} {value}" for name, value in zip(("int8", "int4"), stored[1:], strict=True) if value]
    flop = fmean(row["bits_per_flop"] for row in runs)
    return [
        number(_mean_bits(runs)),
        number(flop, ".2e"),
        f"{stored[0]} ({', '.join(copies)})" if copies else stored[0],
    ]
