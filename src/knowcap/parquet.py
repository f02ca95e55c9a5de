"""Tables written as Parquet files, chunk by chunk, by one process or several; the files don't depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


ENTITIES_PER_FILE = 50_000
CHUNK = 10_000  # entities held in memory at a time by each process


class ParquetError(ValueError):
    """A process that writes files ended before they were whole."""


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
        ParquetError: another process was killed. What one raises is raised here.
    """
    jobs = []
    for table in tables:
        (folder / table.config).mkdir(exist_ok=True)
        jobs += [(folder / table.config / name, table, first, end) for name, first, end in table.files()]
    if num_proc > 1 and len(jobs) > 1:
        yield from _write_together(jobs, min(num_proc, len(jobs)))
    else:
        for job in jobs:
            yield from _write_file(*job)


Job = tuple[Path, Table, int, int]


def _write_file(path: Path, table: Table, first: int, end: int) -> Iterator[tuple[str, int]]:
    writer = None
    try:
        for batch, count in table.batches(first, end):
            writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_batch(batch)
            yield table.config, count
    finally:
        if writer is not None:
            writer.close()


def _write_together(jobs: list[Job], num_proc: int) -> Iterator[tuple[str, int]]:
    """Each process writes every num_proc-th file and tells of every chunk over a pipe."""
    context = get_context("spawn")
    processes, readers = [], []
    try:
        for number in range(num_proc):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_write_jobs, args=(writer, jobs[number::num_proc]), daemon=True)
            process.start()
            writer.close()
            processes.append(process)
            readers.append(reader)
        yield from _messages(readers)
        for process in processes:
            process.join()
            if process.exitcode:
                raise ParquetError(
                    f"a process that writes files ended with exit code {process.exitcode} (negative: a signal; -9 is "
                    "most often a lack of memory); run again, with a lower num_proc"
                )
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _messages(readers: list[Connection]) -> Iterator[tuple[str, int]]:
    """What the processes say until all of them have hung up."""
    while readers:
        for reader in wait(readers):
            try:
                message = reader.recv()
            except EOFError:
                readers.remove(reader)
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _write_jobs(writer: Connection, jobs: list[Job]) -> None:
    """Another process' work. It ends with the process that started it: the pipe is broken then."""
    try:
        for job in jobs:
            for message in _write_file(*job):
                writer.send(message)
    except BrokenPipeError:
        return
    except Exception as error:
        writer.send(error)
