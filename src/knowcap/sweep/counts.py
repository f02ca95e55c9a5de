"""What the cells of a sweep will be, before any is run: parameters, bits, tokens, FLOP. Counted, without torch.

What cells share is counted once: the tokens of one kind of text, the bits of one corpus, the parameters of one model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from knowcap.corpus.base import WholeTexts, tokenizer_of
from knowcap.dataset.corpora import knowledge_of, sample_of
from knowcap.facts import CorpusError
from knowcap.models import closed_form_active_parameters, closed_form_parameters
from knowcap.recipe import Recipe
from knowcap.sweep.cells import Cell
from knowcap.sweep.checks import corpus_key, texts_key
from knowcap.sweep.errors import SweepError
from knowcap.training.packing import PackingError, Stream
from knowcap.training.stream import stream_of


_SAMPLE = 1000  # texts that tokens and windows are counted on


@dataclass(frozen=True)
class CellCounts:
    """A cell in numbers; tokens, windows and steps are about right, extrapolated from a sample of texts.

    Attributes:
        rows: of the vocabulary.
        max_knowledge_bits: all there is to know.
        num_tokens, num_steps: of training, ends of texts and junk included.
        flops: `training_flops` of it.
    """

    rows: int
    num_parameters: int
    max_knowledge_bits: float
    num_tokens: int
    num_steps: int
    flops: float

    @property
    def max_bits_per_parameter(self) -> float:
        """R_max."""
        return self.max_knowledge_bits / self.num_parameters


@dataclass(frozen=True)
class _Texts:
    rows: int
    tokens: float  # of a text, its share of every window's first end of text included
    windows: float


def training_flops(recipe: Recipe, rows: int, num_tokens: int) -> float:
    """6 N D: forward and backward passes over D tokens with N parameters (Kaplan et al. 2020, 2.1; Hoffmann et al.).

    All parameters are counted, as in Hoffmann et al., of a mixture those that one token passes through; attention over
    the context is left out.

    Args:
        recipe: names the model.
        rows: of its vocabulary.
        num_tokens: D.
    """
    return (
        6.0
        * num_tokens
        * closed_form_active_parameters(
            recipe.model_name,
            vocab_size=rows,
            block_size=recipe.block_size,
            head_dim=recipe.head_dim,
            num_experts_per_tok=recipe.num_experts_per_tok,
        )
    )


def count_cells(cells: Iterable[Cell]) -> dict[str, CellCounts]:
    """The counts of every cell by its name.

    Raises:
        SweepError: texts that the tokenizer or the windows cannot hold.
    """
    texts: dict[tuple[Any, ...], _Texts] = {}
    bits: dict[tuple[Any, ...], tuple[int, float]] = {}
    found = {}
    for cell in cells:
        recipe = cell.recipe
        kind, corpus = texts_key(recipe), corpus_key(recipe)
        if kind not in texts:
            try:
                texts[kind] = _sampled(recipe)
            except (CorpusError, PackingError) as error:
                raise SweepError([str(error)], cell.name) from error
        if corpus not in bits:
            knowledge = knowledge_of(recipe)
            bits[corpus] = knowledge.num_people, knowledge.total_bits
        found[cell.name] = _counts(recipe, texts[kind], *bits[corpus])
    return found


def _counts(recipe: Recipe, texts: _Texts, num_people: int, total_bits: float) -> CellCounts:
    parameters = _parameters(recipe.model_name, texts.rows, recipe.block_size, recipe.head_dim)
    told = num_people * recipe.exposures
    tokens = round(told * texts.tokens)
    windows = max(1, round(told * texts.windows))
    return CellCounts(
        rows=texts.rows,
        num_parameters=parameters,
        max_knowledge_bits=total_bits,
        num_tokens=tokens,
        num_steps=-(-windows // recipe.train_batch_size),
        flops=training_flops(recipe, texts.rows, tokens),
    )


@lru_cache(maxsize=4096)
def _parameters(model_name: str, rows: int, block_size: int, head_dim: int) -> int:
    return closed_form_parameters(model_name, vocab_size=rows, block_size=block_size, head_dim=head_dim)


def _sampled(recipe: Recipe) -> _Texts:
    """Tokens and windows a text, from the first people's; with junk, those of the junk that comes with a text too."""
    corpus = sample_of(recipe, _SAMPLE)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    if isinstance(corpus, WholeTexts):
        count = stream_of(recipe, corpus, tokenizer)
    else:
        texts = [row.text for row in corpus.rows(np.arange(corpus.num_people), 0)]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        count = _stream(recipe, np.array([len(encoding.ids) + 1 for encoding in encodings]), corpus.seed)
    count.exposures = 1
    windows, tokens = count.count()
    share = recipe.useful_share if recipe.junk_people else 1.0
    return _Texts(rows, tokens / corpus.num_people / share, float(windows.sum()) / corpus.num_people / share)


def _stream(recipe: Recipe, lengths: np.ndarray, seed: int) -> Stream:
    """Windows over texts of so many tokens each, ends included."""
    texts = SimpleNamespace(
        num_people=len(lengths),
        seed=seed,
        compose=lambda pieces, persons, exposure: persons[:, None],
        longest=lambda pieces: int(lengths.max()),
    )
    packing = {"block_size": recipe.block_size, "windows": recipe.windows, "shard_size": recipe.shard_size}
    return Stream(texts, SimpleNamespace(lengths=lengths), exposures=1, **packing)
