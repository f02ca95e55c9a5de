"""bioD's names and values as a data set's people config has them, in place of sets and values drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from knowcap.facts import CorpusError
from knowcap.knowledge.diversity import Diversity
from knowcap.knowledge.people import ENTITY_COLUMN
from knowcap.knowledge.recorded import Places, batches, check_names


@dataclass(frozen=True)
class RecordedDiversity(Diversity):
    """Values that were read rather than drawn; `seed` is that of how they are told.

    Attributes:
        sets: (K, strings, L), every attribute's strings as they occur, padded with its first.
        values: (N, K, C) int32, numbers of strings.
    """

    sets: np.ndarray = field(repr=False, compare=False)
    values: np.ndarray = field(repr=False, compare=False)

    def strings(self, attribute: int) -> np.ndarray:
        """The strings of an attribute that occur: (strings, L)."""
        return self.sets[attribute]

    def chunks(self, persons: np.ndarray) -> np.ndarray:
        """The values of persons (n,): (n, K, C)."""
        return self.values[persons]

    def num_first_chunks(self, num_people: int) -> list[int]:
        """How many strings of each attribute begin the value of at least one of the first people."""
        return [len(np.unique(self.values[:num_people, a, 0])) for a in range(self.num_attributes)]


@dataclass
class _Strings:
    """The strings of one attribute, numbered as they come."""

    numbers: dict[bytes, int] = field(default_factory=dict)

    def number(self, strings: np.ndarray) -> np.ndarray:
        """(n, L) int32 → (n,) int32."""
        rows = np.ascontiguousarray(strings)
        keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
        distinct, inverse = np.unique(keys, return_inverse=True)
        numbers = [self.numbers.setdefault(key.tobytes(), len(self.numbers)) for key in distinct]
        return np.array(numbers, dtype=np.int32)[inverse.ravel()]


def read_values(
    files: Sequence[Path],
    shape: Diversity,
    names: list[list[str]],
    symbols: list[str],
    count: int,
    *,
    compact: bool,
    limit: int | None = None,
) -> tuple[RecordedDiversity, np.ndarray]:
    """The values of Parquet files, and which part of each list every name is made of: (N, parts) int64.

    Args:
        files: of the people config.
        shape: K, C, D, L, T, and the seed of how they are told.
        names: the lists that make up names; all but the first begin with a blank.
        symbols: all T of them, as text.
        count: N.
        compact: whether chunks stand side by side, without commas.
        limit: take the first so many rows, whoever they are, as people 0, 1, …

    Raises:
        CorpusError: values or names that aren't of this shape, people that are missing or there twice.
    """
    count = count if limit is None else min(limit, count)
    k, c = shape.num_attributes, shape.chunks_per_value
    values = np.zeros((count, k, c), dtype=np.int32)
    codes = np.zeros((count, len(names)), dtype=np.int64)
    found = [_Strings() for _ in range(k)]
    places = Places(count, first_come=limit is not None)
    for batch in batches(files, (ENTITY_COLUMN, "name", "values")):
        rows = places.of(batch.column(0))
        batch = batch.slice(0, len(rows))
        codes[rows] = _name_codes(batch, names)
        said = _symbols_of(batch, shape, symbols, compact)
        for attribute, strings in enumerate(found):
            values[rows, attribute] = strings.number(said[:, attribute].reshape(-1, shape.chunk_length)).reshape(-1, c)
        if places.full and limit is not None:
            break
    places.check()
    for number, strings in enumerate(found, start=1):
        if len(strings.numbers) > shape.diversity:
            raise CorpusError(
                f"people: ID {number} has {len(strings.numbers):,} different chunks, expected at most diversity="
                f"{shape.diversity:,}, as recipe.yaml says"
            )
    numbers = np.ravel_multi_index(codes.T, [len(part) for part in names])
    check_names(numbers, lambda n: "".join(part[code] for part, code in zip(names, codes[n], strict=True)))
    settings = (k, c, shape.diversity, shape.chunk_length, shape.alphabet_size, shape.seed)
    return RecordedDiversity(*settings, _sets(found, shape.chunk_length), values), codes


def _sets(found: list[_Strings], length: int) -> np.ndarray:
    most = max(len(strings.numbers) for strings in found)
    sets = np.zeros((len(found), most, length), dtype=np.int32)
    for rows, strings in zip(sets, found, strict=True):
        told = np.frombuffer(b"".join(strings.numbers), dtype=np.int32).reshape(-1, length)
        rows[:], rows[: len(told)] = told[0], told
    return sets


def _symbols_of(batch: pa.RecordBatch, shape: Diversity, symbols: list[str], compact: bool) -> np.ndarray:
    """The symbols of all values: (n, K, C, L) int32."""
    k, c, length = shape.num_attributes, shape.chunks_per_value, shape.chunk_length
    texts = _flat(batch, batch.column("values"), k, "values")
    if compact:
        words = _flat(batch, pc.split_pattern(texts, " "), c * length, "symbols a value", k)
    else:
        chunks = _flat(batch, pc.split_pattern(texts, ", "), c, "chunks a value", k)
        words = _flat(batch, pc.split_pattern(chunks, " "), length, "symbols a chunk", k * c)
    codes = pc.index_in(words, value_set=pa.array(symbols, pa.string()))
    if codes.null_count:
        place = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
        raise CorpusError(
            f"people: a value of {_who(batch, place // (k * c * length))} has the symbol {words[place].as_py()!r}, "
            f"expected {symbols[0]} to {symbols[-1]}, as recipe.yaml says"
        )
    return codes.to_numpy().reshape(-1, k, c, length)


def _flat(batch: pa.RecordBatch, lists: pa.Array, expected: int, what: str, per_person: int = 1) -> pa.Array:
    """The items of lists that must all be of one length."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != expected)
    if wrong.size:
        place = int(wrong[0])
        raise CorpusError(
            f"people: {_who(batch, place // per_person)} has {lengths[place]} {what}, expected {expected}, as "
            "recipe.yaml says"
        )
    return pc.list_flatten(lists)


def _name_codes(batch: pa.RecordBatch, names: list[list[str]]) -> np.ndarray:
    """Which text of each list a name is put together from: (n, parts)."""
    texts = pc.cast(batch.column("name"), pa.string())
    words = pc.split_pattern(texts, " ")
    plain = pc.equal(pc.list_value_length(words), len(names)).to_numpy(zero_copy_only=False).astype(bool)
    codes = np.full((len(texts), len(names)), -1, dtype=np.int64)
    if plain.any():
        parts = pc.list_flatten(words.filter(pa.array(plain)))
        for part, texts_of_part in enumerate(names):
            value_set = pa.array([text.strip() for text in texts_of_part], pa.string())
            column = parts.take(pa.array(np.arange(part, len(parts), len(names))))
            codes[plain, part] = pc.fill_null(pc.index_in(column, value_set=value_set), -1).to_numpy()
    for row in np.flatnonzero((codes < 0).any(axis=1)).tolist():  # names of more words than parts
        text = texts[row].as_py() or ""
        way = next(_ways(text, names), None)
        if way is None:
            raise CorpusError(
                f"people: the name {text!r} of {_who(batch, row)} is not made of the lists; add its parts to the data "
                "set's pools/, mend it, or use dataset_texts: published"
            )
        codes[row] = way
    return codes


def _ways(text: str, names: list[list[str]]) -> Iterator[tuple[int, ...]]:
    """How a name can be put together."""
    if not names:
        yield from [()] if not text else []
        return
    for number, part in enumerate(names[0]):
        if text.startswith(part):
            for rest in _ways(text[len(part) :], names[1:]):
                yield number, *rest


def _who(batch: pa.RecordBatch, row: int) -> str:
    return f"{ENTITY_COLUMN} {batch.column(0)[row].as_py()}"
