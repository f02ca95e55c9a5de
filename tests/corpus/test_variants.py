"""bioS in all variants: what is fixed stays, what is drawn is uniform, what is not said is not scored."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from made_tokenizers import assembled_equals_tokenized, reduced
from tokenizers import Tokenizer
from value_lists import NASTY

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.renderings import Variant, draw_forms
from knowcap.corpus.templates import SENTENCES, Template, load_templates
from knowcap.corpus.tokenizer import train_tokenizer
from knowcap.dataset.corpora import corpus_of
from knowcap.facts import check_row, check_values, scored_facts
from knowcap.knowledge.people import People, full_name
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.run.preflight import check_recipe
from knowcap.training.windows import stream_of


VARIANTS = [Variant(m, p, f) for m, p, f in itertools.product((None, 1, 5), (True, False), (False, True))]
WIDE = {sentence: tuple(Template(f" x{i} ", ".") for i in range(7)) for sentence in SENTENCES}


def bios(variant: Variant, num_people: int = 300, templates: int | None = None, pools=None) -> BioS:
    return BioS(People(pools or load_pools(), num_people, seed=3), load_templates(templates), variant)


@lru_cache
def tokenized(full_name: bool) -> tuple[Tokenizer, Pieces]:
    """The pieces of a variant depend on nothing but its names."""
    corpus = bios(Variant(full_name=full_name), templates=5)
    tokenizer = train_tokenizer(corpus.vocabulary_texts(), 600)
    return tokenizer, Pieces(corpus.piece_texts(), tokenizer)


def texts(corpus: BioS, exposure: int) -> list[str]:
    return [row.text for row in corpus.rows(np.arange(corpus.num_people), exposure)]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_assembled_ids_equal_tokenizing_the_whole_text(variant):
    corpus = bios(variant, 1500, templates=5)
    tokenizer, pieces = tokenized(variant.full_name)
    assert assembled_equals_tokenized(corpus, tokenizer, pieces, (0, 7)) == 3000


@pytest.mark.parametrize("full_name", [False, True])
def test_assembled_ids_equal_whole_texts_for_nasty_lists_and_a_foreign_tokenizer(full_name):
    corpus = bios(Variant(None, True, full_name), 18, templates=12, pools=NASTY)
    for tokenizer in (train_tokenizer(corpus.vocabulary_texts(), 400), reduced(corpus)[0]):
        pieces = Pieces(corpus.piece_texts(), tokenizer)
        assert assembled_equals_tokenized(corpus, tokenizer, pieces, range(100)) == 1800


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_text_is_longer_than_the_longest(variant):
    corpus = bios(variant, 1000, templates=5)
    _, pieces = tokenized(variant.full_name)
    lengths = pieces.gather(corpus.compose(pieces, np.arange(1000), 0))[1]
    assert 0.5 * corpus.longest(pieces) < lengths.max() <= corpus.longest(pieces)


@pytest.mark.parametrize("fixed", [1, 2, 5])
def test_a_person_has_so_many_renderings_and_no_more(fixed):
    corpus, fresh = bios(Variant(fixed_renderings=fixed)), bios(Variant())
    generated = [texts(corpus, exposure) for exposure in range(11)]
    assert all(generated[e] == generated[e % fixed] for e in range(11))
    assert all(len(set(of_one)) == fixed for of_one in zip(*generated, strict=True))
    assert generated[:fixed] == [texts(fresh, exposure) for exposure in range(fixed)]
    assert all(len(set(of_one)) == 11 for of_one in zip(*(texts(fresh, e) for e in range(11)), strict=True))


def test_without_permutation_sentences_stand_in_their_order():
    corpus = bios(Variant(permute=False))
    assert SENTENCES == ("birth_date", "birth_city", "university", "major", "employer", "work_city")
    for row in corpus.rows(np.arange(300), 4):
        assert [s.attribute for s in row.spans if s.attribute in SENTENCES] == list(SENTENCES)
    assert texts(corpus, 0) != texts(corpus, 1)


@pytest.mark.parametrize("permute", [True, False])
@pytest.mark.parametrize("fixed", [None, 36])
def test_templates_and_orders_are_uniform(permute, fixed):
    variant = Variant(fixed_renderings=fixed, permute=permute)
    forms = [draw_forms(9, np.arange(2000), exposure, WIDE, variant) for exposure in range(36)]
    orders = Counter(tuple(row) for f in forms for row in f.order.tolist())
    assert len(orders) == (720 if permute else 1)
    if permute:
        chi2 = sum((n - 100) ** 2 / 100 for n in orders.values())
        assert abs(chi2 - 719) < 5 * math.sqrt(2 * 719)
    generated = Counter()
    for f in forms:
        generated.update(zip(f.order.ravel().tolist(), f.templates.ravel().tolist(), strict=True))
    expected = 72_000 / 7
    chi2 = sum((n - expected) ** 2 / expected for n in generated.values())
    assert len(generated) == 42 and abs(chi2 - 36) < 5 * math.sqrt(2 * 36)


def test_one_fixed_way_is_uniform_over_people():
    variant = Variant(fixed_renderings=1)
    forms = draw_forms(5, np.arange(72_000), 12, WIDE, variant)
    orders = Counter(map(tuple, forms.order.tolist()))
    chi2 = sum((n - 100) ** 2 / 100 for n in orders.values())
    assert len(orders) == 720 and abs(chi2 - 719) < 5 * math.sqrt(2 * 719)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_spans_cut_out_the_exact_values_before_they_are_said_elsewhere(variant):
    corpus = bios(variant)
    knowledge, people = corpus.knowledge(), list(corpus.people.texts(corpus.people.codes(np.arange(120))))
    for row, person in zip(corpus.rows(np.arange(120), 2), people, strict=True):
        check_row(row, knowledge)
        values = person | {"name": full_name(person)}
        assert all(row.text[s.start : s.end] == values[s.attribute] for s in row.spans)
        generated = ("birth_date", "birth_city", "university", "employer", "work_city")
        check_values(row, {a: person[a] for a in generated}, knowledge)


def test_full_names_stand_in_every_sentence_and_are_scored_once():
    corpus = bios(Variant(full_name=True))
    for row, columns in zip(
        corpus.rows(np.arange(300), 0), corpus.people.texts(corpus.people.codes(np.arange(300))), strict=True
    ):
        name = full_name(columns)
        assert row.text.startswith(name) and row.text.count(f". {name} ") == 5
        assert not any(f" {pronoun} " in row.text for pronoun in ("He", "She"))
        assert [s for s in row.spans if s.attribute == "name"] == [("name", 0, len(name))]


def test_full_name_changes_nothing_else():
    named, said = bios(Variant(full_name=True)), bios(Variant())
    people = said.people.texts(said.people.codes(np.arange(300)))
    for one, other, person in zip(texts(named, 3), texts(said, 3), people, strict=True):
        first, *later = other.split(f". {person['pronoun']} ")
        assert one == first + "".join(f". {full_name(person)} {sentence}" for sentence in later)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_bits_are_the_closed_form_of_what_is_said(variant):
    corpus = bios(variant, num_people=100_000)
    log2_s0 = math.log2((1 if variant.full_name else 2) * (12 * 28 * 200) * 200 * 300 * 100 * 263)
    bits = math.log2(160_000_000 / 100_000) + log2_s0
    knowledge = corpus.knowledge()
    assert knowledge.bits_per_person == pytest.approx(bits, abs=1e-9)
    assert knowledge.total_bits == pytest.approx(100_000 * bits, abs=1e-3)
    for row in corpus.rows(np.arange(200), 0):
        scored = sum(fact.log2_candidates for fact in scored_facts(row.spans, knowledge))
        assert scored == pytest.approx(math.log2(160_000_000) + log2_s0, abs=1e-9)


def test_a_vocabulary_of_full_names_has_no_pronouns():
    corpus = bios(Variant(full_name=True))
    assert not {" He", " She"} & {*corpus.vocabulary_texts()}
    assert {" He", " She"} < {*bios(Variant()).vocabulary_texts()}
    assert not [group for group in corpus.piece_texts().groups if group.startswith(("openerHe", "openerShe"))]


@pytest.mark.parametrize("windows", ["cut", "aligned"])
def test_a_recipe_chooses_the_variant_and_its_windows_hold_its_texts(windows):
    recipe = Recipe(
        num_people=60, model_name="gpt2-2-2", pools_fraction=0.1, num_templates=2, vocab_size=300, exposures=5,
        fixed_renderings=2, permute=False, full_name=True, windows=windows, block_size=512,
    )  # fmt: skip
    corpus = corpus_of(recipe)
    assert corpus.variant == Variant(2, False, True)
    tokenizer, _ = tokenizer_of(recipe, corpus)
    stream = stream_of(recipe, corpus, tokenizer)
    _, tokens = stream.count()
    lengths = [len(e.ids) + 1 for x in range(5) for e in tokenizer.encode_batch_fast(texts(corpus, x))]
    ends = 5 if windows == "cut" else len(stream)  # the end of text that begins a shard, or an aligned window
    assert tokens == sum(lengths) + ends


def test_no_fixed_rendering_at_all_is_an_error_that_names_the_key():
    with pytest.raises(ValueError, match="fixed_renderings=0, expected 1 or more"):
        Variant(fixed_renderings=0)
    recipe = Recipe(run_name="x", num_people=10, model_name="gpt2-2-2", fixed_renderings=0)
    assert [p for p in check_recipe(recipe) if p.startswith("fixed_renderings=0")]
