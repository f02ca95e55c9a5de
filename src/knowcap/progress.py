"""Progress of the stages: tqdm's bars on a terminal, or reports to the process that shows several runs at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self


_SECONDS = 0.5  # between two reports of a bar


@dataclass(frozen=True)
class Progress:
    """A moment of a stage.

    Attributes:
        stage: what is done, such as `training`.
        done, total: in units; total is 0 if it is not known.
        unit: such as ` steps`.
        first: what was done before by an interrupted run.
        seconds: since this process began the stage.
        note: such as the loss and the tokens a second.
    """

    stage: str
    done: float = 0
    total: float = 0
    unit: str = ""
    first: float = 0
    seconds: float = 0.0
    note: str = ""


class Bar(Protocol):
    """What the stages use of a tqdm bar."""

    n: float

    def update(self, n: float = 1, /) -> object:
        """Adds to what is done."""
        ...

    def set_postfix_str(self, s: str, refresh: bool = True) -> object:
        """Sets the note."""
        ...

    def close(self) -> object:
        """Ends the bar."""
        ...

    def __enter__(self) -> Self:
        """The bar."""
        ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> object:
        """Ends the bar."""
        ...


_listener: Callable[[Progress], object] | None = None


def report_to(listener: Callable[[Progress], object] | None) -> None:
    """From now on, bars of this process report to `listener` and write nothing; with None, tqdm shows them again."""
    global _listener
    _listener = listener


def begin(stage: str) -> None:
    """Reports that a stage begins, which may have no bar."""
    if _listener is not None:
        _listener(Progress(stage))


def progress_bar(*, total: float, desc: str, **options: Any) -> Bar:
    """A bar: tqdm's, or one that reports to the listener of `report_to`. `options` are those of tqdm."""
    if _listener is not None and not options.get("disable"):
        return _Reported(_listener, total, desc, options.get("initial", 0), options.get("unit", ""))
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=desc, **options)


class _Reported:
    """A bar that reports at most twice a second, and at its end."""

    def __init__(
        self, listener: Callable[[Progress], object], total: float, stage: str, initial: float, unit: str
    ) -> None:
        self.n = self.first = initial
        self.total, self.stage, self.unit, self.note = total, stage, unit, ""
        self._listener, self._began, self._last = listener, time.monotonic(), 0.0
        self._report()

    def update(self, n: float = 1, /) -> None:
        self.n += n
        if time.monotonic() - self._last >= _SECONDS:
            self._report()

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        self.note = s
        if refresh:
            self._report()

    def close(self) -> None:
        self._report()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _report(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._began
        self._listener(Progress(self.stage, self.n, self.total, self.unit, self.first, seconds, self.note))
