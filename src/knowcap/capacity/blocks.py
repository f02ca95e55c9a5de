"""Scored facts block by block, so that memory does not grow with the number of entities; sums over the blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from knowcap.capacity.tables import COLUMNS, Facts, attributes_in, check_file, declared_bits, facts_of
from knowcap.sealed.parquet import open_parquet


# Of a block. A file with no more rows is one block, whose sums are those of the whole table to the last bit.
MOST_ROWS = 2**18
_BATCH_ROWS = 65_536


class FactBlocks:
    """The facts of nll.parquet in blocks of whole entities, in the order of the file; each iteration reads it.

    A file is one block if it has at most MOST_ROWS rows, or if rows of an entity stand apart. Otherwise a block has as
    many entities as have about MOST_ROWS rows, and two at least. Every block has the same attributes.

    Attributes:
        path: of the file.
        attributes: those that occur, in the order of knowledge.json, the name first; with first chunks.
        references: log2 of the candidates of each, in bits.
        num_entities: how many state facts.
    """

    def __init__(self, path: Path, measurement: dict[str, Any]) -> None:
        """Reads the columns of entities and attributes.

        Raises:
            CapacityError: the file or a column is missing, it holds no facts, or attributes that are not scored.
        """
        check_file(path)
        self.path, self._knowledge = path, measurement["knowledge"]
        with open_parquet(path, read_dictionary=["attribute"]) as file:
            batches = file.iter_batches(_BATCH_ROWS, columns=["attribute"])
            found = dict.fromkeys(name for batch in batches for name in batch.column(0).dictionary.to_pylist())
            rows, ids = file.metadata.num_rows, _entities(file)
        declared = declared_bits(self._knowledge)
        self.attributes = attributes_in(found, declared, path)
        self.references = {name: declared[name] for name in self.attributes}
        self.num_entities = _distinct(ids)
        self._size = max(2, MOST_ROWS * len(ids) // max(1, rows))  # entities of a block
        self._ids = None if rows <= MOST_ROWS or self.num_entities < len(ids) else ids
        self._kept: Facts | None = None  # the block of a small file, for the next iteration

    @property
    def is_one(self) -> bool:
        """Whether there is one block."""
        return self._ids is None

    def same_order(self, other: FactBlocks) -> bool:
        """Whether another file has several blocks too, of the same entities each."""
        ours, theirs = self._ids, other._ids
        return ours is not None and theirs is not None and self._size == other._size and np.array_equal(ours, theirs)

    def whole(self) -> Facts:
        """All blocks as one.

        Raises:
            CapacityError: a number is impossible, or a fact occurs twice.
        """
        if self._kept is None or not self.is_one:
            with open_parquet(self.path, read_dictionary=["attribute"]) as file:
                self._kept = self._facts(file.read(columns=list(COLUMNS)), 0)
        return self._kept

    def __iter__(self) -> Iterator[Facts]:
        """The blocks. Raises CapacityError as `whole` does."""
        if self.is_one:
            yield self.whole()
            return
        first = 0
        for batches in self._batches():
            table = pa.Table.from_batches(batches)
            yield self._facts(table, first)
            first += table.num_rows

    def _batches(self) -> Iterator[list[pa.RecordBatch]]:
        """The rows of each block."""
        pending: list[pa.RecordBatch] = []
        entities, last = 0, None
        with open_parquet(self.path, read_dictionary=["attribute"]) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(COLUMNS)):
                begins, last = _begins(batch.column("entity"), last)
                while entities + len(begins) > self._size:
                    cut = int(begins[self._size - entities])
                    yield [*pending, batch.slice(0, cut)]
                    begins, batch = begins[self._size - entities :] - cut, batch.slice(cut)
                    pending, entities = [], 0
                pending, entities = [*pending, batch], entities + len(begins)
        yield pending

    def _facts(self, table: pa.Table, first_row: int) -> Facts:
        return facts_of(table, self._knowledge, self.path, names=self.attributes, first_row=first_row)


def _begins(column: pa.Array, last: Any) -> tuple[np.ndarray, Any]:
    """Where rows of another entity begin than that of the row before, and the entity of the last row."""
    values = column.to_numpy(zero_copy_only=False)
    if not len(values):
        return np.zeros(0, dtype=np.int64), last
    begins = np.flatnonzero(np.concatenate([[last is None or values[0] != last], values[1:] != values[:-1]]))
    return begins, values[-1]


def _entities(file: pq.ParquetFile) -> np.ndarray:
    """The entity of each run of equal ones, in the order of the file."""
    found, last = [np.zeros(0, dtype=np.int64)], None
    for batch in file.iter_batches(_BATCH_ROWS, columns=["entity"]):
        begins, last = _begins(batch.column(0), last)
        found.append(batch.column(0).to_numpy(zero_copy_only=False)[begins])
    return np.concatenate(found[1:] or found)


def _distinct(ids: np.ndarray) -> int:
    """How many different ids there are."""
    if ids.dtype == object:
        return len(set(ids.tolist()))
    if (ids[1:] > ids[:-1]).all():
        return len(ids)
    ordered = np.sort(ids)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + bool(len(ids))


@dataclass(frozen=True)
class Moments:
    """Of numbers that are not NaN: how many, their sum, and the sum of squares of their differences from the mean."""

    count: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of an array; NaN are left out."""
        stated = values[~np.isnan(values)]
        if not stated.size:
            return cls(0, 0.0, 0.0)
        total = float(stated.sum())
        differences = stated - total / stated.size
        return cls(stated.size, total, float(np.square(differences).sum()))

    @classmethod
    def over(cls, parts: Iterable[Moments]) -> Moments:
        """Of all numbers of several parts (Chan, Golub and LeVeque, 1983, equation 1.5b, for any number of parts)."""
        parts = [part for part in parts if part.count]
        if len(parts) < 2:
            return parts[0] if parts else cls(0, 0.0, 0.0)
        count, total = sum(p.count for p in parts), math.fsum(p.total for p in parts)
        between = (p.count * (p.total / p.count - total / count) ** 2 for p in parts)
        return cls(count, total, math.fsum([*(p.squares for p in parts), *between]))

    @property
    def mean(self) -> float:
        """NaN without numbers."""
        return self.total / self.count if self.count else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation, with count - 1 in the denominator; NaN for fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else math.nan
