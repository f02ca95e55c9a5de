"""Tables of runs, as CSV or Parquet files with whatever columns."""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from knowcap.laws.fit import LawError


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
    "knowledge_bits": "bits learned",
    "max_knowledge_bits": "bits that there are to learn",
    "exposures": "how often each fact was seen",
}
_MISSING = {"", "-", "na", "n/a", "nan", "none", "null"}
_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_SHOWN = 5  # rows named in a message


def read_runs(path: str | Path) -> dict[str, list[Any]]:
    """The columns of a CSV (comma, semicolon or tab; a header line) or Parquet file.

    Raises:
        LawError: no such file, no header, rows of unequal length.
    """
    path = Path(path)
    if not path.is_file():
        raise LawError(f"{path}: no such file; expected a CSV or Parquet table of runs")
    if path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pydict()
        except pa.ArrowException as error:
            raise LawError(f"{path}: not a Parquet file ({error})") from error
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
        raise LawError(f"{path}: rows {some(uneven)} have other than {len(header)} cells")
    return {name: [line[i] for line in lines[1:]] for i, name in enumerate(header)}


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


def parse_number(value: Any) -> float:
    """A finite number, or NaN. Text may have thousands separators (1,000) or a suffix (70B)."""
    if isinstance(value, str):
        text = value.strip().lower().replace("_", "")
        if text in _MISSING:
            return math.nan
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d*)?", text):
            text = text.replace(",", "")
        scale = 1.0
        if re.fullmatch(r"\d+(\.\d*)?\s*[kmbgt]", text):
            text, scale = text[:-1], _SUFFIXES[text[-1]]
        try:
            number = float(text) * scale
        except ValueError:
            return math.nan
    else:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return math.nan
    return number if math.isfinite(number) else math.nan


def some(values: Iterable[Any]) -> str:
    """The first few of them, in a row."""
    shown = [str(v) for v in values]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
