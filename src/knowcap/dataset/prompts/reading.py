"""Rows with the columns prompt, answer, candidates, attribute and entity, from a file, a folder or the Hub."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from knowcap.dataset.folder import DatasetError
from knowcap.metrics.bits_per_parameter.table_text import decode, header_of, plain_name
from knowcap.recipe.plain_names import pattern_in
from knowcap.recipe_file import parse_number
from knowcap.sealed.parquet import read_table


COLUMNS, OPTIONAL = ("prompt", "answer", "candidates"), ("attribute", "entity")
FREQUENCY = "frequency"
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl")
WIDE_PROMPT = "The {attribute} of {entity} is"

logger = logging.getLogger(__name__)


class PromptRow(dict[str, Any]):
    """A row by column, with its place in the table; `problem` is set if its cells do not fit the header."""

    def __init__(self, cells: Mapping[str, Any], where: str, problem: str | None = None) -> None:
        super().__init__(cells)
        self.where, self.problem = where, problem


@dataclass(frozen=True)
class PromptOptions:
    """How a table of prompts is read, and what is done with rows that cannot be measured.

    Attributes:
        columns: the table's names of `prompt`, `answer`, `candidates`, `attribute` and `entity`, where they differ;
            `candidates` may also be a number or `frequency`, for all rows.
        entity: the column of entities. Without a prompt column the table is wide: every other column is an attribute.
        prompt: the prompt of a wide table's facts, with `{entity}` and `{attribute}`.
        split, dataset_config_name, revision: of a data set of the Hub, or of a folder of files.
        keep_copied: measure rows whose answer stands in their prompt, too; the result is then no bound.
        strict: a row that cannot be measured is an error; by default it is left out and counted.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    entity: str | None = None
    prompt: str = WIDE_PROMPT
    split: str = "train"
    dataset_config_name: str | None = None
    revision: str | None = None
    keep_copied: bool = False
    strict: bool = False

    @property
    def names_columns(self) -> bool:
        """Whether the options say that the data set is a table."""
        return bool(self.columns or self.entity or self.dataset_config_name or self.split != "train")

    def __post_init__(self) -> None:
        unknown = sorted(set(self.columns) - {*COLUMNS, *OPTIONAL})
        if unknown:
            raise DatasetError(f"columns: got {', '.join(unknown)}, expected {', '.join((*COLUMNS, *OPTIONAL))}")
        broken = [name for name in ("entity", "attribute") if self.prompt.count(f"{{{name}}}") != 1]
        if broken:
            raise DatasetError(f"prompt={self.prompt!r}: expected {{entity}} and {{attribute}}, once each")


def read_prompts(source: str | Path, options: PromptOptions | None = None) -> list[PromptRow]:
    """The rows of a table.

    Args:
        source: a file (CSV or TSV with commas, semicolons or tabs, in UTF-8, UTF-16 or cp1252; Parquet; JSON lines),
            else a folder or Hub id for `datasets.load_dataset`.
        options: which columns and split to read.

    Raises:
        DatasetError: it cannot be read, or columns are missing.
    """
    options, path = options or PromptOptions(), Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise DatasetError(f"{path}: expected a table that ends in {', '.join(SUFFIXES)}")
    names = [*COLUMNS, *OPTIONAL, *options.columns.values(), *([options.entity] if options.entity else [])]
    try:
        if not path.is_file():
            rows = _loaded(str(source), options)
        elif path.suffix.lower() == ".parquet":
            rows = _numbered(read_table(path).to_pylist(), "row", 1)
        elif path.suffix.lower() == ".jsonl":
            rows = _json_lines(path)
        else:
            rows = list(_text_rows(path, names))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise (
            error if isinstance(error, DatasetError) else DatasetError(f"{source} cannot be read: {error}")
        ) from error
    return _with_known_columns(rows, options, str(source))


def _text_rows(path: Path, names: Sequence[str]) -> Iterator[PromptRow]:
    """The rows of a CSV or TSV with the line where each begins; those with other numbers of cells have a problem."""
    text, encoding = decode(path.read_bytes())
    if encoding != "utf-8":
        logger.info("%s is not UTF-8; it is read as %s", path.name, encoding)
    delimiter, header = header_of(text, names)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader, None)
    begin = reader.line_num + 1
    for cells in reader:
        problem = None
        if len(cells) != len(header):
            problem = f"{len(cells)} cells, but the header has {len(header)}; quote cells that contain {delimiter!r}"
        if cells:
            padded = [*cells, *[""] * len(header)]
            yield PromptRow(dict(zip(header, padded, strict=False)), f"line {begin}", problem)
        begin = reader.line_num + 1


def _json_lines(path: Path) -> list[PromptRow]:
    rows = []
    for number, line in enumerate(decode(path.read_bytes())[0].splitlines(), start=1):
        if line.strip():
            try:
                cells = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path} line {number}: no JSON that can be read: {error}") from error
            if not isinstance(cells, dict):
                raise DatasetError(f"{path} line {number}: expected a JSON object, got {line[:40]!r}")
            rows.append(PromptRow(cells, f"line {number}"))
    return rows


def _loaded(name: str, options: PromptOptions) -> list[PromptRow]:
    """The rows of a data set that `datasets` loads, from a folder or the Hub."""
    import datasets

    if Path(name).exists() and (mark := pattern_in(str(Path(name).absolute()))) is not None:
        raise DatasetError(f"{name}: load_dataset reads {mark} of its path as a pattern; rename the folder")
    try:
        loaded = datasets.load_dataset(
            name, options.dataset_config_name, split=options.split, revision=options.revision
        )
    except Exception as error:  # of many kinds: the Hub's, those of datasets, of file formats
        raise DatasetError(
            f"{name} cannot be loaded as a data set with split={options.split!r}, "
            f"dataset_config_name={options.dataset_config_name!r}: {' '.join(str(error).split())}"
        ) from error
    return _numbered(loaded, "row", 0)


def _numbered(rows: Iterable[Any], what: str, first: int) -> list[PromptRow]:
    return [PromptRow(row, f"{what} {number}") for number, row in enumerate(rows, start=first)]


def _with_known_columns(rows: list[PromptRow], options: PromptOptions, source: str) -> list[PromptRow]:
    """The rows under the names of this module, with a note on columns that are ignored.

    Raises:
        DatasetError: a column is missing, or there are two of one name.
    """
    if not rows:
        return []
    place: dict[str, str] = {}
    for name in rows[0]:
        if (plain := plain_name(str(name))) in place:
            raise DatasetError(f"{source}: columns {place[plain]!r} and {name!r} have the same name; rename one")
        place[plain] = name
    wanted = dict(options.columns) | ({"entity": options.entity} if options.entity else {})
    found = {key: place.get(plain_name(wanted.get(key, key))) for key in (*COLUMNS, *OPTIONAL)}
    constants: dict[str, Any] = {}
    given = wanted.get("candidates")
    if found["candidates"] is None and given and (given == FREQUENCY or parse_number(given) is not None):
        constants["candidates"] = given
    missing = [f"{key}={name}" for key, name in wanted.items() if found[key] is None and key not in constants]
    if missing:
        raise DatasetError(f"{source}: no column for {', '.join(missing)}; the table has {', '.join(place.values())}")
    if options.entity and found["prompt"] is None and found["answer"] is None:
        return list(_long(rows, options, found["entity"] or "", constants.get("candidates", FREQUENCY), source))
    used = {name for name in found.values() if name is not None}
    if ignored := [str(name) for name in rows[0] if name not in used]:
        logger.info("%s: columns %s are ignored", source, ", ".join(ignored))
    kept = {key: name for key, name in found.items() if name is not None}
    return [
        PromptRow({key: row.get(name) for key, name in kept.items()} | constants, row.where, row.problem)
        for row in rows
    ]


def _long(
    rows: list[PromptRow], options: PromptOptions, entity: str, candidates: str, source: str
) -> Iterator[PromptRow]:
    """A wide table's facts, one a row; empty cells are facts that an entity does not have."""
    others, empty = [name for name in rows[0] if name != entity], 0
    if not others:
        raise DatasetError(f"{source}: {entity!r} is its only column; expected others, with the values of attributes")
    logger.info("%s: a wide table of %s, with prompts such as %r", source, ", ".join(others), options.prompt)
    for row in rows:
        for name in others:
            if not cell_text(row.get(name)):
                empty += 1
                continue
            about = cell_text(row.get(entity))
            prompt = options.prompt.replace("{attribute}", name.strip()).replace("{entity}", about)
            cells = {"prompt": prompt, "answer": row[name], "candidates": candidates}
            cells |= {"attribute": name.strip(), "entity": about}
            yield PromptRow(cells, f"{row.where}, column {name}", row.problem)
    if empty:
        logger.info("%s: %d empty cells; these entities do not have these attributes", source, empty)


def cell_text(cell: Any) -> str:
    """A cell as text, without the spaces around it: nothing for null, `0` for 0, `1990` for 1990.0."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()
