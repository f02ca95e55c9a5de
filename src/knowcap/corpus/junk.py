"""Junk: people that training texts are about but that are not scored, and tokens that mark their texts.

Part 3.3, Section 10: a share of the training tokens is about up to 100 million other people. They are not
stored: junk person j is person N + j of the same keyed draws, so no name is shared (DESIGN, randomness).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from knowcap.corpus.pieces import MARKER, Pieces
from knowcap.facts import CorpusError, Row, Span
from knowcap.knowledge.philox import below, words


@dataclass(frozen=True)
class Junk:
    """The number of junk people, and the tokens in front of texts.

    Attributes:
        num_people: N', numbered after the useful people.
        domain_token: stands in front of every useful text (Result 12), None: nothing.
        num_tokens: the number of tokens that stand in front of junk texts, one for each person (footnote 21).
    """

    num_people: int = 0
    domain_token: str | None = None
    num_tokens: int = 0

    def __post_init__(self) -> None:
        if self.num_people < 0 or self.num_tokens < 0:
            raise CorpusError(f"junk_people={self.num_people}, junk_tokens={self.num_tokens}, expected 0 or more")
        if self.num_tokens and not self.num_people:
            raise CorpusError(f"junk_tokens={self.num_tokens}, but there are no junk texts; give junk_people too")
        token = self.domain_token
        if token is not None and (not token or any(c.isspace() for c in token) or token in self._tokens()):
            raise CorpusError(
                f"domain_token={token!r}, expected one word, no junk token, without white space, such as wikipedia.org"
            )

    @property
    def markers(self) -> tuple[str, ...]:
        """All tokens that can stand in front of a text; the useful people's is first."""
        return (() if self.domain_token is None else (self.domain_token,)) + self._tokens()

    @property
    def prefix(self) -> str:
        """The beginning of every useful text."""
        return "" if self.domain_token is None else f"{self.domain_token} "

    def marker_numbers(self, persons: np.ndarray, first: int, seed: int) -> np.ndarray:
        """The number in `markers` of the token in front of each person's texts, -1 for none.

        Args:
            persons: (n,) numbers.
            first: the number of the first junk person, N.
            seed: of the draw among several tokens.
        """
        domain = 0 if self.domain_token is not None else -1
        numbers = np.full(len(persons), domain, dtype=np.int64)
        if self.num_people:
            is_junk = (persons >= first) & (persons < first + self.num_people)
            numbers[is_junk] = -1
            if self.num_tokens:
                drawn = below(words(seed, "junk/tokens", persons[is_junk])[0], self.num_tokens)
                numbers[is_junk] = drawn.astype(np.int64) + domain + 1
        return numbers

    def marked(self, rows: Iterable[Row], persons: np.ndarray, first: int, seed: int) -> Iterator[Row]:
        """The rows of persons (n,), with the token in front of each; the other arguments as for `marker_numbers`."""
        numbers = self.marker_numbers(persons, first, seed).tolist()
        markers = self.markers
        return (_marked(row, markers[n]) if n >= 0 else row for row, n in zip(rows, numbers, strict=True))

    def marker_pieces(self, pieces: Pieces, persons: np.ndarray, first: int, seed: int) -> np.ndarray:
        """The piece in front of each text of persons (n,), empty for none; the rest as for `marker_numbers`."""
        numbers = self.marker_numbers(persons, first, seed)
        return np.where(numbers >= 0, numbers + pieces.groups[MARKER].start, pieces.empty)

    def _tokens(self) -> tuple[str, ...]:
        return tuple(f"<|junk_{number}|>" for number in range(self.num_tokens))


def _marked(row: Row, marker: str) -> Row:
    """The text with a token in front of it."""
    by = len(marker) + 1
    spans = tuple(Span(span.attribute, span.start + by, span.end + by) for span in row.spans)
    return Row(f"{marker} {row.text}", spans, row.entity)
