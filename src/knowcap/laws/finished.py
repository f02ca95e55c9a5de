"""Which rows of a table are finished runs, where rows are points of training curves."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from knowcap.laws.runs import PROGRESS, Taken
from knowcap.laws.table import Table, some


# Headers that name single trainings; `model` and `name` may name a size.
_RUN_NAMES = ("runid", "runname", "runuuid", "wandbid", "wandbrun", "wandbrunid", "trainingrun", "trial", "trialid")
_RUN_NAMES += ("jobid", "experimentid", "curve", "curveid")
_MANY, _SOME = 20, 8  # rows of one size that make a curve: whatever their spacing, and if evenly spaced
_EVEN = 0.05  # of the median spacing
_REACHED = 0.9  # of a run's own most: a point at less than that is none of a finished run


def name_runs(table: Table) -> Table:
    """The table with a column that names its runs, such as run_id, as `run`, if it has one and no `run`."""
    if "run" in table:
        return table
    same = [name for name in table if re.sub(r"[\s_-]", "", name.lower()) in _RUN_NAMES]
    if len(same) != 1 or len(set(map(str, table[same[0]]))) == len(table[same[0]]):
        return table
    notes = [*table.notes, f"column {same[0]!r} is read as run"]
    return Table(table | {"run": table[same[0]]}, table.decimals, table.units, notes)


def find_curves(taken: Taken) -> None:
    """Adds `run` where rows without one are points of training curves.

    Rows of one size whose tokens (steps, FLOPs) all differ, in the table or from row to row, are one curve if there
    are 20 of them, or 8 that are evenly spaced; finished runs of one size are fewer, at budgets of equal ratios.
    """
    if "run" in taken or "num_parameters" not in taken:
        return
    size = _alike(taken)
    column = _progress(taken, size, ("num_tokens", "flops", "step", "exposures"))
    if column is None:
        return
    member, curves = _sequences(size, taken[column])
    if not curves:
        return
    taken.values["run"] = np.array([f"rows {m}" for m in member])
    taken.warnings.append(
        f"no column run, but rows of one size and rising {column} look like training curves: they are taken as "
        f"{member.max() + 1} runs; if each row is a finished run, add a column run with another name in each row"
    )


def _alike(taken: Taken) -> np.ndarray:
    """Which rows are of one size, number of different tokens and batch, as far as these are known; of shape (n,)."""
    columns = [taken[name] for name in ("num_parameters", "unique_tokens", "batch_tokens") if name in taken]
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)


def _sequences(size: np.ndarray, progress: np.ndarray) -> tuple[np.ndarray, bool]:
    """The sequence that each row belongs to, of shape (n,), and whether most of them are curves."""
    _, member = np.unique(size, return_inverse=True)
    distinct = len(np.unique(np.stack([member, progress]), axis=1)[0]) == len(size)
    if not distinct:
        member = np.cumsum(np.concatenate([[0], (np.diff(size) != 0) | (np.diff(progress) <= 0)]))
    curves = 0
    for rows in _groups(member):
        steps = np.diff(np.sort(progress[rows]))
        even = len(rows) >= _SOME and bool(np.mean(np.abs(steps / np.median(steps) - 1) < _EVEN) > 0.8)
        curves += len(rows) * (even or len(rows) >= _MANY)
    return member, curves > len(size) / 2


def _groups(member: np.ndarray) -> Iterable[np.ndarray]:
    order = np.argsort(member, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(member[order])) + 1)


def last_rows(taken: Taken) -> Taken:
    """The last row of each run, by its step, tokens, FLOPs or exposures.

    Rows of equal progress are no curve, and all of them are kept. A run whose last rows had no number, so that its
    last one here is far from its end, is left out.
    """
    if "run" not in taken:
        return taken
    names, member = np.unique(taken["run"], return_inverse=True)
    if len(names) == len(member):
        return taken
    column = _progress(taken, member)
    if column is None:
        return _without_progress(taken, member)
    if "num_parameters" in taken and any(np.ptp(taken["num_parameters"][rows]) > 0 for rows in _groups(member)):
        _, curves = _sequences(_alike(taken), taken[column])
        if not curves:
            taken.notes.append("run has several sizes under one name, so every row counts as a run")
            return taken
        _, member = np.unique(np.stack([member, taken["num_parameters"]]), axis=1, return_inverse=True)
        member = member.reshape(-1)
    most = np.zeros(member.max() + 1)
    np.maximum.at(most, member, taken[column])
    last = taken[column] >= most[member] * (1 - 1e-9)
    if last.all():
        return taken
    taken.notes.append(
        f"rows are training curves: the last of each of {len(most)} runs by {column} is a point, {len(member)} rows "
        "in all"
    )
    return _without_unfinished(taken.only(last), column)


def _without_progress(taken: Taken, member: np.ndarray) -> Taken:
    """The rows of runs that have several rows but nothing that says how far each is."""
    if any(name in taken for name in PROGRESS) or len(member) < _SOME * (member.max() + 1):
        taken.notes.append("run has several rows of equal progress under one name: every row is a point")
        return taken
    last = np.array([rows.max() for rows in _groups(member)])
    taken.warnings.append(
        f"{len(member)} rows of {len(last)} runs have no step, tokens or FLOPs to order them: each run's last row in "
        "the table is its point; add a column step"
    )
    return taken.only(np.sort(last))


def _without_unfinished(taken: Taken, column: str) -> Taken:
    reached = taken.reached.get(column, {})
    ends = np.array([reached.get(run, 0.0) for run in taken["run"]])
    short = taken[column] < _REACHED * ends
    if short.any():
        taken.warnings.append(
            f"runs {some(taken['run'][short])} have no number in their last rows, so their points are not of "
            "finished runs; left out"
        )
    return taken.only(~short)


def _progress(taken: Taken, member: np.ndarray, names: tuple[str, ...] = PROGRESS) -> str | None:
    """The first column of progress that differs within a group."""
    groups = list(_groups(member))
    for name in (n for n in names if n in taken):
        if any(np.ptp(taken[name][rows]) > 0 for rows in groups):
            return name
    return None
