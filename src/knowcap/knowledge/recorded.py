"""People of bioS as a data set's people config has them, in place of people drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from knowcap.facts import CorpusError, Knowledge
from knowcap.knowledge.people import CODES, COLUMNS, ENTITY_COLUMN, People
from knowcap.knowledge.pools import BIRTH_DATES, PRONOUNS, Pools, format_birth_date
from knowcap.processes import is_main_process


_BATCH = 100_000  # people read at a time
Names = Callable[[int], str]


@dataclass(frozen=True)
class RecordedPeople(People):
    """People who were read rather than drawn; there is nobody else, so there are no outsiders.

    `seed` is that of how they are told.

    Attributes:
        columns: which value each person has, (N,) for each of `CODES`, in the smallest type that holds it.
        recorded: the data set's knowledge.json.
    """

    columns: tuple[np.ndarray, ...]
    recorded: Knowledge

    @property
    def num_outsiders(self) -> int:
        """Nobody but the recorded ones can be told."""
        return 0

    def codes(self, indices: np.ndarray) -> np.ndarray:
        """Which value each person has: (n,) person numbers → (9, n) int32, rows in the order of `CODES`."""
        return np.stack([column[indices].astype(np.int32) for column in self.columns])

    def knowledge(self, name: str = "bioS") -> Knowledge:
        """The data set's own."""
        return self.recorded


def read_people(
    files: Sequence[Path], pools: Pools, recorded: Knowledge, seed: int, limit: int | None = None
) -> RecordedPeople:
    """The people of Parquet files, as codes into the lists.

    Args:
        files: of the people config.
        pools: the lists that the values are from.
        recorded: the data set's knowledge.json.
        seed: of how they are told.
        limit: take the first so many rows, whoever they are, as people 0, 1, …

    Raises:
        CorpusError: a value that is in no list, a work city that isn't the employer's, people that are missing or
            there twice, or two of one name.
    """
    values = _value_sets(pools)
    count = recorded.num_people if limit is None else min(limit, recorded.num_people)
    columns = [np.zeros(count, dtype=np.min_scalar_type(max(1, len(v) - 1))) for v in values.values()]
    cities = pa.array(list(dict.fromkeys(pools.work_cities)), pa.string())
    city_of = pc.index_in(pa.array(pools.work_cities, pa.string()), value_set=cities).to_numpy()
    places = Places(count, first_come=limit is not None)
    for batch in batches(files, COLUMNS):
        rows = places.of(batch.column(ENTITY_COLUMN))
        batch = batch.slice(0, len(rows))
        for column, (name, value_set) in zip(columns, values.items(), strict=True):
            column[rows] = codes_of(batch, name, value_set)
        employers = columns[CODES.index("employer")][rows]
        _check_headquarters(batch, codes_of(batch, "work_city", cities), city_of[employers], employers, pools)
        if places.full and limit is not None:
            break
    places.check()
    people = RecordedPeople(pools, len(columns[0]), seed, tuple(columns), recorded)
    sizes = [len(v) for v in list(values.values())[:3]]
    check_names(np.ravel_multi_index([column.astype(np.int64) for column in columns[:3]], sizes), people_names(people))
    return people


class Places:
    """Which person stands in which row: all of 0 … count - 1 must come once."""

    def __init__(self, count: int, first_come: bool) -> None:
        """`first_come`: number rows as they come, whatever their ids, up to `count`."""
        self._seen = np.zeros(count, dtype=bool)
        self._next = 0 if first_come else None

    @property
    def full(self) -> bool:
        """Whether everybody was seen."""
        return bool(self._seen.all())

    def of(self, ids: pa.Array) -> np.ndarray:
        """The person numbers of rows, (n,) or fewer where no more are wanted. Raises CorpusError."""
        if self._next is not None:
            numbers = np.arange(self._next, min(self._next + len(ids), len(self._seen)))
            self._next += len(numbers)
            self._seen[numbers] = True
            return numbers
        if not pa.types.is_integer(ids.type) or ids.null_count:
            raise CorpusError(f"people: {ENTITY_COLUMN} is {ids.type}, expected whole numbers without gaps")
        numbers = ids.to_numpy(zero_copy_only=False).astype(np.int64)
        outside = numbers[(numbers < 0) | (numbers >= len(self._seen))]
        if outside.size:
            raise CorpusError(
                f"people: got {ENTITY_COLUMN} {outside[0]}, expected 0 to {len(self._seen) - 1}, as many as the "
                "num_people of knowledge.json"
            )
        ordered = np.sort(numbers)
        twice = np.concatenate([numbers[self._seen[numbers]], ordered[1:][ordered[1:] == ordered[:-1]]])
        if twice.size:
            raise CorpusError(f"people: {ENTITY_COLUMN} {twice[0]} is there twice; remove one")
        self._seen[numbers] = True
        return numbers

    def check(self) -> None:
        """Raises CorpusError where somebody is missing."""
        missing = np.flatnonzero(~self._seen)
        if missing.size:
            raise CorpusError(
                f"people: {missing.size:,} of {len(self._seen):,} are missing, {ENTITY_COLUMN} {missing[0]} first; "
                "knowledge.json and the people config must be of the same people"
            )


def batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files, batch by batch. Raises CorpusError where a column is missing."""
    total = sum(pq.read_metadata(path).num_rows for path in files)
    bar = tqdm(
        total=total, desc="reading people", unit_scale=True, leave=False, delay=2, disable=not is_main_process()
    )
    for path in files:
        file = pq.ParquetFile(path)
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise CorpusError(
                f"people: {path.name} lacks {', '.join(lacking)}, it has {', '.join(file.schema_arrow.names)}; "
                "dataset_texts: published needs the biographies alone"
            )
        for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
            yield batch
            bar.update(len(batch))
    bar.close()


def codes_of(batch: pa.RecordBatch, column: str, value_set: pa.Array) -> np.ndarray:
    """Where in a list each row's value stands: (n,) int32. Raises CorpusError where one isn't there."""
    values = pc.cast(batch.column(column), pa.string())
    codes = pc.index_in(values, value_set=value_set)
    if codes.null_count:
        row = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
        raise CorpusError(
            f"people: the {column} {values[row].as_py()!r} of {batch.column(0)[row].as_py()} is in no list; "
            "add it to the data set's pools/, mend it, or use dataset_texts: published"
        )
    return codes.to_numpy()


def check_names(numbers: np.ndarray, name: Names) -> None:
    """Raises CorpusError where two people's names have the same number; `name` says a person's, for the message."""
    ordered = np.sort(numbers)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if same.size:
        first, second = np.flatnonzero(numbers == ordered[same[0]])[:2].tolist()
        raise CorpusError(
            f"people: {first} and {second} are both called {name(first)}; names must be distinct, change one"
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
    lists += ([format_birth_date(i) for i in range(BIRTH_DATES)], pools.birth_cities, pools.universities)
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
