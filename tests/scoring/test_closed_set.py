"""Closed sets: probabilities of all candidates add up to one, along the same path that a plain recursion takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from knowcap.corpus.bios import BioS
from knowcap.corpus.candidates import CandidateRow, Candidates, candidate_rows, candidates_by_attribute
from knowcap.corpus.templates import load_templates
from knowcap.facts import CorpusError, Row, Span
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.scoring import score_rows
from knowcap.scoring.closed_set import ClosedSets, TriePath
from knowcap.scoring.mode import TextError


CITIES = ("Paris", "Paris, TX", "Parma", "Rome", "New York", "Newark", "Washington D.C.", "Ürümqi")
NAMES = (("Ann", "Anna", "Bo"), (" Lee", " Leeds", " Kim"), (" A", " Ab", " Bab"))
LISTS = {"city": Candidates((CITIES,)), "name": Candidates(NAMES)}
TEXTS = [" ".join(CITIES), "Ann Anna Bo Lee Leeds Kim A Ab Bab lives in near of with."]
TOKENIZERS = {
    "bytes": tiny.byte_tokenizer(),
    "bpe": tiny.bpe_tokenizer(TEXTS * 5, 330),
    "metaspace": tiny.metaspace_tokenizer(TEXTS * 5, 60),
}


def logit(prefix: Sequence[int], token: int) -> float:
    """Any model: a number that depends on all that came before."""
    return math.sin(1 + 3.1 * token + sum((i + 1) * t for i, t in enumerate(prefix)))


def nll_of(path: TriePath) -> float:
    """The sum over a path of logsumexp(allowed) - true, prefix by prefix."""
    total = 0.0
    for i, token in enumerate(path.tokens.tolist()):
        prefix = path.tokens[:i].tolist()
        there = path.allowed[path.offsets[i] : path.offsets[i + 1]].tolist()
        assert token in there
        total += math.log(sum(math.exp(logit(prefix, t)) for t in there)) - logit(prefix, token)
    return total


def all_values(attribute: str) -> list[str]:
    """Every value of the lists."""
    values = [""]
    for part in LISTS[attribute].parts:
        values = [value + text for value in values for text in part]
    return values


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("right", [".", " and more", ", TX was", "", ".."])
@pytest.mark.parametrize(("before", "lead"), [("a", " "), ("", "")])
@pytest.mark.parametrize("attribute", LISTS)
def test_the_probabilities_of_all_candidates_add_up_to_one(tokenizer, right, before, lead, attribute):
    sets = ClosedSets(tokenizer, LISTS, tokenizer.eos_token_id)
    paths = [sets.path(attribute, v, before=before, lead=lead, right=right) for v in all_values(attribute)]
    assert sum(math.exp(-nll_of(path)) for path in paths) == pytest.approx(1.0, abs=1e-12)
    assert len({tuple(path.tokens) for path in paths}) == len(paths)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_path_is_what_the_tokenizer_makes_of_the_text(tokenizer):
    sets = ClosedSets(tokenizer, LISTS, tokenizer.eos_token_id)
    for value in CITIES:
        text = f"a {value} and"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        skip = len(tokenizer("a", add_special_tokens=False)["input_ids"])
        path = sets.path("city", value, before="a", lead=" ", right=" and more")
        assert path.tokens.tolist() == ids[skip : skip + len(path.tokens)]


def test_a_value_that_is_a_prefix_of_another_is_decided_by_the_following_token():
    tokenizer = tiny.char_tokenizer("ABCabc. ")
    sets = ClosedSets(tokenizer, {"x": Candidates((("A", "Ab"),))}, 0)
    short, long = (sets.path("x", value, before="", lead="", right=".") for value in ("A", "Ab"))
    dot, b = (tokenizer.convert_tokens_to_ids(c) for c in ".b")
    assert short.tokens.tolist()[1] == dot and long.tokens.tolist()[1] == b
    assert short.allowed.tolist() == long.allowed.tolist() and set(short.allowed[1:]) == {dot, b}
    assert sets.path("x", "A", before="", lead="", right="").tokens.tolist()[1] == 0  # the end of text


def test_what_was_said_already_narrows_the_set():
    tokenizer = TOKENIZERS["bytes"]
    sets = ClosedSets(tokenizer, LISTS, 0)
    only = sets.path("city", "Paris", before="a", lead=" ", right=".", of={"Paris", "Rome"})
    assert len(only.tokens) == 2  # the white space has no choice, the first letter settles it
    assert nll_of(sets.path("city", "Paris", before="a", lead=" ", right=".", of={"Paris"})) == 0.0


def test_values_are_split_into_their_parts_in_the_one_way_there_is():
    assert LISTS["name"].split("Anna Leeds Ab") == ("Anna", " Leeds", " Ab")
    with pytest.raises(CorpusError, match="is not a candidate"):
        LISTS["name"].split("Anna Leeds C")
    with pytest.raises(CorpusError, match="in several ways"):
        Candidates((("a", "ab"), ("bc", "c"))).split("abc")
    rows = [
        CandidateRow("city", 0, 0, "Rome"),
        CandidateRow("work", 0, 0, "Rome", "X"),
        CandidateRow("work", 0, 0, "Rome", "Y"),
    ]
    rows.append(CandidateRow("name", 1, 2, "b"))
    with pytest.raises(CorpusError, match="name has parts"):
        candidates_by_attribute(rows)
    made = candidates_by_attribute([*rows, CandidateRow("name", 0, 0, "a")])
    assert made["work"].of == {"Rome": frozenset({"X", "Y"})} and made["name"].parts == (("a",), ("b",), ("b",))


def test_candidates_that_stay_alike_are_refused():
    with pytest.raises(TextError, match="both fit before ', TX, TX, TX"):
        ClosedSets(TOKENIZERS["bytes"], LISTS, 0).path("city", "Paris", before="", lead="", right=", TX" * 9)


def test_an_attribute_without_a_list_is_refused():
    with pytest.raises(CorpusError, match="pet has no list of candidates"):
        ClosedSets(TOKENIZERS["bytes"], LISTS, 0).path("pet", "cat", before="", lead="", right="")


def test_the_longest_list_is_quick_enough_to_hold_all_dates():
    dates = tuple(f"{a}{b}{c}" for a in range(10, 50) for b in range(10, 50) for c in range(10, 30))
    sets = ClosedSets(TOKENIZERS["bytes"], {"date": Candidates((dates,))}, 0)
    path = sets.path("date", dates[777], before="a", lead=" ", right=".")
    assert np.diff(path.offsets).max() == 10


# In texts, on models


class AnyModel(tiny.TinyModel):
    """Logits between -3 and 3 that depend on everything before, in no sensible way."""

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        """Logits of every prefix."""
        places = torch.arange(1, input_ids.shape[1] + 1)
        history = torch.cumsum(input_ids * places, dim=1).double()
        tokens = torch.arange(self.config.vocab_size).double()
        return SimpleNamespace(logits=3 * torch.sin(1 + 3.1 * tokens + 0.7 * history[:, :, None]))


SMALL_POOLS = replace(
    load_pools(fraction=0.01),
    employers=("Disney", "Disney+", "Dow Inc.", "Caterpillar", "Caterpillar Inc."),
    work_cities=("Burbank, CA", "Burbank, CA", "Midland, MI", "Deerfield, IL", "Irving, TX"),
    majors=("Business", "Business Law", "Art"),
    birth_cities=("Paris, TX", "Washington D.C.", "Deerfield, IL"),
)
CORPUS = BioS(People(SMALL_POOLS, 6, 0), load_templates(12))
SAID = [row.text for e in range(40) for row in CORPUS.rows(np.arange(6), e)]
LISTED = (SMALL_POOLS.employers, SMALL_POOLS.birth_cities, SMALL_POOLS.majors, SMALL_POOLS.work_cities)
SAID += [f" {value}. He She" for values in LISTED for value in values] * 3
CORPUS_TOKENIZERS = {
    "bytes": tiny.byte_tokenizer(),
    "bpe": tiny.bpe_tokenizer(SAID, 420),
    "unigram": tiny.unigram_tokenizer(SAID, 300),
}


def with_value(row: Row, values: dict[str, str]) -> Row:
    """The text with other values."""
    text, spans, start = "", [], 0
    for span in row.spans:
        said = values.get(span.attribute, row.text[span.start : span.end])
        text += row.text[start : span.start]
        spans.append(Span(span.attribute, len(text), len(text) + len(said)))
        text, start = text + said, span.end
    return Row(text + row.text[start:], tuple(spans), row.entity)


@pytest.mark.parametrize("tokenizer", CORPUS_TOKENIZERS.values(), ids=CORPUS_TOKENIZERS)
@pytest.mark.parametrize("exposure", [0, 1, 5])
def test_in_a_text_all_values_of_an_attribute_add_up_to_one(tokenizer, exposure):
    candidates, knowledge = candidates_by_attribute(candidate_rows(CORPUS)), CORPUS.knowledge()
    sets = ClosedSets(tokenizer, candidates, tokenizer.eos_token_id)
    model = AnyModel(len(tokenizer))
    row = next(iter(CORPUS.rows(np.array([exposure]), exposure)))
    for attribute in ("birth_city", "major", "employer", "pronoun"):
        worlds = [{attribute: value} for value in candidates[attribute].parts[0]]
        if attribute == "employer":
            cities = {e: c for c, es in candidates["work_city"].of.items() for e in es}
            worlds = [world | {"work_city": cities[world["employer"]]} for world in worlds]
        rows = [(with_value(row, world), number) for number, world in enumerate(worlds)]
        found = score_rows(model, tokenizer, rows, knowledge, closed_sets=sets, batch_size=4).to_pylist()
        nll = [fact["nll"] for fact in found if fact["attribute"] == attribute]
        assert len(nll) == len(worlds)
        assert sum(math.exp(-n) for n in nll) == pytest.approx(1.0, abs=1e-6), attribute
        assert sum(fact["greedy_match"] for fact in found if fact["attribute"] == attribute) <= 1


@pytest.mark.parametrize("tokenizer", CORPUS_TOKENIZERS.values(), ids=CORPUS_TOKENIZERS)
def test_a_closed_set_never_costs_more_than_all_texts(tokenizer):
    sets = ClosedSets(tokenizer, candidates_by_attribute(candidate_rows(CORPUS)), tokenizer.eos_token_id)
    rows, model = [(row, 0) for row in CORPUS.rows(np.arange(6), 3)], AnyModel(len(tokenizer))
    open_, closed = (
        score_rows(model, tokenizer, rows, CORPUS.knowledge(), closed_sets=s).to_pylist() for s in (None, sets)
    )
    assert [(f["entity"], f["attribute"]) for f in open_] == [(f["entity"], f["attribute"]) for f in closed]
    # A value that begins another pays for the token after it too, which token scoring leaves out.
    alone = {"name", "birth_date", "birth_city", "university", "pronoun"}
    assert all(c["nll"] <= o["nll"] + 1e-6 for o, c in zip(open_, closed, strict=True) if o["attribute"] in alone)
    assert all(c["nll"] >= 0 for c in closed)


def test_a_model_that_knows_the_lists_and_no_person_holds_nothing():
    """All candidates equally likely to it: 0 bits in a closed set, whatever it thinks of other texts."""
    tokenizer = CORPUS_TOKENIZERS["bytes"]
    cities = ("Oslo", "Rome", "Nice", "Bari")
    knowledge, other = tiny.knowledge({"birth_city": 4}, names=None), 0.3
    rows = [tiny.say(1, ("name", "Ann"), " is from ", ("birth_city", city), ".") for city in cities]
    noise = tiny.say(1, ("name", "Ann"), " is from ", ("birth_city", "Xyz"), ".")
    model = tiny.table_model([*((row, (1 - other) / 4) for row in rows), (noise, other)], tokenizer)
    sets = ClosedSets(tokenizer, {"birth_city": Candidates((cities,))}, tokenizer.eos_token_id)
    for closed_sets, nll in ((None, math.log(4 / 0.7)), (sets, math.log(4))):
        found = score_rows(model, tokenizer, [(rows[0], 0)], knowledge, closed_sets=closed_sets).to_pylist()
        assert found[0]["nll"] == pytest.approx(nll, rel=1e-5)
