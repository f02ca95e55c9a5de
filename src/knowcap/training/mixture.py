"""Useful windows among junk ones (Part 3.3, Section 10): each is pure, and useful ones make up a share of the tokens.

The junk people's texts are a stream of their own, taken for as long as the useful one needs it: fewer than all of
them, or several exposures of each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import Pieces
from knowcap.training.packing import PackingError, Stream, padded


class JunkTexts:
    """The junk people of a corpus, counted from 0, for a `Stream`."""

    def __init__(self, corpus: BioS) -> None:
        self.corpus, self.num_people, self.seed = corpus, corpus.junk.num_people, corpus.seed

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int) -> np.ndarray:
        """Which pieces make up the texts of junk persons (n,) at one exposure: (n, pieces a text) int32."""
        return self.corpus.compose(pieces, persons + self.corpus.num_people, exposure)

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""
        return self.corpus.longest(pieces)


class Mixture:
    """The windows of a useful stream, spread evenly among windows of junk, both in their own order.

    So a batch of any size has as near to its share of useful windows as whole numbers allow.
    """

    def __init__(self, useful: Stream, junk: Stream, useful_share: float) -> None:
        """Takes two streams of the same pieces; `count` must run before windows are looked up.

        Args:
            useful: counted in full.
            junk: as much of it is taken as is needed, exposure after exposure.
            useful_share: of the tokens in all windows, more than 0 and less than 1.

        Raises:
            PackingError: another share.
        """
        if not 0 < useful_share < 1:
            raise PackingError(f"useful_share={useful_share}, expected more than 0 and less than 1; or no junk")
        self.useful, self.junk, self.useful_share = useful, junk, useful_share
        self.corpus, self.pieces = useful.corpus, useful.pieces
        self.exposures, self.shards = useful.exposures, useful.shards

    def count(self, progress: Callable[[int], object] = int, num_proc: int = 1) -> tuple[np.ndarray, int]:
        """Counts windows of useful shards, then of junk shards until these have their share of the tokens.

        The share is exact but for one window.

        Args:
            progress: called with the number of useful shards just counted.
            num_proc: processes that count useful shards.

        Returns:
            windows (useful shards + junk shards,) int64, which `use_counts` takes; and the tokens in all windows.
        """
        useful, tokens = self.useful.count(progress, num_proc)
        wanted, junk, junk_tokens = tokens * (1 - self.useful_share) / self.useful_share, [], 0
        while junk_tokens < wanted:
            sums = np.cumsum(self.junk.sizes(*divmod(len(junk), self.junk.shards)))
            taken = min(len(sums), int(np.searchsorted(sums, wanted - junk_tokens)) + 1)
            junk.append(taken)
            junk_tokens += int(sums[taken - 1])
        counts = np.concatenate([useful.ravel(), np.array(junk, dtype=np.int64)])
        self.use_counts(counts)
        return counts, tokens + junk_tokens

    def use_counts(self, counts: np.ndarray) -> None:
        """Takes a table that `count` made before. Raises PackingError where it is another mixture's."""
        size = self.useful.exposures * self.useful.shards
        if counts.ndim != 1 or len(counts) <= size:
            raise PackingError(f"window counts have shape {counts.shape}, expected more than {size} numbers")
        self.useful.use_counts(counts[:size].reshape(self.useful.exposures, self.useful.shards))
        junk = counts[size:]
        self.junk.exposures = -(-len(junk) // self.junk.shards)
        missing = self.junk.exposures * self.junk.shards - len(junk)
        self.junk.use_counts(np.pad(junk, (0, missing)).reshape(self.junk.exposures, self.junk.shards))

    def __len__(self) -> int:
        """How many windows there are in all exposures together, junk included."""
        return len(self.useful) + len(self.junk)

    def is_useful(self, windows: np.ndarray) -> np.ndarray:
        """Which of windows (n,) are useful: (n,) bool."""
        return np.array([self._before(w + 1) > self._before(w) for w in np.asarray(windows).tolist()], dtype=bool)

    def batch(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows ready for a model; see `packing.padded`."""
        numbers, useful = np.asarray(windows, dtype=np.int64), self.is_useful(windows)
        before = np.array([self._before(w) for w in numbers.tolist()], dtype=np.int64)
        found = iter(self.useful.windows(before[useful]))
        junk = iter(self.junk.windows((numbers - before)[~useful]))
        return padded([next(found if own else junk) for own in useful])

    def _before(self, window: int) -> int:
        """How many useful windows stand before a window; in Python's numbers, which don't overflow."""
        return window * len(self.useful) // len(self)
