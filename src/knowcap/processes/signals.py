"""Signals that end a command: Ctrl-C; SIGTERM and SIGUSR1, which schedulers send before they end a job; SIGHUP.

Training finishes its step first and saves a checkpoint; other work ends at once, since what it has finished is kept.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from knowcap.processes.jobs import is_main_process


INTERRUPTED = 130  # exit status after Ctrl-C, as a shell has it
TRY_AGAIN = 75  # exit status after the others: EX_TEMPFAIL of sysexits.h, the same command continues
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

_noted: int | None = None  # the first signal
_holding = 0


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_status(error: KeyboardInterrupt) -> int:
    """The exit status of a command that was interrupted: 130 for Ctrl-C, 75 for another signal."""
    asked = getattr(error, "number", signal.SIGINT)
    return INTERRUPTED if asked == signal.SIGINT else TRY_AGAIN


@contextmanager
def handled() -> Iterator[None]:
    """Within it, signals raise Interrupted, or are noted while they are `held`. Does nothing outside the main thread.

    What is ignored stays so: a shell starts commands in the background without Ctrl-C, nohup without SIGHUP. SIGUSR1
    is not: accelerate's launcher, which it would end, is started without it.
    """
    global _noted
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _noted = _noted, None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if number == signal.SIGUSR1 or handler != signal.SIG_IGN:
            signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _noted = outer


@contextmanager
def held() -> Iterator[None]:
    """Within it, the first signal is only noted, for the work to end in good order; a second Ctrl-C raises at once.

    Raises:
        Interrupted: at the end, or at the beginning, if there was a signal.
    """
    global _holding
    raise_noted()
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
    raise_noted()


def noted() -> int | None:
    """The signal that asked this process to end, if there was one."""
    return _noted


def note(number: int) -> None:
    """Notes a signal that came to another process of the same work."""
    global _noted
    _noted = number if _noted is None else _noted


def raise_noted() -> None:
    """Raises Interrupted if there was a signal."""
    if _noted is not None:
        raise Interrupted(_noted)


def _receive(number: int, _: FrameType | None) -> None:
    global _noted
    first, _noted = _noted is None, number if _noted is None else _noted
    if first and _holding:
        if is_main_process():
            name = signal.Signals(number).name  # a logger may be in use
            os.write(2, f"\nknowcap: {name}: ending in good order; Ctrl-C once more ends it at once\n".encode())
    elif first or number == signal.SIGINT:  # schedulers and launchers repeat theirs
        raise Interrupted(number)
