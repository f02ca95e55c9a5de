"""What a table's rows may do instead of coming, in a module that other processes import quickly."""

from __future__ import annotations

import os
import signal


def failing(first: int, end: int):
    """Raises an error."""
    raise ValueError(f"no rows {first} to {end}")


def killed(first: int, end: int):
    """Ends the process."""
    os.kill(os.getpid(), signal.SIGKILL)
