"""What the facts of a user's table count, and what makes a table count too much: told before anything is trained.

The count is a lower bound on what weights hold if values are drawn independently out of what is credited (Part 3.3,
Lemma F.1 and Remark 3.5). No table proves that it was drawn so, but many show that they were not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import Attribute
from knowcap.knowledge.tuples import Column, Tuples, follows


if TYPE_CHECKING:
    from knowcap.corpus.sentences import Sentences


_CONTROL_ENTITIES = 1000  # among so many the null control swaps values
_FEWEST_CONTROL_FACTS = 10
_SURE = 7.0  # e^-7 is the chance of a false alarm about uneven values
_WORD = re.compile(r"\w{3,}")
_MUCH = 0.5  # the share of entities for which a coincidence is worth telling


def attributes_of(tuples: Tuples, sentences: Sentences) -> tuple[Attribute, ...]:
    """The attributes of knowledge.json: log2 of declared candidates, else the entropy of the values, else 0 bits.

    The entropy is the mean of -log2 of a value's frequency, so that over all entities both give the same sum.
    """
    attributes = []
    for name, column in tuples.columns.items():
        saying = sentences.attributes[name]
        stated = None if column.stated == len(tuples.entities) else column.stated
        if saying.determined_by is not None:
            attributes.append(Attribute(name, 1, 0.0, saying.determined_by, stated))
        elif saying.candidates is None:
            attributes.append(Attribute(name, None, column.entropy, stated=stated))
        else:
            attributes.append(Attribute(name, saying.candidates, math.log2(saying.candidates), stated=stated))
    return tuple(attributes)


def contradictions(tuples: Tuples, sentences: Sentences) -> Iterator[str]:
    """Where the table is not what the templates declare; each is an error."""
    if sentences.entity_space is not None and sentences.entity_space < len(tuples.entities):
        yield (
            f"entity_space: {sentences.entity_space:_}, but the table has {len(tuples.entities):_} entities; "
            "expected at least as many names as entities, or no entity_space"
        )
    for name, column in tuples.columns.items():
        saying = sentences.attributes[name]
        if saying.candidates is not None and saying.candidates < len(column.values):
            yield (
                f"{name}: candidates: {saying.candidates}, but the table has {len(column.values)} different values; "
                "expected at least as many candidates"
            )
        other = tuples.columns.get(saying.determined_by or "")
        if other is not None and not follows(column, other)[0]:
            yield f"{name} is not determined by {saying.determined_by}: {_exception(tuples, column, other)}"


def notes(tuples: Tuples, sentences: Sentences) -> Iterator[str]:
    """What a table may count too much, or not be measurable in; each is told, none is an error."""
    own = {n: c for n, c in tuples.columns.items() if sentences.attributes[n].determined_by is None}
    for name, column in own.items():
        yield from _column_notes(name, column, sentences.attributes[name].candidates, tuples)
    for first, second in combinations(own, 2):
        yield from _pair_notes(first, second, own)


def _column_notes(name: str, column: Column, candidates: int | None, tuples: Tuples) -> Iterator[str]:
    stated, bits = column.stated, column.entropy
    if len(column.values) == 1:
        yield f"{name}: all entities have the same value, {column.values[0]!r}; there is nothing to know"
    elif len(column.values) == stated:
        credit = (
            f"log2 of their number, {bits:.2f} bits, which says nothing of how many there could have been; declare "
            "candidates"
            if candidates is None
            else f"{math.log2(candidates):.2f} bits, as declared"
        )
        yield (
            f"{name}: all {stated} values are unique. Each is credited {credit}. Whether other attributes follow from "
            f"such a value can't be seen in the table; where they do, declare determined_by: {name} for them"
        )
    elif candidates is not None:
        # log2 c - entropy for values drawn uniformly: its mean (Jensen), and the tail of chi-square with c - 1 degrees
        # of freedom over it (Laurent and Massart 2000, lemma 1).
        expected = math.log2(1 + (candidates - 1) / stated)
        tail = (2 * math.sqrt((candidates - 1) * _SURE) + 2 * _SURE) / (2 * stated * math.log(2))
        if math.log2(candidates) - bits > expected + tail:
            yield (
                f"{name}: {candidates} candidates are credited {math.log2(candidates):.2f} bits, but some values are "
                f"far more frequent than others, {bits:.2f} bits by frequency; a model that learns the frequencies "
                "alone would be credited the difference, and measuring stops where it shows in the null control; "
                "candidates: frequency"
            )
    value_words = [_words(value) for value in column.values] + [set()]  # the last one is for those that lack it
    shared = sum(
        not value_words[code].isdisjoint(_words(entity))
        for entity, code in zip(tuples.entities, column.codes.tolist(), strict=True)
    )
    if shared:
        yield f"{name}: {shared} of {stated} values share a word with the entity's name, from which it can be copied"
    among = min(len(tuples.entities), _CONTROL_ENTITIES)
    expected_facts = among * (stated / len(tuples.entities)) ** 2
    if expected_facts < min(_FEWEST_CONTROL_FACTS, among / 2):
        yield (
            f"{name}: only {stated} of {len(tuples.entities)} entities state it, so that the null control, which "
            "swaps values among entities, may miss it; measuring stops then"
        )


def _pair_notes(first: str, second: str, columns: dict[str, Column]) -> Iterator[str]:
    """Told once a pair: what has fewer values follows from what has more."""
    more, fewer = sorted((first, second), key=lambda name: -len(columns[name].values))
    always, shown = follows(columns[fewer], columns[more])
    if always and shown and len(columns[fewer].values) > 1:
        yield (
            f"{fewer} always follows from {more} ({shown} entities share their {more} with another and have the same "
            f"{fewer}), so both together count too much; if that is no accident, declare determined_by: {more} "
            f"for {fewer}"
        )
        return
    a, b = columns[first], columns[second]
    place = {value: i for i, value in enumerate(b.values)}
    as_second = np.array([place.get(value, -2) for value in a.values])[a.codes]
    both = (a.codes >= 0) & (b.codes >= 0)
    same = int((as_second == b.codes)[both].sum())
    if same > _MUCH * both.sum():
        yield (
            f"{first} and {second} are the same for {same} of {int(both.sum())} entities; what was said before can be "
            "copied, so both together count too much; drop one"
        )


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _exception(tuples: Tuples, column: Column, other: Column) -> str:
    """The first entity whose value differs from that of an entity with the same determining value."""
    seen: dict[int, tuple[str, int]] = {}
    for entity, code, key in zip(tuples.entities, column.codes.tolist(), other.codes.tolist(), strict=True):
        if code < 0 or key < 0:
            continue
        before, first = seen.setdefault(key, (entity, code))
        if first != code:
            return (
                f"{before!r} and {entity!r} both have {other.values[key]!r}, but the one has "
                f"{column.values[first]!r}, the other {column.values[code]!r}; mend the table or drop determined_by"
            )
    return "no two entities show it"
