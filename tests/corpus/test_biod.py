"""bioD: the definition's texts and bits, single tokens for symbols, a measurement that agrees with Definition 4.1."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import SURE, TinyModel, UniformModel, bpe_tokenizer, table_model

from knowcap.capacity import capacity
from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.biod import BioD
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.stage import build
from knowcap.facts import CorpusError, FactError, Row, Span, check_row, check_values
from knowcap.knowledge.diversity import Diversity
from knowcap.knowledge.people import NAME_PARTS, People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.run.preflight import checked_recipe
from knowcap.scoring import MEASUREMENT_KEY, score, score_rows
from knowcap.scoring.measurement import SETTINGS, knowledge_content
from knowcap.training.packing import TrainingError
from knowcap.training.stage import train
from knowcap.training.windows import check_whole_texts, stream_of


SENTENCES = Recipe(
    run_name="biod", corpus="bioD", num_people=300, model_name="gpt2-2-2", pools_fraction=0.1, num_attributes=3,
    chunks_per_value=2, diversity=20, chunk_length=3, alphabet_size=32, vocab_size=400,
)  # fmt: skip
COMPACT = replace(SENTENCES, compact=True)
HUGE = replace(SENTENCES, num_people=20, num_attributes=2, alphabet_size=40_000, chunk_length=50, diversity=1000)
WIDE = replace(SENTENCES, num_people=50, num_attributes=120, chunks_per_value=1, alphabet_size=1200, chunk_length=1)
ALL = {
    "sentences": SENTENCES,
    "compact": COMPACT,
    "huge": HUGE,
    "wide": WIDE,
    "wide compact": replace(WIDE, compact=True),
}
BOTH = {"sentences": SENTENCES, "compact": COMPACT}


def each(recipes: dict[str, Recipe]):
    """Once for each of the recipes."""
    return pytest.mark.parametrize("recipe", recipes.values(), ids=recipes.keys())


@each(ALL)
def test_rows_meet_the_contract_and_say_the_peoples_values(recipe):
    corpus = corpus_of(recipe)
    people, knowledge = corpus.people_columns(0, 20), corpus.knowledge()
    for exposure in (0, 3):
        for i, row in enumerate(corpus.rows(np.arange(20), exposure)):
            check_row(row, knowledge)
            values = {f"id_{a}": value for a, value in enumerate(people["values"][i], start=1)}
            check_values(row, values | {"name": people["name"][i]}, knowledge)
            assert {span.attribute for span in row.spans} == {"name", *values}


def test_sentences_read_as_in_the_paper_but_for_the_pronoun():
    (row,) = corpus_of(SENTENCES).rows(np.array([7]), 0)
    value = r"(?:\d{3} ){2}\d{3}, (?:\d{3} ){2}\d{3}\."
    assert re.fullmatch(rf"\w+ \w+ \w+'s ID [123] is {value} ID [123] is {value} ID [123] is {value}", row.text)


def test_the_compact_form_is_name_attribute_and_value_alone():
    (row,) = corpus_of(COMPACT).rows(np.array([7]), 0)
    assert re.fullmatch(r"N\d+( N\d+){3}( ID[123]( \d{3}){6}){3}", row.text)


def test_people_are_called_as_in_bios_and_compact_names_are_distinct():
    people = People(load_pools(fraction=0.1), 300, SENTENCES.seed)
    texts = people.texts(people.codes(np.arange(300)))
    assert corpus_of(SENTENCES).people_columns(0, 300)["name"] == [" ".join(p[n] for n in NAME_PARTS) for p in texts]
    names = corpus_of(replace(COMPACT, num_people=50_000)).people_columns(0, 50_000)["name"]
    assert len(set(names)) == 50_000
    assert {len(name.split()) for name in names} == {4}
    assert corpus_of(COMPACT).knowledge().name_log2_candidates == 24.0


def test_orders_are_uniform_and_drawn_again_at_every_exposure():
    corpus = corpus_of(replace(COMPACT, num_people=3000))
    generated = [[tuple(s.attribute for s in row.spans) for row in corpus.rows(np.arange(3000), e)] for e in (0, 1)]
    for counts in map(Counter, generated):
        assert len(counts) == 6
        assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 20.5  # chi-square of 5: 0.1 %
    same = sum(a == b for a, b in zip(*generated, strict=True))
    assert 500 - 5 * 20.4 < same < 500 + 5 * 20.4


@each(ALL)
def test_assembled_ids_are_those_of_the_whole_text_and_symbols_are_single_tokens(recipe):
    corpus = corpus_of(recipe)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    check_whole_texts(corpus, pieces, tokenizer, count=300)
    symbols = pieces.groups["symbol"]
    assert len(symbols) == recipe.alphabet_size
    assert set(pieces.lengths[symbols.start : symbols.stop].tolist()) == {1}
    assert pieces.used().max() < rows
    _, lengths = pieces.gather(corpus.compose(pieces, np.arange(recipe.num_people), 1))
    assert lengths.max() <= corpus.longest(pieces)


def test_a_compact_record_has_the_tokens_of_the_paper_table():
    """A name of 4 symbols, 6 attributes of 2 symbols each, the end of text: 23 tokens, and no row without a use."""
    recipe = replace(COMPACT, num_attributes=6, chunks_per_value=1, diversity=256, chunk_length=2, alphabet_size=16)
    corpus = corpus_of(recipe)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    assert corpus.longest(Pieces(corpus.piece_texts(), tokenizer)) == 23
    assert rows == 1 + 64 + 6 + 16
    aligned = replace(recipe, windows="aligned", block_size=1 + 4 * 23)
    assert stream_of(aligned, corpus, tokenizer).count()[0].sum() == 1000 * 75
    with pytest.raises(TrainingError, match="23 tokens"):
        stream_of(replace(aligned, block_size=23), corpus, tokenizer)


@each(BOTH)
def test_the_tokenizer_knows_no_people_and_all_symbols(recipe):
    first, second = (
        tokenizer_of(r, corpus_of(r)) for r in (recipe, replace(recipe, seed=5, num_people=1, diversity=2))
    )
    assert (first[0].to_str(), first[1]) == (second[0].to_str(), second[1])


@each(BOTH)
def test_a_corpus_survives_pickling(recipe):
    corpus = corpus_of(recipe)
    again = pickle.loads(pickle.dumps(corpus))
    assert list(again.rows(np.arange(5), 2)) == list(corpus.rows(np.arange(5), 2))


@pytest.mark.parametrize(("n", "k", "c", "d", "length", "t"), [(400, 3, 2, 20, 3, 32), (5000, 2, 4, 100, 10, 7)])
def test_all_bits_are_the_closed_form(n, k, c, d, length, t):
    """Proposition 2.3: N log2(N0/N) + N K C log2 D + K D log2(T^L/D), here one logarithm of whole numbers each."""
    recipe = replace(
        COMPACT, num_people=n, num_attributes=k, chunks_per_value=c, diversity=d, chunk_length=length, alphabet_size=t
    )
    names = n * math.log2(64**4) - math.log2(n**n)
    expected = names + math.log2(d ** (n * k * c)) + k * (math.log2(t ** (length * d)) - math.log2(d**d))
    assert corpus_of(recipe).knowledge().total_bits == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("k", "c", "d"), [(1, 1, 10_000), (5, 50, 1000), (50, 2, 20)])
def test_bits_of_the_largest_alphabet_and_chunks_are_the_closed_form(k, c, d):
    """T = 40,000 and L = 50, the paper's largest: T^L has 231 digits. Whole numbers, taken to a logarithm last."""
    recipe = replace(
        COMPACT, num_people=50_000, num_attributes=k, chunks_per_value=c, diversity=d, chunk_length=50,
        alphabet_size=40_000,
    )  # fmt: skip
    names = 50_000 * math.log2(Fraction(64**4, 50_000))
    values = 50_000 * k * c * math.log2(d)
    sets = k * d * math.log2(40_000**50 // d)  # less than one part in 10^220 is cut off
    diversity = Diversity(k, c, d, 50, 40_000, recipe.seed)
    if d == 10_000:  # N is not >> D log D: some strings begin no person's value, and are not credited
        sets *= diversity.num_first_chunks(50_000)[0] / d
    assert corpus_of(recipe).knowledge().total_bits == pytest.approx(names + values + sets, rel=1e-12)


@each(BOTH)
def test_values_as_written_are_uniform_and_independent_of_one_another(recipe):
    """Chi-square on the texts: which of the 5 strings stands in each chunk of each attribute, and in pairs of them."""
    corpus = corpus_of(replace(recipe, num_people=6000, num_attributes=2, diversity=5))
    generated = []
    for row in corpus.rows(np.arange(6000), 1):
        values = {s.attribute: row.text[s.start : s.end].replace(",", "").split() for s in row.spans[1:]}
        generated.append([" ".join(values[f"id_{a}"][3 * c : 3 * c + 3]) for a in (1, 2) for c in (0, 1)])
    columns = list(zip(*generated, strict=True))
    for i, column in enumerate(columns):
        assert len(set(column)) == 5
        assert set(column) == set(columns[i - i % 2])  # one set an attribute, shared by its chunks
        assert chi_square(Counter(column), 6000 / 5) < 4
        for other in columns[:i]:
            pairs = Counter(zip(column, other, strict=True))
            assert len(pairs) == 25 and chi_square(pairs, 6000 / 25) < 4


def test_orders_of_five_attributes_are_uniform_over_people_and_exposures():
    corpus = corpus_of(replace(SENTENCES, num_attributes=5, num_people=600))
    orders = Counter()
    for exposure in range(40):
        rows = corpus.rows(np.arange(600), exposure)
        orders.update(tuple(s.attribute for s in row.spans[1:]) for row in rows)
    assert len(orders) == 120 and abs(chi_square(orders, 24_000 / 120)) < 4


def chi_square(counts: Counter, expected: float) -> float:
    """How many standard deviations the statistic lies above its mean."""
    freedom = len(counts) - 1
    return (sum((n - expected) ** 2 / expected for n in counts.values()) - freedom) / math.sqrt(2 * freedom)


def test_bits_of_huge_sets_are_finite_and_exact():
    knowledge = corpus_of(replace(HUGE, num_people=20_000, chunks_per_value=50)).knowledge()
    assert knowledge.attributes[0].candidates is None
    assert knowledge.attributes[0].log2_candidates == pytest.approx(math.log2(1000**50))
    assert knowledge.diversity_terms[1]["log2_candidates"] == pytest.approx(1000 * math.log2(40_000**50 // 1000))


def test_only_strings_that_are_somebodys_first_chunk_are_credited():
    corpus = corpus_of(replace(COMPACT, num_people=12))
    for a, term in enumerate(corpus.knowledge().diversity_terms):
        firsts = {" ".join(values[a].split()[:3]) for values in corpus.people_columns(0, 12)["values"]}
        assert term["credited"] == len(firsts) < 20
        assert term["log2_candidates"] == pytest.approx(len(firsts) * math.log2(32**3 / 20))


def test_a_set_of_all_strings_is_no_knowledge():
    assert corpus_of(replace(COMPACT, alphabet_size=4, chunk_length=2, diversity=16)).knowledge().diversity_terms == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"diversity": 1025, "chunk_length": 2},
            "diversity=1,025, but chunk_length=2 over alphabet_size=32 makes 1,024",
        ),
        ({"num_people": 64**4 + 1, "compact": True}, "num_people=16,777,217, expected 1 to 16,777,216"),
        ({"compact": True, "tokenizer_name": "gpt2"}, "the compact form has its own vocabulary"),
        ({"vocab_size": 10}, "vocab_size=10 is too small"),
        ({"chunk_length": 0}, "chunk_length=0: expected 1 or more"),
        ({"permute": False}, "permute=False has no effect without corpus: bioS; leave it out"),
        ({"corpus": "bioS", "diversity": 10}, "diversity=10 has no effect without corpus: bioD; leave it out"),
    ],
)
def test_impossible_settings_are_reported_before_any_work(tmp_path, changes, message):
    path = tmp_path / "biod.yaml"
    path.write_text("corpus: bioD\nnum_people: 100\nmodel_name: gpt2-2-2\n")
    _, problems = checked_recipe(path, changes)
    assert len(problems) == 1
    assert message in problems[0]


def test_more_people_than_names_are_reported():
    with pytest.raises(CorpusError, match="expected 1 to 16,777,216"):
        BioD(corpus_of(COMPACT).diversity, 64**4 + 1)


def test_another_tokenizer_must_have_a_token_for_each_symbol(tmp_path):
    texts = [row.text for row in corpus_of(SENTENCES).rows(np.arange(300), 0)]
    texts += [f" {n}" for n in range(100, 132) for _ in range(50)]
    texts += list(corpus_of(SENTENCES).vocabulary_texts())
    bpe_tokenizer(texts, 1500).save_pretrained(tmp_path / "good")
    bpe_tokenizer(texts, 270).save_pretrained(tmp_path / "poor")
    good, poor = (replace(SENTENCES, tokenizer_name=str(tmp_path / name)) for name in ("good", "poor"))
    corpus = corpus_of(good)
    tokenizer, _ = tokenizer_of(good, corpus)
    stream_of(good, corpus, tokenizer)
    tokenizer, _ = tokenizer_of(poor, corpus)
    with pytest.raises(CorpusError, match="tokens of the symbol '1.*, expected one"):
        stream_of(poor, corpus, tokenizer)


class SymbolModel(TinyModel):
    """Knows that a symbol comes next, and which symbols there are; no more."""

    def __init__(self, symbols: list[int], vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.symbols = symbols

    def logits_after(self, prefix: tuple[int, ...]) -> dict[int, float]:
        """Every symbol is as likely as any other."""
        return dict.fromkeys(self.symbols, SURE)


def measured(folder: Path, recipe: Recipe, make_model) -> dict:
    """capacity.json's content for a model that `make_model` makes of (rows, tokenizer), with 1 parameter in all."""
    corpus = corpus_of(recipe)
    tokenizer = wrap(tokenizer_of(recipe, corpus)[0], 10_000)
    knowledge = corpus.knowledge()
    rows = list(corpus.rows(np.arange(recipe.num_people), 0))
    control = list(corpus.rows(np.arange(recipe.num_people, recipe.num_people + 20), 0))
    model = make_model(rows, tokenizer)
    measurement = dict.fromkeys(SETTINGS) | {
        "context": "isolated", "num_parameters": 1, "num_parameters_non_embedding": 1,
        "num_parameters_used_vocabulary": 1, "num_entities": recipe.num_people, "entities_scored": recipe.num_people,
        "name_is_prefix_free": True, "knowledge": knowledge_content(knowledge), "control_kind": "outsiders",
    }  # fmt: skip
    for name, generated in (("nll", rows), ("control", control)):
        table = score_rows(model, tokenizer, [(row, 0) for row in generated], knowledge)
        table = table.replace_schema_metadata({MEASUREMENT_KEY: json.dumps(measurement)})
        pq.write_table(table, folder / f"{name}.parquet")
    return capacity(folder)


def definition(recipe: Recipe, n0: int, p1: float, p2: float, p3: float) -> tuple[float, float, float]:
    """Name, value and diversity bits by Definition 4.1."""
    n, k, c, d = recipe.num_people, recipe.num_attributes, recipe.chunks_per_value, recipe.diversity
    t_to_l = recipe.alphabet_size**recipe.chunk_length
    ln2 = math.log(2)
    return (
        n * (math.log2(n0) - p1 / ln2),
        n * k * (c * math.log2(d) - p2 / ln2),
        k * d * (math.log2(t_to_l / d) - p3 / ln2),
    )


MEASURED = {name: replace(r, num_people=60, diversity=5, num_attributes=2) for name, r in BOTH.items()}


@each(MEASURED)
def test_an_oracle_holds_all_bits_diversity_included(tmp_path, recipe):
    result = measured(tmp_path, recipe, lambda rows, tokenizer: table_model([(row, 1.0) for row in rows], tokenizer))
    knowledge = corpus_of(recipe).knowledge()
    n0 = round(2**knowledge.name_log2_candidates)
    expected = definition(recipe, n0, math.log(60), 0.0, 0.0)
    assert [result[key] for key in ("name_bits", "value_bits", "diversity_bits")] == pytest.approx(expected)
    assert result["bits_per_parameter"] == pytest.approx(knowledge.total_bits)
    assert result["max_bits_per_parameter"] == pytest.approx(knowledge.total_bits)


def test_a_model_that_knows_nothing_scores_as_in_definition_4_1(tmp_path):
    recipe = MEASURED["compact"]
    size = tokenizer_of(recipe, corpus_of(recipe))[1]
    result = measured(tmp_path, recipe, lambda rows, tokenizer: UniformModel(size))
    expected = definition(recipe, 64**4, 4 * math.log(size), 6 * math.log(size), 3 * math.log(size))
    assert [result[key] for key in ("name_bits", "value_bits", "diversity_bits")] == pytest.approx(expected, rel=1e-6)
    assert result["diversity_bits"] < 0


def test_a_model_that_knows_the_alphabet_alone_lacks_the_choice_of_a_string(tmp_path):
    """p3 = L ln T, so that log2(T^L / (D e^p3)) = -log2 D: no bit of the sets, and none of who has which string."""
    recipe = MEASURED["sentences"]

    def make(rows: list[Row], tokenizer) -> SymbolModel:
        symbols = [tokenizer.convert_tokens_to_ids(f"Ġ{n}") for n in range(100, 132)]
        return SymbolModel([*symbols, tokenizer.convert_tokens_to_ids(",")], len(tokenizer))

    result = measured(tmp_path, recipe, make)
    expected = definition(recipe, 1, 0.0, 7 * math.log(33), 3 * math.log(33))  # the comma is a 33rd symbol to it
    assert [result["value_bits"], result["diversity_bits"]] == pytest.approx(expected[1:], rel=1e-5)


def test_a_value_that_does_not_begin_with_its_first_chunk_is_reported(tmp_path):
    corpus = corpus_of(COMPACT)
    tokenizer = wrap(tokenizer_of(COMPACT, corpus)[0], 100)
    row = Row("N1 N2 N3 N4 ID1 100 101", (Span("name", 0, 11), Span("id_1", 16, 23)), 0)
    with pytest.raises(FactError, match="'100 101', expected"):
        score_rows(UniformModel(len(tokenizer)), tokenizer, [(row, 0)], corpus.knowledge())


TINY = Recipe(
    run_name="tiny", corpus="bioD", compact=True, num_people=40, num_attributes=2, chunks_per_value=2, diversity=4,
    chunk_length=2, alphabet_size=4, exposures=60, model_name="gpt2-1-2", head_dim=8, block_size=65,
    windows="aligned", train_batch_size=16, learning_rate=1e-2, warmup_steps=10, renderings=2, control_people=200,
    quantization_group_size=16,
)  # fmt: skip


def test_from_the_recipe_to_the_number(tmp_path):
    """A tiny model, trained for seconds: what it says of first chunks is the mean of what nll.parquet has of them."""
    data = build(TINY, tmp_path)
    model = train(TINY, tmp_path)
    score(model, data, progress=False)
    result = capacity(model)
    knowledge = json.loads((data / "knowledge.json").read_text())
    nll = {a: [] for a in ("id_1.first_chunk", "id_2.first_chunk")}
    for row in pq.read_table(model / "nll.parquet").to_pylist():
        nll.get(row["attribute"], []).append(row["nll"])
    assert {len(values) for values in nll.values()} == {80}
    missing = sum(4 * np.mean(values) / math.log(2) for values in nll.values())
    assert result["diversity_bits"] == pytest.approx(2 * 4 * math.log2(16 / 4) - missing)
    assert result["max_knowledge_bits"] == pytest.approx(knowledge["total_bits"])
    total = result["name_bits"] + result["value_bits"] + result["diversity_bits"]
    assert result["knowledge_bits"] == pytest.approx(total)
    assert result["control_bits_per_entity"][0] < 0.5
