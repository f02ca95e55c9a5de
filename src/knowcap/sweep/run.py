"""A whole sweep: checks before the first cell, cells run by an engine, results in a table and a page."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from knowcap.files import SWEEP_FILE, locked, whole_file
from knowcap.recipe import RecipeError
from knowcap.report.duration import duration
from knowcap.run.launch import Launcher
from knowcap.sweep.cells import Cell, Sweep
from knowcap.sweep.checks import start_problems, text_problems
from knowcap.sweep.workers import Outcome, is_finished, record, run_here


Engine = Callable[[Sequence[Cell]], Iterator[Outcome]]

logger = logging.getLogger(__name__)


class CellsFailed(RuntimeError):
    """Some cells failed, the others are finished; the same command runs the failed ones again."""


@runtime_checkable
class Checked(Protocol):
    """An engine that can check in advance whether cells could start."""

    def problems(self) -> list[str]:
        """Why no cell could start; empty if cells can."""
        ...


def run_sweep(sweep: Sweep, engine: Engine | None = None, launcher: Launcher | None = None, num_proc: int = 1) -> Path:
    """Runs the cells that are not finished, and writes results.parquet after each one, the page at the end.

    Args:
        sweep: from `load_sweep`.
        engine: runs cells and yields their outcomes as they come; by default one after another in this process.
        launcher: trains and scores each cell through accelerate; for the default engine.
        num_proc: processes that write a cell's data set; for the default engine.

    Returns:
        the page, report.html in the sweep's folder.

    Raises:
        RecipeError: with every problem, before the first cell starts.
        CellsFailed: some cells failed, all others are finished; table and page are written.
    """
    problems = start_problems(sweep.cells, launcher)
    problems += engine.problems() if isinstance(engine, Checked) else []
    problems = problems or text_problems(sweep.cells)
    if problems:
        raise RecipeError(problems, sweep.file)
    with locked(sweep.folder):
        keep_file(sweep)
        todo = [cell for cell in sweep.cells if not is_finished(cell)]
        logger.info(
            "[sweep] %s: %d cells, %d finished before, %d to run → %s",
            sweep.name, len(sweep.cells), len(sweep.cells) - len(todo), len(todo), sweep.folder,
        )  # fmt: skip
        chosen = engine or (lambda cells: run_here(cells, launcher, num_proc))
        failed = _run(sweep, todo, cast(Engine, chosen))
        page = write_results(sweep)
    if failed:
        failures = "\n".join(f"  {outcome.name}: {outcome.error}" for outcome in failed)
        raise CellsFailed(
            f"{sweep.file}: {len(failed)} of {len(sweep.cells)} cells failed, {page} shows the others; "
            f"the same command runs them again\n{failures}"
        )
    return page


def run_cells(sweep: Sweep, numbers: Sequence[int], launcher: Launcher | None = None, num_proc: int = 1) -> None:
    """Runs some cells by their number in the sweep, from 0, and writes neither table nor page: a job of an array.

    Raises:
        RecipeError: no such number, or problems of these cells.
        CellsFailed: one of them failed.
    """
    wrong = [number for number in numbers if not 0 <= number < len(sweep.cells)]
    if wrong:
        problem = (
            f"no cell {', '.join(map(str, wrong))}: there are {len(sweep.cells)}, from 0 to {len(sweep.cells) - 1}"
        )
        raise RecipeError([problem], sweep.file)
    cells = [sweep.cells[number] for number in numbers]
    problems = start_problems(cells, launcher) or text_problems(cells)
    if problems:
        raise RecipeError(problems, sweep.file)
    keep_file(sweep)
    todo = [cell for cell in cells if not is_finished(cell)]
    failed = []
    for outcome in run_here(todo, launcher, num_proc):
        record(sweep.folder, outcome)
        failed += [outcome] if outcome.error else []
    if failed:
        raise CellsFailed("\n".join(f"{outcome.name} failed: {outcome.error}" for outcome in failed))


def write_results(sweep: Sweep) -> Path:
    """Writes results.parquet, bits_vs_parameters.png and report.html of the finished cells; returns the page."""
    from knowcap.files import FRONTIER_FILE
    from knowcap.report.plots import formats_of, plot_frontier
    from knowcap.report.stamp import make_stamped
    from knowcap.sweep.page import capacity_of, write_page
    from knowcap.sweep.table import rows_of, write_table

    rows = rows_of(sweep)
    write_table(sweep, rows)
    if rows:
        shown, plot = [capacity_of(row) for row in rows], sweep.folder / FRONTIER_FILE
        make_stamped(formats_of(plot), shown, lambda: plot_frontier(shown, plot))
    return write_page(sweep, rows)


def keep_file(sweep: Sweep) -> None:
    """A copy of the sweep file in the sweep's folder."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    kept = sweep.folder / SWEEP_FILE
    if kept.resolve() != sweep.file.resolve():
        with whole_file(kept, own=True) as made:  # the jobs of an array may start together
            shutil.copyfile(sweep.file, made)


def _run(sweep: Sweep, todo: Sequence[Cell], engine: Engine) -> list[Outcome]:
    """Runs cells, and writes the table after each one. Returns those that failed."""
    from knowcap.sweep.table import rows_of, write_table

    failed, rows = [], {}
    outcomes = engine(todo)
    with closing(outcomes) if isinstance(outcomes, Generator) else nullcontext():  # ends its processes on Ctrl-C
        for number, outcome in enumerate(outcomes, start=1):
            record(sweep.folder, outcome)
            failed += [outcome] if outcome.error else []
            write_table(sweep, rows_of(sweep, rows))
            how = "failed after" if outcome.error else "done in"
            took = duration(outcome.seconds)
            logger.info("[sweep] %d of %d: %s %s %s", number, len(todo), outcome.name, how, took)
    return failed
