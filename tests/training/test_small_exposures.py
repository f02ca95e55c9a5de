"""Exposures of few texts are made several at a time: the windows are those of each exposure made alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.recipe import Recipe
from knowcap.training import packing
from knowcap.training.windows import Mixture, stream_of


BIOD = {"corpus": "bioD", "num_attributes": 3, "chunks_per_value": 2, "diversity": 20, "alphabet_size": 20}
SMALL = {"num_people": 30, "exposures": 40, "block_size": 200, "vocab_size": 400, "pools_fraction": 0.1}
RECIPES: dict[str, dict[str, Any]] = {
    "few people": {"windows": "cut"},
    "aligned": {"windows": "aligned"},
    "unequal": {"exposures_exponent": 1.0},
    "shards": {"shard_size": 12},
    "repetitive junk": {"junk_people": 5, "useful_share": 0.2},
    "repetitive junk of bioD": BIOD | {"junk_people": 5, "useful_share": 0.2, "windows": "aligned"},
    "questions": {"qa_share": 0.3, "questions": True},
}


def everything(keys: dict[str, Any], together: int, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, int]:
    """The bytes of the table and of all batches, from the middle first, and how often the batches call `compose`."""
    monkeypatch.setattr(packing, "_TEXTS_TOGETHER", together)
    recipe = Recipe(**(SMALL | keys))
    corpus = corpus_of(recipe)
    made = stream_of(recipe, corpus, tokenizer_of(recipe, corpus)[0], 40)
    counts, tokens = made.count()
    calls = []
    compose = type(corpus).compose
    monkeypatch.setattr(type(corpus), "compose", lambda *given: calls.append(1) or compose(*given))
    order = [*range(len(made) // 2, len(made), 6), *range(0, len(made), 6)]
    batches = [made.batch(np.arange(first, min(first + 6, len(made)))) for first in order]
    monkeypatch.undo()
    return b"".join([counts.tobytes(), str(tokens).encode(), *(part.tobytes() for b in batches for part in b)]), len(
        calls
    )


@pytest.mark.parametrize("name", RECIPES)
def test_windows_are_those_of_each_exposure_made_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, calls = everything(RECIPES[name], 1, monkeypatch)
    for together in (60, 1000):
        found, fewer = everything(RECIPES[name], together, monkeypatch)
        assert found == alone
        assert fewer <= calls
    assert fewer < calls / 4 or name in ("shards", "questions")


def test_junk_about_few_people_is_composed_as_rarely_as_junk_about_many(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}
    for people in (5, 2000):
        keys = {"num_people": 100, "exposures": 8, "junk_people": people, "useful_share": 0.2}
        calls[people] = everything(keys, 4096, monkeypatch)[1]
    assert calls[5] <= calls[2000] + 1


def test_the_table_of_a_mixture_ends_with_the_junk_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(**(SMALL | RECIPES["repetitive junk"]))
    corpus = corpus_of(recipe)
    made = stream_of(recipe, corpus, tokenizer_of(recipe, corpus)[0], 40)
    assert isinstance(made, Mixture)
    _, tokens = made.count()
    useful = sum(int((made.useful.batch(np.array([w]))[1] != -100).sum()) for w in range(len(made.useful)))
    assert 0.2 * tokens == pytest.approx(useful, abs=0.2 * recipe.block_size)
