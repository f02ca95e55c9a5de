"""Tables of runs: CSV and Parquet files and collected results, and the names of their columns."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowcap.files import FileError
from knowcap.laws.columns import Decimals, Unit, decimals_of, numbers, same_columns, unit_of
from knowcap.laws.law import LawError
from knowcap.laws.quantity import parse_number
from knowcap.sealed import read_result


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
    "num_active_parameters": "parameters that a token passes through",
    "learning_rate": "of the optimizer",
    "warmup_steps": "over which the learning rate rose from zero",
    "accuracy": "share of right answers",
    "chance": "share of right answers by guessing",
    "architecture": "kind of model, a label",
    "precision": "of the weights in use, a label such as int8",
}
CLUSTERS = ("run", "group", "seed")  # columns whose equal values may share noise
LABELS = (*CLUSTERS, "architecture", "precision")  # text
_SHOWN = 5  # rows named in a message


class Table(dict[str, list[Any]]):
    """Columns by name.

    Attributes:
        decimals: the decimal signs of its text.
        units: those that headers state, by our names.
        notes: how columns were recognized.
    """

    def __init__(
        self,
        columns: Mapping[str, Iterable[Any]],
        decimals: Decimals | None = None,
        units: Mapping[str, Unit] | None = None,
        notes: Sequence[str] = (),
    ):
        super().__init__({str(name): list(values) for name, values in columns.items()})
        self.decimals = decimals_of(self) if decimals is None else decimals
        self.units, self.notes = dict(units or {}), list(notes)


def read_runs(path: str | Path) -> Table:
    """The columns of a CSV (comma, semicolon or tab; a header line) or Parquet file, or of a sweep's cells.json.

    Raises:
        LawError: no such file, no header, rows of unequal length.
    """
    path = Path(path)
    if not path.is_file():
        raise LawError(f"{path}: no such file; expected a CSV or Parquet table of runs, or a sweep's cells.json")
    if path.suffix.lower() in (".parquet", ".pq"):
        from knowcap.sealed.parquet import read_table

        try:
            return Table(read_table(path).to_pydict())
        except FileError as error:
            raise LawError(str(error)) from error
    if path.suffix.lower() == ".json":
        return Table(_of_cells(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LawError(f"{path}: not UTF-8 text; expected a CSV file, or a Parquet file named .parquet") from error
    return _of_text(path, text)


def read_all_runs(paths: Sequence[str | Path]) -> Table:
    """The rows of several tables, such as the cells.json of several sweeps, one below the other.

    Args:
        paths: files as `read_runs` takes them; a column that one of them does not have is empty in its rows. Of CSV
            files there is one only, as each may write its numbers in its own way.

    Raises:
        LawError: a table cannot be read, a file is given twice, or a CSV file is given beside another.
    """
    files = [Path(path) for path in paths]
    if len(files) == 1:
        return read_runs(files[0])
    if len({file.resolve() for file in files}) < len(files):
        raise LawError(f"a file is given twice among {', '.join(map(str, files))}; its runs would count twice")
    for file in files:
        if file.suffix.lower() not in (".json", ".parquet", ".pq"):
            raise LawError(f"{file}: several tables are read from cells.json and Parquet files only; join them first")
    tables = [read_runs(file) for file in files]
    names = dict.fromkeys(name for table in tables for name in table)
    sizes = [len(next(iter(table.values()), [])) for table in tables]
    return Table(
        {
            name: [
                value for table, size in zip(tables, sizes, strict=True) for value in table.get(name, [None] * size)
            ]
            for name in names
        }
    )


def _of_text(path: Path, text: str) -> Table:
    """The columns of a CSV file's text."""
    if stated := re.match(r"sep=([,;\t])\s*\n", text):  # Excel's first line
        text = text[stated.end() :]
    first = text.lstrip().split("\n", 1)[0]
    lines, delimiter = [], ","
    for delimiter in stated[1] if stated else sorted(",;\t", key=first.count, reverse=True):
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = [line for line in read if any(cell.strip() for cell in line)]
        if len(lines) < 2 or (len(lines[0]) > 1 and all(len(line) == len(lines[0]) for line in lines)):
            break
    else:
        delimiter = max(",;\t", key=first.count)
        read = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        lines = [line for line in read if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise LawError(
            f"{path}: got {len(lines)} lines, expected a header line with names of columns and a row for each run"
        )
    header = [name.strip() for name in lines[0]]
    if double := sorted({name for name in header if name and header.count(name) > 1}):
        raise LawError(f"{path}: two columns are named {', '.join(double)}; rename one")
    if uneven := [i for i, line in enumerate(lines[1:], 1) if len(line) != len(header)]:
        wide = delimiter == "," and all(len(lines[i]) > len(header) for i in uneven)
        hint = "; decimal commas in a file with commas between cells? put semicolons between them" if wide else ""
        raise LawError(f"{path}: rows {some(uneven)} do not have {len(header)} cells{hint}")
    columns = {name: [line[i] for line in lines[1:]] for i, name in enumerate(header)}
    return Table(columns, decimals_of(columns, semicolon=delimiter == ";"))


def _of_cells(path: Path) -> dict[str, list[Any]]:
    """The columns of results that `knowcap findings --collect` wrote, and the settings of their recipes."""
    cells = read_result(path).get("cells")
    if not isinstance(cells, dict) or not all(
        isinstance(c, dict) and c.keys() >= {"row", "settings"} for c in cells.values()
    ):
        raise LawError(
            f"{path}: no results of a sweep; expected the cells.json that `knowcap findings --collect` wrote"
        )
    rows = [cell["settings"] | cell["row"] for cell in cells.values()]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def rename(table: Mapping[str, Iterable[Any]], columns: Mapping[str, str]) -> Table:
    """The table with columns under the names that laws use: columns maps ours to the table's, as in {"loss":
    "eval_loss"}. Headers such as `Num Parameters`, `tokens (B)` and `log10_flops` are recognized without being mapped.

    Raises:
        LawError: a name that is not ours, or not in the table.
    """
    found = table if isinstance(table, Table) else Table(table)
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
    kept = {name: values for name, values in found.items() if name not in columns}
    recognized = same_columns(name for name in (*kept, *columns) if name not in columns.values())
    named = {theirs: ours for ours, theirs in columns.items()} | recognized
    units = dict(found.units) | {o: u for theirs, o in named.items() if (u := unit_of(theirs, o)) is not None}
    notes = [f"column {theirs!r} is read as {ours}" for theirs, ours in recognized.items()]
    return Table(
        {recognized.get(name, name): values for name, values in kept.items()}
        | {ours: found[theirs] for ours, theirs in columns.items()},
        found.decimals.renamed(named),
        units,
        [*found.notes, *notes],
    )


def where(table: Mapping[str, Sequence[Any]], kept: Mapping[str, str]) -> Table:
    """The rows whose columns have these values: equal as numbers where both are, as text otherwise.

    Raises:
        LawError: no such column, or no such row.
    """
    found = table if isinstance(table, Table) else Table(table)
    rows = set(range(len(next(iter(found.values()), ()))))
    for name, value in kept.items():
        if name not in found:
            raise LawError(f"--where {name}={value}: no column {name!r}; found: {', '.join(found)}")
        number, cells = parse_number(value), numbers(found[name], found.decimals.signs.get(name))
        rows &= {i for i, cell in enumerate(found[name]) if str(cell) == value or cells[i] == number}
        if not rows:
            shown = some(sorted({str(cell) for cell in found[name]}))
            raise LawError(f"--where {name}={value}: no such row; {name} has {shown}")
    columns = {name: [column[i] for i in sorted(rows)] for name, column in found.items()}
    return Table(columns, found.decimals, found.units, found.notes)


def some(values: Iterable[Any]) -> str:
    """The first few of them, in a row."""
    shown = [str(v) for v in values]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
