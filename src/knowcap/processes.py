"""Jobs divided among processes, which send results through pipes and end with the process that started them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TypeVar, cast


Job = TypeVar("Job")
Found = TypeVar("Found")


class ProcessError(ValueError):
    """A process ended before its jobs were done."""


def share_out(work: Callable[[Job], Iterator[Found]], jobs: Sequence[Job], num_proc: int = 1) -> Iterator[Found]:
    """The results of `work` for every job, as they arrive: in order within a job, in any order between jobs.

    Args:
        work: sent to every process once, so a module's function, or a `partial` of one.
        jobs: each process does every num_proc-th of them.
        num_proc: processes; with one process or one job, the work is done in this process.

    Raises:
        ProcessError: a process was killed. An exception in a process is raised here.
    """
    num_proc = min(num_proc, len(jobs))
    if num_proc <= 1:
        for job in jobs:
            yield from work(job)
        return
    context = get_context("spawn")
    processes, readers = [], []
    try:
        for number in range(num_proc):
            reader, writer = context.Pipe(duplex=False)
            arguments = (writer, work, jobs[number::num_proc])
            process = context.Process(target=_do_jobs, args=arguments, daemon=True)
            process.start()
            writer.close()
            processes.append(process)
            readers.append(reader)
        yield from _messages(readers)
        for process in processes:
            process.join()
            if process.exitcode:
                raise ProcessError(
                    f"a process ended with exit code {process.exitcode} (negative: a signal; -9 is most often a lack "
                    "of memory) before its work was done; run again with fewer processes (num_proc)"
                )
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _messages(readers: list[Connection]) -> Iterator:
    """The messages of the processes, until all of them have closed their pipes."""
    while readers:
        for reader in cast("list[Connection]", wait(readers)):
            try:
                message = reader.recv()
            except EOFError:
                readers.remove(reader)
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _do_jobs(writer: Connection, work: Callable[[Job], Iterator[Found]], jobs: Sequence[Job]) -> None:
    """The work of one process. It ends with the process that started it, since its pipe breaks."""
    try:
        for job in jobs:
            for found in work(job):
                writer.send(found)
    except BrokenPipeError:
        return
    except Exception as error:
        writer.send(error)


def is_main_process() -> bool:
    """Whether this process is the only one, or the first of those launched together."""
    return os.environ.get("RANK", "0") == "0"
