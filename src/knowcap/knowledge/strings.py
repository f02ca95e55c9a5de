"""Random strings, each its own name (after Morris et al. 2025): S symbols drawn uniformly and independently from V.

String i is a function of the seed and of i. Where V^S is less than 2^63 the strings are drawn without replacement, by
a keyed permutation of all strings; otherwise every symbol is drawn independently, so that any two of N strings are
equal with a probability of at most N^2 / 2^64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from knowcap.facts import CorpusError
from knowcap.knowledge.philox import KeyedPermutation, below, words


VERSION = "1.0.0"  # of the draws: any change is a new version
_WORDS = 4  # random words in one block of the generator
_MOST_STRINGS = 2**32  # distinct strings that the generator can number
_MOST_SYMBOLS = 2**24  # a symbol is drawn from 32 bits: probabilities differ by less than 1 in 256


@dataclass(frozen=True)
class Strings:
    """`num_strings` (N) strings; those with numbers from N on are outsiders.

    Outsiders differ from all N strings: by construction where strings are drawn without replacement, else with the
    probability of uniform draws.

    Attributes:
        num_strings, string_length, alphabet_size: N, S, V.
        seed: of the strings.
    """

    num_strings: int
    string_length: int
    alphabet_size: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.alphabet_size <= _MOST_SYMBOLS:
            raise CorpusError(f"alphabet_size={self.alphabet_size:,}, expected 1 to {_MOST_SYMBOLS:,} symbols")
        if self.string_length < 1:
            raise CorpusError(f"string_length={self.string_length}, expected 1 symbol or more")
        most = min(self.candidates or _MOST_STRINGS, _MOST_STRINGS)
        if not 1 <= self.num_strings <= most:
            raise CorpusError(
                f"num_people={self.num_strings:,}, but string_length={self.string_length} over "
                f"alphabet_size={self.alphabet_size:,} makes {most:,} distinct strings; expected 1 to that "
                "many; lower num_people, or give longer strings or a larger alphabet"
            )

    @property
    def log2_candidates(self) -> float:
        """Bits of one string: S log2 V, whatever the size of V^S."""
        return self.string_length * math.log2(self.alphabet_size)

    @property
    def candidates(self) -> int | None:
        """The number of possible strings, V^S; None from 2**63 on."""
        return self.alphabet_size**self.string_length if self.log2_candidates < 63 else None

    @property
    def num_outsiders(self) -> int:
        """The number of possible strings outside the sample."""
        return min(self.candidates or _MOST_STRINGS, _MOST_STRINGS) - self.num_strings

    def symbols(self, indices: np.ndarray) -> np.ndarray:
        """The symbols 0 … V - 1 of strings (n,): (n, S) int32."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.string_length), dtype=np.int32)
        if self.candidates is not None:
            numbers = KeyedPermutation(self.candidates, self.seed, "morris/strings")(indices)
            for place in reversed(range(self.string_length)):
                numbers, out[:, place] = np.divmod(numbers, self.alphabet_size)
            return out
        for first in range(0, self.string_length, _WORDS):
            some = out[:, first : first + _WORDS]
            random = words(self.seed, "morris/symbols", indices, block=first // _WORDS)
            some[:] = below(random[: some.shape[1]], self.alphabet_size).T
        return out
