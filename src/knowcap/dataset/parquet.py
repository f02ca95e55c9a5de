"""Tables written as Parquet files, chunk by chunk, by one process or several; the files don't depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from knowcap.processes import share_out


ENTITIES_PER_FILE = 50_000
CHUNK = 10_000  # entities held in memory at a time by each process


@dataclass(frozen=True)
class Table:
    """One split of a config of a data set.

    Attributes:
        config, split: where its files go: `config/split-00000-of-00002.parquet`.
        first, end: the numbers of its entities.
        batch: makes the rows of entities first … end - 1; sent to other processes, so a function of a module.
    """

    config: str
    split: str
    first: int
    end: int
    batch: Callable[[int, int], pa.RecordBatch]

    def files(self) -> list[tuple[str, int, int]]:
        """The name of every file, and which entities are in there."""
        starts = range(self.first, self.end, ENTITIES_PER_FILE)
        return [
            (f"{self.split}-{n:05d}-of-{len(starts):05d}.parquet", start, min(self.end, start + ENTITIES_PER_FILE))
            for n, start in enumerate(starts)
        ]

    def batches(self, first: int, end: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The rows of entities first … end - 1, chunk by chunk, with the number of entities in each."""
        for start in range(first, end, CHUNK):
            stop = min(end, start + CHUNK)
            yield self.batch(start, stop), stop - start


def write_tables(folder: Path, tables: Sequence[Table], num_proc: int = 1) -> Iterator[tuple[str, int]]:
    """Writes every file of every table under an empty folder; yields a config and how many entities it got, as it
    goes.

    Raises:
        ProcessError: another process was killed. What one raises is raised here.
    """
    jobs = []
    for table in tables:
        (folder / table.config).mkdir(exist_ok=True)
        jobs += [(folder / table.config / name, table, first, end) for name, first, end in table.files()]
    yield from share_out(_write_file, jobs, num_proc)


def _write_file(job: tuple[Path, Table, int, int]) -> Iterator[tuple[str, int]]:
    path, table, first, end = job
    writer = None
    try:
        for batch, count in table.batches(first, end):
            writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_batch(batch)
            yield table.config, count
    finally:
        if writer is not None:
            writer.close()
