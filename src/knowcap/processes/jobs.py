"""Jobs divided among processes, which send results through pipes and end with the process that started them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
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
    processes: dict[Connection, BaseProcess] = {}
    try:
        for number in range(num_proc):
            reader, writer = context.Pipe(duplex=False)
            arguments = (writer, work, jobs[number::num_proc])
            process = context.Process(target=_do_jobs, args=arguments, daemon=True)
            process.start()
            writer.close()
            processes[reader] = process
        yield from _messages(dict(processes))
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def _messages(processes: dict[Connection, BaseProcess]) -> Iterator:
    """The messages of processes, until all of them have closed their pipes.

    Raises:
        ProcessError: a process ended before its work was done, however long the others would take.
    """
    while processes:
        for reader in cast("list[Connection]", wait(list(processes))):
            try:
                message = reader.recv()
            except EOFError:
                process = processes.pop(reader)
                process.join()
                if process.exitcode:
                    raise ProcessError(
                        f"a process ended with exit code {process.exitcode} (negative: a signal; -9 is most often a "
                        "lack of memory) before its work was done; run again with fewer processes (num_proc)"
                    ) from None
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _do_jobs(writer: Connection, work: Callable[[Job], Iterator[Found]], jobs: Sequence[Job]) -> None:
    """The work of one process. It ends with the process that started it, since its pipe breaks.

    Ctrl-C and a scheduler's SIGTERM reach all processes; the one that started them ends the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
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
