"""The people of bioS and bioD read from a data set's people config, in place of people drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from knowcap.facts import CorpusError, Knowledge
from knowcap.knowledge.diversity import Diversity
from knowcap.knowledge.people import CODES, COLUMNS, ENTITY_COLUMN, People
from knowcap.knowledge.pools import PRONOUNS, Pools, birth_dates
from knowcap.processes import is_main_process
from knowcap.progress import progress_bar
from knowcap.sealed import parquet
from knowcap.sealed.parquet import read_schema, rows_in


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

_BATCH = 100_000  # people read at a time
Names = Callable[[int], str]


@dataclass(frozen=True)
class RecordedPeople(People):
    """People that were read rather than drawn; there are no outsiders. `seed` is that of their renderings.

    Attributes:
        columns: each person's value, as its number in the list: (N,) for each of `CODES`, in the smallest type.
        recorded: the data set's knowledge.json.
    """

    columns: tuple[np.ndarray, ...]
    recorded: Knowledge

    @property
    def num_outsiders(self) -> int:
        """None: only the recorded people exist."""
        return 0

    def codes(self, indices: np.ndarray) -> np.ndarray:
        """Which value each person has: (n,) person numbers → (9, n) int32, rows in the order of `CODES`."""
        return np.stack([column[indices].astype(np.int32) for column in self.columns])

    def knowledge(self, name: str = "bioS") -> Knowledge:
        """The data set's knowledge.json."""
        return self.recorded


def read_people(
    files: Sequence[Path], pools: Pools, recorded: Knowledge, seed: int, limit: int | None = None
) -> RecordedPeople:
    """The people of Parquet files, as codes into the lists.

    Args:
        files: of the people config.
        pools: the lists that the values are from.
        recorded: the data set's knowledge.json.
        seed: of their renderings.
        limit: read only this many rows, as people 0, 1, …, whatever their ids.

    Raises:
        CorpusError: a value that is not in the lists, a work city that is not the employer's, people missing or listed
            twice, or two people with the same name.
    """
    values = _value_sets(pools)
    count = recorded.num_people if limit is None else min(limit, recorded.num_people)
    columns = [np.zeros(count, dtype=np.min_scalar_type(max(1, len(v) - 1))) for v in values.values()]
    cities = pa.array(list(dict.fromkeys(pools.work_cities)), pa.string())
    city_of = pc.index_in(pa.array(pools.work_cities, pa.string()), value_set=cities).to_numpy()
    numbering = PersonNumbers(count, by_row=limit is not None)
    for batch in batches(files, COLUMNS):
        rows = numbering.of(batch.column(ENTITY_COLUMN))
        batch = batch.slice(0, len(rows))
        for column, (name, value_set) in zip(columns, values.items(), strict=True):
            column[rows] = codes_of(batch, name, value_set)
        employers = columns[CODES.index("employer")][rows]
        _check_headquarters(batch, codes_of(batch, "work_city", cities), city_of[employers], employers, pools)
        if numbering.full and limit is not None:
            break
    numbering.check()
    people = RecordedPeople(pools, len(columns[0]), seed, tuple(columns), recorded)
    sizes = [len(v) for v in list(values.values())[:3]]
    check_names(np.ravel_multi_index([column.astype(np.int64) for column in columns[:3]], sizes), people_names(people))
    return people


class PersonNumbers:
    """The person number of each row: each of 0 … count - 1 must occur once."""

    def __init__(self, count: int, by_row: bool) -> None:
        """`by_row`: number the rows 0, 1, …, whatever their ids, up to `count`."""
        self._seen = np.zeros(count, dtype=bool)
        self._next = 0 if by_row else None

    @property
    def full(self) -> bool:
        """Whether all people were seen."""
        return bool(self._seen.all())

    def of(self, ids: pa.Array) -> np.ndarray:
        """The person numbers of rows: (n,), or fewer where `count` is reached. Raises CorpusError."""
        if self._next is not None:
            numbers = np.arange(self._next, min(self._next + len(ids), len(self._seen)))
            self._next += len(numbers)
            self._seen[numbers] = True
            return numbers
        if not pa.types.is_integer(ids.type) or ids.null_count:
            raise CorpusError(f"people: {ENTITY_COLUMN} is {ids.type}, expected integers without nulls")
        numbers = ids.to_numpy(zero_copy_only=False).astype(np.int64)
        outside = numbers[(numbers < 0) | (numbers >= len(self._seen))]
        if outside.size:
            raise CorpusError(
                f"people: got {ENTITY_COLUMN} {outside[0]}, expected 0 to {len(self._seen) - 1}, by the "
                "num_people of knowledge.json"
            )
        ordered = np.sort(numbers)
        twice = np.concatenate([numbers[self._seen[numbers]], ordered[1:][ordered[1:] == ordered[:-1]]])
        if twice.size:
            raise CorpusError(f"people: {ENTITY_COLUMN} {twice[0]} is listed twice; remove one")
        self._seen[numbers] = True
        return numbers

    def check(self) -> None:
        """Raises CorpusError if a person is missing."""
        missing = np.flatnonzero(~self._seen)
        if missing.size:
            raise CorpusError(
                f"people: {missing.size:,} of {len(self._seen):,} are missing, {ENTITY_COLUMN} {missing[0]} first; "
                "knowledge.json and the people config must describe the same people"
            )


def batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files, batch by batch. Raises CorpusError if a column is missing."""
    total = sum(rows_in(path) for path in files)
    bar = progress_bar(
        total=total, desc="reading people", unit_scale=True, leave=False, delay=2, disable=not is_main_process()
    )
    for path in files:
        names = read_schema(path).names
        missing = [name for name in columns if name not in names]
        if missing:
            raise CorpusError(
                f"people: {path.name} lacks {', '.join(missing)}, it has {', '.join(names)}; "
                "add them, or use dataset_texts: published, which needs only the biographies"
            )
        for batch in parquet.batches(path, columns, batch_size=_BATCH):
            yield batch
            bar.update(len(batch))
    bar.close()


def codes_of(batch: pa.RecordBatch, column: str, value_set: pa.Array) -> np.ndarray:
    """The number of each row's value in a list: (n,) int32. Raises CorpusError if it is not in the list."""
    values = pc.cast(batch.column(column), pa.string())
    codes = pc.index_in(values, value_set=value_set)
    if codes.null_count:
        row = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
        raise CorpusError(
            f"people: the {column} {values[row].as_py()!r} of {batch.column(0)[row].as_py()} is not in the "
            "lists; add it to the data set's pools/, correct it, or use dataset_texts: published"
        )
    return codes.to_numpy()


def check_names(numbers: np.ndarray, name: Names) -> None:
    """Raises CorpusError if two people's names have the same number; `name` gives a person's name for the message."""
    ordered = np.sort(numbers)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if same.size:
        first, second = np.flatnonzero(numbers == ordered[same[0]])[:2].tolist()
        raise CorpusError(
            f"people: {first} and {second} have the same name, {name(first)}; names must be distinct, change one"
        )


def people_names(people: People) -> Names:
    """Looks up a person's full name."""

    def name(number: int) -> str:
        (person,) = people.texts(people.codes(np.array([number])))
        return " ".join(person[part] for part in CODES[:3])

    return name


def _value_sets(pools: Pools) -> dict[str, pa.Array]:
    """The list of every column of `CODES`, in its order."""
    lists = (pools.first_names, pools.middle_names, pools.last_names)
    lists += (birth_dates(), pools.birth_cities, pools.universities)
    lists += (pools.majors, pools.employers, PRONOUNS)
    return {name: pa.array(list(values), pa.string()) for name, values in zip(CODES, lists, strict=True)}


def _check_headquarters(
    batch: pa.RecordBatch, got: np.ndarray, expected: np.ndarray, employers: np.ndarray, pools: Pools
) -> None:
    wrong = np.flatnonzero(got != expected)
    if wrong.size:
        row = int(wrong[0])
        employer = int(employers[row])
        raise CorpusError(
            f"people: {batch.column(0)[row].as_py()} works at {pools.employers[employer]} in "
            f"{batch.column('work_city')[row].as_py()!r}, but its headquarters are in "
            f"{pools.work_cities[employer]!r}; the work city must follow from the employer"
        )


@dataclass(frozen=True)
class RecordedDiversity(Diversity):
    """Values that were read rather than drawn; `seed` is that of their renderings.

    Attributes:
        sets: (K, strings, L), every attribute's strings in the order in which they occur, padded with its first.
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
    """The strings of one attribute, numbered in the order in which they occur."""

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
    """The values in Parquet files, and the text of each list that every name has: (N, parts) int64.

    Args:
        files: of the people config.
        shape: K, C, D, L, T, and the seed of the renderings.
        names: the lists that names consist of; a space begins the texts of all but the first.
        symbols: all T of them, as text.
        count: N.
        compact: whether there are no commas between chunks.
        limit: read only this many rows, as people 0, 1, …, whatever their ids.

    Raises:
        CorpusError: values or names that do not have this shape, people that are missing or listed twice.
    """
    count = count if limit is None else min(limit, count)
    k, c = shape.num_attributes, shape.chunks_per_value
    values = np.zeros((count, k, c), dtype=np.int32)
    codes = np.zeros((count, len(names)), dtype=np.int64)
    found = [_Strings() for _ in range(k)]
    numbering = PersonNumbers(count, by_row=limit is not None)
    for batch in batches(files, (ENTITY_COLUMN, "name", "values")):
        rows = numbering.of(batch.column(0))
        batch = batch.slice(0, len(rows))
        codes[rows] = _name_codes(batch, names)
        symbols_found = _symbols_of(batch, shape, symbols, compact)
        for attribute, strings in enumerate(found):
            values[rows, attribute] = strings.number(
                symbols_found[:, attribute].reshape(-1, shape.chunk_length)
            ).reshape(-1, c)
        if numbering.full and limit is not None:
            break
    numbering.check()
    for number, strings in enumerate(found, start=1):
        if len(strings.numbers) > shape.diversity:
            raise CorpusError(
                f"people: ID {number} has {len(strings.numbers):,} distinct chunks, expected at most diversity="
                f"{shape.diversity:,}, as recipe.yaml says"
            )
    numbers = np.asarray(np.ravel_multi_index(tuple(codes.T), [len(part) for part in names]))
    check_names(numbers, lambda n: "".join(part[code] for part, code in zip(names, codes[n], strict=True)))
    settings = (k, c, shape.diversity, shape.chunk_length, shape.alphabet_size, shape.seed)
    return RecordedDiversity(*settings, _sets(found, shape.chunk_length), values), codes


def _sets(found: list[_Strings], length: int) -> np.ndarray:
    most = max(len(strings.numbers) for strings in found)
    sets = np.zeros((len(found), most, length), dtype=np.int32)
    for rows, strings in zip(sets, found, strict=True):
        found_rows = np.frombuffer(b"".join(strings.numbers), dtype=np.int32).reshape(-1, length)
        rows[:], rows[: len(found_rows)] = found_rows[0], found_rows
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
            f"people: a value of {_person(batch, place // (k * c * length))} has the symbol {words[place].as_py()!r}, "
            f"expected {symbols[0]} to {symbols[-1]}, as recipe.yaml says"
        )
    return codes.to_numpy().reshape(-1, k, c, length)


def _flat(batch: pa.RecordBatch, lists: pa.Array, expected: int, what: str, per_person: int = 1) -> pa.Array:
    """The items of lists that must all have the same length."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != expected)
    if wrong.size:
        place = int(wrong[0])
        raise CorpusError(
            f"people: {_person(batch, place // per_person)} has {lengths[place]} {what}, expected {expected}, as "
            "recipe.yaml says"
        )
    return pc.list_flatten(lists)


def _name_codes(batch: pa.RecordBatch, names: list[list[str]]) -> np.ndarray:
    """The text of each list that a name has: (n, parts)."""
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
    for row in np.flatnonzero((codes < 0).any(axis=1)).tolist():  # names with more words than parts
        text = texts[row].as_py() or ""
        split = next(_splits(text, names), None)
        if split is None:
            raise CorpusError(
                f"people: the name {text!r} of {_person(batch, row)} does not consist of names in the lists; add its "
                "parts to the data set's pools/, correct it, or use dataset_texts: published"
            )
        codes[row] = split
    return codes


def _splits(text: str, names: list[list[str]]) -> Iterator[tuple[int, ...]]:
    """The ways to split a name into parts."""
    if not names:
        yield from [()] if not text else []
        return
    for number, part in enumerate(names[0]):
        if text.startswith(part):
            for rest in _splits(text[len(part) :], names[1:]):
                yield number, *rest


def _person(batch: pa.RecordBatch, row: int) -> str:
    return f"{ENTITY_COLUMN} {batch.column(0)[row].as_py()}"
