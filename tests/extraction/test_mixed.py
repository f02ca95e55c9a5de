"""Questions in the vocabulary and in training: their share, whom they ask about, names read alike."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
from made_tokenizers import foreign_bpe
from read_windows import read_windows, texts_in
from tokenizers import Tokenizer

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.questions import QUESTIONS, QuestionTexts, answer_text, num_train_people, prompt, split_order
from knowcap.corpus.tokenizer import check_names, train_tokenizer, with_prefix_space, wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.facts import CorpusError
from knowcap.recipe import Recipe
from knowcap.scoring import score_rows
from knowcap.training.packing import Stream
from knowcap.training.windows import Mixture, stream_of


MIXED = Recipe(
    run_name="mixed", model_name="gpt2-2-2", num_people=101, pools_fraction=0.1, num_templates=2, vocab_size=400,
    exposures=3, block_size=128, shard_size=150, windows="aligned", questions=True, qa_share=0.4,
)  # fmt: skip
CUT = replace(MIXED, windows="cut", qa_share=0.8)


@cache
def tokenizer_for(recipe: Recipe) -> Tokenizer:
    """The recipe's tokenizer."""
    return tokenizer_of(recipe, corpus_of(recipe))[0]


@cache
def mixture(recipe: Recipe) -> tuple[Mixture | Stream, int]:
    """The recipe's windows, counted, and the tokens in them."""
    made = stream_of(recipe, corpus_of(recipe), tokenizer_for(recipe))
    return made, made.count()[1]


def said_of(recipe: Recipe, persons: np.ndarray) -> set[tuple[int, ...]]:
    """All questions about persons with their answers, tokenized whole."""
    columns = corpus_of(recipe).questions(persons)
    texts = [prompt(q) + answer_text(a) for q, a in zip(columns["question"], columns["answer"], strict=True)]
    return {tuple(e.ids) for e in tokenizer_for(recipe).encode_batch_fast(texts)}


@pytest.mark.parametrize("recipe", [MIXED, CUT], ids=["aligned", "cut"])
def test_questions_have_their_share_of_the_tokens_to_a_window(recipe: Recipe) -> None:
    made, tokens = mixture(recipe)
    rows, of_biographies = read_windows(made)
    asked = sum(len(row) for row, useful in zip(rows, of_biographies, strict=True) if not useful)
    assert sum(map(len, rows)) == tokens
    assert abs(asked - recipe.qa_share * tokens) <= 128


def test_mixed_training_asks_every_question_of_one_half_and_none_of_the_other() -> None:
    made, _ = mixture(MIXED)
    rows, of_biographies = read_windows(made)
    asked = set(texts_in([row for row, useful in zip(rows, of_biographies, strict=True) if not useful]))
    places = np.arange(101)
    train, test = (split_order(101, 0, p) for p in np.split(places, [num_train_people(101)]))
    assert asked == said_of(MIXED, train)
    assert not asked & said_of(MIXED, test)
    biographies = {
        tuple(t) for row, useful in zip(rows, of_biographies, strict=True) if useful for t in texts_in([row])
    }
    assert not biographies & (said_of(MIXED, train) | said_of(MIXED, test))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_questions_cost_a_perfect_model_the_inverse_share_of_biographies_per_name(share: float) -> None:
    """A model of the mixture's exact distribution: P(name) is (1 - share) / N after the end of text."""
    recipe = replace(MIXED, num_people=16, qa_share=share)
    corpus = corpus_of(recipe)
    tokenizer = wrap(tokenizer_for(recipe), 128)
    biographies, asked = list(corpus.rows(np.arange(16), 0)), corpus.questions(np.arange(8))
    texts = [prompt(q) + answer_text(a) for q, a in zip(asked["question"], asked["answer"], strict=True)]
    weighted = [(row, (1 - share) / 16) for row in biographies]
    weighted += [(tiny.say(0, text), share / len(texts)) for text in texts]
    table = score_rows(
        tiny.table_model(weighted, tokenizer), tokenizer, [(r, 0) for r in biographies], corpus.knowledge()
    )
    nll = table.filter(np.array(table["attribute"]) == "name")["nll"].to_numpy()
    assert nll.mean() / math.log(2) == pytest.approx(math.log2(16) + math.log2(1 / (1 - share)), abs=1e-5)


def test_the_order_of_questions_changes_with_the_pass() -> None:
    corpus = corpus_of(MIXED)
    assert isinstance(corpus, BioS)
    texts = QuestionTexts(corpus.people)
    assert texts.num_people == 51 * len(QUESTIONS)
    stream = Stream(texts, mixture(MIXED)[0].pieces, exposures=2, block_size=128, windows="cut")
    one, other = stream.persons(0, 0), stream.persons(1, 0)
    assert sorted(one) == sorted(other) == list(range(306)) and not np.array_equal(one, other)


@pytest.mark.parametrize("full_name", [False, True])
def test_names_are_the_same_tokens_where_they_begin_a_text_and_within_a_question(full_name: bool) -> None:
    tokenizer, corpus = tokenizer_for(MIXED), corpus_of(replace(MIXED, full_name=full_name))
    for row, question in zip(
        corpus.rows(np.arange(20), 0), corpus.questions(np.arange(20))["question"][::6], strict=True
    ):
        name = row.text[slice(*row.spans[0][1:])]
        ids = tokenizer.encode(name).ids
        assert tokenizer.encode(row.text).ids[: len(ids)] == ids
        within = tokenizer.encode(question).ids
        assert any(within[i : i + len(ids)] == ids for i in range(len(within)))


def test_the_vocabulary_knows_no_people_and_two_seeds_make_one_tokenizer() -> None:
    one, other = (tokenizer_for(r).to_str() for r in (MIXED, replace(CUT, seed=7, num_people=60)))
    assert one == other


def test_without_questions_the_tokenizer_is_what_it_was() -> None:
    plain = replace(MIXED, questions=False, qa_share=0.0)
    corpus = corpus_of(plain)
    assert not corpus.with_questions
    assert not any("Answer" in text or "Which" in text for text in corpus.vocabulary_texts())
    assert "Answer" not in tokenizer_for(plain).to_str()


def test_another_tokenizer_is_set_to_read_names_alike_or_refused(tmp_path: Path) -> None:
    gpt2_like = train_tokenizer(["Anya Briar Forger was born. Anya!", "a b"], 300, every_byte=True)
    with pytest.raises(CorpusError, match="encodes 'Anya' differently at the beginning of a text"):
        check_names(gpt2_like, ["Anya"])
    check_names(with_prefix_space(gpt2_like), ["Anya", "Briar"])
    wrap(foreign_bpe(), 128).save_pretrained(str(tmp_path))
    recipe = replace(MIXED, tokenizer_name=str(tmp_path))
    tokenizer, rows = tokenizer_of(recipe, corpus_of(recipe))
    asked = corpus_of(recipe).questions(np.arange(101))
    texts = [prompt(q) + answer_text(a) for q, a in zip(asked["question"], asked["answer"], strict=True)]
    assert max(max(e.ids) for e in tokenizer.encode_batch_fast(texts)) < rows
