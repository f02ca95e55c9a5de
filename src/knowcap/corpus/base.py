"""The interface of every corpus, and the choice of its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.pieces import Pieces, PieceTexts, used_tokens
from knowcap.corpus.tokenizer import (
    alphabet_of,
    check_names,
    load_backend,
    reduce_tokenizer,
    train_tokenizer,
    with_prefix_space,
)
from knowcap.facts import Knowledge, Row
from knowcap.recipe import Recipe


class Corpus(Protocol):
    """People, their knowledge, and their texts, as strings and as pieces.

    People with numbers from `first_outsider` on are outsiders: no training text is about them.
    """

    @property
    def num_people(self) -> int:
        """N, the number of people."""
        ...

    @property
    def first_outsider(self) -> int:
        """The number of the first outsider."""
        ...

    @property
    def num_outsiders(self) -> int:
        """The number of possible outsiders."""
        ...

    @property
    def seed(self) -> int:
        """The seed of people, texts and their order."""
        ...

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json."""
        ...

    def people_columns(self, first: int, end: int) -> dict[str, Any]:
        """The people config's columns for people first … end - 1."""
        ...

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """Texts with spans of persons (n,) at one exposure."""
        ...

    def vocabulary_texts(self) -> Iterator[str]:
        """The texts to train a tokenizer on; they do not depend on the sampled people."""
        ...

    def piece_texts(self) -> PieceTexts:
        """The pieces of all possible texts."""
        ...

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the texts of persons (n,) at one exposure, or at one each: (n, pieces per text) int32."""
        ...

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""
        ...


@runtime_checkable
class OwnTokenizer(Protocol):
    """A corpus that makes its own compact tokenizer, since a BPE trained on its texts does not fit."""

    def own_tokenizer(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """The tokenizer, and the vocabulary rows that a model needs."""
        ...


@runtime_checkable
class WholeTexts(Protocol):
    """A corpus whose texts do not consist of pieces: each is tokenized once, as a whole."""

    def tokenizer(self, recipe: Recipe) -> tuple[Tokenizer, int]:
        """The recipe's tokenizer, and the vocabulary rows that its model needs. Tokenizes all texts."""
        ...

    def pieces(self, tokenizer: Tokenizer) -> Pieces:
        """Every text as one piece; call `tokenizer` first."""
        ...


def tokenizer_of(recipe: Recipe, corpus: Corpus) -> tuple[Tokenizer, int]:
    """The recipe's tokenizer, and the vocabulary rows that its model needs."""
    if isinstance(corpus, WholeTexts):
        return corpus.tokenizer(recipe)
    if recipe.tokenizer_name is None:
        if isinstance(corpus, OwnTokenizer):
            return corpus.own_tokenizer(recipe.vocab_size)
        backend = train_tokenizer(corpus.vocabulary_texts(), recipe.vocab_size, prefix_space=recipe.questions)
        kept = alphabet_of(backend)
    else:
        backend, kept = load_backend(recipe.tokenizer_name), set()
    texts = corpus.piece_texts()
    if recipe.questions:
        backend = with_prefix_space(backend)
        check_names(backend, texts.groups["first_name"])
    return reduce_tokenizer(backend, used_tokens(texts, backend) | kept, texts.markers)
