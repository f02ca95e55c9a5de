"""From a recipe's corpus to its windows."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.base import Corpus, WholeTexts
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.questions import QuestionTexts
from knowcap.corpus.tokenizer import EOS_ID
from knowcap.facts import CorpusError
from knowcap.recipe import Recipe
from knowcap.training.mixture import JunkTexts, Mixture
from knowcap.training.packing import PackingError, Stream


_CHECKED_WHOLE = 256


def stream_of(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer) -> Stream | Mixture:
    """The recipe's windows; pieces are checked against whole texts on the way. Count them before use."""
    pieces = _pieces_of(recipe, corpus, tokenizer)
    packing = {"block_size": recipe.block_size, "windows": recipe.windows, "shard_size": recipe.shard_size}
    stream = Stream(corpus, pieces, exposures=recipe.exposures, **packing)
    if recipe.qa_share:
        questions = Stream(QuestionTexts(corpus.people), pieces, exposures=1, **packing)
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
        CorpusError: names the first text that differs.
    """
    persons = np.unique(np.linspace(0, corpus.num_people - 1, min(count, corpus.num_people)).astype(np.int64))
    tokens, lengths = pieces.gather(corpus.compose(pieces, persons, 0))
    ends = np.cumsum(lengths)
    rows = list(corpus.rows(persons, 0))
    encodings = tokenizer.encode_batch_fast([row.text for row in rows], add_special_tokens=False)
    for row, end, length, encoding in zip(rows, ends, lengths, encodings, strict=True):
        if [*encoding.ids, EOS_ID] != tokens[end - length : end].tolist():
            raise CorpusError(f"assembled and tokenized ids differ on {row.text!r}; choose another tokenizer")
