"""From a recipe to its corpus, and from a corpus to its tokenizer and windows. What every corpus offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.bios import BioS
from knowcap.corpus.forms import Variant
from knowcap.corpus.junk import Junk
from knowcap.corpus.pieces import Pieces, PieceTexts, used_tokens
from knowcap.corpus.question_texts import QuestionTexts
from knowcap.corpus.templates import load_templates
from knowcap.corpus.tokenizer import (
    EOS_ID,
    TokenizerError,
    alphabet_of,
    check_names,
    load_backend,
    reduce_tokenizer,
    train_tokenizer,
    with_prefix_space,
)
from knowcap.facts import Knowledge, Row
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.training.mixture import JunkTexts, Mixture
from knowcap.training.packing import PackingError, Stream


_CHECKED_WHOLE = 256


class Corpus(Protocol):
    """What people there are, what is known of them, and how it is said, as text and as pieces.

    People with numbers from `first_outsider` on are outsiders: they exist, and no training text tells of them.
    """

    num_people: int
    first_outsider: int
    num_outsiders: int
    seed: int

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json."""

    def people_columns(self, first: int, end: int) -> dict[str, list]:
        """The people config's columns for people first … end - 1."""

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """Texts with spans of persons (n,) at one exposure."""

    def vocabulary_texts(self) -> Iterator[str]:
        """What a tokenizer may know; nothing in it depends on the sampled people."""

    def piece_texts(self) -> PieceTexts:
        """The pieces of all texts that there can be."""

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int) -> np.ndarray:
        """Which pieces make up the texts of persons (n,) at one exposure: (n, pieces a text) int32."""

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""


@runtime_checkable
class OwnTokenizer(Protocol):
    """A corpus that makes its compact tokenizer itself, where a BPE trained on its texts would not do."""

    def own_tokenizer(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """The tokenizer, and the vocabulary rows that a model needs."""


@runtime_checkable
class WholeTexts(Protocol):
    """A corpus of texts that are not made of pieces: they are tokenized whole, once."""

    def tokenizer(self, recipe: Recipe) -> tuple[Tokenizer, int]:
        """The recipe's tokenizer, and the vocabulary rows that its model needs; tokenizes all texts."""

    def pieces(self, tokenizer: Tokenizer) -> Pieces:
        """Every text as one piece; after `tokenizer`."""


def corpus_of(recipe: Recipe, folder: Path | None = None, place: Path | None = None) -> Corpus:
    """The recipe's corpus.

    Args:
        recipe: one without problems.
        folder: where a `dataset_name`'s data set lies; by default it is fetched.
        place: where the token ids of its texts are kept, if these are used as they are.

    Raises:
        PoolsError, PeopleError, TemplateError, JunkError: lists, numbers or templates that cannot be used.
        SourceError, RecordedError, PublishedError: a data set that cannot be used.
    """
    if recipe.dataset_name is not None:
        return _corpus_of_dataset(recipe, folder, place)
    if recipe.corpus == "bioD":
        from knowcap.corpus.biod import biod_of

        return biod_of(recipe)
    if recipe.corpus == "morris":
        from knowcap.corpus.morris import morris_of

        return morris_of(recipe)
    if recipe.corpus == "table":
        from knowcap.corpus.table import table_of

        return table_of(recipe)
    people = People(load_pools(recipe.pools_dir, recipe.pools_fraction), recipe.num_people, recipe.seed)
    variant = Variant(recipe.fixed_renderings, recipe.permute, recipe.full_name)
    junk = Junk(recipe.junk_people, recipe.domain_token, recipe.junk_tokens)
    return BioS(people, load_templates(recipe.num_templates), variant, junk, recipe.questions)


def _corpus_of_dataset(recipe: Recipe, folder: Path | None, place: Path | None, limit: int | None = None) -> Corpus:
    from knowcap.dataset.importing import source_of
    from knowcap.dataset.published import Published
    from knowcap.dataset.recorded import recorded_corpus
    from knowcap.dataset.source import WHOLE

    folder = source_of(recipe).fetch(*WHOLE) if folder is None else folder
    if recipe.dataset_texts == "published":
        return Published(recipe, folder, place, limit)
    return recorded_corpus(recipe, folder, limit)


def sample_of(recipe: Recipe, count: int) -> Corpus:
    """The recipe's corpus with its first people alone, at most `count`; raises what `corpus_of` does."""
    if recipe.dataset_name is None:
        return corpus_of(replace(recipe, num_people=min(recipe.num_people, count)))
    from knowcap.dataset.importing import sample_folder, source_of

    return _corpus_of_dataset(recipe, sample_folder(recipe, source_of(recipe)), None, count)


def knowledge_of(recipe: Recipe) -> Knowledge:
    """The content of the recipe's knowledge.json; of a data set, no people are read."""
    if recipe.dataset_name is None:
        return corpus_of(recipe).knowledge()
    from knowcap.dataset.importing import source_of

    return source_of(recipe).knowledge()


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


def stream_of(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer) -> Stream | Mixture:
    """The recipe's windows; pieces are checked against whole texts on the way. Count them before use."""
    pieces = _pieces_of(recipe, corpus, tokenizer)
    packing = {"block_size": recipe.block_size, "windows": recipe.windows, "shard_size": recipe.shard_size}
    stream = Stream(corpus, pieces, exposures=recipe.exposures, **packing)
    if recipe.qa_share:
        questions = Stream(QuestionTexts(corpus), pieces, exposures=1, **packing)
        return Mixture(stream, questions, 1 - recipe.qa_share)
    if not recipe.junk_people:
        return stream
    junk = Stream(JunkTexts(corpus), pieces, exposures=1, **packing)
    return Mixture(stream, junk, recipe.useful_share)


def _pieces_of(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer) -> Pieces:
    if not isinstance(corpus, WholeTexts):
        pieces = Pieces(corpus.piece_texts(), tokenizer)
        check_whole_texts(corpus, pieces, tokenizer)
        return pieces
    pieces = corpus.pieces(tokenizer)
    longest = corpus.longest(pieces)
    if longest > recipe.block_size:
        raise PackingError(
            f"block_size={recipe.block_size}, but a text of the data set has {longest} tokens and is scored in one "
            f"piece; give block_size {longest + (recipe.windows == 'aligned')} or more"
        )
    return pieces


def check_whole_texts(corpus: Corpus, pieces: Pieces, tokenizer: Tokenizer, count: int = _CHECKED_WHOLE) -> None:
    """Holds assembled texts against tokenizing them whole.

    Raises:
        TokenizerError: names the first text that differs.
    """
    persons = np.unique(np.linspace(0, corpus.num_people - 1, min(count, corpus.num_people)).astype(np.int64))
    tokens, lengths = pieces.gather(corpus.compose(pieces, persons, 0))
    ends = np.cumsum(lengths)
    rows = list(corpus.rows(persons, 0))
    encodings = tokenizer.encode_batch_fast([row.text for row in rows], add_special_tokens=False)
    for row, end, length, encoding in zip(rows, ends, lengths, encodings, strict=True):
        if [*encoding.ids, EOS_ID] != tokens[end - length : end].tolist():
            raise TokenizerError(f"assembled and tokenized ids differ on {row.text!r}; choose another tokenizer")
