"""The columns of a table that a law needs: as numbers in plain units, computed from others, without gaps."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from knowcap.laws.columns import LEAST, MOST, Unit, numbers
from knowcap.laws.law import LawError
from knowcap.laws.table import LABELS, MEANINGS, Table, some


# How far a training is, best first.
PROGRESS = ("step", "num_tokens", "flops", "exposures")


# What a column can be computed from, best first.
SOURCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "num_tokens": (("step", "batch_tokens"), ("num_parameters", "flops"), ("num_parameters", "budget")),
    "flops": (("num_parameters", "num_tokens"), ("budget",), ("num_parameters", "step", "batch_tokens")),
    "step": (("num_tokens", "batch_tokens"),),
    "unique_tokens": (("num_tokens", "exposures"),),
}


@dataclass
class Taken:
    """Columns of equal length without gaps.

    Attributes:
        values: numbers by name, and `run` as text.
        rows: of the table, counted from 1, of shape (n,).
        notes: rows left out and columns computed.
        doubts: warnings about units that make numbers in them meaningless.
        reached: by progress column and run, the largest value over all rows, those left out too.
    """

    values: dict[str, np.ndarray]
    rows: np.ndarray
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    reached: dict[str, dict[str, float]] = field(default_factory=dict)

    def only(self, kept: np.ndarray) -> Taken:
        """The rows that `kept` (booleans or indices) selects."""
        return replace(self, values={k: v[kept] for k, v in self.values.items()}, rows=self.rows[kept])

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]


def take(
    table: Mapping[str, Sequence[Any]],
    law: str,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    below_zero: str = "",
) -> Taken:
    """The columns that a law needs, computed from others if missing, without rows that lack a number.

    Args:
        table: columns by name.
        law: for messages.
        needed, optional: names of columns.
        below_zero: a column where zero or less only leaves a row out.

    Raises:
        LawError: columns missing, no rows left, or values of zero or less; all problems at once.
    """
    read, problems = [], []
    for name in needed:
        source = _source(name, table)
        if source is None:
            problems.append(_missing(name, table))
        else:
            read += [n for n in source if n not in read]
    if problems:
        found = ", ".join(table) or "none"
        hint = "map a column of another name by --columns, such as --columns loss=eval_loss"
        raise LawError(f"{law}: missing {'; '.join(problems)}. Found: {found}. {hint[0].upper() + hint[1:]}")
    lengths = {name: len(table[name]) for name in read}
    if len(set(lengths.values())) > 1:
        raise LawError(f"{law}: columns of unequal length: {lengths}")
    extra = [n for n in optional if n in table and n not in read and len(table[n]) == lengths[read[0]]]
    return _clean(table, law, read, extra, needed, below_zero)


def _clean(
    table: Mapping[str, Sequence[Any]],
    law: str,
    read: list[str],
    extra: list[str],
    needed: Sequence[str],
    below_zero: str,
) -> Taken:
    taken = _read(table, law, read, extra)
    gap = _gaps(taken, table, read)
    _drop_unusable(taken, extra, gap)
    if below_zero:
        with np.errstate(invalid="ignore"):
            under = ~gap & (taken[below_zero] <= 0)
        if under.any():
            text = f"{below_zero} is zero or less in {int(under.sum())} of {len(gap)} rows; left out"
            taken.warnings.append(text)
        gap |= under
    taken = taken.only(~gap)
    problems = []
    for name in (n for n in read if n not in LABELS):
        column = taken[name]
        if (bad := column <= 0).any():
            got = some(f"{v:g}" for v in column[bad])
            text = f"{name} ({MEANINGS[name]}) must be above zero: got {got} in rows {some(taken.rows[bad])}"
            problems.append(f"{law}: {text}; correct or remove them")
    if problems:
        raise LawError(problems)
    if not len(taken.rows):
        raise LawError(f"{law}: no row has numbers in all of {', '.join(read)}: " + "; ".join(taken.warnings))
    _fill_in(taken, needed)
    return taken


def _read(table: Mapping[str, Sequence[Any]], law: str, read: list[str], extra: list[str]) -> Taken:
    """The columns as numbers in plain units."""
    found = table if isinstance(table, Table) else Table(table)
    signs = found.decimals
    if problems := [f"{law}: column {name} {text}" for name, text in signs.problems.items() if name in read]:
        raise LawError(problems)
    taken = Taken({}, np.arange(1, len(found[read[0]]) + 1), list(found.notes))
    for name in read + extra:
        if name in LABELS:
            taken.values[name] = _labels(found[name], name)
            continue
        if name in signs.problems:
            taken.notes.append(f"column {name} {signs.problems[name]}; not used")
            continue
        values = numbers(found[name], signs.signs.get(name))
        if name in signs.notes:
            taken.notes.append(signs.notes[name])
        taken.values[name] = _in_plain_units(taken, name, values, found.units.get(name))
    if "run" in taken:
        for name in (n for n in PROGRESS if n in taken):
            taken.reached[name] = _most(taken["run"], taken[name])
    return taken


def _in_plain_units(taken: Taken, name: str, values: np.ndarray, unit: Unit | None) -> np.ndarray:
    """Values in the unit of their header, unless they are no such thing."""
    if unit is None or not np.isfinite(values).any():
        return values
    plain, most, high = unit.plain(values), float(np.nanmax(values)), MOST.get(name, np.inf)
    there = plain[np.isfinite(values)]
    if LEAST.get(name, 0.0) <= most <= high and not (there <= high).all():  # NaN is not
        text = f"the header of {name} says {unit.text}, but its numbers are up to {most:g}: taken as they are"
        taken.warnings.append(text)
        taken.doubts.append(text)
        return values
    taken.notes.append(f"{name} is read {unit.text}, as its header says")
    return plain


def _most(runs: np.ndarray, column: np.ndarray) -> dict[str, float]:
    """The largest number of each run."""
    names, member = np.unique(runs, return_inverse=True)
    most = np.zeros(len(names))
    np.maximum.at(most, member, np.where(np.isfinite(column), column, 0.0))
    return dict(zip(names.tolist(), most.tolist(), strict=True))


def _gaps(taken: Taken, table: Mapping[str, Sequence[Any]], read: Sequence[str]) -> np.ndarray:
    """The rows that lack a number in a column that is needed, or are from before the training; booleans of (n,)."""
    rows = taken.rows
    gap = np.zeros(len(rows), dtype=bool)
    for name in (n for n in read if n not in LABELS):
        lacking = ~np.isfinite(taken[name])
        gap |= lacking
        if lacking.any():
            text = f"no number in {name}: rows {some(rows[lacking])} of {len(rows)}"
            words = sorted({str(table[name][i - 1]) for i in rows[lacking]} - {"nan", "None", ""})
            taken.warnings.append(f"{text}{f' ({some(words)})' if words else ''}; left out")
    known = np.stack([np.zeros(len(rows)) * np.nan, *(taken[name] for name in PROGRESS if name in taken)])
    before = (known == 0).any(0) & ~((known != 0) & np.isfinite(known)).any(0) & ~gap
    if not (before | gap).all():
        for name in (n for n in PROGRESS if n in read):
            before = before | (~gap & (taken[name] == 0))
        if before.any():
            taken.notes.append(f"{int(before.sum())} of {len(rows)} rows are from before the first step; left out")
        gap |= before
    return gap


def _drop_unusable(taken: Taken, extra: Sequence[str], gap: np.ndarray) -> None:
    """Removes columns that a law can do without, if they have gaps, or numbers of zero or less but for a step."""
    for name in (n for n in extra if n not in LABELS and n in taken):
        column = taken[name][~gap]
        if not np.isfinite(column).all():
            taken.notes.append(f"column {name} has gaps and is not used")
        elif (column < 0).any() or (name != "step" and (column == 0).any()):
            taken.notes.append(f"column {name} has numbers of zero or less and is not used")
        else:
            continue
        del taken.values[name]


def _fill_in(taken: Taken, needed: Sequence[str]) -> None:
    """Computes missing columns from others."""
    v = taken.values
    for name in (*needed, "step", "num_tokens", "flops"):
        if name in v or name not in SOURCES:
            continue
        if name == "step" and "num_tokens" in v and "batch_tokens" in v:
            v[name], how = v["num_tokens"] / v["batch_tokens"], "num_tokens / batch_tokens"
        elif name == "num_tokens" and "step" in v and "batch_tokens" in v:
            v[name], how = v["step"] * v["batch_tokens"], "step x batch_tokens"
        elif name == "num_tokens" and "num_parameters" in v and ("flops" in v or "budget" in v):
            flops = "flops" if "flops" in v else "budget"
            v[name], how = v[flops] / (6 * v["num_parameters"]), f"{flops} / (6 num_parameters)"
        elif name == "unique_tokens" and "num_tokens" in v and "exposures" in v:
            v[name], how = v["num_tokens"] / v["exposures"], "num_tokens / exposures"
        elif name == "flops" and "num_parameters" in v and "num_tokens" in v:
            v[name], how = 6 * v["num_parameters"] * v["num_tokens"], "6 num_parameters num_tokens"
        elif name == "flops" and "budget" in v:
            v[name], how = v["budget"], "budget"
        elif name == "flops" and {"num_parameters", "step", "batch_tokens"} <= set(v):
            v[name], how = (
                6 * v["num_parameters"] * v["step"] * v["batch_tokens"],
                "6 num_parameters step batch_tokens",
            )
        else:
            continue
        if name in needed and not (name == "flops" and "budget" in v):
            taken.notes.append(f"no column {name}: computed as {how}")


def _source(name: str, table: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The columns that give a column; None if they are not there."""
    if name in table:
        return (name,)
    return next((source for source in SOURCES.get(name, ()) if all(n in table for n in source)), None)


def _missing(name: str, table: Mapping[str, Any]) -> str:
    others = " or ".join(" with ".join(source) for source in SOURCES.get(name, ()))
    near = (
        difflib.get_close_matches(name, table, 1, 0.7) or [n for n in table if name in n.lower().replace(" ", "_")][:1]
    )
    hint = f"; is it {near[0]!r}?" if near else ""
    return f"column {name} ({MEANINGS[name]}{f'; or {others}' if others else ''}{hint})"


def _labels(column: Sequence[Any], name: str) -> np.ndarray:
    """Text; a row without a name is a run of its own."""
    labels = [str(value) for value in column]
    if name == "run":
        labels = [f"row {i}" if label.strip() in ("", "None", "nan") else label for i, label in enumerate(labels, 1)]
    return np.array(labels)
