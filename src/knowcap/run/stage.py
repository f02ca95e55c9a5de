"""A stage of a run: its work, and its one line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)


def stage(name: str, output: Path, work: Callable[[], Any], describe: Callable[[Path], str], kept: bool) -> Path:
    """Does a stage's work, which is a check where the output is kept, and logs the stage's one line."""
    began = time.perf_counter()
    work()
    how_long = "finished before, kept" if kept else f"{time.perf_counter() - began:.1f} s"
    logger.info("[%s] %s → %s (%s)", name, describe(output), output, how_long)
    return output
