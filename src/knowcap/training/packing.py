"""Packing biographies into windows: every text occurs once, as often as its person is seen, and any window can be made
alone.

An exposure is shuffled by a keyed permutation and divided into shards of people; a shard is end of text · biography ·
end of text · … . `cut` windows split that anywhere (Part 3.3, 2.3), `aligned` ones begin at a biography and hold only
whole ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from knowcap.corpus.pieces import Pieces
from knowcap.corpus.tokenizer import EOS_ID
from knowcap.knowledge.frequencies import Frequencies
from knowcap.knowledge.philox import KeyedPermutation, permutations
from knowcap.processes import share_out


_SHARDS_PER_JOB = 64  # counted between two reports of progress
_TEXTS_TOGETHER = 4096  # of several exposures, where one has fewer than half as many


class TrainingError(ValueError):
    """Training that cannot start: windows that cannot hold the texts, a batch that processes cannot divide, no GPU."""


class Texts(Protocol):
    """The interface of a corpus that a stream uses."""

    @property
    def num_people(self) -> int:
        """The number of texts at one exposure."""
        ...

    @property
    def seed(self) -> int:
        """The seed of the texts' order."""
        ...

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the texts of persons (n,) at one exposure, or at one each: (n, pieces per text) int32."""
        ...

    def longest(self, pieces: Pieces) -> int:
        """The maximum number of tokens of a text, its end of text included."""
        ...


@runtime_checkable
class HasTextLengths(Protocol):
    """A corpus that gives the lengths of its texts without composing them."""

    def text_lengths(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The number of tokens of the texts of persons (n,) at one exposure, ends of text included: (n,) int64."""
        ...


@dataclass(frozen=True)
class Shard:
    """The windows of one shard: window w is `tokens[starts[w] : starts[w] + lengths[w]]`.

    Attributes:
        tokens: (total,) int32.
        starts, lengths: (windows,) int64; neighbouring aligned windows share the end of text between them.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Stream:
    """All windows of a training run, in order: exposure by exposure, shard by shard."""

    def __init__(
        self,
        corpus: Texts,
        pieces: Pieces,
        *,
        exposures: int,
        block_size: int,
        windows: str,
        shard_size: int = 65_536,
        frequencies: Frequencies | None = None,
    ) -> None:
        """Checks that the windows can hold the texts; `count` must run before windows are looked up.

        With `frequencies` an exposure has as many texts, but not one of each person.

        Raises:
            TrainingError: aligned windows are shorter than the longest possible biography.
        """
        longest = corpus.longest(pieces)
        if windows == "aligned" and longest + 1 > block_size:
            raise TrainingError(
                f"block_size={block_size}, but a biography can have {longest} tokens and aligned windows hold "
                f"whole ones; give block_size {longest + 1} or more, or windows: cut"
            )
        self.corpus, self.pieces, self.frequencies = corpus, pieces, frequencies
        self.exposures, self.block_size, self.aligned, self.shard_size = (
            exposures,
            block_size,
            windows == "aligned",
            shard_size,
        )
        self.shards = -(-corpus.num_people // shard_size)
        self._cache: dict[tuple[range, int], list[Shard]] = {}  # those that were made last
        self._kept = 2

    def persons(self, exposure: int, shard: int) -> np.ndarray:
        """The people of a shard of an exposure, in order: (n,) int64."""
        return self.texts(exposure, shard)[0]

    def texts(self, exposure: int, shard: int) -> tuple[np.ndarray, int | np.ndarray]:
        """The people of a shard of an exposure, in order, and the number of the text of each: (n,) int64, or one
        number for all.
        """
        end = min(self.corpus.num_people, (shard + 1) * self.shard_size)
        order = KeyedPermutation(self.corpus.num_people, self.corpus.seed, "order", exposure)
        places = order(np.arange(shard * self.shard_size, end))
        return (places, exposure) if self.frequencies is None else self.frequencies.texts(exposure, places)

    @property
    def together(self) -> int:
        """The number of exposures whose texts are made in one call: several where each has few, as calls cost too."""
        return max(1, _TEXTS_TOGETHER // self.corpus.num_people) if self.shards == 1 else 1

    def _texts_of(self, exposures: range, shard: int) -> tuple[np.ndarray, int | np.ndarray]:
        """`texts` of several exposures, one after the other, as many of each."""
        if len(exposures) == 1:
            return self.texts(exposures[0], shard)
        places = permutations(self.corpus.num_people, self.corpus.seed, "order", np.array(exposures))
        if self.frequencies is None:
            return places.ravel(), np.repeat(np.array(exposures), places.shape[1])
        found = [self.frequencies.texts(exposure, own) for exposure, own in zip(exposures, places, strict=True)]
        return np.concatenate([persons for persons, _ in found]), np.concatenate([numbers for _, numbers in found])

    def shard(self, exposure: int, shard: int) -> Shard:
        """The windows of a shard; the last that were made are cached, with those made together; see `keep`."""
        exposures = self._made_with(exposure)
        if (exposures, shard) not in self._cache:
            made = self._make(exposures, shard)
            self._cache = dict([*self._cache.items()][1 - self._kept :]) | {(exposures, shard): made}
        return self._cache[exposures, shard][exposure - exposures.start]

    def _made_with(self, exposure: int) -> range:
        """The exposures that are made in one call with an exposure."""
        first = exposure - exposure % self.together
        return range(first, max(exposure + 1, min(first + self.together, self.exposures)))

    def keep(self, windows: int) -> None:
        """Caches as many shards as so many windows that follow one another lie in; `count` must have run."""
        made = -(-(len(self._before) - 1) // self.together)
        self._kept = max(self._kept, 2 - (-windows * made // len(self)))

    def _make(self, exposures: range, shard: int) -> list[Shard]:
        """The windows of a shard of each of several exposures."""
        tokens, lengths = self.pieces.gather(self.corpus.compose(self.pieces, *self._texts_of(exposures, shard)))
        of_each = lengths.reshape(len(exposures), -1)
        ends = np.cumsum(of_each.sum(axis=1))
        end_of_text, made = np.array([EOS_ID], dtype=np.int32), []
        for own, end in zip(of_each, ends.tolist(), strict=True):
            starts, sizes = self._windows(own)
            made.append(Shard(np.concatenate([end_of_text, tokens[end - int(own.sum()) : end]]), starts, sizes))
        return made

    def _windows(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The starts and lengths of a shard's windows, from the lengths of its biographies."""
        ends = np.concatenate([[0], np.cumsum(lengths)])  # positions of the ends of text
        if not self.aligned:
            starts = np.arange(0, ends[-1] + 1, self.block_size)
            return starts, np.minimum(self.block_size, ends[-1] + 1 - starts)
        following = (np.searchsorted(ends, ends + self.block_size - 1, side="right") - 1).tolist()
        at, cuts = 0, [0]
        while at < len(lengths):
            at = following[at]
            cuts.append(at)
        bounds = ends[cuts]
        return bounds[:-1], np.diff(bounds) + 1

    def lengths(self, exposures: range, shard: int) -> np.ndarray:
        """The number of tokens of every biography of a shard, ends of text included: (exposures, n) int64."""
        texts = self._texts_of(exposures, shard)
        if isinstance(self.corpus, HasTextLengths):
            lengths = self.corpus.text_lengths(self.pieces, *texts)
        else:
            lengths = self.pieces.lengths[self.corpus.compose(self.pieces, *texts)].sum(axis=1, dtype=np.int64)
        return lengths.reshape(len(exposures), -1)

    def sizes(self, exposures: range, shard: int) -> list[np.ndarray]:
        """The tokens in each window of a shard of each exposure, from its texts' lengths: (windows,) int64 each."""
        return [self._windows(lengths)[1] for lengths in self.lengths(exposures, shard)]

    def count(self, progress: Callable[[int], object] = int, num_proc: int = 1) -> tuple[np.ndarray, int]:
        """Counts the windows of every shard, from the texts' lengths, and keeps the table.

        Args:
            progress: called with the number of shards just counted, such as a progress bar's `update`.
            num_proc: number of processes; the result does not depend on it.

        Returns:
            windows (exposures, shards) int64, for `use_counts` in a later run; and the tokens in all windows.
        """
        total, tokens = self.exposures * self.shards, 0
        counts = np.empty(total, dtype=np.int64)
        size = max(1, min(_SHARDS_PER_JOB, total // (4 * num_proc)))
        jobs = [range(first, min(total, first + size)) for first in range(0, total, size)]
        for job, windows, some in share_out(partial(_count_shards, self), jobs, num_proc):
            counts[job.start : job.stop] = windows
            tokens += some
            progress(len(job))
        counts = counts.reshape(self.exposures, self.shards)
        self.use_counts(counts)
        return counts, tokens

    def use_counts(self, counts: np.ndarray) -> None:
        """Uses a table that `count` returned before. Raises TrainingError if its shape is wrong."""
        if counts.shape != (self.exposures, self.shards):
            raise TrainingError(
                f"window counts have shape {counts.shape}, expected {(self.exposures, self.shards)}; count again"
            )
        self._before = np.concatenate([[0], np.cumsum(counts.ravel())])

    def __len__(self) -> int:
        """The number of windows of all exposures."""
        return int(self._before[-1])

    def locate(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard (counted through all exposures) of each window, and the window's number within it."""
        shards = np.searchsorted(self._before, windows, side="right") - 1
        return shards, windows - self._before[shards]

    def windows(self, windows: np.ndarray) -> list[np.ndarray]:
        """The token ids of windows (n,), unpadded."""
        shards, inside = self.locate(np.asarray(windows, dtype=np.int64))
        rows = []
        for number, window in zip(shards.tolist(), inside.tolist(), strict=True):
            shard = self.shard(*divmod(number, self.shards))
            start = int(shard.starts[window])
            rows.append(shard.tokens[start : start + int(shard.lengths[window])])
        return rows

    def window_lengths(self, windows: np.ndarray) -> np.ndarray:
        """The number of tokens of windows (n,): (n,) int64."""
        shards, inside = self.locate(np.asarray(windows, dtype=np.int64))
        lengths = np.empty(len(inside), dtype=np.int64)
        for number in np.unique(shards).tolist():
            own = shards == number
            lengths[own] = self.shard(*divmod(number, self.shards)).lengths[inside[own]]
        return lengths

    def batch(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows ready for a model; see `padded`."""
        return padded(self.windows(windows))


def padded(windows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Windows ready for a model, padded to the longest of them.

    Returns:
        input_ids (batch, length) int64, padded with the end of text; labels, the same with -100 where padded.
    """
    length = max(len(row) for row in windows)
    input_ids = np.full((len(windows), length), EOS_ID, dtype=np.int64)
    labels = np.full((len(windows), length), -100, dtype=np.int64)
    for number, row in enumerate(windows):
        input_ids[number, : len(row)] = row
        labels[number, : len(row)] = row
    return input_ids, labels


def _count_shards(stream: Stream, job: range) -> Iterator[tuple[range, list[int], int]]:
    """The number of windows of each shard of a job (counted through all exposures), and of tokens in all of them."""
    windows, tokens, number = [], 0, job.start
    while number < job.stop:
        exposure, shard = divmod(number, stream.shards)
        exposures = range(exposure, exposure + min(stream.together, job.stop - number))
        for sizes in stream.sizes(exposures, shard):
            windows.append(len(sizes))
            tokens += int(sizes.sum())
        number += len(exposures)
    yield job, windows, tokens
