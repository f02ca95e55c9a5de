"""The corpus of Morris et al. 2025 ("How much do language models memorize?"): uniform random token strings.

    17 5 60 3 33 8 …

The strings have no structure to generalize from, so all that a model stores of them is memorized. A string is an
entity's name and the whole text, so all bits are name bits: S log2 V less the string's nll. In the paper S = 64 and
V = 2048. This corpus measures the paper's constant, about 3.6 bits per parameter; bioS that of Part 3.3, 2 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.pieces import Pieces, PieceTexts
from knowcap.corpus.tokenizer import word_tokenizer
from knowcap.facts import MIN_CONTROL, NAME, CorpusError, Knowledge, Row, Span
from knowcap.knowledge.strings import VERSION, Strings
from knowcap.recipe import Recipe


ENTITY_COLUMN = "string_id"


def morris_of(recipe: Recipe) -> Morris:
    """The recipe's strings.

    Raises:
        CorpusError: settings that cannot be used.
    """
    if recipe.tokenizer_name is not None:
        raise CorpusError(
            f"tokenizer_name={recipe.tokenizer_name!r}, but strings have their own vocabulary, one token per "
            "symbol; leave tokenizer_name out"
        )
    strings = Strings(recipe.num_people, recipe.string_length, recipe.alphabet_size, recipe.seed)
    control = min(recipe.control_people, strings.num_outsiders)
    if control < MIN_CONTROL:
        raise CorpusError(
            f"control_people={recipe.control_people} of {strings.num_outsiders:,} strings outside the training set, "
            f"expected {MIN_CONTROL} or more: a string has no values that the null control could exchange instead. "
            "Give more control_people, or longer strings"
        )
    return Morris(strings)


class Morris:
    """Texts of random strings, the same at every exposure."""

    def __init__(self, strings: Strings) -> None:
        self.strings = strings
        self.num_people, self.seed = strings.num_strings, strings.seed
        self.first_outsider, self.num_outsiders = strings.num_strings, strings.num_outsiders
        self.symbols = [str(number) for number in range(strings.alphabet_size)]

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json: a name of S log2 V bits, less log2 N, and no attributes."""
        return Knowledge(
            name="morris",
            version=VERSION,
            num_people=self.num_people,
            seed=self.seed,
            entity_column=ENTITY_COLUMN,
            name_log2_candidates=self.strings.log2_candidates,
            attributes=(),
        )

    def people_columns(self, first: int, end: int) -> dict[str, list]:
        """The strings first … end - 1."""
        strings = np.arange(first, end)
        return {ENTITY_COLUMN: strings.tolist(), NAME: list(self._texts(strings))}

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """One row for each string (n,), in their order; the whole text is the name."""
        for number, text in zip(persons.tolist(), self._texts(persons), strict=True):
            yield Row(text, (Span(NAME, 0, len(text)),), number)

    def vocabulary_texts(self) -> Iterator[str]:
        """All symbols, whether they occur or not."""
        yield from self.symbols

    def own_tokenizer(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """One token per symbol (`vocab_size` has no effect), and the vocabulary rows that a model needs."""
        return word_tokenizer(self.symbols)

    def piece_texts(self) -> PieceTexts:
        """One piece per symbol, with a space before all but the first."""
        groups = {"first": list(self.symbols), "symbol": [f" {symbol}" for symbol in self.symbols]}
        return PieceTexts(groups, [("first", "symbol"), ("symbol", "symbol")], frozenset({"first"}))

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the strings (n,), each with its end of text: (n, S + 1) int32."""
        composed = self.strings.symbols(persons) + np.int32(pieces.groups["symbol"].start)
        composed[:, 0] += pieces.groups["first"].start - pieces.groups["symbol"].start
        ends = np.full((len(persons), 1), pieces.eos, dtype=np.int32)
        return np.concatenate([composed, ends], axis=1)

    def longest(self, pieces: Pieces) -> int:
        """Every string has S tokens and its end of text."""
        return self.strings.string_length + 1

    def _texts(self, persons: np.ndarray) -> Iterator[str]:
        for symbols in self.strings.symbols(persons).tolist():
            yield " ".join([self.symbols[symbol] for symbol in symbols])
