"""Which of a sweep's cells win: the best over one key, among cells that are alike in everything else they change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from knowcap.sweep.cells import Cell, Sweep


def contests(sweep: Sweep) -> list[list[Cell]]:
    """Cells that differ in the sweep's `best_of` alone, together; without one, every cell by itself."""
    found: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        rest = {key: value for key, value in cell.overrides.items() if key not in (sweep.best_of, "run_name")}
        key = cell.name if sweep.best_of is None else json.dumps(rest, sort_keys=True, default=str)
        found.setdefault(key, []).append(cell)
    return list(found.values())


def choose(sweep: Sweep, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    """Whether each cell won, by its name: it holds the most bits per parameter of its contest.

    None, not known yet, while a cell of the contest is not finished. Of equal ones the first wins.

    Args:
        sweep: the sweep.
        rows: the results of finished cells by name.
    """
    won: dict[str, bool | None] = {}
    for cells in contests(sweep):
        names = [cell.name for cell in cells]
        done = all(name in rows for name in names)
        best = max(names, key=lambda name: rows[name]["bits_per_parameter"]) if done else None
        won |= {name: name == best if done else None for name in names}
    return won


def tell_winners(sweep: Sweep, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line a contest: what won, by how many bits per parameter, and what the others reached."""
    by_name = {row["run"]: row for row in rows}
    lines = []
    for cells in contests(sweep) if sweep.best_of is not None else ():
        done = [cell for cell in cells if cell.name in by_name]
        ranked = sorted(done, key=lambda cell: -by_name[cell.name]["bits_per_parameter"])
        told = [_told(cell, sweep.best_of, by_name[cell.name]["bits_per_parameter"]) for cell in ranked]
        missing = f"; {len(cells) - len(done)} of {len(cells)} not finished" if len(done) < len(cells) else ""
        if told:
            alike = _alike(cells[0], sweep.best_of)
            others = f", before {', '.join(told[1:])}" if told[1:] else ""
            verb = "leads with" if missing else "best with"
            lines.append(f"{alike}: {verb} {told[0]}{others}{missing}")
    return lines


def _told(cell: Cell, key: str, bits: float) -> str:
    return f"{key} {cell.overrides[key]} ({bits:.3f})"


def _alike(cell: Cell, key: str) -> str:
    """What the cells of a contest have in common."""
    rest = [f"{k} {value}" for k, value in cell.overrides.items() if k not in (key, "run_name")]
    return ", ".join(rest) or "all cells"
