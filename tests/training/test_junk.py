"""Junk in training: its share, its people, the tokens that tell it apart; and that useful facts alone are scored."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny
from made_tokenizers import assembled_equals_tokenized, foreign_bpe
from read_windows import read_windows, texts_in
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from knowcap import cli
from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.junk import Junk
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.renderings import Variant
from knowcap.corpus.templates import load_templates
from knowcap.corpus.tokenizer import EOS_ID, reduce_tokenizer, save_tokenizer, wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import read_rows
from knowcap.dataset.stage import build
from knowcap.facts import CorpusError
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.run.preflight import check_recipe
from knowcap.scoring import encode_rows
from knowcap.training.packing import TrainingError
from knowcap.training.windows import Mixture, stream_of


SMALL = Recipe(
    run_name="junk", model_name="gpt2-2-2", num_people=60, junk_people=1500, pools_fraction=0.1, num_templates=2,
    vocab_size=400, exposures=3, block_size=128, shard_size=45,
)  # fmt: skip
MARKED = replace(SMALL, domain_token="wikipedia.org", junk_tokens=3)
BIOD = replace(
    MARKED, corpus="bioD", num_attributes=3, diversity=50, chunk_length=2, alphabet_size=16, num_templates=None
)
COMPACT = replace(BIOD, compact=True, pools_fraction=1.0)


corpus_for = cache(corpus_of)


@cache
def tokenizer_for(recipe: Recipe) -> Tokenizer:
    """The recipe's tokenizer."""
    return tokenizer_of(recipe, corpus_for(recipe))[0]


def mixture(recipe: Recipe) -> tuple[Mixture, int]:
    """The recipe's windows, counted, and the tokens in them."""
    made = stream_of(recipe, corpus_for(recipe), tokenizer_for(recipe))
    return made, made.count()[1]


def texts_of(recipe: Recipe, persons: np.ndarray, exposure: int) -> list[tuple[int, ...]]:
    """What the corpus says of persons, as tokens of the whole text."""
    rows = corpus_for(recipe).rows(persons, exposure)
    return [tuple(e.ids) for e in tokenizer_for(recipe).encode_batch_fast([row.text for row in rows])]


@pytest.mark.parametrize("windows", ["cut", "aligned"])
@pytest.mark.parametrize("share", [0.125, 0.5, 0.9])
def test_the_useful_share_of_the_tokens_is_exact_to_a_window(windows, share):
    recipe = replace(SMALL, windows=windows, useful_share=share)
    made, tokens = mixture(recipe)
    rows, useful = read_windows(made)
    sizes = np.array([len(row) for row in rows])
    assert sizes.sum() == tokens
    assert sizes[~useful].sum() >= sizes[useful].sum() * (1 - share) / share
    assert abs(sizes[useful].sum() - share * tokens) <= recipe.block_size


@pytest.mark.parametrize("recipe", [SMALL, MARKED, BIOD, COMPACT], ids=["unmarked", "marked", "biod", "compact"])
def test_useful_texts_come_once_an_exposure_and_windows_are_pure(recipe):
    made, _ = mixture(recipe)
    rows, useful = read_windows(made)
    expected = Counter()
    for exposure in range(recipe.exposures):
        expected.update(texts_of(recipe, np.arange(recipe.num_people), exposure))
    assert texts_in([row for row, own in zip(rows, useful, strict=True) if own]) == expected
    junk = texts_in([row for row, own in zip(rows, useful, strict=True) if not own])
    of_junk = set(texts_of(recipe, np.arange(recipe.num_people, recipe.num_people + recipe.junk_people), 0))
    whole = sum(count for text, count in junk.items() if text in of_junk)
    assert not junk.keys() & expected.keys()
    assert junk.total() - whole <= 1  # the last junk window is cut off with the share
    assert max(junk.values()) == 1


def test_repeated_junk_comes_again_in_new_renderings():
    recipe = replace(SMALL, junk_people=4, exposures=1)
    made, _ = mixture(recipe)
    rows, useful = read_windows(made)
    junk = texts_in([row for row, own in zip(rows, useful, strict=True) if not own])
    exposures = -(-junk.total() // 4)
    expected = Counter()
    for exposure in range(exposures):
        expected.update(texts_of(recipe, np.arange(60, 64), exposure))
    assert exposures > 100 and (junk - expected).total() <= 1 and junk.total() > 3.9 * (exposures - 1)


def test_a_batch_has_its_share_as_near_as_whole_numbers_allow():
    made, _ = mixture(SMALL)
    useful = made.is_useful(np.arange(len(made)))
    share = useful.mean()
    for size in (1, 7, 8, 32):
        counts = useful[: len(useful) // size * size].reshape(-1, size).sum(axis=1)
        assert set(counts) <= {math.floor(share * size), math.ceil(share * size)}


def test_windows_are_found_alone_and_counts_kept_serve_again():
    made, _ = mixture(MARKED)
    again, _ = mixture(MARKED)
    counts, _ = made.count()
    again.use_counts(counts)
    assert len(again) == len(made)
    order = np.random.default_rng(0).permutation(len(made))[:50]
    for a, b in zip(made.batch(np.sort(order)), again.batch(np.sort(order)), strict=True):
        assert np.array_equal(a, b)
    for window in order[:10].tolist():
        ids, labels = again.batch(np.array([window]))
        met, met_labels = made.batch(np.array([window]))
        assert np.array_equal(ids, met) and np.array_equal(labels, met_labels)
    with pytest.raises(TrainingError, match="window counts have shape"):
        again.use_counts(counts[:2])


def test_a_hundred_million_junk_people_are_reached_at_random_and_never_made():
    recipe = replace(MARKED, pools_fraction=1.0, junk_people=100_000_000, junk_tokens=0, shard_size=400)
    made, _ = mixture(recipe)
    persons = made.junk.persons(0, made.junk.shards - 1)
    assert len(persons) == 400 and persons.max() > 90_000_000
    corpus = made.corpus
    everyone = np.concatenate([np.arange(60), persons + 60, corpus.first_outsider + np.arange(1000)])
    assert len({tuple(name) for name in corpus.people.codes(everyone)[:3].T.tolist()}) == len(everyone)
    assert made.junk.shard(0, made.junk.shards - 1).tokens.size > 50 * 400


@pytest.mark.parametrize("variant", [Variant(), Variant(full_name=True), Variant(fixed_renderings=2)])
@pytest.mark.parametrize("junk", [Junk(300, "wikipedia.org", 2), Junk(300, None, 2), Junk(0, "x.org")])
def test_assembled_ids_equal_whole_texts_whatever_stands_in_front(variant, junk):
    corpus = BioS(People(load_pools(fraction=0.1), 300, 0), load_templates(3), variant, junk)
    texts, foreign = corpus.piece_texts(), foreign_bpe()
    used = set(range(1, foreign.get_vocab_size()))
    tokenizer, rows = reduce_tokenizer(foreign, used, texts.markers)
    pieces = Pieces(texts, tokenizer)
    assert assembled_equals_tokenized(corpus, tokenizer, pieces, range(2)) == 600
    assert rows == 1 + len(junk.markers) + len(used)
    view = np.arange(300, 300 + junk.num_people)
    whole = [[*tokenizer.encode(row.text).ids, EOS_ID] for row in corpus.rows(view, 1)]
    assert pieces.gather(corpus.compose(pieces, view, 1))[0].tolist() == [token for ids in whole for token in ids]
    assert max(len(ids) for ids in whole or [[]]) <= corpus.longest(pieces)


@pytest.mark.parametrize("recipe", [BIOD, COMPACT, replace(COMPACT, junk_people=0, junk_tokens=0)])
def test_assembled_ids_of_biod_equal_whole_texts_whatever_stands_in_front(recipe):
    corpus, tokenizer = corpus_of(recipe), tokenizer_for(recipe)
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    persons = np.arange(10, 60 + min(recipe.junk_people, 100))
    whole = [[*tokenizer.encode(row.text).ids, EOS_ID] for row in corpus.rows(persons, 1)]
    tokens, lengths = pieces.gather(corpus.compose(pieces, persons, 1))
    assert tokens.tolist() == [token for ids in whole for token in ids]
    assert lengths.tolist() == list(map(len, whole)) == corpus.text_lengths(pieces, persons, 1).tolist()
    assert max(map(len, whole)) <= corpus.longest(pieces)
    first = {tokenizer.id_to_token(ids[0]) for ids in whole}
    assert first == {"wikipedia.org", *(f"<|junk_{n}|>" for n in range(recipe.junk_tokens))}


@pytest.mark.parametrize("of", [SMALL, replace(BIOD, domain_token=None, junk_tokens=0), COMPACT])
def test_tokens_in_front_cost_one_row_each_and_change_no_other_token(of):
    bare, with_tokens = (
        replace(of, domain_token=token, junk_tokens=n) for token, n in ((None, 0), ("wikipedia.org", 3))
    )
    plain, marked = corpus_of(bare), corpus_of(with_tokens)
    (before, rows), (after, more) = tokenizer_of(bare, plain), tokenizer_of(with_tokens, marked)
    assert more == rows + 4
    for a, b in zip(plain.rows(np.arange(50), 0), marked.rows(np.arange(50), 0), strict=True):
        assert b.text == "wikipedia.org " + a.text
        assert after.encode(b.text).tokens[1:] == before.encode(a.text).tokens


def test_a_saved_tokenizer_keeps_the_tokens_in_front(tmp_path):
    corpus = corpus_of(MARKED)
    tokenizer, _ = tokenizer_of(MARKED, corpus)
    save_tokenizer(tokenizer, 128, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for row in corpus.rows(np.arange(50, 70), 0):
        assert loaded(row.text)["input_ids"] == tokenizer.encode(row.text).ids


def test_junk_people_have_their_tokens_uniformly():
    numbers = Junk(30_000, "x.org", 3).marker_numbers(np.arange(30_010), 5, seed=0)
    assert (numbers[:5] == 0).all() and (numbers[30_005:] == 0).all()
    counts = np.bincount(numbers[5:30_005], minlength=4)
    assert counts[0] == 0 and ((counts[1:] - 10_000) ** 2 / 10_000).sum() < 13.8  # chi-square of 2 degrees, p 0.001


def test_the_name_is_scored_after_the_domain_and_the_domain_never():
    recipe = replace(MARKED, num_people=20)
    corpus = corpus_of(recipe)
    tokenizer = wrap(tokenizer_of(recipe, corpus)[0], 128)
    plain = corpus_of(replace(recipe, domain_token=None, junk_tokens=0))
    marked, unmarked = (encode_rows(list(c.rows(np.arange(20), 0)), tokenizer, c.knowledge()) for c in (corpus, plain))
    assert [fact.attribute for fact in marked.facts] == [fact.attribute for fact in unmarked.facts]
    assert marked.ids[marked.targets].tolist() == unmarked.ids[unmarked.targets].tolist()
    assert tokenizer.convert_tokens_to_ids("wikipedia.org") in marked.ids
    assert tokenizer.convert_tokens_to_ids("wikipedia.org") not in marked.ids[marked.targets]


@pytest.mark.parametrize("recipe", [MARKED, COMPACT], ids=["bios", "compact"])
def test_outsiders_of_the_null_control_are_neither_useful_nor_junk(tmp_path, recipe):
    folder = build(replace(recipe, control_people=100), tmp_path)
    control = [row for row, _ in read_rows(folder, "control")]
    assert {row.entity for row in control} == set(range(1560, 1660))
    assert all(row.text.startswith("wikipedia.org ") for row in control)
    corpus = corpus_of(recipe)
    taught = {row.text[row.spans[0].start : row.spans[0].end] for row in corpus.rows(np.arange(1560), 0)}
    assert not taught & {row.text[row.spans[0].start : row.spans[0].end] for row in control}


@pytest.mark.parametrize(("domain", "lost"), [(None, 3.0), ("wikipedia.org", 0.0)])
def test_telling_useful_from_junk_costs_a_perfect_model_the_inverse_share(tmp_path, domain, lost):
    """A model of the mixture's exact distribution: P(useful name) is share / N after the end of text."""
    share, corpus = 1 / 8, corpus_of(replace(SMALL, num_people=16, domain_token=domain))
    tokenizer = wrap(tokenizer_of(replace(SMALL, domain_token=domain), corpus)[0], 128)
    useful = [(row, share / 16) for row in corpus.rows(np.arange(16), 0)]
    junk = [(row, (1 - share) / 200) for row in corpus.rows(np.arange(16, 216), 0)]
    model = tiny.table_model([*useful, *junk], tokenizer)
    from knowcap.scoring import score_rows

    table = score_rows(model, tokenizer, [(row, 0) for row, _ in useful], corpus.knowledge())
    nll = table.filter(np.array(table["attribute"]) == "name")["nll"].to_numpy()
    # Names that share a first token with junk differ later: the sum along the tokens is what counts.
    assert nll.mean() / math.log(2) == pytest.approx(math.log2(16) + lost, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"junk_people": 10**9}, "have only 160,000 unique names"),
        ({"junk_people": -1}, "junk_people=-1: expected 0 or more"),
        ({"useful_share": 0.0}, "useful_share=0.0: expected more than 0 and less than 1"),
        ({"useful_share": 1.0}, "useful_share=1.0: expected more than 0 and less than 1"),
        ({"junk_people": 0, "useful_share": 0.5}, "useful_share=0.5 has no effect without junk_people"),
        ({"junk_people": 0, "junk_tokens": 2}, "junk_tokens=2 has no effect without junk_people"),
        ({"domain_token": "two words"}, "domain_token='two words'"),
        ({"domain_token": "<|junk_0|>", "junk_tokens": 1}, "domain_token='<|junk_0|>'"),
        ({"corpus": "morris"}, "junk_people=1500 has no effect without corpus: bioS or bioD"),
        ({"corpus": "bioD", "num_templates": None, "compact": True, "junk_people": 10**8}, "names are distinct"),
        ({"corpus": "bioD", "num_templates": None, "domain_token": "two words"}, "domain_token='two words'"),
        ({"corpus": "bioD", "num_templates": None, "compact": True, "domain_token": "ID1"}, "domain_token='ID1'"),
    ],
)
def test_bad_input_is_reported(changes, message):
    problems = check_recipe(replace(SMALL, **changes))
    assert any(message in problem for problem in problems), problems


def test_junk_that_cannot_be_is_refused_by_the_corpus_too():
    with pytest.raises(CorpusError, match="names are distinct"):
        BioS(People(load_pools(fraction=0.1), 10, 0), load_templates(1), junk=Junk(10**8))
    foreign = foreign_bpe()
    with pytest.raises(CorpusError, match="already tokens of the tokenizer"):
        reduce_tokenizer(foreign, [5], [foreign.id_to_token(7)])


@pytest.mark.parametrize("domain", [None, pytest.param("wikipedia.org", marks=pytest.mark.slow)])
def test_a_run_with_junk_is_measured_on_useful_facts_and_reports_the_cost_of_a_prefix(tmp_path, domain):
    words = {
        "output_dir": tmp_path, "num_people": 30, "exposures": 2, "control_people": 40, "train_batch_size": 8,
        "head_dim": 16, "windows": "aligned", "block_size": 160, "quantize_bits": "[]", "warmup_steps": 5,
        "learning_rate": 1e-2,
    }  # fmt: skip
    recipe = tmp_path / "junk.yaml"
    shaping = ("model_name", "junk_people", "pools_fraction", "num_templates", "vocab_size", "shard_size")
    lines = [f"{key}: {getattr(SMALL, key)}" for key in shaping]
    recipe.write_text("\n".join(lines + ([f"domain_token: {domain}"] if domain else [])) + "\n")
    given = [word for key, value in words.items() for word in (f"--{key}", str(value))]
    assert cli.main(["run", "--config", str(recipe), *given]) == 0
    run = tmp_path / "junk"
    result = json.loads((run / "capacity.json").read_text())
    assert result["num_entities"] == 30 and result["useful_share"] == 0.125
    assert result["useful_share_bits_per_entity"] == (0.0 if domain else 3.0)
    knowledge = json.loads((run / "knowledge" / "knowledge.json").read_text())
    assert knowledge.get("text_prefix") == (f"{domain} " if domain else None)
    training = json.loads((run / "model" / "training.json").read_text())
    assert training["junk_people"] == 1500
    card = (run / "model" / "README.md").read_text()
    assert "| junk people, never scored | 1,500 |" in card
    assert ("3.000 bits per entity (log2 of the inverse share" in card) == (domain is None)
