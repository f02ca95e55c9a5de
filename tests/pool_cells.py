"""What workers do with cells in tests: quick, and in ways that a real cell does by accident."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knowcap.processes import signals
from knowcap.progress import progress_bar
from knowcap.sweep.cells import Cell
from knowcap.sweep.workers import Outcome


SEEDS = "base: base.yaml\nlist: [{quantize_bits: []}]\ngrid: {seed: [0, 1, 2, 3, 4, 5]}\n"
SETTINGS = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def noted(cell: Cell, *_: Any) -> Outcome:
    """Writes the process and its settings into the run folder."""
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    found = {"pid": os.getpid()} | {name: os.environ.get(name) for name in SETTINGS}
    (cell.run_dir / "process.json").write_text(json.dumps(found))
    return Outcome(cell.name)


def dying(cell: Cell, *_: Any) -> Outcome:
    """By its seed, a cell fails, is killed, ends its process or crashes; the others are noted."""
    seed = cell.recipe.seed
    logging.getLogger("knowcap.run").info("begun")
    if seed == 1:
        return Outcome(cell.name, "RuntimeError: out of luck", "a traceback")
    with progress_bar(total=10, desc="training", unit=" steps") as bar:
        bar.update(5)
        os.write(1, b"half way\n")
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == 3:
            sys.exit(3)
        if seed == 4:
            os.abort()
    return noted(cell)


def hanging(cell: Cell, *_: Any) -> Outcome:
    """Starts a process, writes both ids into the run folder, reports and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    with _at_work(cell, child.pid):
        threading.Event().wait()
    return Outcome(cell.name)


def saving(cell: Cell, *_: Any) -> Outcome:
    """As training does: it goes on until it is asked to end, and saves first."""
    with signals.held(), _at_work(cell):
        while signals.noted() is None:
            threading.Event().wait(0.01)
        (cell.run_dir / "saved").touch()
    return Outcome(cell.name)


def stubborn(cell: Cell, *_: Any) -> Outcome:
    """It has been asked to end, but is in a step that takes long."""
    with signals.held(), _at_work(cell):
        threading.Event().wait()
    return Outcome(cell.name)


@contextmanager
def _at_work(cell: Cell, *others: int) -> Iterator[None]:
    """Writes the ids of its processes into the run folder, then reports."""
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    (cell.run_dir / "made").write_text(" ".join(map(str, (os.getpid(), *others))))
    (cell.run_dir / "made").rename(cell.run_dir / "pids")
    with progress_bar(total=10, desc="hanging") as bar:
        bar.update()
        yield


def short_report(run_dir: Path) -> Path:
    """In place of a run's report, whose plots take longer than a tiny cell."""
    (run_dir / "report.md").write_text("")
    return run_dir / "report.md"


def killed_once(cell: Cell, *words: Any) -> Outcome:
    """The real stages, but for the report; the process of the cell of seed 0 is killed in training, after step 12."""
    from knowcap.run import pipeline
    from knowcap.sweep.workers import run_cell
    from knowcap.training.trainer import TrainingProgress

    pipeline.report, on_step_end = short_report, TrainingProgress.on_step_end

    def then_die(self: TrainingProgress, args: Any, state: Any, control: Any, **rest: Any) -> None:
        on_step_end(self, args, state, control, **rest)
        if cell.recipe.seed == 0 and state.global_step == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingProgress.on_step_end = then_die
    return run_cell(cell, *words)


def is_there(pid: int) -> bool:
    """Whether a process is alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
