"""The Trainer's checkpoints: which of them training goes on from."""

from __future__ import annotations

import json
import logging
from pathlib import Path


logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The newest checkpoint that is whole, and its step.

    The Trainer writes trainer_state.json last, whatever the layout of weights and optimizer; a checkpoint without a
    readable one was cut off, and is written over when its step comes again.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:
            return str(path), int(json.loads((path / "trainer_state.json").read_text())["global_step"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            logger.warning("%s was not written whole; it is made again", path)
    return None, 0
