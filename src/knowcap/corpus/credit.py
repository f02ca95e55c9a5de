"""The bits credited to the facts of a user's table, and warnings where a table is credited too much, before training.

The credit gives a lower bound on what the weights hold if values are drawn independently from the declared candidates
(Part 3.3, Lemma F.1 and Remark 3.5). A table cannot prove that it was drawn so, but it can show that it was not.
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


SURE_BITS = 20.0  # agreement that is this unlikely by chance (2^-20) is a rule
_CONTROL_ENTITIES = 1000  # the null control swaps values among this many entities
_FEWEST_CONTROL_FACTS = 10
_SURE = 7.0  # e^-7 is the chance of a false alarm about uneven values
_WORD = re.compile(r"\w{3,}")
_NOTABLE_SHARE = 0.5  # the share of entities with equal values that gives a warning


def attributes_of(tuples: Tuples, sentences: Sentences) -> tuple[Attribute, ...]:
    """The attributes of knowledge.json: log2 of declared candidates, else the entropy of the values, else 0 bits.

    The entropy is the mean of -log2 of a value's frequency, so that over all entities both give the same sum.
    """
    attributes = []
    for name, column in tuples.columns.items():
        templates = sentences.attributes[name]
        stated = None if column.stated == len(tuples.entities) else column.stated
        if templates.determined_by is not None:
            attributes.append(Attribute(name, 1, 0.0, templates.determined_by, stated))
        elif templates.candidates is None:
            attributes.append(Attribute(name, None, column.entropy, stated=stated))
        else:
            attributes.append(Attribute(name, templates.candidates, math.log2(templates.candidates), stated=stated))
    return tuple(attributes)


def contradictions(tuples: Tuples, sentences: Sentences) -> Iterator[str]:
    """Contradictions between the table and the templates' declarations; each is an error."""
    if sentences.entity_space is not None and sentences.entity_space < len(tuples.entities):
        yield (
            f"entity_space: {sentences.entity_space:_}, but the table has {len(tuples.entities):_} entities; "
            "expected at least as many names as entities, or no entity_space"
        )
    for name, column in tuples.columns.items():
        templates = sentences.attributes[name]
        if templates.candidates is not None and templates.candidates < len(column.values):
            yield (
                f"{name}: candidates: {templates.candidates}, but the table has {len(column.values)} distinct "
                "values; expected at least as many candidates"
            )
        other = tuples.columns.get(templates.determined_by or "")
        if other is not None and not follows(column, other)[0]:
            yield f"{name} is not determined by {templates.determined_by}: {_exception(tuples, column, other)}"


def repetitions(tuples: Tuples, sentences: Sentences) -> Iterator[str]:
    """Attributes that follow from others, which is not declared and no coincidence; each is an error in training."""
    own = {n: c for n, c in tuples.columns.items() if sentences.attributes[n].determined_by is None}
    for first, second in combinations(own, 2):
        more, fewer = sorted((first, second), key=lambda name: -len(own[name].values))
        if _agreement(own[fewer], own[more]) >= SURE_BITS:
            yield (
                f"{fewer} always follows from {more}, so that one fact would count twice; declare determined_by: "
                f"{more} for {fewer}, or remove one of them"
            )


def _agreement(column: Column, other: Column) -> float:
    """How unlikely it is by chance that the values of `column` follow from those of `other`, in bits; 0: they do not.

    Each entity that shares its value of `other` with an earlier one agrees with it by chance with the probability that
    two entities have the same value.
    """
    always, shown = follows(column, other)
    shares = column.counts / max(1, column.stated)
    return -shown * math.log2(float(shares @ shares)) if always and shown else 0.0


def notes(tuples: Tuples, sentences: Sentences) -> Iterator[str]:
    """Where a table may be credited too much or may not be measurable; each is a warning."""
    own = {n: c for n, c in tuples.columns.items() if sentences.attributes[n].determined_by is None}
    for name, column in own.items():
        yield from _column_notes(name, column, sentences.attributes[name].candidates, tuples)
    for first, second in combinations(own, 2):
        yield from _pair_notes(first, second, own)


def is_uneven(entropy: float, candidates: int, stated: int) -> bool:
    """Whether `stated` values of that entropy (bits) are hardly drawn uniformly from so many candidates.

    log2 c - entropy for values drawn uniformly: its mean is at most log2(1 + (c - 1) / n) (Jensen), and its tail that
    of chi-square with c - 1 degrees of freedom (Laurent and Massart 2000, lemma 1).
    """
    expected = math.log2(1 + (candidates - 1) / stated)
    tail = (2 * math.sqrt((candidates - 1) * _SURE) + 2 * _SURE) / (2 * stated * math.log(2))
    return math.log2(candidates) - entropy > expected + tail


def _column_notes(name: str, column: Column, candidates: int | None, tuples: Tuples) -> Iterator[str]:
    stated, bits = column.stated, column.entropy
    if len(column.values) == 1:
        yield f"{name}: all entities have the same value, {column.values[0]!r}, so it has 0 bits"
    elif len(column.values) == stated:
        credit = (
            f"log2 of their number, {bits:.2f} bits, although more values may have been possible; declare candidates"
            if candidates is None
            else f"{math.log2(candidates):.2f} bits, as declared"
        )
        yield (
            f"{name}: all {stated} values are unique. Each is credited {credit}. The table cannot show whether other "
            f"attributes follow from such a value; if they do, declare determined_by: {name} for them"
        )
    elif candidates is not None:
        if is_uneven(bits, candidates, stated):
            yield (
                f"{name}: {candidates} candidates are credited {math.log2(candidates):.2f} bits, but some values are "
                f"far more frequent than others ({bits:.2f} bits by frequency); a model that learns only frequencies "
                "would be credited the difference, and measuring stops if the null control shows it; use candidates: "
                "frequency"
            )
    value_words = [_words(value) for value in column.values] + [set()]  # the last is for entities without a value
    shared = sum(
        not value_words[code].isdisjoint(_words(entity))
        for entity, code in zip(tuples.entities, column.codes.tolist(), strict=True)
    )
    if shared:
        yield f"{name}: {shared} of {stated} values share a word with the entity's name, from which they can be copied"
    among = min(len(tuples.entities), _CONTROL_ENTITIES)
    expected_facts = among * (stated / len(tuples.entities)) ** 2
    if expected_facts < min(_FEWEST_CONTROL_FACTS, among / 2):
        yield (
            f"{name}: only {stated} of {len(tuples.entities)} entities have it, so the null control, which swaps "
            "values among entities, may have too few facts of it; measuring stops then"
        )


def _pair_notes(first: str, second: str, columns: dict[str, Column]) -> Iterator[str]:
    """One warning per pair: whether the attribute with fewer values follows from the one with more."""
    more, fewer = sorted((first, second), key=lambda name: -len(columns[name].values))
    always, shown = follows(columns[fewer], columns[more])
    if always and shown and len(columns[fewer].values) > 1:
        yield (
            f"{fewer} always follows from {more} ({shown} entities share their {more} with another and have the same "
            f"{fewer}), so the two together are credited too much; unless this is a coincidence, declare "
            f"determined_by: {more} for {fewer}"
        )
        return
    a, b = columns[first], columns[second]
    place = {value: i for i, value in enumerate(b.values)}
    as_second = np.array([place.get(value, -2) for value in a.values])[a.codes]
    both = (a.codes >= 0) & (b.codes >= 0)
    same = int((as_second == b.codes)[both].sum())
    if same > _NOTABLE_SHARE * both.sum():
        yield (
            f"{first} and {second} are the same for {same} of {int(both.sum())} entities; the second can be copied "
            "from the first, so the two together are credited too much; remove one"
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
                f"{column.values[first]!r}, the other "
                f"{column.values[code]!r}; correct the table or remove determined_by"
            )
    return "no two entities contradict it"
