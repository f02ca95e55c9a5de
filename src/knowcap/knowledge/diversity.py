"""bioD's knowledge (Part 3.3, Definition 2.2): each attribute has a diversity set of D strings, each value C of them.

Everything is a function of the seed and of attribute and person numbers, so any part can be computed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from knowcap.facts import CorpusError
from knowcap.knowledge.philox import below, words
from knowcap.knowledge.pools import Pools


_WORDS = 4  # random words that one block of the generator gives
_PEOPLE_AT_A_TIME = 65_536
_LARGEST = 2**31  # numbers are drawn from 32-bit words and kept as int32


@dataclass(frozen=True)
class Diversity:
    """K attributes, each with D distinct strings of length L over T symbols; a value is C of its attribute's strings.

    Attributes:
        num_attributes, chunks_per_value, diversity, chunk_length, alphabet_size: K, C, D, L, T.
        seed: of sets and values.
    """

    num_attributes: int
    chunks_per_value: int
    diversity: int
    chunk_length: int
    alphabet_size: int
    seed: int

    def __post_init__(self) -> None:
        for key in ("num_attributes", "chunks_per_value", "diversity", "chunk_length", "alphabet_size"):
            if not 1 <= getattr(self, key) < _LARGEST:
                raise CorpusError(f"{key}={getattr(self, key)}, expected 1 or more, and less than 2**31")
        if self._count_up_to(self.diversity) < self.diversity:
            strings = self.alphabet_size**self.chunk_length
            raise CorpusError(
                f"diversity={self.diversity:,}, but chunk_length={self.chunk_length} over "
                f"alphabet_size={self.alphabet_size} makes {strings:,} strings; lower diversity to at most that, "
                "or give longer chunks or a larger alphabet"
            )

    @property
    def log2_candidates(self) -> float:
        """Bits of one value: C log2 D."""
        return self.chunks_per_value * math.log2(self.diversity)

    @property
    def candidates(self) -> int | None:
        """How many values there can be, D^C; None from 2**63 on."""
        return self.diversity**self.chunks_per_value if self.log2_candidates < 63 else None

    @property
    def log2_strings(self) -> float:
        """Bits of one string of a diversity set, log2(T^L / D): 0 where the set has all T^L strings."""
        if self._count_up_to(self.diversity + 1) == self.diversity:
            return 0.0
        return self.chunk_length * math.log2(self.alphabet_size) - math.log2(self.diversity)

    def strings(self, attribute: int) -> np.ndarray:
        """The diversity set of an attribute (0 … K - 1): (D, L) symbols, int32; its rows differ.

        D strings drawn uniformly without replacement. If D is more than half of T^L, all strings are put in random
        order; otherwise strings are drawn one after another, and the first D distinct ones are taken.
        """
        count = self._count_up_to(2 * self.diversity)
        if count < 2 * self.diversity:
            random = words(self.seed, "biod/all strings", np.arange(count), attribute)
            order = np.argsort((random[0] << np.uint64(32)) | random[1], kind="stable")[: self.diversity]
            places = self.alphabet_size ** np.arange(self.chunk_length)[::-1]
            return (order[:, None] // places % self.alphabet_size).astype(np.int32)
        found: dict[bytes, None] = {}  # keeps the order in which strings were first drawn
        drawn, width = 0, 4 * self.chunk_length
        while len(found) < self.diversity:
            step = max(64, self.diversity - len(found))
            data = self._draw(attribute, np.arange(drawn, drawn + step)).tobytes()
            found.update(dict.fromkeys(data[i : i + width] for i in range(0, len(data), width)))
            drawn += step
        taken = b"".join(islice(found, self.diversity))
        return np.frombuffer(taken, dtype=np.int32).reshape(self.diversity, self.chunk_length)

    def chunks(self, persons: np.ndarray) -> np.ndarray:
        """The values of persons (n,), as numbers of strings in each attribute's set: (n, K, C) int32, uniform."""
        out = np.empty((len(persons), self.num_attributes, self.chunks_per_value), dtype=np.int32)
        for attribute in range(self.num_attributes):
            for first in range(0, self.chunks_per_value, _WORDS):
                random = self._chunk_words(persons, attribute, first // _WORDS)
                some = out[:, attribute, first : first + _WORDS]
                some[:] = below(random[: some.shape[1]], self.diversity).T
        return out

    def num_first_chunks(self, num_people: int) -> list[int]:
        """How many strings of each attribute's set begin the value of at least one of the people 0 … N - 1."""
        counts = []
        for attribute in range(self.num_attributes):
            seen = np.zeros(self.diversity, dtype=bool)
            for first in range(0, num_people, _PEOPLE_AT_A_TIME):
                persons = np.arange(first, min(num_people, first + _PEOPLE_AT_A_TIME))
                seen[below(self._chunk_words(persons, attribute, 0)[0], self.diversity)] = True
                if seen.all():
                    break
            counts.append(int(seen.sum()))
        return counts

    def _chunk_words(self, persons: np.ndarray, attribute: int, block: int) -> np.ndarray:
        return words(self.seed, "biod/chunks", persons, attribute, block)

    def _draw(self, attribute: int, indices: np.ndarray) -> np.ndarray:
        """Strings (n, L) drawn uniformly and independently, int32."""
        out = np.empty((len(indices), self.chunk_length), dtype=np.int32)
        for first in range(0, self.chunk_length, _WORDS):
            random = words(self.seed, "biod/strings", indices, attribute, first // _WORDS)
            some = out[:, first : first + _WORDS]
            some[:] = below(random[: some.shape[1]], self.alphabet_size).T
        return out

    def _count_up_to(self, limit: int) -> int:
        """T^L, or `limit` where it is no less: T^L may have any number of digits."""
        count = 1
        for _ in range(self.chunk_length if self.alphabet_size > 1 else 0):
            count *= self.alphabet_size
            if count >= limit:
                return limit
        return min(count, limit)


COMPACT_NAME_LENGTH, COMPACT_NAME_SYMBOLS = 4, 64  # N0 = 64^4


def english_names(pools: Pools) -> list[list[str]]:
    """The lists that names consist of in sentences: first, middle and last names; a space begins all but the first."""
    middle, last = ([f" {name}" for name in names] for names in (pools.middle_names, pools.last_names))
    return [list(pools.first_names), middle, last]


def compact_names() -> list[list[str]]:
    """The lists that names consist of in the compact form: symbols; a space begins all but the first."""
    symbols = [f"N{number}" for number in range(COMPACT_NAME_SYMBOLS)]
    return [symbols, *([f" {symbol}" for symbol in symbols] for _ in range(COMPACT_NAME_LENGTH - 1))]
