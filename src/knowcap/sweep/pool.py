"""Cells side by side in processes of this machine, each with one thread: an engine for `run_sweep`.

A process runs cell after cell, so that libraries are imported once. If it dies (a lack of memory, a crash in a
library), its cell has failed, and another process takes its place. No process outlives the one that started it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, cast

from knowcap.processes.signals import Interrupted, exit_status, handled
from knowcap.progress import Progress, report_to
from knowcap.run.launch import set_up_process
from knowcap.sweep.cells import Cell
from knowcap.sweep.places import place_problems, places_for, work
from knowcap.sweep.view import View
from knowcap.sweep.workers import Outcome, run_cell


# One thread each: as many cells as cores run at once, and results do not depend on the number of cores.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the bars of other libraries
}
_CELLS = 50  # of one process, then another takes its place: what libraries keep of earlier cells is bounded
_LINES = 100  # of a dead process's output that are kept
_ENDING = 120.0  # seconds that a worker has to finish its step and save a checkpoint
_PATIENCE = 30.0  # seconds that a process without work has to end by itself

logger = logging.getLogger(__name__)


class _Line(NamedTuple):
    """A log line of a worker."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class Pool:
    """Runs cells in processes of this machine; an engine for `run_sweep`.

    Attributes:
        workers: how many run at once; None: as many as there are CPU cores and memory for, see `places_for`.
        gpus_per_cell: 0 for the CPU, a fraction lets cells share a GPU; None decides by the models' sizes.
        num_proc: processes that write a cell's data set.
        run: what a process does with a cell, by default all its stages; a module's function.
    """

    workers: int | None = None
    gpus_per_cell: float | None = None
    num_proc: int = 1
    run: Callable[..., Outcome] = run_cell

    def problems(self) -> list[str]:
        """What of the options cannot be had on this machine."""
        return place_problems(self.workers, self.gpus_per_cell)

    def __call__(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """Runs cells, those that take longest first; yields outcomes as they come."""
        if not cells:
            return
        works = {cell.name: work(cell.recipe) for cell in cells}
        places = places_for(cells, self.workers, self.gpus_per_cell)
        logger.info("[sweep] %s", places.why)
        waiting = deque(sorted(cells, key=lambda cell: -works[cell.name]))
        view = View(works, len(places.environments))
        with tempfile.TemporaryDirectory(prefix="knowcap-sweep-") as folder, closing(view):
            crew: list[_Worker] = []
            try:
                for number, environment in enumerate(places.environments):
                    crew.append(_Worker(environment, Path(folder) / str(number), self.run, self.num_proc))
                    _give(crew, number, waiting, view)
                while busy := [number for number, worker in enumerate(crew) if worker.cell is not None]:
                    _wait([crew[number] for number in busy])
                    for number in busy:
                        if (outcome := crew[number].outcome(lambda p, n=number: view.update(n, p))) is not None:
                            view.end(number, bool(outcome.error))
                            _give(crew, number, waiting, view)
                            yield outcome
                    view.refresh()
                for worker in crew:
                    worker.connection.close()  # without more cells, they end by themselves
                for worker in crew:
                    worker.process.join(_PATIENCE)
            finally:
                _end(crew)


def _end(crew: Sequence[_Worker]) -> None:
    """Ends all workers. Those at work are asked to save a checkpoint first; another Ctrl-C, or time, ends them at
    once."""
    try:
        busy = [worker for worker in crew if worker.cell is not None and worker.process.is_alive()]
        if busy:
            logger.info("[sweep] ending %d cells; Ctrl-C once more ends them at once", len(busy))
        for worker in busy:
            worker.process.terminate()
        end = time.monotonic() + _ENDING
        while busy and time.monotonic() < end:
            _wait(busy)
            busy = [worker for worker in busy if worker.is_ending()]
    finally:
        for worker in crew:
            worker.kill()


def _give(crew: list[_Worker], number: int, waiting: deque[Cell], view: View) -> None:
    """Gives a worker the next cell, if there is one; a worker that has died, or run many cells, is replaced first."""
    if not waiting:
        return
    worker = crew[number]
    if worker.num_cells >= _CELLS or not worker.process.is_alive():
        worker.connection.close()
        worker.process.join(_PATIENCE)
        worker.kill()
        crew[number] = worker.successor()
    cell = waiting.popleft()
    view.start(number, cell.name)
    crew[number].take(cell)


def _wait(workers: Sequence[_Worker]) -> None:
    """Waits until a worker sends something or ends; a second at most, so that the time on the view goes on."""
    wait([w.connection for w in workers] + [w.process.sentinel for w in workers], timeout=1.0)


class _Worker:
    """A process that runs cell after cell, as the process that started it sees it."""

    def __init__(self, environment: Mapping[str, str], output: Path, run: Callable[..., Outcome], num_proc: int):
        self._how = environment, output, run, num_proc
        self.output = output
        self.cell: Cell | None = None
        self.num_cells = 0
        self._began = 0.0
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, output, run, num_proc))
        with _environment({**_ENVIRONMENT, **environment}), _interrupts_blocked():
            self.process.start()
        theirs.close()

    def successor(self) -> _Worker:
        """A new process in the place of this one."""
        return _Worker(*self._how)

    def take(self, cell: Cell) -> None:
        """Sends a cell."""
        self.cell, self._began = cell, time.perf_counter()
        self.num_cells += 1
        with contextlib.suppress(OSError):  # it has died: `outcome` says so
            self.connection.send(cell)

    def outcome(self, show: Callable[[Progress], object]) -> Outcome | None:
        """Reads what the worker has sent; returns its cell's outcome once that has ended, or the process has."""
        cell = cast(Cell, self.cell)
        alive = self.process.is_alive()  # before the last look: what a process sends before its end is read
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Progress):
                    show(message)
                elif isinstance(message, _Line):
                    logging.getLogger(message.logger).log(message.level, "%s: %s", cell.name, message.text)
                else:
                    self.cell = None
                    for line in self._output():
                        logger.info("%s: %s", cell.name, line)
                    return message
        except (EOFError, OSError):
            alive = False
        if alive:
            return None
        self.cell = None
        self.process.join(_PATIENCE)  # it may have closed its pipe just before it ends
        self.kill()
        error = _ended(self.process.exitcode)
        return Outcome(cell.name, error, "\n".join(self._output()[-_LINES:]), time.perf_counter() - self._began)

    def is_ending(self) -> bool:
        """Whether the process is still alive; what it sends is read and dropped, so that it does not wait for that."""
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                self.connection.recv()
            return self.process.is_alive()
        return False

    def kill(self) -> None:
        """Ends the process, and those that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended, or has no group of its own yet
            os.killpg(cast(int, self.process.pid), signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _output(self) -> list[str]:
        """What the process wrote to stdout and stderr during its cell, line by line."""
        try:
            text = self.output.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # it died before
            return []
        return [line.rsplit("\r", 1)[-1] for line in text.splitlines() if line.strip()]


def _ended(status: int | None) -> str:
    """A process's end in words."""
    if status is None or status >= 0:
        return f"its process ended with exit status {status} before the cell was finished"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    reason = "; most often memory has run out: try fewer --workers" if -status == signal.SIGKILL else ""
    return f"its process was ended by signal {-status} ({name}){reason}"


def _serve(connection: Connection, output: Path, run: Callable[..., Outcome], num_proc: int) -> None:
    """A worker's life: cells from the pipe, one after another; progress, log lines and outcomes into it."""
    os.setpgid(0, 0)  # Ctrl-C is for the process that started it, which ends this group
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    lock = threading.Lock()

    def send(message: object) -> None:
        with lock:
            connection.send(message)

    report_to(send)
    set_up_process()
    logging.getLogger("knowcap").handlers[:] = [_Sending(send)]
    try:
        with handled():
            while True:
                try:
                    cell = connection.recv()
                except EOFError:  # no more cells
                    return
                os.ftruncate(2, 0)
                outcome = run(cell, None, num_proc)
                sys.stdout.flush()
                send(outcome)
    except Interrupted as error:
        sys.exit(exit_status(error))


def _end_with_parent() -> None:
    """Ends this process and those that it started as soon as the process that started it has ended, however."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)


class _Sending(logging.Handler):
    """Sends log lines to the process that shows them."""

    def __init__(self, send: Callable[[object], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(_Line(record.name, record.levelno, self.format(record)))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Holds Ctrl-C back, also from processes that are started in the block, until they unblock it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
