"""The windows of a recipe: a stream of its texts, or a mixture with junk (Part 3.3, Section 10) or questions.

A mixture's windows each hold texts of one kind; useful ones have a given share of the tokens. Junk is a stream of its
own, taken for as long as the useful one needs it: fewer than all junk people, or several exposures of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.base import Corpus, WholeTexts
from knowcap.corpus.biod import BioD
from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import CHECKED, Pieces
from knowcap.corpus.questions import QuestionTexts
from knowcap.corpus.tokenizer import EOS_ID
from knowcap.facts import CorpusError
from knowcap.knowledge.frequencies import frequencies_of
from knowcap.recipe import Recipe
from knowcap.training.packing import Stream, TrainingError, padded


_CHECKED_WHOLE = 256  # texts


def stream_of(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, checked: int = CHECKED) -> Stream | Mixture:
    """The recipe's windows, with pieces checked against whole texts and each other; call `count` before use."""
    pieces = _pieces_of(recipe, corpus, tokenizer, checked)
    packing = {"block_size": recipe.block_size, "windows": recipe.windows, "shard_size": recipe.shard_size}
    frequencies = frequencies_of(recipe, corpus.num_people)
    stream = Stream(corpus, pieces, exposures=recipe.exposures, frequencies=frequencies, **packing)
    if recipe.qa_share:
        questions = Stream(QuestionTexts(cast(BioS, corpus).people), pieces, exposures=1, **packing)
        return Mixture(stream, questions, 1 - recipe.qa_share)
    if not recipe.junk_people:
        return stream
    junk = Stream(JunkTexts(cast("BioS | BioD", corpus)), pieces, exposures=1, **packing)
    return Mixture(stream, junk, recipe.useful_share)


def _pieces_of(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, checked: int) -> Pieces:
    if not isinstance(corpus, WholeTexts):
        pieces = Pieces(corpus.piece_texts(), tokenizer, checked)
        check_whole_texts(corpus, pieces, tokenizer, min(checked, _CHECKED_WHOLE))
        return pieces
    pieces = corpus.pieces(tokenizer)
    longest = corpus.longest(pieces)
    if longest > recipe.block_size:
        raise TrainingError(
            f"block_size={recipe.block_size}, but a text of the data set has {longest} tokens and is scored in one "
            f"piece; give block_size {longest + (recipe.windows == 'aligned')} or more"
        )
    return pieces


def check_whole_texts(corpus: Corpus, pieces: Pieces, tokenizer: Tokenizer, count: int = _CHECKED_WHOLE) -> None:
    """Compares the token ids of assembled texts with those of tokenizing whole texts.

    Raises:
        CorpusError: they differ; the message gives the first such text.
    """
    persons = np.unique(np.linspace(0, corpus.num_people - 1, min(count, corpus.num_people)).astype(np.int64))
    tokens, lengths = pieces.gather(corpus.compose(pieces, persons, 0))
    ends = np.cumsum(lengths)
    rows = list(corpus.rows(persons, 0))
    encodings = tokenizer.encode_batch_fast([row.text for row in rows], add_special_tokens=False)
    for row, end, length, encoding in zip(rows, ends, lengths, encodings, strict=True):
        if [*encoding.ids, EOS_ID] != tokens[end - length : end].tolist():
            raise CorpusError(f"assembled and tokenized ids differ on {row.text!r}; choose another tokenizer")


class JunkTexts:
    """The texts of a corpus' junk people, counted from 0, for a `Stream`."""

    def __init__(self, corpus: BioS | BioD) -> None:
        self.corpus, self.num_people, self.seed = corpus, corpus.junk.num_people, corpus.seed

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the texts of junk persons (n,) at one exposure: (n, pieces per text) int32."""
        return self.corpus.compose(pieces, persons + self.corpus.num_people, exposure)

    def longest(self, pieces: Pieces) -> int:
        """The maximum number of tokens of a text, its end of text included."""
        return self.corpus.longest(pieces)


class Mixture:
    """The windows of a useful stream, spread evenly among windows of junk, both in their own order.

    So the share of useful windows in a batch of any size is as exact as whole numbers allow.
    """

    def __init__(self, useful: Stream, junk: Stream, useful_share: float) -> None:
        """Takes two streams of the same pieces; `count` must run before windows are looked up.

        Args:
            useful: used completely.
            junk: used as far as needed, exposure after exposure.
            useful_share: share of the tokens in all windows, between 0 and 1, exclusive.

        Raises:
            TrainingError: useful_share is out of range.
        """
        if not 0 < useful_share < 1:
            raise TrainingError(f"useful_share={useful_share}; expected more than 0 and less than 1")
        self.useful, self.junk, self.useful_share = useful, junk, useful_share
        self.corpus, self.pieces = useful.corpus, useful.pieces
        self.exposures, self.shards = useful.exposures, useful.shards

    def count(self, progress: Callable[[int], object] = int, num_proc: int = 1) -> tuple[np.ndarray, int]:
        """Counts windows of useful shards, then of junk shards until these have their share of the tokens.

        The share is exact to within one window.

        Args:
            progress: called with the number of useful shards just counted.
            num_proc: number of processes that count useful shards.

        Returns:
            windows (useful shards + junk shards,) int64, for `use_counts`; and the number of tokens in all windows.
        """
        useful, tokens = self.useful.count(progress, num_proc)
        wanted, junk, junk_tokens = tokens * (1 - self.useful_share) / self.useful_share, [], 0
        while junk_tokens < wanted:
            exposure, shard = divmod(len(junk), self.junk.shards)
            for sizes in self.junk.sizes(range(exposure, exposure + self.junk.together), shard):
                if junk_tokens >= wanted:
                    break
                sums = np.cumsum(sizes)
                taken = min(len(sums), int(np.searchsorted(sums, wanted - junk_tokens)) + 1)
                junk.append(taken)
                junk_tokens += int(sums[taken - 1])
        counts = np.concatenate([useful.ravel(), np.array(junk, dtype=np.int64)])
        self.use_counts(counts)
        return counts, tokens + junk_tokens

    def use_counts(self, counts: np.ndarray) -> None:
        """Uses a table that `count` returned before. Raises TrainingError if its shape is another mixture's."""
        size = self.useful.exposures * self.useful.shards
        if counts.ndim != 1 or len(counts) <= size:
            raise TrainingError(f"window counts have shape {counts.shape}, expected more than {size} numbers")
        self.useful.use_counts(counts[:size].reshape(self.useful.exposures, self.useful.shards))
        junk = counts[size:]
        self.junk.exposures = -(-len(junk) // self.junk.shards)
        missing = self.junk.exposures * self.junk.shards - len(junk)
        self.junk.use_counts(np.pad(junk, (0, missing)).reshape(self.junk.exposures, self.junk.shards))

    def __len__(self) -> int:
        """The number of windows of all exposures, junk included."""
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
        """The number of useful windows before a window; in Python integers, which do not overflow."""
        return window * len(self.useful) // len(self)
