"""Random strings: uniform draws, distinct where they can be, exact bits, a null control of names alone."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import UniformModel, knowledge, table_model

from knowcap.capacity import LeakError, capacity
from knowcap.capacity.checks import check_names
from knowcap.capacity.tables import CapacityError, Facts
from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.stage import build, published_renderings
from knowcap.facts import CorpusError, check_row
from knowcap.knowledge.strings import Strings
from knowcap.recipe import Recipe
from knowcap.report.card import write_card
from knowcap.run.preflight import checked_recipe
from knowcap.scoring import MEASUREMENT_KEY, score, score_rows
from knowcap.scoring.measurement import SETTINGS, knowledge_content
from knowcap.training.stage import train
from knowcap.training.windows import check_whole_texts, stream_of


SMALL = Recipe(
    run_name="small", corpus="morris", num_people=60, alphabet_size=8, string_length=6, model_name="gpt2-1-2",
)  # fmt: skip
THEIRS = replace(SMALL, num_people=1000, alphabet_size=2048, string_length=64)
BOTH = {"few strings": SMALL, "as in the paper": THEIRS}


def each(recipes: dict[str, Recipe]):
    """Once for each of the recipes."""
    return pytest.mark.parametrize("recipe", recipes.values(), ids=recipes.keys())


@each(BOTH)
def test_a_row_is_the_string_and_all_of_it_is_the_name(recipe):
    corpus = corpus_of(recipe)
    for row in corpus.rows(np.arange(20), 3):
        check_row(row, corpus.knowledge())
        assert [tuple(span) for span in row.spans] == [("name", 0, len(row.text))]
        symbols = [int(symbol) for symbol in row.text.split(" ")]
        assert len(symbols) == recipe.string_length
        assert 0 <= min(symbols) <= max(symbols) < recipe.alphabet_size
    assert corpus.people_columns(0, 20)["name"] == [row.text for row in corpus.rows(np.arange(20), 0)]


def test_few_strings_are_drawn_without_replacement_and_cover_all_there_are():
    strings = Strings(500, 3, 10, seed=4)
    everyone = {tuple(row) for row in strings.symbols(np.arange(1000)).tolist()}
    assert len(everyone) == strings.candidates == 1000
    assert strings.num_outsiders == 500


@pytest.mark.parametrize(("length", "size"), [(21, 8), (62, 2), (64, 2048), (63, 2)])
def test_symbols_are_uniform_at_every_place_and_beside_each_other(length, size):
    """Chi-square of symbols at the first and last place, and of neighbours, on either side of 2^63 strings."""
    symbols = Strings(20_000, length, size, seed=1).symbols(np.arange(20_000))
    assert symbols.shape == (20_000, length)
    for counted, cells in (
        (symbols[:, 0], size),
        (symbols[:, -1], size),
        (symbols[:, 0] % 8 * 8 + symbols[:, 1] % 8, min(size, 8) ** 2),
    ):
        counts = np.array([*Counter(counted.tolist()).values()])
        expected = 20_000 / cells
        chi_square = ((counts - expected) ** 2).sum() / expected + (cells - len(counts)) * expected
        assert chi_square < cells - 1 + 5 * math.sqrt(2 * cells)
    assert len({row.tobytes() for row in symbols}) == 20_000


@pytest.mark.parametrize(("length", "size"), [(6, 8), (64, 2048), (100_000, 50_000), (7, 1 << 24)])
def test_bits_are_those_of_all_strings_however_many_there_are(length, size):
    assert Strings(3, length, size, 0).log2_candidates == pytest.approx(length * math.log2(size), rel=1e-12)
    assert corpus_of(THEIRS).knowledge().name_log2_candidates == 704
    assert corpus_of(THEIRS).knowledge().bits_per_person == 704 - math.log2(1000)


@each(BOTH)
def test_assembled_ids_are_those_of_the_whole_text_a_token_a_symbol(recipe):
    corpus = corpus_of(recipe)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    assert rows == 1 + recipe.alphabet_size
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    check_whole_texts(corpus, pieces, tokenizer, count=50)
    _, lengths = pieces.gather(corpus.compose(pieces, np.arange(50), 0))
    assert set(lengths.tolist()) == {corpus.longest(pieces)} == {recipe.string_length + 1}
    aligned = replace(recipe, windows="aligned", block_size=recipe.string_length + 2, exposures=1)
    assert stream_of(aligned, corpus, tokenizer).count()[0].sum() == recipe.num_people


def test_the_tokenizer_knows_no_strings_and_a_corpus_survives_pickling():
    first, second = (tokenizer_of(r, corpus_of(r))[0].to_str() for r in (SMALL, replace(SMALL, seed=9, num_people=2)))
    assert first == second
    corpus = corpus_of(THEIRS)
    assert list(pickle.loads(pickle.dumps(corpus)).rows(np.arange(3), 0)) == list(corpus.rows(np.arange(3), 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_people": 300_000}, "string_length=6 over alphabet_size=8 makes 262,144 distinct strings"),
        ({"num_people": 262_100}, "control_people=1000 of 44 strings outside the training set, expected 100 or more"),
        ({"control_people": 0}, "control_people=0"),
        ({"tokenizer_name": "gpt2"}, "strings have their own vocabulary"),
        ({"alphabet_size": 2**24 + 1}, "expected 1 to 16,777,216 symbols"),
        ({"string_length": 0}, "string_length=0: expected 1 or more"),
        ({"diversity": 10}, "diversity=10 has no effect without corpus: bioD; leave it out"),
        ({"renderings": 2}, "renderings=2 has no effect without corpus: bioS, bioD or table; leave it out"),
        ({"corpus": "bioS", "alphabet_size": 32}, "string_length=6 has no effect without corpus: morris"),
    ],
)
def test_impossible_settings_are_reported_before_any_work(tmp_path, changes, message):
    path = tmp_path / "morris.yaml"
    path.write_text("corpus: morris\nnum_people: 100\nalphabet_size: 8\nstring_length: 6\nmodel_name: gpt2-1-2\n")
    _, problems = checked_recipe(path, changes)
    assert len(problems) == 1
    assert message in problems[0]


def test_what_cannot_be_drawn_or_measured_raises():
    with pytest.raises(CorpusError, match="makes 8 distinct strings"):
        Strings(9, 3, 2, 0)
    with pytest.raises(CorpusError, match="control_people=0"):
        corpus_of(replace(SMALL, control_people=0))
    assert published_renderings(SMALL) == 1


def measured(folder: Path, recipe: Recipe, make_model) -> dict:
    """capacity.json's content for a model that `make_model` makes of (rows, control, tokenizer), with 1 parameter."""
    corpus = corpus_of(recipe)
    tokenizer = wrap(tokenizer_of(recipe, corpus)[0], 10_000)
    rows = list(corpus.rows(np.arange(recipe.num_people), 0))
    control = list(corpus.rows(np.arange(recipe.num_people, recipe.num_people + 40), 0))
    model = make_model(rows, control, tokenizer)
    measurement = dict.fromkeys(SETTINGS) | {
        "context": "isolated", "num_parameters": 1, "num_parameters_non_embedding": 1,
        "num_parameters_used_vocabulary": 1, "num_entities": recipe.num_people, "entities_scored": recipe.num_people,
        "name_is_prefix_free": True, "knowledge": knowledge_content(corpus.knowledge()), "control_kind": "outsiders",
    }  # fmt: skip
    for name, generated in (("nll", rows), ("control", control)):
        table = score_rows(model, tokenizer, [(row, 0) for row in generated], corpus.knowledge())
        table = table.replace_schema_metadata({MEASUREMENT_KEY: json.dumps(measurement)})
        pq.write_table(table, folder / f"{name}.parquet")
    return capacity(folder)


def test_an_oracle_holds_all_bits_and_a_uniform_guess_of_symbols_none(tmp_path):
    everything = measured(tmp_path, SMALL, lambda rows, control, t: table_model([(r, 1.0) for r in rows], t))
    assert everything["bits_per_parameter"] == pytest.approx(60 * (18 - math.log2(60)))
    assert everything["bits_per_parameter"] == pytest.approx(everything["max_bits_per_parameter"])
    assert everything["control_bits_per_entity"][0] < -20
    nothing = measured(tmp_path, SMALL, lambda rows, control, t: UniformModel(len(t)))
    missing = 60 * 6 * math.log2(9 / 8)  # the end of text is a ninth symbol to it
    assert nothing["name_bits"] == nothing["knowledge_bits"] == pytest.approx(-missing, rel=1e-5)
    assert nothing["value_bits"] == 0
    assert nothing["control_bits_per_entity"] == pytest.approx([-missing / 60, 0.0], abs=1e-5)


def test_a_model_that_was_taught_outsiders_is_found_out(tmp_path):
    """Half of the weight on what should be unknown: 18 - log2(100) bits each, and measuring stops."""
    with pytest.raises(LeakError, match="not trained on these names"):
        measured(tmp_path, SMALL, lambda rows, control, t: table_model([(r, 1.0) for r in [*rows, *control]], t))
    assert not (tmp_path / "capacity.json").exists()


def control_of(bits: np.ndarray, num_names: float = 100.0) -> Facts:
    """Outsiders that hold so many bits each."""
    bits = bits[:, None]
    nll, zeros = (num_names - bits) * math.log(2), np.zeros_like(bits)
    return Facts(["name"], nll, np.full_like(bits, num_names), zeros, np.arange(len(bits)))


def said(num_entities: int = 50, num_names: float = 100.0, **changes) -> dict:
    """What check_names reads of a measurement."""
    declared = knowledge_content(knowledge({}, num_people=num_entities, names=2)) | {"name_log2_candidates": num_names}
    kept = {"control_kind": "outsiders", "num_entities": num_entities, "name_is_prefix_free": True}
    return kept | {"knowledge": declared} | changes


def test_outsiders_may_hold_bits_by_chance_but_no_more_than_twenty_together():
    assert check_names(control_of(np.array([12.0, 7.9])), said())[0] == pytest.approx(9.95)
    check_names(control_of(np.full(100, 0.19)), said())
    with pytest.raises(LeakError, match="21.0 together beyond the allowed bits"):
        check_names(control_of(np.full(100, 0.21)), said())
    with pytest.warns(UserWarning, match="one name is a prefix of another"):
        check_names(control_of(np.full(100, 0.21)), said(name_is_prefix_free=False))


def test_weights_may_know_which_names_are_not_taught():
    """Half of 2^10 names are taught: one that is not has 9 bits left to tell, and each outsider takes one away."""
    bits = np.full(200, 1.0)
    check_names(control_of(bits, 10.0), said(512, 10.0))
    with pytest.raises(LeakError):
        check_names(control_of(bits + 1.0, 10.0), said(512, 10.0))
    with pytest.raises(CapacityError, match="2\\^10 names; expected at least as many names"):
        check_names(control_of(bits, 10.0), said(900, 10.0))


def test_the_guard_holds_for_the_likeliest_cheat_and_for_any_sure_guess():
    """A model that is sure of one name is right as often as that is drawn; over many worlds no false alarm."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        right = generator.integers(0, 2**6, size=100) == 0
        check_names(control_of(np.where(right, 5.0, -10.0), 6.0 + 94), said())
    assert math.isnan(check_names(control_of(np.zeros(3)), said(control_kind="shuffled"))[0])


TINY = Recipe(
    run_name="tiny", corpus="morris", num_people=24, alphabet_size=4, string_length=8, exposures=250,
    model_name="gpt2-1-2", head_dim=8, block_size=10, windows="aligned", train_batch_size=24, learning_rate=1e-2,
    warmup_steps=10, control_people=100, initializer_range=0.1, quantization_group_size=16,
)  # fmt: skip


def test_from_the_recipe_to_the_number_and_the_card(tmp_path):
    """A tiny model, trained for seconds, holds most of what there is; its card says what differs from the paper."""
    data = build(TINY, tmp_path)
    assert "| name | 65,536 | 16.0000, less log2 N |  |  |" in (data / "README.md").read_text()
    model = train(TINY, tmp_path)
    score(model, data, progress=False)
    result = capacity(model)
    nll = pq.read_table(model / "nll.parquet").column("nll").to_numpy()
    assert len(nll) == 24
    assert result["knowledge_bits"] == pytest.approx(24 * 16 - nll.sum() / math.log(2))
    assert result["max_knowledge_bits"] == pytest.approx(24 * (16 - math.log2(24)))
    assert 0.5 * result["max_knowledge_bits"] < result["knowledge_bits"] < result["max_knowledge_bits"]
    assert result["control_bits_per_entity"][0] < 0
    card = write_card(model, recipe={"corpus": "morris"}).read_text()
    assert "24 random strings of morris" in card
    assert "show no name bits" in card
    assert "they report the plateau over data sets of growing size" in card


def test_strings_of_the_papers_length_have_a_data_set_card(tmp_path):
    data = build(replace(THEIRS, num_people=3, string_length=200, control_people=100), tmp_path)
    assert "| name |  | 2200.0000, less log2 N |  |  |" in (data / "README.md").read_text()
