"""Windows of about the same length in one batch, so that less of it is padding.

Batches are padded to their longest window. As the Trainer's `group_by_length` does, windows of several batches that
follow one another are sorted by length and divided into batches again, in an order drawn from the seed.
"""

from __future__ import annotations

import numpy as np

from knowcap.knowledge.philox import KeyedPermutation
from knowcap.training.packing import Stream


BATCHES = 16  # sorted together; each window stays within so many batches of its place in the stream


class LengthGroups:
    """The windows of a stream in another order: window number `groups(p)` stands at position p."""

    def __init__(self, stream: Stream, batch_size: int) -> None:
        """Takes a stream whose windows have been counted, and the number of windows in a step."""
        self.stream, self.batch_size = stream, batch_size
        self._orders: dict[int, np.ndarray] = {}  # the two groups that were sorted last
        stream.keep(BATCHES * batch_size)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The windows at positions (n,): (n,) int64."""
        groups, inside = np.divmod(np.asarray(positions, dtype=np.int64), BATCHES * self.batch_size)
        found = np.empty(len(inside), dtype=np.int64)
        for group in np.unique(groups).tolist():
            own = groups == group
            found[own] = self._order(group)[inside[own]]
        return found

    def _order(self, group: int) -> np.ndarray:
        """The windows of a group, in their new order: (n,) int64."""
        if group not in self._orders:
            first = group * BATCHES * self.batch_size
            windows = np.arange(first, min(len(self.stream), first + BATCHES * self.batch_size))
            order = windows[np.argsort(self.stream.window_lengths(windows), kind="stable")]
            whole = len(order) // self.batch_size
            if whole:
                batches = KeyedPermutation(whole, self.stream.corpus.seed, "batches", group)(np.arange(whole))
                moved = order[: whole * self.batch_size].reshape(whole, -1)[batches].ravel()
                order = np.concatenate([moved, order[len(moved) :]])
            self._orders = dict([*self._orders.items()][-1:]) | {group: order}
        return self._orders[group]
