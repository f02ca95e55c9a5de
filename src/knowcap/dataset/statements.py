"""What the texts of a config state: each entity's names and values, read and checked batch by batch."""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from knowcap.facts import NAME, FactError, Knowledge, Row, Span, check_row, check_values


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

_FEWEST_NAMES = 20  # more words than these after names, if they are like words of names, are parts of names
_SPACE, _LOWER, _UPPER, _DIGIT = 1, 2, 3, 4
_SAMPLE = 2000  # entities that can show at once that one attribute does not follow from another


class _Batch(NamedTuple):
    """Texts, their entities, and all their spans: the number of the text, that of the attribute (0: the name, -1:
    unknown), start and end, each (spans,).
    """

    texts: list[str]
    ids: list[int | str]
    row: np.ndarray
    attribute: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @property
    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Row, start and end of every span."""
        return zip(self.row.tolist(), self.start.tolist(), self.end.tolist(), strict=True)


class Numbering:
    """The ids of entities, numbered in the order of their first texts; ids that are one number after the other, as
    knowcap's own people have, take no memory.
    """

    def __init__(self) -> None:
        self._first, self._count = 0, 0
        self._by_id: dict[int | str, int] | None = None  # None: the ids are _first, _first + 1, …

    def __len__(self) -> int:
        """How many there are."""
        return self._count if self._by_id is None else len(self._by_id)

    def __iter__(self) -> Iterator[int | str]:
        """The ids, in the order of their numbers."""
        return iter(range(self._first, self._first + self._count) if self._by_id is None else self._by_id)

    def __contains__(self, entity: int | str) -> bool:
        """Whether an id has a number."""
        if self._by_id is not None:
            return entity in self._by_id
        return isinstance(entity, int) and self._first <= entity < self._first + self._count

    def id_of(self, number: int) -> int | str:
        """The id of a number."""
        return next(islice(iter(self), int(number), None))

    def numbers(self, ids: Sequence[int | str]) -> np.ndarray:
        """The number of each id, (ids,) int64; new ids get the next numbers."""
        if self._by_id is None:
            if ids and all(isinstance(entity, int) for entity in ids):
                self._first = cast(int, ids[0]) if self._count == 0 else self._first
                numbers = np.array(ids, dtype=np.int64) - self._first
                most = np.maximum.accumulate(np.concatenate([[self._count - 1], numbers]))
                if numbers.min() >= 0 and (np.diff(most) <= 1).all():
                    self._count = int(most[-1]) + 1
                    return numbers
            self._by_id = {entity: number for number, entity in enumerate(self)}
        known = cast("dict[int | str, int]", self._by_id)
        return np.array([known.setdefault(entity, len(known)) for entity in ids], dtype=np.int64)


class Statements:
    """The entities of texts and the values that they state, as numbers.

    Attributes:
        knowledge: the knowledge.json of the texts.
        entities: their ids, and the number of each.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.entities = Numbering()
        self._attributes = {name: i for i, name in enumerate((NAME, *(a.name for a in knowledge.attributes)))}
        self._codes: list[dict[str, int]] = [{} for _ in self._attributes]  # the number of each value
        self._firsts = [array("q") for _ in self._attributes]  # the first entity of each value
        self._first_values = np.zeros((len(self._attributes), 0), dtype=np.int32)  # of each entity; -1: none
        self._others: list[np.ndarray] = []  # entity, attribute and value where a later text has another, each (3, n)
        self._after: Counter[str] = Counter()  # words that follow names; of others than names' parts, an empty one

    def add(self, batch: pa.RecordBatch) -> None:
        """Reads a batch of texts: the entity, `text` and `spans`.

        Raises:
            FactError: a row breaks the contract, states a value before its span, or has a span within a word.
        """
        part = self._read(batch)
        self._check_rows(part)
        values = [part.texts[row][start:end] for row, start, end in part.spans]
        self._check_edges(part, values)
        _, first = np.unique(part.row * len(self._attributes) + part.attribute, return_index=True)
        mentions = list(map(values.__getitem__, first.tolist()))
        texts = map(part.texts.__getitem__, part.row[first].tolist())
        said = np.fromiter(map(str.find, texts, mentions), dtype=np.int64, count=len(first))
        early = first[(said < part.start[first]) & (part.attribute[first] > 0)]
        for row in np.unique(part.row[early]).tolist() if self.knowledge.bound else ():
            one = self._row(part, row)
            stated = {span.attribute: one.text[span.start : span.end] for span in reversed(one.spans[1:])}
            check_values(one, stated, self.knowledge)
        self._record(part, first, mentions)

    def _read(self, batch: pa.RecordBatch) -> _Batch:
        """The batch as lists and arrays."""
        texts, column = batch.column(1).to_pylist(), batch.column(2)
        if batch.column(1).null_count or column.null_count:
            raise FactError("a row has no text, or no spans; remove it")
        flat, counts = column.flatten(), np.diff(column.offsets.to_numpy())
        known = pa.array(list(self._attributes), pa.string())
        attribute = pc.index_in(pc.cast(flat.field("attribute"), pa.string()), value_set=known)
        numbers = [pc.fill_null(attribute, -1), flat.field("start"), flat.field("end")]
        arrays = [column.to_numpy(zero_copy_only=False).astype(np.int64) for column in numbers]
        return _Batch(texts, batch.column(0).to_pylist(), np.repeat(np.arange(len(texts)), counts), *arrays)

    def _row(self, part: _Batch, row: int) -> Row:
        names = list(self._attributes)
        spans = [
            Span(names[part.attribute[i]] if part.attribute[i] >= 0 else "?", int(part.start[i]), int(part.end[i]))
            for i in np.flatnonzero(part.row == row).tolist()
        ]
        return Row(part.texts[row], tuple(spans), part.ids[row])

    def _check_rows(self, part: _Batch) -> None:
        """Raises the error of `check_row` for the first row that has one."""
        lengths = np.array([len(text) for text in part.texts], dtype=np.int64)
        is_first = np.diff(part.row, prepend=-1) != 0
        before = np.where(is_first, 0, np.concatenate([[0], part.end[:-1]]))
        wrong = (
            (part.start < before) | (part.end <= part.start) | (part.end > lengths[part.row]) | (part.attribute < 0)
        )
        prefix = self.knowledge.text_prefix
        wrong |= (part.attribute < 0) | is_first & ((part.attribute != 0) | (part.start != len(prefix)))
        rows = {*part.row[wrong].tolist(), *(set(range(len(part.texts))) - set(part.row.tolist()))}
        if prefix:
            rows.update(i for i, text in enumerate(part.texts) if not text.startswith(prefix))
        for row in sorted(rows):
            check_row(self._row(part, row), self.knowledge)

    def _check_edges(self, part: _Batch, values: list[str]) -> None:
        """Raises FactError for a span that begins or ends with white space, or begins within a word or a number."""
        at = np.cumsum([0, *map(len, part.texts)])[part.row]
        codes = np.frombuffer(" ".join(["", *part.texts]).encode("utf-32-le", "surrogatepass"), "<u4")
        at += part.row + 1  # a space before each text
        edges = np.stack([codes[at + part.start - 1], codes[at + part.start], codes[at + part.end - 1]])
        found, numbers = np.unique(edges, return_inverse=True)
        before, first, last = np.array([_kind(chr(code)) for code in found])[numbers.reshape(edges.shape)]
        within = (first == _LOWER) & np.isin(before, (_LOWER, _UPPER)) | (first == _DIGIT) & (before == _DIGIT)
        for i in np.flatnonzero(within | (first == _SPACE) | (last == _SPACE))[:1].tolist():
            start, end = int(part.start[i]), int(part.end[i])
            name, text = list(self._attributes)[part.attribute[i]], part.texts[part.row[i]]
            what = "begins within a word" if within[i] else "begins or ends with white space"
            raise FactError(
                f"entity {part.ids[part.row[i]]!r}: the span {start} to {end} of {name} is {values[i]!r}, which "
                f"{what} ({text[max(0, start - 12) : end + 12]!r}); a span must be exactly the value: correct "
                "start and end (code points, end exclusive)"
            )

    def _record(self, part: _Batch, first: np.ndarray, values: list[str]) -> None:
        """Adds the first mentions of a batch."""
        entities = self.entities.numbers(part.ids)
        attributes, rows = part.attribute[first], part.row[first]
        numbers = np.zeros(len(first), dtype=np.int64)
        for attribute in np.unique(attributes).tolist():
            places = np.flatnonzero(attributes == attribute)
            encoded = pa.array([values[i] for i in places.tolist()], pa.string()).dictionary_encode()
            local = encoded.indices.to_numpy()
            earliest = np.zeros(len(encoded.dictionary), dtype=np.int64)
            earliest[local[::-1]] = places[::-1]
            codes, firsts, of_batch = self._codes[attribute], self._firsts[attribute], []
            for value, place in zip(encoded.dictionary.to_pylist(), earliest.tolist(), strict=True):
                if (number := codes.setdefault(value, len(codes))) == len(firsts):
                    firsts.append(int(entities[rows[place]]))
                of_batch.append(number)
            numbers[places] = np.array(of_batch)[local]
        self._keep(entities[rows], attributes, numbers)
        if self.knowledge.name_log2_candidates is not None:
            names = first[attributes == 0]
            for row, end in zip(part.row[names].tolist(), part.end[names].tolist(), strict=True):
                word = "".join(part.texts[row][end : end + 40].split(None, 1)[:1])
                self._after[word if _kind(word[:1] or ".") in (_UPPER, _DIGIT) else ""] += 1

    def _keep(self, entities: np.ndarray, attributes: np.ndarray, values: np.ndarray) -> None:
        """Keeps the first value of each entity, and those of later texts that differ from it."""
        known, room = self._first_values.shape
        if len(self.entities) > room:
            more = np.full((known, len(self.entities) + room // 4 - room), -1, dtype=np.int32)
            self._first_values = np.concatenate([self._first_values, more], axis=1)
        new = np.flatnonzero(self._first_values[attributes, entities] < 0)[::-1]  # the first mention is written last
        self._first_values[attributes[new], entities[new]] = values[new]
        differ = self._first_values[attributes, entities] != values
        if differ.any():
            self._others.append(np.stack([entities, attributes, values])[:, differ])

    def _other_values(self) -> np.ndarray:
        """Entity, attribute and value of all mentions that are not an entity's first value: (3, n)."""
        return np.concatenate([np.zeros((3, 0), dtype=np.int64), *self._others], axis=1)

    def values(self, attribute: str) -> np.ndarray:
        """(entities,): the number of each entity's value of an attribute, in its first text that has one; -1: none."""
        return self._first_values[self._attributes[attribute], : len(self.entities)].astype(np.int64)

    def spelled(self, attribute: str) -> list[str]:
        """The distinct values of an attribute, in the order of the texts."""
        return list(self._codes[self._attributes[attribute]]) if attribute in self._attributes else []

    def first_entity(self, attribute: str, value: str) -> int | str | None:
        """The first entity that has a value; None if none has it."""
        number = self._codes[self._attributes[attribute]].get(value)
        return None if number is None else self.entities.id_of(self._firsts[self._attributes[attribute]][number])

    def is_stated(self, attribute: str, value: str) -> bool:
        """Whether an entity has a value."""
        return value in self._codes[self._attributes[attribute]]

    def name_problems(self) -> Iterator[str]:
        """Names of several entities, entities of several names, and names that go on after their span."""
        pairs = np.stack(np.divmod(self._named(), max(1, len(self.entities))))  # name and entity
        spelled, id_of = self.spelled(NAME), self.entities.id_of
        shared = np.flatnonzero(np.diff(pairs[0]) == 0)
        if len(shared):
            name, one, other = pairs[0, shared[0]], pairs[1, shared[0]], pairs[1, shared[0] + 1]
            yield (
                f"entities {id_of(one)!r} and {id_of(other)!r} have the same name, {spelled[name]!r} "
                f"({len(shared) - 1:,} more have that of another), so that their facts cannot be distinguished, or "
                "one entity counts twice; give every entity one id and a name of its own, with a span of the whole "
                "name"
            )
        if self.knowledge.name_log2_candidates is None:
            return
        order = np.argsort(pairs[1], kind="stable")
        several = np.flatnonzero(np.diff(pairs[1, order]) == 0)
        if len(several):
            one, other = pairs[0, order[several[0]]], pairs[0, order[several[0] + 1]]
            yield (
                f"entity {id_of(pairs[1, order[several[0]]])!r} has the names {spelled[one]!r} and {spelled[other]!r} "
                "in its texts, but knowledge.json declares a space of names; expected one name an entity"
            )
        after = self._after.keys() - {""}
        if len(after) > _FEWEST_NAMES and self._after[""] < 0.1 * self._after.total():
            yield (
                f"names are followed by {len(after):,} words that begin with a capital letter or a digit, such as "
                f"{min(after)!r}, so that spans seem to be parts of names; a name's span must be the whole name"
            )

    def _named(self) -> np.ndarray:
        """Each name of each entity once, as name x number of entities + entity, sorted."""
        first, (entities, attributes, names) = self.values(NAME), self._other_values()
        count, named, also = len(self.entities), np.flatnonzero(first >= 0), attributes == 0
        return np.unique(np.concatenate([first[named] * count + named, names[also] * count + entities[also]]))

    def answer_problems(self) -> Iterator[str]:
        """Entities with two values of one attribute; upper and lower case are the same."""
        entities, attributes, values = self._other_values()
        for i in np.flatnonzero(attributes > 0).tolist():
            name = list(self._attributes)[attributes[i]]
            spelled = list(self._codes[attributes[i]])
            one, other = spelled[self._first_values[attributes[i], entities[i]]], spelled[values[i]]
            if one.casefold() != other.casefold():
                yield (
                    f"entity {self.entities.id_of(entities[i])!r} has two values of {name}, {one!r} and {other!r}; "
                    "expected one, in all its texts"
                )
                return

    def follows(self, name: str, other: str) -> tuple[float, int, bool]:
        """Whether the values of attribute `name` follow from those of `other`.

        Returns:
            How unlikely that is by chance, in bits, 0 if they do not; the number of entities that have both; whether
            the values are the same texts.
        """
        if len(self.entities) > _SAMPLE and not self._may_follow(name, other):
            return 0.0, 0, False
        both = (self.values(name) >= 0) & (self.values(other) >= 0)
        values, keys = self.values(name)[both], self.values(other)[both]
        if not len(values):
            return 0.0, 0, False
        counts = np.bincount(values)
        surprise = -math.log2(float((counts / len(values)) @ (counts / len(values))))
        texts, others = self.spelled(name), self.spelled(other)
        if all(texts[i] == others[j] for i, j in zip(values.tolist(), keys.tolist(), strict=True)):
            return len(values) * surprise, len(values), True
        distinct = _num_distinct(keys)
        if _num_distinct(keys * len(counts) + values) > distinct:
            return 0.0, 0, False
        return (len(values) - distinct) * surprise, len(values), False

    def _may_follow(self, name: str, other: str) -> bool:
        """Whether it holds among the first entities."""
        values, keys = self.values(name)[:_SAMPLE], self.values(other)[:_SAMPLE]
        both = (values >= 0) & (keys >= 0)
        return _num_distinct((keys * (values.max() + 1) + values)[both]) == _num_distinct(keys[both])


def _num_distinct(numbers: np.ndarray) -> int:
    """How many different numbers there are. Sorted: np.unique of this size is ten times as slow."""
    return int(np.count_nonzero(np.diff(np.sort(numbers)))) + bool(len(numbers))


def _kind(character: str) -> int:
    """White space, a letter in lower or upper case, a digit, or 0 for any other character."""
    if character.isspace():
        return _SPACE
    kind = unicodedata.category(character)
    return {"Ll": _LOWER, "Lu": _UPPER, "Nd": _DIGIT}.get(kind, 0)
