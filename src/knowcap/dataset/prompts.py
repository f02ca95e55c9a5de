"""A table of (prompt, answer, candidates) as a data set: the prompt names the entity, the answer is its value.

    prompt,answer,candidates
    The capital of France is,Paris,195

`candidates` is the number of equally likely answers, or lists them, separated by `|` (in Parquet: a list). Optional
columns: `attribute` (what is asked for; each has one number of candidates) and `entity` (by default the prompt).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq

from knowcap.corpus.candidates import CandidateRow
from knowcap.dataset.folder import DatasetError, write_rows
from knowcap.facts import NAME, Attribute, Knowledge, Row, Span
from knowcap.recipe_file import parse_number


COLUMNS, OPTIONAL = ("prompt", "answer", "candidates"), ("attribute", "entity")
ENTITY_COLUMN, ATTRIBUTE = "entity", "answer"


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or Parquet file.

    Raises:
        DatasetError: the file has another type, or cannot be read.
    """
    if path.suffix not in (".csv", ".tsv", ".parquet"):
        raise DatasetError(f"{path}: expected .csv, .tsv or .parquet")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        options = pyarrow.csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True)
        text = dict.fromkeys((*COLUMNS, *OPTIONAL), pyarrow.string())
        convert = pyarrow.csv.ConvertOptions(column_types=text, strings_can_be_null=False)
        return pyarrow.csv.read_csv(path, parse_options=options, convert_options=convert).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def write_prompts(rows: Iterable[Mapping[str, Any]], folder: Path, name: str = "prompts") -> Path:
    """Makes a data set folder of a table.

    Args:
        rows: with the columns that this module's docstring names.
        folder: the folder to make.
        name: of the data set.

    Raises:
        DatasetError: with the problems of all rows, at most ten.
    """
    rows = [dict(row) for row in rows]
    problems = _problems(rows)
    if problems:
        shown = "; ".join(problems[:10])
        raise DatasetError(f"{shown}{f'; and {len(problems) - 10} more' if len(problems) > 10 else ''}")
    counts: dict[str, int] = {}
    lists: dict[str, dict[str, None]] = {}
    texts, stated = [], dict[str, set[str]]()
    for row in rows:
        attribute, entity = str(row.get("attribute") or ATTRIBUTE), str(row.get("entity") or row["prompt"])
        counts[attribute], listed = _candidates(row["candidates"])
        lists.setdefault(attribute, {}).update(dict.fromkeys(listed))
        stated.setdefault(attribute, set()).add(entity)
        texts.append((_row(str(row["prompt"]), str(row["answer"]), attribute, entity), 0))
    entities = len(set().union(*stated.values()))
    knowledge = Knowledge(
        name=name,
        version=hashlib.sha256(repr(rows).encode()).hexdigest()[:12],
        num_people=entities,
        seed=0,
        entity_column=ENTITY_COLUMN,
        name_log2_candidates=None,
        attributes=tuple(
            Attribute(a, count, math.log2(count), stated=None if len(stated[a]) == entities else len(stated[a]))
            for a, count in counts.items()
        ),
    )
    known = [CandidateRow(attribute, 0, 0, text) for attribute, listed in lists.items() for text in listed]
    return write_rows(folder, knowledge, texts, known)


def _row(prompt: str, answer: str, attribute: str, entity: str) -> Row:
    """Prompt and answer as one text, with a space between if there is none."""
    between = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
    start = len(prompt) + len(between) + len(answer) - len(answer.lstrip())
    name = Span(NAME, 0, len(prompt.rstrip()))
    return Row(f"{prompt}{between}{answer}", (name, Span(attribute, start, start + len(answer.strip()))), entity)


def _candidates(value: Any) -> tuple[int, list[str]]:
    """The number of candidates, and the candidates if they are listed. Raises ValueError for another value."""
    if isinstance(value, str):
        listed = [part.strip() for part in value.split("|")] if "|" in value else []
        if listed:
            return len(listed), listed
        value = parse_number(value)
        if not isinstance(value, int):
            raise ValueError("expected a whole number")
    if isinstance(value, list | tuple):
        return len(value), [str(part) for part in value]
    return int(value), []


def _problems(rows: list[dict[str, Any]]) -> list[str]:
    """The problems of the rows."""
    if not rows:
        return ["no rows; expected at least one (prompt, answer, candidates)"]
    missing = [column for column in COLUMNS if column not in rows[0]]
    if missing:
        return [f"columns {', '.join(missing)} are missing; the table has {', '.join(map(str, rows[0]))}"]
    problems, counts = [], dict[str, int]()
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=1):
        prompt, answer, attribute = (str(row.get(key) or "") for key in ("prompt", "answer", "attribute"))
        try:
            count, listed = _candidates(row["candidates"])
        except (TypeError, ValueError):
            problems.append(f"row {number}: candidates is {row['candidates']!r}, expected a number, or a list")
            continue
        if not prompt.strip() or not answer.strip():
            problems.append(f"row {number}: prompt {prompt!r} and answer {answer!r}, expected text in both")
        elif count < 1 or (listed and answer.strip() not in listed):
            problems.append(f"row {number}: {answer!r} is not among its {count} candidates")
        elif answer.strip() in prompt:
            problems.append(f"row {number}: the prompt has the answer {answer!r}, which can be copied from it")
        elif counts.setdefault(attribute, count) != count:
            problems.append(
                f"row {number}: {count} candidates, but {counts[attribute]} in an earlier row; use another attribute "
                "for another number"
            )
        elif (entity := (attribute, str(row.get("entity") or prompt))) in seen:
            problems.append(f"row {number}: {entity[1]!r} has two rows; give every row its own entity")
        else:
            seen.add(entity)
    return problems
