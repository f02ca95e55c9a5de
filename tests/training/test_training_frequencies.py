"""Training in which some people are seen more often than others: what the tokens hold, what is recorded, refusals."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from read_windows import read_windows, texts_in
from tokenizers import Tokenizer

from knowcap.capacity import capacity
from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.stage import build
from knowcap.files import TRAINING_FILE, read_json
from knowcap.knowledge.frequencies import EVEN, frequencies_of
from knowcap.recipe import Recipe
from knowcap.report.card.model import write_card
from knowcap.run.estimate import describe, estimate
from knowcap.run.preflight import check_recipe
from knowcap.scoring import score
from knowcap.training.packing import Stream
from knowcap.training.stage import train
from knowcap.training.windows import Mixture, stream_of


BIOS = Recipe(
    run_name="bios", model_name="gpt2-1-1", num_people=101, pools_fraction=0.05, num_templates=2, vocab_size=200,
    exposures=4, block_size=130, shard_size=40, exposures_exponent=0.8,
)  # fmt: skip
BIOD = replace(BIOS, corpus="bioD", num_templates=None, pools_fraction=1.0, num_attributes=3, diversity=20)
RECIPES = {
    "bioS, simple, aligned": replace(BIOS, fixed_renderings=1, windows="aligned"),
    "bioS, warm-up": replace(BIOS, warmup_exposures=2, warmup_people_share=0.25),
    "bioD, compact": replace(BIOD, compact=True, block_size=40),
    "morris": replace(BIOD, corpus="morris", num_attributes=1, diversity=1000, string_length=9),
    "junk": replace(BIOS, junk_people=300, useful_share=0.4, junk_tokens=2, exposures_exponent=1.5),
    "questions": replace(BIOS, questions=True, qa_share=0.3, vocab_size=300),
}
SAME_TOKENS = {**EVEN, "windows": "cut", "fixed_renderings": None, "exposures": 4}
TINY = Recipe(
    run_name="tiny", model_name="gpt2-rotary-1-1", head_dim=32, corpus="bioD", compact=True, num_people=60,
    diversity=256, chunk_length=1, alphabet_size=256, exposures=20, exposures_exponent=1.3, renderings=1,
    control_people=20, block_size=32, train_batch_size=8, learning_rate=5e-3, warmup_steps=10, seed=1,
)  # fmt: skip


@cache
def tokenizer_for(recipe: Recipe) -> Tokenizer:
    """The tokenizer of a recipe, by what it depends on."""
    return tokenizer_of(recipe, corpus_of(recipe))[0]


@cache
def counted(recipe: Recipe) -> tuple[Stream | Mixture, np.ndarray, int]:
    """The recipe's windows, the table of their counts, and the tokens in them."""
    made = stream_of(recipe, corpus_of(recipe), tokenizer_for(replace(recipe, **SAME_TOKENS)), checked=50)
    return made, *made.count()


@pytest.mark.parametrize("name", RECIPES)
def test_the_tokens_hold_every_person_as_often_as_counted(name):
    recipe = RECIPES[name]
    corpus = corpus_of(recipe)
    tokenizer = tokenizer_for(replace(recipe, **SAME_TOKENS))
    made, _, tokens = counted(recipe)
    if isinstance(made, Mixture):
        rows, useful = read_windows(made)
        found = texts_in([row for row, own in zip(rows, useful, strict=True) if own])
        assert sum(map(len, rows)) == tokens
    else:
        found = texts_in(made.windows(np.arange(len(made))))
    law = frequencies_of(recipe, corpus.num_people)
    assert law is not None
    texts = [
        row.text
        for number in range(law.by_rank.max())
        for row in corpus.rows(law.people[law.by_rank > number], number)
    ]
    assert len(texts) == recipe.exposures * corpus.num_people
    assert found == Counter(tuple(e.ids) for e in tokenizer.encode_batch_fast(texts))


@pytest.mark.parametrize("name", ["bioS, warm-up", "junk"])
def test_windows_are_the_same_from_the_middle_on_and_in_two_halves(name):
    whole, counts, _ = counted(RECIPES[name])
    again = pickle.loads(pickle.dumps(whole))  # a resumed run: nothing of it was read before
    again.use_counts(counts)
    batch = np.arange(len(whole) // 2, len(whole) // 2 + 8)
    halves = [row for share in (batch[:4], batch[4:]) for row in again.batch(share)[0]]
    for row, other in zip(whole.batch(batch)[0], halves, strict=True):
        length = min(len(row), len(other))
        assert np.array_equal(row[:length], other[:length])


def test_two_processes_count_the_same_windows():
    whole, counts, tokens = counted(RECIPES["bioD, compact"])
    found, tokens_of_two = pickle.loads(pickle.dumps(whole)).count(num_proc=2)
    assert np.array_equal(found, counts) and tokens_of_two == tokens


def test_with_equal_frequencies_nothing_changes():
    even = replace(BIOS, exposures_exponent=0.0)
    made, *_ = counted(even)
    assert isinstance(made, Stream)
    assert made.frequencies is None
    assert sorted(np.concatenate([made.persons(0, shard) for shard in range(made.shards)])) == list(range(101))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"corpus": "table"}, "exposures_exponent=0.8 has no effect without corpus: bioS, bioD or morris"),
        ({"dataset_name": "a/b"}, "exposures_exponent=0.8 has no effect with dataset_name='a/b'"),
        ({"exposures_exponent": -1.0}, "exposures_exponent=-1.0: expected 0 (all people equally often) to 4"),
        ({"warmup_people_share": 0.2}, "warmup_people_share=0.2 has no effect without warmup_exposures"),
        ({"warmup_exposures": 4}, "warmup_exposures=4 of exposures=4, but all people are shown after"),
    ],
)
def test_refused_before_any_work(changes, problem):
    assert any(found.startswith(problem) for found in check_recipe(replace(BIOS, **changes)))
    assert check_recipe(BIOS) == []


def test_the_dry_run_says_how_often_people_are_seen():
    steep = replace(BIOS, exposures_exponent=2.0)
    law = frequencies_of(steep, 101)
    assert law is not None
    lines = describe(estimate(steep)).splitlines()
    assert f"exposures of a person       0 to {law.by_rank.max()}, mean 4" in lines
    never = int((law.by_rank == 0).sum())
    assert f"people never seen           {never}; their facts count in the maximum" in lines
    even = estimate(replace(steep, exposures_exponent=0.0))
    assert even.num_tokens == estimate(steep).num_tokens
    assert "exposures of a person" not in describe(even)


def test_frequent_people_are_known_better(tmp_path):
    build(TINY, tmp_path)
    model = train(TINY, tmp_path)
    score(model, tmp_path / "knowledge")
    result = capacity(model)
    law = frequencies_of(TINY, 60)
    assert law is not None
    assert read_json(model / TRAINING_FILE)["frequencies"] == law.content() == result["frequencies"]
    first, *_, last = result["bands"]
    assert first["value_bits_per_entity"] > last["value_bits_per_entity"] + 2
    assert first["confidence_interval"][0] > last["confidence_interval"][1]
    total = sum(band["num_entities"] * band["bits_per_entity"] for band in result["bands"])
    assert total == pytest.approx(result["name_bits"] + result["value_bits"])
    card = write_card(model, {}).read_text()
    assert f"People were seen {law.by_rank[-1]} to {law.by_rank[0]} times, 20 on average" in card
    assert f"| 6 | {law.by_rank[5]} to {law.by_rank[0]} | {law.by_rank[:6].mean():,.1f} |" in card
