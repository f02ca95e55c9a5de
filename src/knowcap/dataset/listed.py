"""The lists that a corpus draws its values from, as the data set's config `candidates` has them: closed sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch

import numpy as np

from knowcap.corpus.biod import BioD
from knowcap.corpus.bios import BioS
from knowcap.corpus.candidates import Listed
from knowcap.corpus.morris import Morris
from knowcap.corpus.table import Table
from knowcap.facts import NAME
from knowcap.knowledge.pools import DAYS_PER_MONTH, FIRST_YEAR, MONTHS, NUM_YEARS, PRONOUNS


@singledispatch
def listed(corpus: object) -> Iterator[Listed]:
    """All lists of a corpus that are known. Raises TypeError for a corpus of another kind."""
    raise TypeError(f"got a {type(corpus).__name__}, expected bioS, bioD, morris or a table")


@listed.register
def _of_bios(corpus: BioS) -> Iterator[Listed]:
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
        yield Listed("work_city", 0, 0, city, employer)


@listed.register
def _of_biod(corpus: BioD) -> Iterator[Listed]:
    """Names by their parts; a value's chunks are parts of it, each out of its attribute's diversity set."""
    for part, names in enumerate(corpus.name_lists):
        yield from _part(NAME, part, names)
    between, chunks = " " if corpus.compact else ", ", corpus.diversity.chunks_per_value
    for attribute in range(corpus.diversity.num_attributes):
        for chunk in range(corpus.diversity.diversity):
            text = corpus.value(attribute, [chunk])
            yield Listed(f"id_{attribute + 1}", 0, 0, text)
            if chunks > 1:
                yield Listed(f"id_{attribute + 1}", 1, chunks - 1, between + text)


@listed.register
def _of_table(corpus: Table) -> Iterator[Listed]:
    """The values of attributes that have all their candidates in the table; of others the lists are not known."""
    columns = corpus.tuples.columns
    for name, column in columns.items():
        saying = corpus.sentences.attributes[name]
        if saying.determined_by is None:
            if saying.candidates in (None, len(column.values)):
                yield from _part(name, 0, column.values)
            continue
        other = columns[saying.determined_by]
        both = (column.codes >= 0) & (other.codes >= 0)
        pairs = np.unique(np.stack([column.codes, other.codes])[:, both], axis=1)
        for value, of in pairs.T.tolist():
            yield Listed(name, 0, 0, column.values[value], other.values[of])


@listed.register
def _of_morris(corpus: Morris) -> Iterator[Listed]:
    """A string's tokens are parts of the name, each out of the alphabet."""
    yield from _part(NAME, 0, corpus.symbols)
    for symbol in corpus.symbols if corpus.strings.string_length > 1 else ():
        yield Listed(NAME, 1, corpus.strings.string_length - 1, f" {symbol}")


def _part(attribute: str, number: int, texts: Sequence[str]) -> Iterator[Listed]:
    for text in texts:
        yield Listed(attribute, number, number, text)
