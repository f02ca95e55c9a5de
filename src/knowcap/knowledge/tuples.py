"""A user's own knowledge: a CSV or Parquet of (entity, attribute, value), read and checked."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from knowcap.facts import MIN_CONTROL, CorpusError
from knowcap.metrics.bits_per_parameter.table_text import decode, header_of, plain_name
from knowcap.sealed.parquet import batches, read_schema


logger = logging.getLogger(__name__)

COLUMNS = ("entity", "attribute", "value")
_SHARE_HELD_OUT, _FEWEST_TO_HOLD_OUT = 0.05, MIN_CONTROL
_SHOWN = 5  # problems of one kind that are reported one by one
_Line = tuple[int, str, str, str]
_Places = list[tuple[int, int | str, int]]
# Invisible characters that words of some scripts need: no-break spaces and joiners (and those of emoji).
_INSIDE_WORDS = frozenset("\u00a0\u202f\u200c\u200d\u2060") | {chr(tag) for tag in range(0xE0020, 0xE0080)}


@dataclass(frozen=True)
class Column:
    """The values of one attribute.

    Attributes:
        values: the distinct ones, sorted.
        codes: (entities,) int32, the value of each entity; -1: none.
    """

    values: tuple[str, ...]
    codes: np.ndarray

    @property
    def stated(self) -> int:
        """How many entities have a value."""
        return int((self.codes >= 0).sum())

    @property
    def counts(self) -> np.ndarray:
        """(values,): how many entities have each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    @property
    def entropy(self) -> float:
        """The entropy of the values, in bits: the mean of -log2 of a value's frequency over entities that have one."""
        counts = self.counts[self.counts > 0]
        shares = counts / max(1, self.stated)
        return max(0.0, float(-(shares * np.log2(shares)).sum()))


@dataclass(frozen=True)
class Tuples:
    """Entities in the order of the file, and the column of each attribute."""

    entities: tuple[str, ...]
    columns: dict[str, Column]

    def take(self, numbers: np.ndarray) -> Tuples:
        """The entities with these numbers, in their order; columns keep all distinct values."""
        columns = {name: Column(column.values, column.codes[numbers]) for name, column in self.columns.items()}
        return Tuples(tuple(self.entities[number] for number in numbers.tolist()), columns)


def num_held_out(num_entities: int, share: float | None) -> int:
    """How many of N entities are kept out of training, as the null control of a table or a published data set.

    By default 5 %, but 100 where that is at most 10 %, and else 10 %: 100 entities show a leak of 0.4 of the spread of
    their bits (4 standard errors), 10 one of 1.3. With fewer than 100 entities none is held out by default, since
    fewer than 10 do not show how much their bits spread; values are then exchanged among the entities: no bound.

    Args:
        num_entities: N.
        share: of the recipe; None: the default.

    Raises:
        CorpusError: a share that holds out a single entity, or leaves fewer than two.
    """
    if share is None:
        count = max(round(_SHARE_HELD_OUT * num_entities), min(MIN_CONTROL, num_entities // 10))
        return count if num_entities >= _FEWEST_TO_HOLD_OUT else 0
    count = round(share * num_entities)
    if share > 0 and not 2 <= count <= num_entities - 2:
        raise CorpusError(
            f"holdout_entities={share:g} holds out {count} of {num_entities} entities; expected 2 or more, and 2 or "
            "more left to train on; give another share, or 0 to hold out none"
        )
    return count


def held_out(entities: Sequence[int | str], count: int) -> np.ndarray:
    """Which entities are held out, (n,) bool: the `count` whose names or ids have the smallest SHA-256.

    So it depends on no order and on no seed, and hardly changes where a table grows.
    """
    chosen = np.zeros(len(entities), dtype=bool)
    if count:
        digests = [hashlib.sha256(str(entity).encode()).digest() for entity in entities]
        chosen[sorted(range(len(digests)), key=digests.__getitem__)[:count]] = True
    return chosen


def read_tuples(
    path: str | Path, attributes: Collection[str], entity_column: str | None = None
) -> tuple[Tuples, list[str]]:
    """Reads a table with the columns entity, attribute and value, or a wide one with a column for each attribute.

    White space around cells is removed; columns that are not needed are ignored, and logged.

    Args:
        path: .parquet, or text with a header: commas, semicolons or tabs, in UTF-8, UTF-16 or cp1252.
        attributes: the known attributes, in their order; each must occur.
        entity_column: the column of entities of a wide table; by default `entity`.

    Returns:
        the table without the wrong lines, and all its problems with their lines.
    """
    path = Path(path).expanduser()
    problems: list[str] = []
    try:
        parquet = path.suffix.lower() == ".parquet"
        found = (
            _parquet(path, attributes, entity_column) if parquet else _csv(path, problems, attributes, entity_column)
        )
        lines = list(found)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        return Tuples((), {}), [f"{path}: {' '.join(str(error).split())}"]
    where = f"{path.name} {'row' if parquet else 'line'}"
    good = _good_lines(lines, where, set(attributes), problems)
    tuples = _columns(good, attributes)
    problems += [
        f"{path.name}: no row has the attribute {name!r}, which has templates; add rows, or remove the templates"
        for name in attributes
        if name not in tuples.columns
    ]
    if len(tuples.entities) < 2 and not problems:
        problems.append(f"{path.name}: got {len(tuples.entities)} entities, expected 2 or more; add rows")
    return tuples, problems


def follows(column: Column, other: Column) -> tuple[bool, int]:
    """Whether every value of `other` comes with one value of `column` only, among entities that have both.

    Returns:
        whether it does, and how many entities share their value of `other` with an earlier one (the evidence).
    """
    both = (column.codes >= 0) & (other.codes >= 0)
    pairs = np.unique(np.stack([other.codes[both], column.codes[both]]), axis=1)
    keys = len(np.unique(pairs[0]))
    return pairs.shape[1] == keys, int(both.sum()) - keys


def _good_lines(lines: list[_Line], where: str, attributes: set[str], problems: list[str]) -> list[_Line]:
    """The lines without a problem; problems of one kind are reported one by one up to a limit, then counted."""
    first: dict[tuple[str, str], int] = {}
    found: dict[str, list[str]] = {}
    good = []
    for number, *cells in lines:
        fine = all(cells) and cells[1] in attributes and not any(map(_unclean, cells))
        found_here = [] if fine else list(_line_problems(cells, attributes))
        if not found_here and (before := first.setdefault((cells[0], cells[1]), number)) != number:
            text = f"gives the {cells[1]} of {cells[0]!r}, as {where} {before} does; remove one"
            found_here.append(("given twice", text))
        for kind, text in found_here:
            found.setdefault(kind, []).append(f"{where} {number}: {text}")
        if not found_here:
            good.append((number, *cells))
    for kind, texts in found.items():
        problems += texts[:_SHOWN]
        if len(texts) > _SHOWN:
            problems.append(f"{where}s: {len(texts) - _SHOWN} more of this kind ({kind})")
    return good


def _line_problems(cells: list[str], attributes: set[str]) -> Iterator[tuple[str, str]]:
    """(kind, message) of the problems of a single line."""
    for column, cell in zip(COLUMNS, cells, strict=True):
        if not cell:
            yield f"empty {column}", f"the {column} is empty; fill it in or remove the line"
        elif found := _unclean(cell):
            yield f"unclean {column}", f"the {column} {cell!r} has {found}; remove it"
    if cells[1] and cells[1] not in attributes:
        known = ", ".join(sorted(attributes)) or "none"
        yield (
            "unknown attribute",
            f"there are no templates for attribute {cells[1]!r}, but for {known}; add templates, or remove the line",
        )


def _unclean(cell: str) -> str | None:
    """What a cell must not have: two spaces in a row, or an invisible character that no word needs."""
    for character in () if cell.isprintable() else cell:
        if not character.isprintable() and character not in _INSIDE_WORDS:
            return f"the character U+{ord(character):04X} {unicodedata.name(character, 'control')}"
    return "two spaces in a row" if "  " in cell else None


def _columns(lines: list[_Line], attributes: Collection[str]) -> Tuples:
    entities = {entity: i for i, entity in enumerate(dict.fromkeys(line[1] for line in lines))}
    stated: dict[str, dict[str, str]] = {name: {} for name in attributes}
    for _, entity, attribute, value in lines:
        stated[attribute][entity] = value
    columns = {}
    for name, value_of in stated.items():
        if value_of:
            values = sorted(set(value_of.values()))
            code = {value: i for i, value in enumerate(values)}
            codes = np.full(len(entities), -1, dtype=np.int32)
            codes[[entities[entity] for entity in value_of]] = [code[value] for value in value_of.values()]
            columns[name] = Column(tuple(values), codes)
    return Tuples(tuple(entities), columns)


def _csv(path: Path, problems: list[str], attributes: Collection[str], entity: str | None) -> Iterator[_Line]:
    """(line, entity, attribute, value) of every row that is not empty."""
    wrong = []
    text, encoding = decode(path.read_bytes())
    if encoding != "utf-8":
        logger.info("%s is not UTF-8; it is read as %s", path.name, encoding)
    delimiter, header = header_of(text, [*COLUMNS, *attributes, *([entity] if entity else [])])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader, None)
    place = _places(header, attributes, entity, path.name)
    end = reader.line_num
    for row in reader:
        number, end = end + 1, reader.line_num
        if len(row) == len(header):
            for cells in _facts(row, place):
                yield number, *cells
        elif row:
            wrong.append(f"{number} ({len(row)})")
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        problems.append(
            f"{path.name}: expected {len(header)} cells a line, got other numbers on line {shown}; "
            f"quote cells that contain {delimiter!r}"
        )


def _parquet(path: Path, attributes: Collection[str], entity: str | None) -> Iterator[_Line]:
    """(row, entity, attribute, value) of every row, counted from 1; null is empty."""
    schema = read_schema(path)
    place = _places(schema.names, attributes, entity, path.name)
    used = sorted({number for several in place for number in several if isinstance(number, int)})
    for number in used:
        kind = schema.field(number).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_integer(inner)):
            raise CorpusError(f"column {schema.names[number]!r} is {kind}, expected string or integer; cast it")
    number = 0
    for batch in batches(path):
        columns = {i: batch.column(i).cast(pa.string()).to_pylist() for i in used}
        for at in range(len(batch)):
            number += 1
            for cells in _facts({i: cells[at] or "" for i, cells in columns.items()}, place):
                yield number, *cells


def _facts(row: Sequence[str] | Mapping[int, str], place: _Places) -> Iterator[tuple[str, str, str]]:
    """(entity, attribute, value) of each fact of a row; in a wide table an empty cell is no fact."""
    for entity, attribute, value in place:
        cells = (row[entity], attribute if isinstance(attribute, str) else row[attribute], row[value])
        if not isinstance(attribute, str) or cells[2].strip():
            yield cells[0].strip(), cells[1].strip(), cells[2].strip()


def _places(header: Sequence[str], attributes: Collection[str], entity: str | None, file: str) -> _Places:
    """The columns of entity, attribute and value: one triple of a long table; of a wide one, with an attribute's name
    in place of its column, one of each attribute.

    Raises:
        CorpusError: columns are missing, or two have the same name.
    """
    names = [plain_name(name) for name in header]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CorpusError(f"two columns are called {twice[0]!r}; rename one")
    column = {name: number for number, name in enumerate(names)}
    if all(name in column for name in COLUMNS):
        places: _Places = [(column["entity"], column["attribute"], column["value"])]
        used = set(places[0])
    else:
        wide = [name for name in attributes if plain_name(name) in column]
        of = plain_name(entity or "entity")
        if of not in column or not wide:
            raise CorpusError(
                f"got columns {', '.join(header) or '(none)'}, expected {', '.join(COLUMNS)}, or a wide table with a "
                f"column {entity or 'entity'!r} (entity_column of the templates) and one for each attribute; rename "
                "them"
            )
        places = [(column[of], name, column[plain_name(name)]) for name in wide]
        used = {number for place in places for number in place if isinstance(number, int)}
    if ignored := [name for number, name in enumerate(header) if number not in used]:
        logger.info("%s: columns %s are ignored", file, ", ".join(ignored))
    return places
