"""The candidates of every attribute, as texts: the closed sets of answers, and the data set's config `candidates`.

A value consists of one or more parts (a name of first, middle and last name), each drawn from a list; a part has its
separator in front (` Briar`). For a determined attribute (work_city), each value lists the values of its determiner
(employer) that it goes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from knowcap.corpus.biod import BioD
from knowcap.corpus.bios import BioS
from knowcap.corpus.morris import Morris
from knowcap.corpus.table import Table
from knowcap.facts import NAME, CorpusError
from knowcap.knowledge.pools import DAYS_PER_MONTH, FIRST_YEAR, MONTHS, NUM_YEARS, PRONOUNS


ListOf = str | tuple[str, str]  # an attribute, or an attribute of one entity, which has a list of its own


MOST_ENTRIES = 20_000_000  # texts of all lists, once for every part that they may be


@dataclass(frozen=True)
class Candidates:
    """The lists of one attribute.

    Attributes:
        parts: the distinct texts of each part.
        of: for a determined attribute, which has one part: the values of its determiner that go with each text.
    """

    parts: tuple[tuple[str, ...], ...]
    of: dict[str, frozenset[str]] = field(default_factory=dict)
    _sets: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)
    _lengths: tuple[list[int], ...] = field(init=False, repr=False, compare=False)

    def split(self, value: str) -> tuple[str, ...]:
        """A value's parts.

        Raises:
            CorpusError: the value is not a candidate, or can be split into parts in several ways.
        """
        ways = self._ways(value)
        found = ways[-1].get(len(value), 0)
        if found != 1:
            how = "can be split into parts in several ways" if found else "is not a candidate"
            raise CorpusError(f"{value!r} {how}; expected one, from lists of {[len(p) for p in self.parts]} texts")
        texts, end = [], len(value)
        for part in range(len(self.parts) - 1, -1, -1):
            start = next(s for s in ways[part] if s <= end and value[s:end] in self._sets[part])
            texts.append(value[start:end])
            end = start
        return tuple(reversed(texts))

    def _ways(self, value: str) -> list[dict[int, int]]:
        """In how many ways the first n parts can end at each place of a value, up to 2: not all of them are listed,
        which may be more than there are atoms.
        """
        ways = [{0: 1}]
        for part, texts in enumerate(self._sets):
            ends: dict[int, int] = {}
            for start, count in ways[-1].items():
                last = part == len(self.parts) - 1
                for length in (len(value) - start,) if last else self._lengths[part]:
                    end = start + length
                    if end <= len(value) and value[start:end] in texts:
                        ends[end] = min(2, ends.get(end, 0) + count)
            ways.append(ends)
        return ways

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sets", tuple(frozenset(part) for part in self.parts))
        object.__setattr__(self, "_lengths", tuple(sorted({len(text) for text in part}) for part in self._sets))


class CandidateRow(NamedTuple):
    """One text of a list, a row of a data set's config `candidates`.

    Attributes:
        attribute: its attribute.
        part, last_part: the first and last part of a value that it can be, counted from 0.
        text: with the separator in front, if there is one.
        of: for a determined attribute, the value of its determiner that it goes with.
        entity: the one entity that the list is for; None: all.
    """

    attribute: str
    part: int
    last_part: int
    text: str
    of: str | None = None
    entity: str | None = None


def candidates_by_attribute(rows: Iterable[CandidateRow]) -> dict[ListOf, Candidates]:
    """Candidates by attribute, or by attribute and entity, from rows in any order.

    Raises:
        CorpusError: a part is missing, a row has values of other types, or the rows stand for too many texts.
    """
    entries = 0
    parts: dict[ListOf, dict[int, dict[str, None]]] = {}
    of: dict[ListOf, dict[str, set[str]]] = {}
    for row in rows:
        if problem := _wrong(row):
            raise CorpusError(f"candidates: {problem}, in {row}")
        entries += row.last_part - row.part + 1
        if entries > MOST_ENTRIES:
            raise CorpusError(
                f"candidates: more than {MOST_ENTRIES:,} texts of all parts, at {row}; make the lists shorter"
            )
        key = row.attribute if row.entity is None else (row.attribute, row.entity)
        for part in range(row.part, row.last_part + 1):
            parts.setdefault(key, {}).setdefault(part, {})[row.text] = None
        if row.of is not None:
            of.setdefault(key, {}).setdefault(row.text, set()).add(row.of)
    made: dict[ListOf, Candidates] = {}
    for attribute, found in parts.items():
        if sorted(found) != list(range(len(found))):
            raise CorpusError(f"{attribute} has parts {sorted(found)[:20]}, expected 0 to {max(found)}")
        goes_with = {text: frozenset(values) for text, values in of.get(attribute, {}).items()}
        made[attribute] = Candidates(tuple(tuple(found[part]) for part in range(len(found))), goes_with)
    return made


def _wrong(row: CandidateRow) -> str | None:
    """What is wrong with a row of another writer, if anything."""
    if not (isinstance(row.attribute, str) and isinstance(row.text, str)):
        return "expected an attribute and a text"
    if not (isinstance(row.part, int) and isinstance(row.last_part, int) and 0 <= row.part <= row.last_part):
        return "expected a part of 0 or more, and a last_part of no less"
    if not all(value is None or isinstance(value, str) for value in (row.of, row.entity)):
        return "expected text or null in of and entity"
    return None


@singledispatch
def candidate_rows(corpus: object) -> Iterator[CandidateRow]:
    """The rows of all known lists of a corpus. Raises TypeError for an unknown corpus."""
    raise TypeError(f"got a {type(corpus).__name__}, expected bioS, bioD, morris or a table")


@candidate_rows.register
def _of_bios(corpus: BioS) -> Iterator[CandidateRow]:
    """Names by their parts, dates by month, day and year, and the lists."""
    pools = corpus.people.pools
    for part, names in enumerate((pools.first_names, pools.middle_names, pools.last_names)):
        yield from _part(NAME, part, [f" {name}" for name in names] if part else names)
    yield from _part("birth_date", 0, MONTHS)
    yield from _part("birth_date", 1, [f" {day}," for day in range(1, DAYS_PER_MONTH + 1)])
    yield from _part("birth_date", 2, [f" {year}" for year in range(FIRST_YEAR, FIRST_YEAR + NUM_YEARS)])
    for attribute, values in (
        ("birth_city", pools.birth_cities),
        ("university", pools.universities),
        ("major", pools.majors),
        ("employer", pools.employers),
        ("pronoun", () if corpus.variant.full_name else PRONOUNS),
    ):
        yield from _part(attribute, 0, values)
    for employer, city in zip(pools.employers, pools.work_cities, strict=True):
        yield CandidateRow("work_city", 0, 0, city, employer)


@candidate_rows.register
def _of_biod(corpus: BioD) -> Iterator[CandidateRow]:
    """Names by their parts; a value's chunks are parts of it, each out of its attribute's diversity set."""
    for part, names in enumerate(corpus.name_lists):
        yield from _part(NAME, part, names)
    between, chunks = " " if corpus.compact else ", ", corpus.diversity.chunks_per_value
    for attribute in range(corpus.diversity.num_attributes):
        for chunk in range(corpus.diversity.diversity):
            text = corpus.value(attribute, [chunk])
            yield CandidateRow(f"id_{attribute + 1}", 0, 0, text)
            if chunks > 1:
                yield CandidateRow(f"id_{attribute + 1}", 1, chunks - 1, between + text)


@candidate_rows.register
def _of_table(corpus: Table) -> Iterator[CandidateRow]:
    """The values of attributes that have all their candidates in the table; other lists are not known."""
    columns = corpus.tuples.columns
    for name, column in columns.items():
        templates = corpus.sentences.attributes[name]
        if templates.determined_by is None:
            if templates.candidates in (None, len(column.values)):
                yield from _part(name, 0, column.values)
            continue
        other = columns[templates.determined_by]
        both = (column.codes >= 0) & (other.codes >= 0)
        pairs = np.unique(np.stack([column.codes, other.codes])[:, both], axis=1)
        for value, of in pairs.T.tolist():
            yield CandidateRow(name, 0, 0, column.values[value], other.values[of])


@candidate_rows.register
def _of_morris(corpus: Morris) -> Iterator[CandidateRow]:
    """A string's tokens are parts of the name, each out of the alphabet."""
    yield from _part(NAME, 0, corpus.symbols)
    for symbol in corpus.symbols if corpus.strings.string_length > 1 else ():
        yield CandidateRow(NAME, 1, corpus.strings.string_length - 1, f" {symbol}")


def _part(attribute: str, number: int, texts: Sequence[str]) -> Iterator[CandidateRow]:
    for text in texts:
        yield CandidateRow(attribute, number, number, text)
