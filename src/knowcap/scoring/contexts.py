"""What a model sees while a text is scored: the text alone, or a window of texts as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import Row
from knowcap.scoring.errors import TextError


if TYPE_CHECKING:
    from knowcap.scoring.spans import EncodedRows

PACKED_GROUP = 1024  # rows that windows are made of at a time, whatever the batch size and the number of processes


@dataclass(frozen=True)
class Contexts:
    """Stretches of texts that are read together; each begins with the start token of its first text.

    Attributes:
        rows: (contexts + 1,) int64; context c has the texts rows[c] … rows[c + 1] - 1.
        starts: (contexts,) int64, where each begins in `EncodedRows.ids`.
        lengths: (contexts,) int64; so many ids have to be read to score all its facts; 0 without facts.
    """

    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def each_alone(encoded: EncodedRows) -> Contexts:
    """Every text is a context of its own."""
    return Contexts(np.arange(len(encoded.input_lengths) + 1), encoded.row_starts[:-1], encoded.input_lengths)


def packed_rows(encoded: EncodedRows, rows: Sequence[Row], block_size: int) -> Contexts:
    """As many whole texts as fit, one after the other, with a start token between; never two of one entity.

    Training windows may cut a text; what is scored here is whole, so that its name is in sight.

    Raises:
        TextError: a text that is longer than a window.
    """
    sizes = np.diff(encoded.row_starts)
    if sizes.max(initial=0) > block_size:
        worst = int(np.argmax(sizes))
        raise TextError(
            f"entity {rows[worst].entity!r}: the text has {sizes[worst]} tokens with its start, a window "
            f"{block_size}; expected windows that hold every text: give a larger block_size, or score texts alone"
        )
    bounds, filled, entities = [0], 0, set()
    for number, (size, row) in enumerate(zip(sizes.tolist(), rows, strict=True)):
        if filled + size > block_size or row.entity in entities:
            bounds.append(number)
            filled, entities = 0, set()
        filled += size
        entities.add(row.entity)
    starts = encoded.row_starts[bounds]
    needed = np.where(encoded.input_lengths > 0, encoded.row_starts[:-1] + encoded.input_lengths, 0)
    lengths = np.maximum.reduceat(needed, bounds) - starts
    return Contexts(np.append(bounds, len(rows)), starts, np.maximum(lengths, 0))


def by_rendering(renderings: Sequence[int]) -> np.ndarray:
    """An order of rows in which those of one entity stand far apart."""
    return np.argsort(np.asarray(renderings), kind="stable")
