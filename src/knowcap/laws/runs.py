"""Tables of runs: reading CSV and Parquet files and collected results, and the columns that a law needs."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.files import read_json
from knowcap.laws.law import LawError
from knowcap.laws.quantity import parse_number


MEANINGS = {
    "num_parameters": "parameters of the model",
    "num_parameters_non_embedding": "the same without embeddings",
    "num_tokens": "training tokens",
    "flops": "training FLOPs",
    "budget": "FLOPs of an IsoFLOP profile",
    "loss": "nats per token",
    "step": "training steps",
    "batch_tokens": "tokens in a batch",
    "run": "which curve a row belongs to",
    "group": "rows that are resampled whole, such as those of one sweep",
    "seed": "training seed",
    "knowledge_bits": "bits learned",
    "max_knowledge_bits": "all bits of the data set",
    "exposures": "exposures of each fact",
    "unique_tokens": "different training tokens",
    "architecture": "kind of model, a label",
    "precision": "of the weights in use, a label such as int8",
}
CLUSTERS = ("run", "group", "seed")  # columns whose equal values may share noise
LABELS = (*CLUSTERS, "architecture", "precision")  # text
_SHOWN = 5  # rows named in a message


def read_runs(path: str | Path) -> dict[str, list[Any]]:
    """The columns of a CSV (comma, semicolon or tab; a header line) or Parquet file, or of a sweep's cells.json.

    Raises:
        LawError: no such file, no header, rows of unequal length.
    """
    path = Path(path)
    if not path.is_file():
        raise LawError(f"{path}: no such file; expected a CSV or Parquet table of runs, or a sweep's cells.json")
    if path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pydict()
        except pa.ArrowException as error:
            raise LawError(f"{path}: not a Parquet file ({error})") from error
    if path.suffix.lower() == ".json":
        return _of_cells(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LawError(f"{path}: not UTF-8 text; expected a CSV file, or a Parquet file named .parquet") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise LawError(
            f"{path}: got {len(lines)} lines, expected a header line with names of columns and a row for each run"
        )
    header = [name.strip() for name in lines[0]]
    if double := sorted({name for name in header if name and header.count(name) > 1}):
        raise LawError(f"{path}: two columns are named {', '.join(double)}; rename one")
    if uneven := [i for i, line in enumerate(lines[1:], 1) if len(line) != len(header)]:
        raise LawError(f"{path}: rows {some(uneven)} do not have {len(header)} cells")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header)}


def _of_cells(path: Path) -> dict[str, list[Any]]:
    """The columns of results that `knowcap findings --collect` wrote, and the settings of their recipes."""
    cells = read_json(path).get("cells")
    if not isinstance(cells, dict) or not all(
        isinstance(c, dict) and c.keys() >= {"row", "settings"} for c in cells.values()
    ):
        raise LawError(
            f"{path}: no results of a sweep; expected the cells.json that `knowcap findings --collect` wrote"
        )
    rows = [cell["settings"] | cell["row"] for cell in cells.values()]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def rename(table: Mapping[str, Iterable[Any]], columns: Mapping[str, str]) -> dict[str, list[Any]]:
    """The table with columns under the names that laws use: columns maps ours to the table's, as in {"loss":
    "eval_loss"}.

    Raises:
        LawError: a name that is not ours, or not in the table.
    """
    found = {str(name): list(values) for name, values in table.items()}
    problems = [
        f"--columns {ours}={theirs}: {ours} is none of {', '.join(MEANINGS)}"
        for ours, theirs in columns.items()
        if ours not in MEANINGS
    ]
    for ours, theirs in columns.items():
        if theirs not in found:
            near = difflib.get_close_matches(theirs, found, 1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            problems.append(f"--columns {ours}={theirs}: no column {theirs!r}{hint}; found: {', '.join(found)}")
    if problems:
        raise LawError(problems)
    return {name: values for name, values in found.items() if name not in columns} | {
        ours: found[theirs] for ours, theirs in columns.items()
    }


def where(table: Mapping[str, Sequence[Any]], kept: Mapping[str, str]) -> dict[str, list[Any]]:
    """The rows whose columns have these values: equal as numbers where both are, as text otherwise.

    Raises:
        LawError: no such column, or no such row.
    """
    rows = set(range(len(next(iter(table.values()), ()))))
    for name, value in kept.items():
        if name not in table:
            raise LawError(f"--where {name}={value}: no column {name!r}; found: {', '.join(table)}")
        number = parse_number(value)
        rows &= {i for i, cell in enumerate(table[name]) if str(cell) == value or parse_number(cell) == number}
        if not rows:
            found = some(sorted({str(cell) for cell in table[name]}))
            raise LawError(f"--where {name}={value}: no such row; {name} has {found}")
    return {name: [column[i] for i in sorted(rows)] for name, column in table.items()}


def some(values: Iterable[Any]) -> str:
    """The first few of them, in a row."""
    shown = [str(v) for v in values]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


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
    """

    values: dict[str, np.ndarray]
    rows: np.ndarray
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def only(self, kept: np.ndarray) -> Taken:
        """The rows that `kept` (booleans or indices) selects."""
        return Taken({k: v[kept] for k, v in self.values.items()}, self.rows[kept], self.notes, self.warnings)

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
    values = {name: _labels(table[name]) if name in LABELS else _numbers(table[name]) for name in read + extra}
    rows = np.arange(1, len(table[read[0]]) + 1)
    taken = Taken(values, rows)
    gap = np.zeros(len(rows), dtype=bool)
    for name in (n for n in read if n not in LABELS):
        lacking = ~np.isfinite(values[name])
        gap |= lacking
        if lacking.any():
            text = f"no number in {name}: rows {some(rows[lacking])} of {len(rows)}"
            words = sorted({str(table[name][i - 1]) for i in rows[lacking]} - {"nan", "None", ""})
            taken.warnings.append(f"{text}{f' ({some(words)})' if words else ''}; left out")
    for name in extra:
        if name not in LABELS and not np.isfinite(values[name][~gap]).all():
            taken.notes.append(f"column {name} has gaps and is not used")
            del values[name]
    if below_zero:
        with np.errstate(invalid="ignore"):
            under = ~gap & (values[below_zero] <= 0)
        if under.any():
            taken.warnings.append(f"{below_zero} is zero or less in {int(under.sum())} of {len(rows)} rows; left out")
        gap |= under
    taken = taken.only(~gap)
    problems = []
    for name, column in taken.values.items():
        if name not in LABELS and (bad := column <= 0).any():
            got = some(f"{v:g}" for v in column[bad])
            text = f"{name} ({MEANINGS[name]}) must be above zero: got {got} in rows {some(taken.rows[bad])}"
            problems.append(f"{law}: {text}; correct or remove them")
    if problems:
        raise LawError(problems)
    if not len(taken.rows):
        raise LawError(f"{law}: no row has numbers in all of {', '.join(read)}: " + "; ".join(taken.warnings))
    _fill_in(taken, needed)
    return taken


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


def _numbers(column: Sequence[Any]) -> np.ndarray:
    return np.array([parse_number(value) for value in column], dtype=float)


def _labels(column: Sequence[Any]) -> np.ndarray:
    return np.array([str(value) for value in column])
