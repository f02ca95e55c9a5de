"""What a terminal shows of cells that run side by side: a line for each of them, and one for the sweep."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from knowcap.progress import Progress
from knowcap.report.duration import duration


_TRAINING = "training"  # the stage that takes a cell's time
_REDRAWN, _LOGGED = 0.5, 60.0  # seconds between two views, on a terminal and in a log

logger = logging.getLogger(__name__)


class View:
    """The progress of a sweep: redrawn on a terminal; where stderr is none, log lines once a minute."""

    def __init__(self, works: Mapping[str, float], places: int) -> None:
        """Takes what each cell's name amounts to in time, in any unit, and how many run at once."""
        self._works, self._began = works, time.monotonic()
        self._shares: dict[str, tuple[float, float]] = {}  # of a cell's training: before this call, now
        self._running: dict[int, tuple[str, Progress]] = {}
        self._done = self._failed = 0
        self._terminal = sys.stderr.isatty()
        self._bars = [_line(place) for place in range(places + 1)] if self._terminal else []
        self._last = self._began

    def start(self, place: int, name: str) -> None:
        """A cell begins at a place."""
        self._running[place] = name, Progress("starting")
        self._shares[name] = 0.0, 0.0
        self.refresh(now=True)

    def update(self, place: int, progress: Progress) -> None:
        """A report of the cell at a place."""
        name, _ = self._running[place]
        self._running[place] = name, progress
        if progress.stage == _TRAINING and progress.total:
            self._shares[name] = progress.first / progress.total, progress.done / progress.total
        self.refresh()

    def end(self, place: int, failed: bool) -> None:
        """The cell at a place has ended."""
        name, _ = self._running.pop(place)
        self._shares[name] = 1.0 if failed else self._shares[name][0], 1.0  # a failure says nothing about the speed
        self._done, self._failed = self._done + (not failed), self._failed + failed
        self.refresh(now=True)

    def refresh(self, now: bool = False) -> None:
        """Shows the cells again, if it is time, and on a terminal if it is to be now."""
        wait = _REDRAWN if self._terminal else _LOGGED
        if not (now and self._terminal) and time.monotonic() - self._last < wait:
            return
        self._last = time.monotonic()
        if not self._terminal:
            for line in self.lines():
                logger.info("[sweep] %s", line)
        width = shutil.get_terminal_size().columns - 1
        texts = {place: describe(*running) for place, running in self._running.items()}
        texts[len(self._bars) - 1] = self.total()
        for place, bar in enumerate(self._bars):
            bar.set_description_str(texts.get(place, "")[:width])

    def lines(self) -> list[str]:
        """The cells that run, and the total."""
        return [describe(*running) for _, running in sorted(self._running.items())] + [self.total()]

    def total(self) -> str:
        """How many cells have ended, run and wait; the time so far, and what is left at the speed so far, but not
        less than a cell that runs still takes.
        """
        passed = time.monotonic() - self._began
        waiting = len(self._works) - self._done - self._failed - len(self._running)
        shares = {name: self._shares.get(name, (0.0, 0.0)) for name in self._works}
        done = sum(self._works[name] * (now - before) for name, (before, now) in shares.items())
        left = sum(self._works[name] * (1 - now) for name, (_, now) in shares.items())
        failed = f", {self._failed} failed" if self._failed else ""
        longest = max((seconds_left(progress) or 0.0 for _, progress in self._running.values()), default=0.0)
        about = f", about {duration(max(passed * left / done, longest))} left" if done and left else ""
        return (
            f"{self._done} of {len(self._works)} cells done{failed}, {len(self._running)} running, {waiting} waiting; "
            f"{duration(passed)} so far{about}"
        )

    def close(self) -> None:
        """Removes the lines from the terminal."""
        for bar in reversed(self._bars):
            bar.close()


def describe(name: str, progress: Progress) -> str:
    """A cell's line: its name, stage, steps, note (loss, tokens a second) and the time that the stage still takes."""
    parts = []
    if progress.total:
        parts.append(f"{progress.done:,.0f}/{progress.total:,.0f}{progress.unit}")
    if progress.note:
        parts.append(progress.note)
    if (left := seconds_left(progress)) is not None:
        parts.append(f"{duration(left)} left")
    return f"{name}: {progress.stage} {', '.join(parts)}".rstrip()


def seconds_left(progress: Progress) -> float | None:
    """What a stage still takes at its speed so far; None before its first step, and where its total is not known."""
    if not progress.total or progress.done <= progress.first:
        return None
    return max(0.0, progress.total - progress.done) * progress.seconds / (progress.done - progress.first)


def _line(place: int) -> Any:
    """A line of text below those of earlier places; log lines are written above it, as above any bar."""
    from tqdm import tqdm

    return tqdm(total=0, position=place, bar_format="{desc}", leave=False, file=sys.stderr)
