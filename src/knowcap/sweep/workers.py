"""Running a cell in this process, whatever process that is, and recording how it ended."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from knowcap.files import CAPACITY_FILE, REPORT_FILE, locked, whole_file
from knowcap.models.quantized.settings import Settings
from knowcap.processes.signals import raise_noted
from knowcap.recipe.quantization import BOTH, METHODS
from knowcap.run import pipeline as stages
from knowcap.run.cores import threads_set, threads_used
from knowcap.run.folder import claim_run_dir
from knowcap.run.launch import Launcher
from knowcap.sweep.cells import Cell


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        name: the cell's.
        error: its exception in one line; "" if it is finished.
        trace: the exception with its traceback.
        seconds: its time.
    """

    name: str
    error: str = ""
    trace: str = ""
    seconds: float = 0.0


def is_finished(cell: Cell) -> bool:
    """Whether all stages of a cell are done; `start_problems` has compared its recipe with the folder's before."""
    models = [cell.run_dir / "model", *quantized_dirs(cell).values()]
    return all(file.is_file() for file in (cell.run_dir / REPORT_FILE, *(m / CAPACITY_FILE for m in models)))


def quantized_dirs(cell: Cell) -> dict[str, Path]:
    """The folders of a cell's quantized copies, by their name in columns: int4, and int4_gptq beside one by quanto."""
    copies = {f"int{copy.bits}": copy for copy in reversed(Settings.copies(cell.recipe))}
    if cell.recipe.quantization_method == BOTH:
        copies |= {f"int{c.bits}_{c.method}": c for c in Settings.copies(cell.recipe) if c.method != METHODS[0]}
    return {name: cell.run_dir / "quantized" / copy.folder for name, copy in copies.items()}


def run_cell(cell: Cell, launcher: Launcher | None = None, num_proc: int = 1) -> Outcome:
    """Runs all stages of a cell, from where it was stopped; an exception is in the outcome, not raised.

    Without a launcher it has one thread, or as many as OMP_NUM_THREADS sets, whichever engine runs it: more sum in
    another order. The process is left as it was found, so that a cell's result does not depend on those run before.

    Args:
        cell: of a sweep without problems.
        launcher, num_proc: as for `knowcap.run.pipeline.run`.
    """
    began, environment = time.perf_counter(), dict(os.environ)
    try:
        with locked(cell.run_dir):
            if not is_finished(cell):  # another command may have finished it while this one waited
                with _threads() if launcher is None else nullcontext():
                    stages.run(cell.recipe, claim_run_dir(cell.recipe), launcher, num_proc)
    except Exception as error:  # the other cells can still be run
        raise_noted()  # unless it failed as this process was being ended
        message = " ".join(str(error).split())
        error_line, trace = f"{type(error).__name__}: {message}", traceback.format_exc()
        return Outcome(cell.name, error_line, trace, time.perf_counter() - began)
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]  # TrainingArguments sets some, for torch.compile
        os.environ.update(environment)
        _free_memory()
    return Outcome(cell.name, seconds=time.perf_counter() - began)


@contextmanager
def _threads() -> Iterator[None]:
    """Within it, all of a cell's stages use the threads that are set, and training measures no others."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with threads_used(threads_set()):
        yield


def run_here(cells: Iterable[Cell], launcher: Launcher | None = None, num_proc: int = 1) -> Iterator[Outcome]:
    """Runs cells one after another; yields each one's outcome."""
    cells = list(cells)
    for number, cell in enumerate(cells, start=1):
        logger.info("[sweep] cell %d of %d: %s", number, len(cells), cell.name)
        yield run_cell(cell, launcher, num_proc)


def failure_file(folder: Path, name: str) -> Path:
    """The file with the traceback of a failed cell."""
    return folder / "failures" / f"{name}.txt"


def record(folder: Path, outcome: Outcome) -> None:
    """Writes a failure's traceback to the sweep's folder; for a finished cell, removes an earlier one."""
    file = failure_file(folder, outcome.name)
    if not outcome.error:
        file.unlink(missing_ok=True)
        return
    logger.error("[sweep] %s failed: %s (%s)", outcome.name, outcome.error, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as made:
        made.write_text(f"{outcome.error}\n\n{outcome.trace}", encoding="utf-8")


def _free_memory() -> None:
    """Frees the memory of a cell's model, on a GPU too, and what torch.compile keeps: its number is limited."""
    torch, dynamo = sys.modules.get("torch"), sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
    gc.collect()
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
