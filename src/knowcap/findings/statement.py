"""Statements of a finding: which cells, which statistic of which column, and its limits; read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from knowcap.findings.selection import FIRST_SEED, RUN_NAME, SWEEP, Group, Selection, differing, selected, value_of
from knowcap.findings.statistic import LEAST_SEEDS, STATISTICS
from knowcap.recipe import KEYS, nearest
from knowcap.recipe_file import convert, locate_model, parse_number
from knowcap.sweep import Sweep
from knowcap.sweep.table import SCHEMA


OVERS = ("mean", "best", "worst")
PREFIXES = ("capacity.", "extraction.")  # of columns that are paths into a cell's JSON files
COLUMNS = tuple(f.name for f in SCHEMA if pa.types.is_integer(f.type) or pa.types.is_floating(f.type))
_TWO_SIDED = ("ratio", "difference")
_PARTS = ("says", "statistic", "of", "to", "column", "over", "along", "at_least", "at_most")


@dataclass(frozen=True)
class Statement:
    """A checkable statement about the cells of a finding.

    Attributes:
        says: it in words.
        statistic: of `STATISTICS`.
        columns: one, or two whose quotient it is about.
        of, to: which cells; `to` of a ratio or difference.
        over: how several cells of one seed become one number: of `OVERS`; None: there is one.
        along: the recipe key of a slope.
        at_least, at_most: the limits; None: there is none on that side.
    """

    says: str
    statistic: str
    columns: tuple[str, ...]
    of: Selection
    to: Selection | None
    over: str | None
    along: str | None
    at_least: float | None
    at_most: float | None

    @property
    def limits(self) -> str:
        """Such as `0.33 to 0.67` or `at most 1.1`."""
        if self.at_least is None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_most is None else f"{self.at_least:g} to {self.at_most:g}"

    def sides(self, sweeps: Iterable[Sweep]) -> list[list[Group]]:
        """The groups of cells of each side."""
        return [selected(sweeps, side) for side in (self.of, self.to) if side is not None]


def read_statement(
    raw: Mapping[str, Any], where: str, sweeps: Sequence[Sweep], problems: list[str]
) -> Statement | None:
    """A statement; problems are added, also those of its selections."""
    before = len(problems)
    problems += unknown_keys(raw, _PARTS, where)
    says, statistic = text_of(raw, "says", where, problems), str(raw.get("statistic"))
    if statistic not in STATISTICS:
        expected = f"{', '.join(STATISTICS)}{nearest(statistic, STATISTICS)}"
        problems.append(f"{where}: statistic: got {raw.get('statistic')!r}, expected {expected}")
    problems += _misplaced(raw, statistic, where)
    columns = tuple(part.strip() for part in str(raw.get("column", "bits_per_parameter")).split(" / "))
    problems += [f"{where}: column: {p}" for p in _column_problems(columns)]
    limits = {name: _limit(raw, name, where, problems) for name in ("at_least", "at_most")}
    least, most = limits["at_least"], limits["at_most"]
    if least is not None and most is not None and least >= most:
        problems.append(f"{where}: at_least {least:g} is not below at_most {most:g}, so nothing holds")
    over, along = raw.get("over"), raw.get("along")
    if over is not None and over not in OVERS:
        problems.append(f"{where}: over: got {over!r}, expected {' or '.join(OVERS)}")
    of = _selection(raw.get("of", {}), f"{where}: of", sweeps, problems)
    to = _selection(raw["to"], f"{where}: to", sweeps, problems) if "to" in raw else None
    if len(problems) > before or of is None or not sweeps:
        return None
    statement = Statement(says, statistic, columns, of, to, over, along, least, most)
    problems += [f"{where}: {problem}" for problem in _cell_problems(statement, sweeps)]
    return statement


def _misplaced(raw: Mapping[str, Any], statistic: str, where: str) -> list[str]:
    """Keys that a statistic needs, or has no use for."""
    found = []
    if statistic in _TWO_SIDED and "to" not in raw:
        found.append(f"{where}: {statistic} needs `to`: the cells that those of `of` are compared with")
    if statistic not in _TWO_SIDED and "to" in raw:
        found.append(f"{where}: to has no effect on {statistic}; remove it")
    if statistic == "slope" and raw.get("along") not in KEYS:
        found.append(f"{where}: slope needs `along`: the recipe key along which it is, such as `along: exposures`")
    if statistic != "slope" and "along" in raw:
        found.append(f"{where}: along has no effect on {statistic}; remove it")
    if statistic in ("spread", "slope") and "over" in raw:
        found.append(f"{where}: over has no effect on {statistic}, which uses all cells; remove it")
    if "at_least" not in raw and "at_most" not in raw:
        found.append(f"{where}: at_least and at_most are missing, so nothing could fail; give one or both")
    return found


def _column_problems(columns: Sequence[str]) -> list[str]:
    if len(columns) > 2:
        return [f"got {' / '.join(columns)!r}, expected one column or a quotient of two"]
    unknown = [name for name in columns if name not in COLUMNS and not name.startswith(PREFIXES)]
    return [
        f"there is no {name!r}{nearest(name, COLUMNS)}; expected {', '.join(COLUMNS)}, or a path into a cell's JSON "
        "such as capacity.attributes.name.accuracy or extraction.extractable_accuracy"
        for name in unknown
    ]


def _cell_problems(statement: Statement, sweeps: Sequence[Sweep]) -> list[str]:
    """What a statement cannot be computed from: several cells of a seed or too few, too few seeds."""
    problems = []
    sides = statement.sides(sweeps)
    several = statement.statistic in ("spread", "slope")
    for name, groups in zip(("of", "to"), sides, strict=False):
        if not groups:
            problems.append(f"{name}: no cell has these values together")
        elif several and len(groups) < 2:
            problems.append(f"{name}: {statement.statistic} needs cells that differ in more than their seed")
        elif not several and len(groups) > 1 and statement.over is None:
            varied = "; ".join(f"{key} {', '.join(values)}" for key, values in differing(groups).items())
            problems.append(
                f"{name}: {len(groups)} cells have one seed ({varied}); select one, or give `over` (mean, best, worst)"
            )
    if statement.over is not None and sides and all(len(groups) == 1 for groups in sides):
        problems.append("over has no effect, since one cell has each seed; remove it")
    if statement.along is not None and len({getattr(g.recipe, statement.along) for g in sides[0]}) < 2:
        problems.append(f"along: {statement.along} does not differ among these cells")
    for bits in (8, 4):
        if any(name.startswith(f"int{bits}_") for name in statement.columns) and any(
            bits not in group.recipe.quantize_bits for groups in sides for group in groups
        ):
            problems.append(f"column: some cells have no int{bits} copy; give them `quantize_bits: [8, 4]`")
    if not problems:
        seeds = sorted(frozenset.intersection(*(group.seeds for groups in sides for group in groups)))
        if len(seeds) < LEAST_SEEDS:
            shown = ", ".join(map(str, seeds)) or "none"
            problems.append(
                f"its cells have {len(seeds)} seeds from {FIRST_SEED} in common ({shown}), expected {LEAST_SEEDS} or "
                "more; give all of them the same seeds"
            )
    return problems


def _selection(raw: Any, where: str, sweeps: Sequence[Sweep], problems: list[str]) -> Selection | None:
    """The values by key, converted; a key that all cells have alike selects nothing and is a problem."""
    raw = raw or {}
    if not isinstance(raw, dict):
        problems.append(f"{where}: got {raw!r}, expected recipe keys with values, such as {{exposures: 100}}")
        return None
    found: dict[str, tuple[Any, ...]] = {}
    for key, given in raw.items():
        if key == "seed":
            problems.append(f"{where}: seed: a statement is about all seeds from {FIRST_SEED}; remove it")
        elif key not in (SWEEP, *KEYS):
            problems.append(f"{where}: {key!r} is no recipe key{nearest(key, (SWEEP, *KEYS))}")
        elif (values := _converted(key, given, where, sweeps, problems)) is not None:
            found[key] = values
    there = {key: _values_there(key, sweeps) for key in found}
    for key, values in found.items():
        shown = ", ".join(map(str, there[key])) or "none"
        missing = [value for value in values if value not in there[key]]
        if missing and sweeps:
            problems.append(f"{where}: no cell has {key} {', '.join(map(str, missing))}; the cells have {shown}")
        elif len(there[key]) == 1:
            problems.append(f"{where}: {key} is {shown} in all cells; leave it out")
    return found


def _values_there(key: str, sweeps: Sequence[Sweep]) -> list[Any]:
    found: list[Any] = []
    for sweep in sweeps:
        for cell in sweep.cells:
            value = value_of(sweep, cell, key)
            if value not in found:
                found.append(value)
    return found


def _converted(
    key: str, given: Any, where: str, sweeps: Sequence[Sweep], problems: list[str]
) -> tuple[Any, ...] | None:
    """The values of one key of a selection, with the key's type."""
    if key in (SWEEP, RUN_NAME):
        return tuple(given) if isinstance(given, list) else (given,)
    kind = KEYS[key].type
    listed = isinstance(given, list) and not str(kind).startswith("tuple")
    values = []
    for value in given if listed else [given]:
        try:
            values.append(convert(value, kind))
        except ValueError as error:
            problems.append(f"{where}: {KEYS[key].wrong_type(value, error)}")
            return None
    if key == "model_name":
        folder = sweeps[0].file.parent if sweeps else Path()
        values = [locate_model(value, folder) for value in values]
    return tuple(values)


def unknown_keys(raw: Mapping[str, Any], parts: Sequence[str], where: str) -> list[str]:
    """A problem for each key that is none of `parts`."""
    expected = f"; expected {', '.join(parts)}"
    return [f"{where}: unknown key {name!r}{nearest(name, parts) or expected}" for name in raw if name not in parts]


def text_of(raw: Mapping[str, Any], name: str, where: str, problems: list[str]) -> str:
    """A text in one line; "" with one more problem where it is missing or empty."""
    if not isinstance(raw.get(name), str) or not raw[name].strip():
        problems.append(f"{where}: {name} is missing or empty; expected a text")
        return ""
    return " ".join(raw[name].split())


def _limit(raw: Mapping[str, Any], name: str, where: str, problems: list[str]) -> float | None:
    if name not in raw:
        return None
    value = parse_number(str(raw[name]))
    if value is None:
        problems.append(f"{where}: {name}: got {raw[name]!r}, expected a number")
        return None
    return float(value)
