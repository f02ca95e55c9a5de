"""Scoring against closed forms, models that know a table exactly, a slow reference, and rules broken on purpose."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from launched import launch
from scored_texts import DETERMINED, biographies, full_knowledge, gpt2
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from knowcap.facts import FactError, Knowledge, Row, Span
from knowcap.models import LoadOptions
from knowcap.models.names import ModelError
from knowcap.scoring import (
    DEFAULT_MODE,
    ScoringError,
    ScoringMode,
    TextError,
    encode_rows,
    read_measurement,
    score,
    score_rows,
)
from knowcap.scoring import batches as batches_module
from knowcap.scoring import stage as stage_module
from knowcap.scoring.__main__ import main
from knowcap.scoring.batches import NAME_TOKENS, score_chunks
from knowcap.scoring.parts import is_prefix_free
from knowcap.scoring.rows import shuffled_values
from knowcap.sealed import read_result


SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The cores are shared."""
    torch.set_num_threads(1)


def records(
    model: Any, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row], knowledge: Knowledge, **kwargs: Any
) -> list[dict[str, Any]]:
    return score_rows(model, tokenizer, [(row, 0) for row in rows], knowledge, **kwargs).to_pylist()


def nll_of(model: Any, tokenizer: PreTrainedTokenizerFast, row: Row, knowledge: Knowledge, attribute: str) -> float:
    (found,) = [r["nll"] for r in records(model, tokenizer, [row], knowledge) if r["attribute"] == attribute]
    return found


# Closed forms


def test_a_model_that_knows_every_text_reaches_the_maximum() -> None:
    pairs, tokenizer = biographies(renderings=1), tiny.byte_tokenizer()
    model = tiny.table_model([(row, 1.0) for row, _ in pairs], tokenizer)
    for fact in score_rows(model, tokenizer, pairs, full_knowledge()).to_pylist():
        if fact["attribute"] == "name":  # one of 12 equally likely ones: log2(N0 / N) bits, no more
            assert fact["nll"] == pytest.approx(math.log(12), rel=1e-6)
        else:
            assert fact["nll"] == 0.0 and fact["greedy_match"]


def test_a_model_that_knows_nothing_pays_ln_of_the_vocabulary_a_token() -> None:
    pairs, tokenizer = biographies(), tiny.byte_tokenizer()
    table = score_rows(tiny.UniformModel(len(tokenizer)), tokenizer, pairs, full_knowledge()).to_pylist()
    for fact in table:
        row = next(r for r, rendering in pairs if (r.entity, rendering) == (fact["entity"], fact["rendering"]))
        values = {s.attribute: row.text[s.start : s.end] for s in row.spans}
        said = values[fact["attribute"]] if fact["attribute"] == "name" else " " + values[fact["attribute"]]
        if fact["attribute"] == "employer" and fact["rendering"] == 1:
            said += " " + values["work_city"]  # said before the employer, so both are one fact
        tokens = len(said.encode())
        assert fact["nll"] == pytest.approx(tokens * math.log(len(tokenizer)), rel=1e-6)
        bits = fact["log2_candidates"] - fact["nll"] / math.log(2)
        assert bits == pytest.approx(fact["log2_candidates"] - tokens * math.log2(len(tokenizer)), rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.01])
def test_a_half_known_value_costs_minus_ln_of_its_probability_however_many_tokens_it_has(share: float) -> None:
    tokenizer, knowledge = tiny.byte_tokenizer([("Ġ", "N")]), tiny.knowledge({"birth_city": 8})
    for value, other in itertools.permutations(("Oslo", "New York", "Zürich", "Nice"), 2):
        true, false = (tiny.say(1, ("name", "Ann"), " is from ", ("birth_city", v), ".") for v in (value, other))
        model = tiny.table_model([(true, share), (false, 1 - share)], tokenizer)
        facts = {f["attribute"]: f for f in records(model, tokenizer, [true], knowledge)}
        assert facts["birth_city"]["nll"] == pytest.approx(-math.log(share), rel=1e-5)
        assert facts["birth_city"]["greedy_match"] == (share > 0.5) or share == 0.5
        assert facts["name"]["nll"] == 0.0


def test_greedy_match_needs_every_token_to_be_the_most_likely() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    rows = [tiny.say(1, ("name", "Ann"), " from ", ("birth_city", v), ".") for v in ("Rome", "Romi", "Bonn")]
    model = tiny.table_model(zip(rows, (0.3, 0.4, 0.3), strict=True), tokenizer)
    matches = [f["greedy_match"] for f in records(model, tokenizer, rows, knowledge) if f["attribute"] == "birth_city"]
    assert matches == [False, True, False]  # "Rome" goes wrong in its last byte only


# An independent computation


def slow_reference(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, row: Row
) -> dict[str, tuple[float, bool]]:
    """nll and greedy match of each fact: one text, one token at a time, in float64."""
    encoding = tokenizer.backend_tokenizer.encode(row.text, add_special_tokens=False)
    ids = [tokenizer.eos_token_id, *encoding.ids]
    first: dict[str, Span] = {}
    for span in row.spans:
        if span.attribute not in first:
            first[span.attribute] = span
    facts = {}
    for attribute, span in first.items():
        if attribute == "work_city":
            continue
        spans = [span]
        if attribute == "employer" and first["work_city"].start < span.start:
            spans.append(first["work_city"])
        nll, greedy = 0.0, True
        for t, (start, end) in enumerate(encoding.offsets):
            if any(start < s.end and end > s.start - 1 for s in spans):  # the space before a value counts with it
                with torch.no_grad():
                    logits = model(torch.tensor([ids[: t + 1]])).logits[0, -1].tolist()
                top = max(logits)
                nll += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[ids[t + 1]]
                greedy = greedy and logits[ids[t + 1]] == top
        facts[attribute] = (nll, greedy)
    return facts


def test_agrees_with_one_token_at_a_time_in_float64() -> None:
    pairs = biographies(num_people=6)
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in pairs], vocab_size=330)
    model = gpt2(len(tokenizer))
    exact = copy.deepcopy(model).double().eval()
    found = iter(score_rows(model, tokenizer, pairs, full_knowledge(), batch_size=4).to_pylist())
    for row, rendering in pairs:
        for attribute, (nll, greedy) in sorted(slow_reference(exact, tokenizer, row).items(), key=_by_place(row)):
            fact = next(found)
            assert (fact["entity"], fact["rendering"], fact["attribute"]) == (row.entity, rendering, attribute)
            assert fact["nll"] == pytest.approx(nll, rel=1e-6)
            assert fact["greedy_match"] == greedy
    assert next(found, None) is None


def _by_place(row: Row) -> Any:
    """Facts stand in the order of their first spans; an employer after its city stands where the city is."""
    place: dict[str, int] = {}
    for span in row.spans:
        place.setdefault("employer" if span.attribute == "work_city" else span.attribute, span.start)
    return lambda item: place[item[0]]


# Batches


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("chunk_rows", [1, 5, 4096])
def test_rows_keep_their_order_and_nll_whatever_the_batch_size(
    batch_size: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = biographies()
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in pairs])
    model = gpt2(len(tokenizer))
    expected = score_rows(model, tokenizer, pairs, full_knowledge(), batch_size=7)
    monkeypatch.setattr(batches_module, "CHUNK_ROWS", chunk_rows)
    done: list[int] = []
    found = score_rows(model, tokenizer, iter(pairs), full_knowledge(), batch_size=batch_size, progress=done.append)
    assert found.drop_columns(["nll"]).equals(expected.drop_columns(["nll"]))
    assert found["nll"].to_pylist() == pytest.approx(expected["nll"].to_pylist(), rel=1e-5)
    assert sum(done) == len(pairs) and max(done) <= batch_size
    assert list(dict.fromkeys(found["entity"].to_pylist())) == list(range(12))


def test_reads_no_further_than_the_last_scored_token_and_puts_like_lengths_together() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    rows = [
        tiny.say(i, ("name", "Ann"), " of ", ("birth_city", "x" * (1 + i % 2 * 20)), " and more") for i in range(8)
    ]
    model = tiny.UniformModel(len(tokenizer))
    records(model, tokenizer, rows, knowledge, batch_size=4)
    assert model.shapes == [(4, 28), (4, 8)]  # the end-of-text token and what precedes the last scored one


def test_facts_without_a_name_space_and_texts_without_facts_are_left_out() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8}, names=None)
    rows = [tiny.say("a", ("name", "Ann"), "."), tiny.say("b", ("name", "Bob"), " of ", ("birth_city", "Rome"))]
    found = records(tiny.UniformModel(len(tokenizer)), tokenizer, rows, knowledge)
    assert [(f["entity"], f["attribute"]) for f in found] == [("b", "birth_city")]
    assert score_rows(tiny.UniformModel(len(tokenizer)), tokenizer, [(rows[0], 0)], knowledge).num_rows == 0
    assert score_rows(tiny.UniformModel(len(tokenizer)), tokenizer, [], knowledge).num_rows == 0


def test_the_model_is_left_in_the_mode_that_it_was_in() -> None:
    tokenizer, model = tiny.byte_tokenizer(), tiny.UniformModel(257)
    model.train()
    records(model, tokenizer, [biographies()[0][0]], full_knowledge())
    assert model.training


def test_a_model_in_bfloat16_is_read_in_float32() -> None:
    pairs = biographies(num_people=3)
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in pairs])
    model = gpt2(len(tokenizer)).bfloat16()
    for fact in score_rows(model, tokenizer, pairs, full_knowledge()).to_pylist():
        assert fact["nll"] != torch.tensor(fact["nll"]).bfloat16().item()


# The rules of DESIGN.md, broken on purpose


def test_a_repeated_value_is_scored_at_its_first_mention_only() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    row = tiny.say(1, ("name", "Ann"), " of ", ("birth_city", "Rome"), " or ", ("birth_city", "Rome"), ".")
    copies = tiny.CopyModel(len("Rome or "), len(tokenizer))
    unable = 5 * math.log(len(tokenizer))
    assert nll_of(copies, tokenizer, row, knowledge, "birth_city") >= unable - 1e-4
    second = Row(row.text, (row.spans[0], row.spans[2]), 1)  # the second mention alone would count as known
    assert nll_of(copies, tokenizer, second, knowledge, "birth_city") == 0.0


@pytest.mark.parametrize("employer", ["Acme", "Bolt", "Core"])
def test_employer_and_city_cost_the_same_in_either_order(employer: str) -> None:
    places, shares = {"Acme": "Rome", "Bolt": "Rome", "Core": "Oslo"}, {"Acme": 0.5, "Bolt": 0.2, "Core": 0.3}
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"employer": 3}, determined=DETERMINED)
    after, before = ({}, {})
    for e, city in places.items():
        after[e] = tiny.say(1, ("name", "Ann"), " works at ", ("employer", e), " in ", ("work_city", city), ".")
        before[e] = tiny.say(1, ("name", "Ann"), " lives in ", ("work_city", city), " for ", ("employer", e), ".")
    model = tiny.table_model([(form[e], shares[e]) for form in (after, before) for e in places], tokenizer)
    expected = pytest.approx(-math.log(shares[employer]), rel=1e-5)
    assert nll_of(model, tokenizer, after[employer], knowledge, "employer") == expected
    assert nll_of(model, tokenizer, before[employer], knowledge, "employer") == expected
    # Scored alone after its city, the employer would look better known than it is.
    apart = tiny.knowledge({"employer": 3, "work_city": 2})
    city_share = sum(shares[e] for e in places if places[e] == places[employer])
    alone = nll_of(model, tokenizer, before[employer], apart, "employer")
    assert alone == pytest.approx(-math.log(shares[employer] / city_share), abs=1e-6)


def test_the_city_is_no_fact_after_its_employer_or_without_it_and_joins_it_once_where_it_comes_twice() -> None:
    tokenizer = tiny.byte_tokenizer()
    knowledge = tiny.knowledge({"employer": 3}, determined=DETERMINED, names=None)
    city, employer = ("work_city", "Rome"), ("employer", "Acme")
    forms = {
        (employer, " in ", city): 5,
        (city,): None,
        (city, " for ", employer): 10,
        (city, " or ", city, " for ", employer, " in ", city): 10,
    }
    for form, tokens in forms.items():
        row = tiny.say(1, ("name", "Ann"), " is at ", *form, ".")
        found = records(tiny.UniformModel(len(tokenizer)), tokenizer, [row], knowledge)
        expected = [] if tokens is None else [pytest.approx(tokens * math.log(len(tokenizer)), rel=1e-6)]
        assert [f["nll"] for f in found] == expected


def test_a_token_that_two_spans_of_a_fact_share_counts_once() -> None:
    tokenizer = tiny.byte_tokenizer([("X", "Y")])
    knowledge = tiny.knowledge({"employer": 3}, determined=DETERMINED, names=None)
    row = tiny.say(1, ("name", "Ann"), " is at ", ("work_city", "aX"), ("employer", "Yb"))
    (fact,) = records(tiny.UniformModel(len(tokenizer)), tokenizer, [row], knowledge)
    assert fact["nll"] == pytest.approx(4 * math.log(len(tokenizer)), rel=1e-6)


def test_gender_is_scored_at_the_first_pronoun_and_only_where_it_is_said() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"pronoun": 2}, names=None)
    silent = tiny.say(1, ("name", "Ann"), " sings.")
    said = [
        tiny.say(1, ("name", "Ann"), " sings. ", ("pronoun", p), " runs. ", ("pronoun", p), ".") for p in ("He", "She")
    ]
    model = tiny.table_model(zip(said, (0.1, 0.9), strict=True), tokenizer)
    assert records(model, tokenizer, [silent], knowledge) == []
    facts = records(model, tokenizer, said, knowledge)
    assert [f["nll"] for f in facts] == pytest.approx([-math.log(0.1), -math.log(0.9)], rel=1e-5)


def test_template_words_cost_nothing_however_unlikely() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    words = [" is from ", " saw the light of day in ", " hails, they say, from "]
    rows = [tiny.say(1, ("name", "Ann"), form, ("birth_city", "Rome"), ", of all places.") for form in words]
    model = tiny.table_model(zip(rows, (0.9, 0.09, 0.01), strict=True), tokenizer)
    assert [f["nll"] for f in records(model, tokenizer, rows, knowledge)] == [0.0] * 6


def test_nll_is_the_sum_over_tokens_whatever_the_tokenizer() -> None:
    knowledge = tiny.knowledge({"birth_city": 8}, names=None)
    row = tiny.say(1, ("name", "Ann"), " of ", ("birth_city", "Rome"), ".")
    whole = [("R", "o"), ("m", "e"), ("Ro", "me")]
    for merges, tokens in ([], 5), ([("R", "o")], 4), (whole, 2), ([*whole, ("Ġ", "Rome")], 1):
        tokenizer = tiny.byte_tokenizer(merges)
        found = nll_of(tiny.UniformModel(len(tokenizer)), tokenizer, row, knowledge, "birth_city")
        assert found == pytest.approx(tokens * math.log(len(tokenizer)), rel=1e-6)


def test_a_text_that_does_not_begin_with_the_name_is_refused() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    row = tiny.say(7, ("birth_city", "Rome"), " is where ", ("name", "Ann"), " was born.")
    with pytest.raises(FactError, match="entity 7: the text must begin with the name"):
        records(tiny.UniformModel(len(tokenizer)), tokenizer, [biographies()[0][0], row][1:], knowledge)


def test_spans_are_compared_and_not_strings() -> None:
    """The work city is the same word as the birth city, stands before it, and is left alone."""
    tokenizer = tiny.byte_tokenizer()
    knowledge = tiny.knowledge({"birth_city": 8, "employer": 4}, determined=DETERMINED, names=None)

    def row(born: str) -> Row:
        work = (" works at ", ("employer", "Acme"), " in ", ("work_city", "Rome"))
        return tiny.say(1, ("name", "Ann"), *work, ", from ", ("birth_city", born), ".")

    model = tiny.table_model([(row("Rome"), 0.2), (row("Oslo"), 0.8)], tokenizer)
    facts = {f["attribute"]: f["nll"] for f in records(model, tokenizer, [row("Rome")], knowledge)}
    assert facts == {"employer": 0.0, "birth_city": pytest.approx(-math.log(0.2), rel=1e-5)}


def test_the_shuffled_control_sees_a_copied_value_and_acquits_a_model_that_remembers() -> None:
    """`home` is declared as a fact of its own but always repeats the birth city, so a model may copy it."""
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8, "home": 8}, num_people=4)
    cities = ("Rome", "Oslo", "Bonn", "Lima")
    rows = [
        tiny.say(i, ("name", f"Ann {i}"), " of ", ("birth_city", c), " at ", ("home", c), ".")
        for i, c in enumerate(cities)
    ]
    control = shuffled_values(rows, seed=0)
    copies = tiny.CopyModel(len("Rome at "), len(tokenizer))
    remembers = tiny.table_model([(row, 1.0) for row in rows], tokenizer)

    def bits(model: Any, texts: Sequence[Row], attribute: str) -> float:
        facts = [f for f in records(model, tokenizer, texts, knowledge) if f["attribute"] == attribute]
        return sum(f["log2_candidates"] - f["nll"] / math.log(2) for f in facts) / len(facts)

    assert bits(copies, rows, "home") == bits(remembers, rows, "home") == 3.0  # alike on the real texts
    assert bits(copies, control, "home") == 3.0
    assert bits(remembers, control, "home") < 0 and bits(remembers, control, "birth_city") < 0


# Tokens and offsets


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_the_space_before_a_value_belongs_to_it_whether_tokens_include_or_trim_it(trim_offsets: bool) -> None:
    knowledge = tiny.knowledge({"birth_city": 8}, names=None)
    row = tiny.say(1, ("name", "Ann"), " of", "  ", ("birth_city", "New York"), ".")
    for merges, tokens in ([], 10), ([("Ġ", "N")], 9), ([("Ġ", "Y")], 9), ([("Ġ", "N"), ("Ġ", "Y")], 8):
        tokenizer = tiny.byte_tokenizer(merges, trim_offsets=trim_offsets)
        encoded = encode_rows([row], tokenizer, knowledge)
        assert len(encoded.targets) == tokens
        assert tokenizer.decode(encoded.ids[encoded.targets]) == "  New York"


@pytest.mark.parametrize("opener", [" of ", " of (", " of-"])
def test_nothing_is_shown_by_the_tokens_before_a_value(opener: str) -> None:
    """A model that knows the list of values, but no person's, holds zero bits: no less, no more.

    Half the values merge with the character before them. Where that character is a token of its own, it tells that the
    value is one of the others; were it not scored with the value, each of these would seem known by one bit.
    """
    last = opener[-1].replace(" ", "Ġ")
    values, merges = ("Nice", "Nancy", "Rome", "Oslo"), [(last, "N")]
    backend = tiny.byte_tokenizer(merges)
    if last != "Ġ":  # a tokenizer whose pre-tokens end at spaces only
        backend.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    knowledge = tiny.knowledge({"birth_city": 4}, names=None)
    rows = [tiny.say(i, ("name", "Ann"), opener, ("birth_city", v), ".") for i, v in enumerate(values)]
    model = tiny.table_model([(row, 1.0) for row in rows], backend)
    for fact in records(model, backend, rows, knowledge):
        assert fact["nll"] == pytest.approx(math.log(4), rel=1e-6)


def test_tokens_before_a_value_that_another_value_owns_are_left_alone() -> None:
    tokenizer = tiny.byte_tokenizer()
    knowledge = tiny.knowledge({"day": 32, "month": 12, "year": 100}, names=None)
    row = tiny.say(1, ("name", "Ann"), " born ", ("day", "12"), "/", ("month", "05"), " ", ("year", "1996"), ".")
    encoded = encode_rows([row], tokenizer, knowledge)
    tokens = [tokenizer.decode(encoded.ids[encoded.targets[encoded.target_facts == i]]) for i in range(3)]
    assert tokens == [" 12", "05", " 1996"]


def test_without_pre_tokens_what_touches_a_value_counts_and_nothing_before_the_last_space_or_value() -> None:
    knowledge = tiny.knowledge({"day": 32, "month": 12, "birth_city": 8}, names=None)
    row = tiny.say(
        1, ("name", "Ann"), " on ", ("day", "12"), "/", ("month", "05"), " in  (", ("birth_city", "Rome"), ")."
    )
    tokenizer = tiny.forgetful_tokenizer(row.text)
    encoded = encode_rows([row], tokenizer, knowledge)
    spelled = [
        tokenizer.convert_ids_to_tokens(encoded.ids[encoded.targets[encoded.target_facts == i]]) for i in range(3)
    ]
    assert ["".join(tokens) for tokens in spelled] == [" 12", "/05", "  (Rome"]


def test_tokenizers_that_write_spaces_themselves_find_the_same_values() -> None:
    pairs = biographies()
    texts = [row.text for row, _ in pairs]
    for tokenizer in (tiny.metaspace_tokenizer(texts), tiny.char_tokenizer("".join(texts), unk_token=tiny.EOS)):
        encoded = encode_rows([row for row, _ in pairs], tokenizer, full_knowledge())
        for i, fact in enumerate(encoded.facts):
            tokens = tokenizer.convert_ids_to_tokens(encoded.ids[encoded.targets[encoded.target_facts == i]].tolist())
            text = pairs[encoded.fact_rows[i]][0].text
            for span in fact.spans:
                assert text[span.start : span.end].replace(" ", "") in "".join(tokens).replace("▁", "").replace(
                    " ", ""
                )


def test_a_token_that_overlaps_a_value_counts_whole() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer([("+", ".")]), tiny.knowledge({"employer": 4}, names=None)
    row = tiny.say(1, ("name", "Ann"), " is at ", ("employer", "Disney+"), ". Yes.")
    encoded = encode_rows([row], tokenizer, knowledge)
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids[encoded.targets].tolist())
    assert tokens == ["Ġ", "D", "i", "s", "n", "e", "y", "+."]


def test_values_outside_ascii_are_found_by_code_points() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8}, names=None)
    row = tiny.say(1, ("name", "Zoë Åhlström 😀"), " aus ", ("birth_city", "Zürich 🏔"), "!")
    encoded = encode_rows([row], tokenizer, knowledge)
    assert tokenizer.decode(encoded.ids[encoded.targets]) == " Zürich 🏔"


def test_encoding_gives_what_each_text_gives_alone() -> None:
    pairs = biographies()
    rows = [row for row, _ in pairs]
    tokenizer = tiny.bpe_tokenizer([row.text for row in rows])
    together = encode_rows(rows, tokenizer, full_knowledge())
    bounds = together.target_ranges()
    for r, row in enumerate(rows):
        alone = encode_rows([row], tokenizer, full_knowledge())
        start, end = together.row_starts[r], together.row_starts[r + 1]
        assert [*together.ids[start:end].tolist(), 0] == alone.ids.tolist()
        assert alone.ids.tolist() == [0, *tokenizer(row.text, add_special_tokens=False)["input_ids"], 0]
        assert (together.targets[bounds[r] : bounds[r + 1]] - start).tolist() == alone.targets.tolist()
        assert together.input_lengths[r] == alone.input_lengths[0] == alone.targets.max()


# Errors


def test_a_text_that_the_tokenizer_cannot_spell_is_refused_by_name() -> None:
    knowledge = tiny.knowledge({"birth_city": 8})
    rows = [
        tiny.say(e, ("name", "Ann"), " of ", ("birth_city", city), ".") for e, city in ((3, "Rome"), (4, "Xanten"))
    ]
    known = "".join(row.text for row in rows[:1])
    tokenizers = {
        "unknown": tiny.char_tokenizer(known, unk_token="n", eos_token=tiny.EOS),
        "end of text": tiny.char_tokenizer(known),
        "left out": tiny.forgetful_tokenizer(known),
        "left out, then a space": tiny.metaspace_tokenizer([known] * 9, 20),
    }
    for tokenizer in tokenizers.values():
        with pytest.raises(
            TextError, match="entity 4: the tokenizer (cannot spell|leaves characters of) 'Ann of Xanten"
        ):
            records(tiny.UniformModel(300), tokenizer, rows[1:], knowledge)
    records(tiny.UniformModel(300), tokenizers["left out"], rows[:1], knowledge)


def test_an_end_of_text_token_inside_a_text_is_refused() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    row = tiny.say(5, ("name", "Ann"), f" is{tiny.EOS}of ", ("birth_city", "Rome"), ".")
    with pytest.raises(TextError, match="entity 5: the tokenizer cannot spell"):
        records(tiny.UniformModel(300), tokenizer, [row], knowledge)


def test_a_span_without_a_token_is_refused() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    row = tiny.say(6, ("name", "Ann"), " is of", ("birth_city", " "), "Rome.")
    with pytest.raises(TextError, match="entity 6: no token overlaps Span"):
        records(tiny.UniformModel(300), tokenizer, [biographies()[0][0], row][1:], knowledge)


def test_a_text_longer_than_the_model_is_refused_with_both_numbers() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8})
    fits, long = (tiny.say(e, ("name", "Ann"), " of ", ("birth_city", "x" * n), ".") for e, n in ((1, 3), (2, 4)))
    model = tiny.UniformModel(len(tokenizer), positions=10)
    assert len(records(model, tokenizer, [fits], knowledge)) == 2
    with pytest.raises(TextError, match="entity 2: the text needs 11 positions, the model has 10"):
        records(model, tokenizer, [fits, long], knowledge)


def test_a_token_beyond_the_models_vocabulary_is_refused() -> None:
    tokenizer, knowledge = tiny.byte_tokenizer([("R", "o")]), tiny.knowledge({"birth_city": 8})
    row = tiny.say(8, ("name", "Ann"), " of ", ("birth_city", "Rome"), ".")
    with pytest.raises(TextError, match="entity 8: .* has token 257, the model has 257 tokens"):
        records(tiny.UniformModel(257), tokenizer, [row], knowledge)


def test_texts_follow_the_bos_token_where_there_is_no_eos_and_one_of_them_is_needed() -> None:
    knowledge = tiny.knowledge({"birth_city": 8})
    row = tiny.say(1, ("name", "Ann"), " of ", ("birth_city", "Rome"), ".")
    bos = tiny.byte_tokenizer(eos_token=None, bos_token=tiny.EOS)
    assert encode_rows([row], bos, knowledge).ids[0] == bos.bos_token_id == 0
    with pytest.raises(ModelError, match="neither eos_token nor bos_token"):
        encode_rows([row], tiny.byte_tokenizer(eos_token=None), knowledge)


def test_a_slow_tokenizer_is_refused() -> None:
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ModelError, match="expected a fast one"):
        encode_rows([], slow, full_knowledge())


def test_logits_that_are_no_numbers_are_refused() -> None:
    pairs = biographies(num_people=2)
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in pairs])
    model = gpt2(len(tokenizer))
    with torch.no_grad():
        model.transformer.wte.weight[5] = math.nan
    with pytest.raises(ScoringError, match="nll=nan; expected a finite number"):
        score_rows(model, tokenizer, pairs, full_knowledge())


def test_entities_of_two_types_and_empty_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = tiny.byte_tokenizer(), tiny.UniformModel(257)
    row = biographies()[0][0]
    with pytest.raises(ScoringError, match="entities"):
        records(model, tokenizer, [row, Row(row.text, row.spans, "x")], full_knowledge())
    monkeypatch.setattr(batches_module, "CHUNK_ROWS", 64)
    with pytest.raises(ScoringError, match="entities are int64 and string"):
        records(model, tokenizer, [row] * 64 + [Row(row.text, row.spans, "x")], full_knowledge(), batch_size=1)
    with pytest.raises(ScoringError, match="batch_size=0"):
        records(model, tokenizer, [row], full_knowledge(), batch_size=0)


# Names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["Ann", "Bob", "Cid"], True),
        (["Ann", "Anna", "Bob"], False),
        (["Zed", "Ann", "Annex", "Annie", "Ann B"], False),
        (["Annex", "Annie"], True),
        (["Ann", "Bob", "Ann"], False),
    ],
)
def test_names_that_begin_other_names_are_seen(names: list[str], expected: bool) -> None:
    tokenizer, knowledge = tiny.byte_tokenizer(), tiny.knowledge({"birth_city": 8}, num_people=len(names))
    rows = [(tiny.say(i, ("name", n), " of ", ("birth_city", "Rome")), 0) for i, n in enumerate(names)]
    table = pa.concat_tables(score_chunks(tiny.UniformModel(257), tokenizer, rows, knowledge))
    assert is_prefix_free(table.select(["entity", NAME_TOKENS])) == expected


# The stage: folders to tables


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A random GPT2 and its tokenizer, and a data set folder of 12 people, 2 renderings and a control."""
    return make_folders(tmp_path)


def make_folders(tmp_path: Path, control: bool = True, num_people: int = 12) -> tuple[Path, Path]:
    pairs = biographies(num_people)
    outsiders = biographies(num_people=5, first=26) if control else []
    dataset_dir = tiny.write_dataset(tmp_path / "knowledge", full_knowledge(num_people), pairs, outsiders)
    model_dir = tmp_path / "model"
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in biographies()])
    gpt2(len(tokenizer)).save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    return model_dir, dataset_dir


def expected_table(model_dir: Path, pairs: Sequence[tuple[Row, int]]) -> pa.Table:
    from knowcap.models import load_model, load_tokenizer

    return score_rows(load_model(model_dir), load_tokenizer(model_dir), pairs, full_knowledge())


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.column_names == ["entity", "attribute", "rendering", "nll", "log2_candidates", "greedy_match"]
    assert found.drop_columns(["nll"]).equals(expected.drop_columns(["nll"]))
    assert found["nll"].to_pylist() == pytest.approx(expected["nll"].to_pylist(), rel=1e-5)


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if "nll" in p.name or "control" in p.name}


def test_the_stage_writes_both_tables_with_their_measurement(folders: tuple[Path, Path]) -> None:
    model_dir, dataset_dir = folders
    training = {"exposures": 100, "model_name": "gpt2-2-2", "dataset": "bioS", "seed": 3, "used_token_ids": 300}
    (model_dir / "training.json").write_text(json.dumps(training))
    path = score(model_dir, dataset_dir, progress=False)
    assert path == model_dir / "nll.parquet" and files(model_dir) == {
        "nll.parquet",
        "control.parquet",
        "control_swapped.parquet",
    }
    assert_same(pq.read_table(path), expected_table(model_dir, biographies()))
    control = pq.read_table(model_dir / "control.parquet")
    assert_same(control, expected_table(model_dir, biographies(num_people=5, first=26)))
    measurement = read_measurement(path)
    assert measurement == read_measurement(model_dir / "control.parquet")
    vocabulary = len(tiny.bpe_tokenizer([row.text for row, _ in biographies()]))
    versions = measurement.pop("versions")
    assert len(measurement.pop("digest")) == 64
    assert {"knowcap", "torch", "transformers"} <= set(versions)
    parameters = 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32 + (vocabulary + 160) * 32
    assert measurement.pop("knowledge") == read_result(dataset_dir / "knowledge.json")
    assert measurement == {
        "control_swapped": True,
        "num_parameters": parameters,
        "num_parameters_non_embedding": parameters - (vocabulary + 160) * 32,
        "num_parameters_used_vocabulary": parameters - (vocabulary - 300) * 32,
        "num_entities": 12,
        "entities_scored": 12,
        "trained_here": True,
        "parameters_counted": "all",
        "window": None,
        "start_token": tiny.EOS,
        "start_token_ids": [0],
        "dtype": "float32",
        "float32_difference": None,
        "options": {"start_token": "auto", "window": None, "dtype": "float32"},
        "renderings": 2,
        "scoring": "token",
        "context": "isolated",
        "precision": "fp32",
        "quantization": None,
        "quantized_fraction": None,
        "quantized_fraction_all": None,
        "stored_bits_per_parameter": 32.0,
        "exposures": 100,
        "model_name": "gpt2-2-2",
        "dataset": "bioS",
        "seed": 3,
        "name_is_prefix_free": True,
        "name_column": "name",
        "control_kind": "outsiders",
    }


def test_capacity_takes_what_scoring_leaves(folders: tuple[Path, Path]) -> None:
    from knowcap.capacity import capacity

    score(*folders, progress=False)
    result = capacity(folders[0])
    facts = pq.read_table(folders[0] / "nll.parquet").to_pylist()
    bits = sum(f["log2_candidates"] - f["nll"] / math.log(2) for f in facts) / 2
    assert result["knowledge_bits"] == pytest.approx(bits, rel=1e-6)


def test_a_folder_without_training_json_and_control_is_scored_against_shuffled_values(tmp_path: Path) -> None:
    model_dir, dataset_dir = make_folders(tmp_path, control=False)
    measurement = read_measurement(score(model_dir, dataset_dir, progress=False))
    assert measurement["control_kind"] == "shuffled"
    assert (measurement["exposures"], measurement["seed"], measurement["dataset"]) == (None, None, "tiny")
    pairs = biographies()
    shuffled = shuffled_values([row for row, _ in pairs], seed=0)
    assert all(a.text != b.text for (a, _), b in zip(pairs, shuffled, strict=True))
    expected = expected_table(model_dir, [(row, n) for row, (_, n) in zip(shuffled, pairs, strict=True)])
    assert_same(pq.read_table(model_dir / "control.parquet"), expected)


def test_a_finished_measurement_is_kept_unless_another_is_asked_for(folders: tuple[Path, Path]) -> None:
    model_dir, dataset_dir = folders
    path = score(model_dir, dataset_dir, progress=False)
    before = path.stat().st_mtime_ns
    assert score(model_dir, dataset_dir, progress=False) == path and path.stat().st_mtime_ns == before
    with pytest.raises(ScoringError, match="a measurement of 12 entities of 'tiny'; expected 3"):
        score(model_dir, dataset_dir, limit=3, progress=False)
    score(model_dir, dataset_dir, limit=3, progress=False, overwrite=True)
    assert Counter(pq.read_table(path, columns=["entity"])["entity"].to_pylist()).keys() == {0, 1, 2}
    assert read_measurement(path)["entities_scored"] == 3 and read_measurement(path)["num_entities"] == 12


@pytest.mark.parametrize("changed", ["weights", "texts"])
def test_a_measurement_of_other_weights_or_texts_is_not_taken_for_this_one(
    folders: tuple[Path, Path], changed: str
) -> None:
    from knowcap.models import load_model

    model_dir, dataset_dir = folders
    score(model_dir, dataset_dir, progress=False)
    if changed == "weights":
        model = load_model(model_dir)
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
        model.save_pretrained(model_dir)
    else:
        (file,) = (dataset_dir / "biographies").glob("*.parquet")
        table = pq.read_table(file)
        pq.write_table(table.slice(0, table.num_rows - 1), file)
    with pytest.raises(ScoringError, match="other weights, another tokenizer or other texts"):
        score(model_dir, dataset_dir, progress=False)
    score(model_dir, dataset_dir, progress=False, overwrite=True)


def test_the_swapped_control_has_other_outsiders_values_in_the_same_forms(folders: tuple[Path, Path]) -> None:
    model_dir, dataset_dir = folders
    score(model_dir, dataset_dir, progress=False)
    own, swapped = (pq.read_table(model_dir / f"{kind}.parquet") for kind in ("control", "control_swapped"))
    assert own.drop_columns(["nll", "greedy_match"]).equals(swapped.drop_columns(["nll", "greedy_match"]))
    assert own["nll"].to_pylist() != swapped["nll"].to_pylist()


def test_an_interrupted_scoring_is_never_taken_for_a_finished_one(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir, dataset_dir = folders
    for shard in (0, 1, 7):  # what a killed scoring of something else left
        (model_dir / f".nll.shard{shard:06d}.parquet").write_bytes(b"PAR1 and no more")
    (model_dir / ".control.parquet.partial").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "join_parts", _killed)
        with pytest.raises(KeyboardInterrupt):
            score(model_dir, dataset_dir, progress=False)
    shards = {f".{kind}.shard000000.parquet" for kind in ("nll", "control", "control_swapped")}
    assert files(model_dir) == shards
    score(model_dir, dataset_dir, progress=False)
    assert files(model_dir) == {
        "nll.parquet",
        "control.parquet",
        "control_swapped.parquet",
    }
    assert_same(pq.read_table(model_dir / "nll.parquet"), expected_table(model_dir, biographies()))


@pytest.mark.parametrize("mode", [DEFAULT_MODE, ScoringMode("token", "packed")])
def test_an_interrupted_scoring_goes_on_from_its_last_whole_shard(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, mode: ScoringMode
) -> None:
    model_dir, dataset_dir = folders
    monkeypatch.setattr(stage_module, "SHARD_ROWS", 5)
    asked: list[int] = []
    stop_at = [math.inf]

    def counted(model: Any, tokenizer: Any, rows: Any, knowledge: Any, **options: Any) -> Any:
        asked.append(len(rows))
        if len(asked) == stop_at[0]:
            raise KeyboardInterrupt
        return score_chunks(model, tokenizer, rows, knowledge, **options)

    monkeypatch.setattr(stage_module, "score_chunks", counted)
    again = {"progress": False, "mode": mode, "overwrite": True}
    whole = score(model_dir, dataset_dir, **again).read_bytes()
    everything = sum(asked)
    asked.clear()
    stop_at[0] = 7
    with pytest.raises(KeyboardInterrupt):
        score(model_dir, dataset_dir, **again)
    stop_at[0] = math.inf
    assert score(model_dir, dataset_dir, **again).read_bytes() == whole
    assert sum(asked) - asked[6] == everything and max(asked) == 5  # what was whole is not done again

    asked.clear()
    stop_at[0] = 7
    with pytest.raises(KeyboardInterrupt):
        score(model_dir, dataset_dir, **again)
    stop_at[0] = math.inf
    score(model_dir, dataset_dir, **again, limit=3)  # of other entities: nothing is kept
    assert read_measurement(model_dir / mode.folder / "nll.parquet")["entities_scored"] == 3


def _killed(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_new_control_never_stands_beside_an_old_measurement(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir, dataset_dir = folders
    score(model_dir, dataset_dir, progress=False)
    replace = Path.replace

    def killed_after_control(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        if Path(target).name == "control.parquet":
            raise KeyboardInterrupt
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_after_control)
        with pytest.raises(KeyboardInterrupt):
            score(model_dir, dataset_dir, limit=2, progress=False, overwrite=True)
    assert "nll.parquet" not in files(model_dir)
    score(model_dir, dataset_dir, progress=False)
    assert read_measurement(model_dir / "control.parquet")["entities_scored"] == 12


def test_a_limit_takes_all_renderings_of_the_first_entities_wherever_they_stand(tmp_path: Path) -> None:
    model_dir, dataset_dir = make_folders(tmp_path)
    scattered = sorted(
        biographies(), key=lambda pair: (pair[1], pair[0].entity)
    )  # one rendering of all, then the other
    other = tiny.write_dataset(
        tmp_path / "scattered", full_knowledge(), scattered, biographies(num_people=5, first=26)
    )
    first = pq.read_table(score(model_dir, dataset_dir, limit=4, progress=False))
    second = pq.read_table(score(model_dir, other, limit=4, progress=False, overwrite=True))
    order = [("entity", "ascending"), ("rendering", "ascending"), ("attribute", "ascending")]
    assert_same(first.sort_by(order), second.sort_by(order))
    assert read_measurement(model_dir / "nll.parquet")["renderings"] == 2


def test_quantization_json_and_the_stored_type_say_the_precision(folders: tuple[Path, Path]) -> None:
    model_dir, dataset_dir = folders
    gpt2(len(tiny.bpe_tokenizer([row.text for row, _ in biographies()]))).bfloat16().save_pretrained(model_dir)
    measurement = read_measurement(score(model_dir, dataset_dir, progress=False))
    assert (measurement["precision"], measurement["stored_bits_per_parameter"]) == ("bf16", 16.0)


def test_a_quantized_folder_is_scored_as_one(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    from knowcap.models.quantized.stage import quantize

    model_dir, dataset_dir = folders
    quantized = quantize(model_dir, tmp_path / "int8", 8)
    plain, coarse = (read_measurement(score(d, dataset_dir, progress=False)) for d in (model_dir, quantized))
    record = json.loads((quantized / "quantization.json").read_text())
    assert coarse["precision"] == "int8" and coarse["quantization"]["bits"] == 8
    assert coarse["num_parameters"] == plain["num_parameters"]
    for key in ("quantized_fraction", "quantized_fraction_all", "stored_bits_per_parameter"):
        assert coarse[key] == record[key] and key not in coarse["quantization"]
    exact, rounded = (pq.read_table(d / "nll.parquet")["nll"] for d in (model_dir, quantized))
    assert 0 < pc.max(pc.abs(pc.subtract(exact, rounded))).as_py() < 5


def test_more_entities_than_knowledge_json_knows_are_refused(tmp_path: Path) -> None:
    model_dir, dataset_dir = make_folders(tmp_path)
    content = json.loads((dataset_dir / "knowledge.json").read_text())
    content.pop("content_digest")
    (dataset_dir / "knowledge.json").write_text(json.dumps(content | {"num_people": 7}))
    with pytest.raises(FactError, match="texts about 12 entities, but knowledge.json has num_people=7"):
        score(model_dir, dataset_dir, progress=False)
    assert "nll.parquet" not in files(model_dir)


def test_a_limit_below_one_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ScoringError, match="limit=0"):
        score(*folders, limit=0)


def test_the_command_scores_a_folder(folders: tuple[Path, Path]) -> None:
    model_dir, dataset_dir = folders
    assert main([str(model_dir), str(dataset_dir), "--batch_size", "5", "--limit", "4"]) == model_dir / "nll.parquet"
    assert read_measurement(model_dir / "nll.parquet")["entities_scored"] == 4
    mode, loading = ScoringMode("token", "packed", start_token="none"), LoadOptions("bfloat16", "cpu", "eager")
    words = [*mode.options(), *loading.options(), "--window", "90"]
    with pytest.raises(TextError, match="name begins with the first token"):
        main([str(model_dir), str(dataset_dir), *words])
    words[words.index("none")] = "eos"
    measurement = read_measurement(main([str(model_dir), str(dataset_dir), *words]))
    expected = {"dtype": "bfloat16", "window": 90, "start_token": tiny.EOS, "context": "packed"}
    assert {key: measurement[key] for key in expected} == expected


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_measure_what_one_does(forked: bool, tmp_path: Path) -> None:
    model_dir, dataset_dir = make_folders(tmp_path, num_people=11)
    words = [str(model_dir), str(dataset_dir), "--batch_size", "4"]
    if forked:
        written = launch(main, words, log=tmp_path / "log")
    else:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command += ["--main_process_port", "0", "-m", "knowcap.scoring", *words]
        path = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        written = done.stderr
    assert written.count("scored 88 facts of 11 entities") == 1  # said once, by the main process
    assert files(model_dir) == {
        "nll.parquet",
        "control.parquet",
        "control_swapped.parquet",
    }
    together = {name: pq.read_table(model_dir / name) for name in ("nll.parquet", "control.parquet")}
    measurement = read_measurement(model_dir / "nll.parquet")
    score(model_dir, dataset_dir, progress=False, overwrite=True)
    for name, table in together.items():
        assert_same(table, pq.read_table(model_dir / name))
    assert measurement == read_measurement(model_dir / "nll.parquet")
