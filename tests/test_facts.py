"""The contract: which spans of a text are scored, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import tiny

from knowcap.facts import (
    Attribute,
    FactError,
    Knowledge,
    Row,
    Span,
    check_row,
    check_values,
    scored_facts,
)
from knowcap.scoring.rows import shuffled_values


KNOWLEDGE = Knowledge(
    name="world", version="1", num_people=4, seed=0, entity_column="who", name_log2_candidates=10.0,
    attributes=(Attribute("employer", 8, 3.0), Attribute("city", 1, 0.0, "employer"), Attribute("pet", 4, 2.0)),
)  # fmt: skip


def row(text: str, **values: str) -> Row:
    """A row whose spans are the first occurrences of the values, in the order of the text."""
    spans = sorted((Span(a, text.index(v), text.index(v) + len(v)) for a, v in values.items()), key=lambda s: s.start)
    return Row(text, tuple(spans), values["name"])


def scored(spans):
    return {fact.attribute: [s.attribute for s in fact.spans] for fact in scored_facts(spans, KNOWLEDGE)}


def test_bits_are_the_closed_form():
    assert KNOWLEDGE.bits_per_person == pytest.approx(10 - 2 + 3 + 2)
    assert KNOWLEDGE.total_bits == pytest.approx(4 * 13)


def test_only_the_first_mention_is_scored():
    spans = [Span("name", 0, 2), Span("pet", 5, 8), Span("pet", 12, 15)]
    assert [f.spans for f in scored_facts(spans, KNOWLEDGE) if f.attribute == "pet"] == [(Span("pet", 5, 8),)]


def test_a_determined_value_said_first_joins_its_determiner():
    spans = [Span("name", 0, 2), Span("city", 4, 6), Span("employer", 8, 9)]
    assert scored(spans) == {"name": ["name"], "employer": ["city", "employer"]}


def test_a_determined_value_said_after_or_alone_is_not_scored():
    after = [Span("name", 0, 2), Span("employer", 4, 6), Span("city", 8, 9)]
    assert scored(after) == {"name": ["name"], "employer": ["employer"]}
    assert scored([Span("name", 0, 2), Span("city", 4, 6)]) == {"name": ["name"]}


def test_a_second_mention_of_the_determined_value_is_not_scored():
    spans = [Span("name", 0, 2), Span("city", 4, 6), Span("city", 7, 8), Span("employer", 9, 10)]
    (fact,) = [f for f in scored_facts(spans, KNOWLEDGE) if f.attribute == "employer"]
    assert fact.spans == (Span("city", 4, 6), Span("employer", 9, 10))


def test_names_count_only_where_a_name_space_is_declared():
    nameless = Knowledge("w", "1", 4, 0, "who", None, KNOWLEDGE.attributes)
    assert [f.attribute for f in scored_facts([Span("name", 0, 2), Span("pet", 3, 5)], nameless)] == ["pet"]
    assert nameless.bits_per_person == 5


def test_knowledge_round_trips_through_its_file(tmp_path):
    KNOWLEDGE.save(tmp_path / "knowledge.json")
    assert Knowledge.load(tmp_path / "knowledge.json") == KNOWLEDGE
    assert json.loads((tmp_path / "knowledge.json").read_text())["total_bits"] == KNOWLEDGE.total_bits


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ((Span("pet", 0, 3),), "begin with the name"),
        ((), "begin with the name"),
        ((Span("name", 1, 3),), "begin with the name"),
        ((Span("name", 0, 2), Span("hat", 3, 4)), "unknown attribute 'hat'"),
        ((Span("name", 0, 4), Span("pet", 3, 6)), "overlaps"),
        ((Span("name", 0, 2), Span("pet", 5, 99)), "outside the text"),
        ((Span("name", 0, 2), Span("pet", 5, 5)), "empty"),
    ],
)
def test_rows_that_break_the_contract_are_refused(spans, message):
    with pytest.raises(FactError, match=message):
        check_row(Row("Al has a dog.", spans, 1), KNOWLEDGE)


def test_a_value_before_its_span_is_found():
    leak = row("Al, the dog lover, has a cat.", name="Al", pet="cat")
    check_values(leak, {"pet": "cat"}, KNOWLEDGE)
    leak = Row("Al the cat man has a cat.", (Span("name", 0, 2), Span("pet", 21, 24)), "Al")
    with pytest.raises(FactError, match="occurs before its span"):
        check_values(leak, {"pet": "cat"}, KNOWLEDGE)


def test_spans_are_compared_not_strings():
    """A work city may equal a birth city: two facts, two spans, both fine."""
    knowledge = Knowledge("w", "1", 4, 0, "who", 10.0, (Attribute("born", 4, 2.0), Attribute("works", 4, 2.0)))
    text = "Al, born in Rome, works in Rome."
    both = Row(text, (Span("name", 0, 2), Span("born", 12, 16), Span("works", 27, 31)), "Al")
    check_values(both, {"born": "Rome", "works": "Rome"}, knowledge)
    assert len(scored_facts(both.spans, knowledge)) == 3


def test_a_span_that_cuts_out_something_else_is_found():
    with pytest.raises(FactError, match="contains 'do'"):
        check_values(Row("Al has a dog.", (Span("name", 0, 2), Span("pet", 9, 11)), 1), {"pet": "dog"}, KNOWLEDGE)


def test_the_shuffled_control_has_others_values_under_the_own_name():
    rows = [row(f"P{i} has a pet{i}!", name=f"P{i}", pet=f"pet{i}") for i in range(10)]
    shuffled = shuffled_values(rows, seed=1)
    said = [r.text[r.spans[1].start : r.spans[1].end] for r in shuffled]
    assert sorted(said) == sorted(f"pet{i}" for i in range(10))
    assert all(s != f"pet{i}" for i, s in enumerate(said))
    assert all(r.text == f"P{i} has a {s}!" for i, (r, s) in enumerate(zip(shuffled, said, strict=True)))


def test_a_shuffled_control_needs_two_entities():
    with pytest.raises(FactError, match="expected two or more"):
        shuffled_values([row("P has a x", name="P", pet="x")], seed=0)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ((Attribute("a", 2, 1.0), Attribute("a", 2, 1.0)), "listed twice"),
        ((Attribute("name", 2, 1.0),), "name_log2_candidates"),
        ((Attribute("a", 1, 0.0, "b"),), "which is not one of"),
        ((Attribute("a", 2, -1.0),), "expected a finite number of bits"),
        ((Attribute("a", 2, math.nan),), "expected a finite number of bits"),
        ((Attribute("a", 4, 2.0), Attribute("b", 4, 2.0, "a")), "must be 0"),
        ((Attribute("a", 4, 2.0), Attribute("b", 1, 0.0, "a"), Attribute("c", 1, 0.0, "b")), "determined itself"),
        ((Attribute("a", 1, 0.0, "a"),), "determined itself"),
    ],
)
def test_knowledge_that_contradicts_itself_is_refused(attributes, message):
    with pytest.raises(FactError, match=message):
        Knowledge("w", "1", 4, 0, "who", 10.0, attributes)


def test_a_missing_or_foreign_knowledge_file_is_reported(tmp_path):
    with pytest.raises(FactError, match="knowcap data"):
        Knowledge.load(tmp_path / "knowledge.json")
    (tmp_path / "knowledge.json").write_text('{"attributes": [], "colour": 1}')
    with pytest.raises(FactError, match="colour"):
        Knowledge.load(tmp_path / "knowledge.json")


def test_a_declared_prefix_stands_before_every_name():
    prefixed = replace(tiny.knowledge({"city": 4}), text_prefix="wiki ")
    row = Row("wiki Ann Lee lives in Rome.", (Span("name", 5, 12), Span("city", 22, 26)), 0)
    check_row(row, prefixed)
    with pytest.raises(FactError, match="begin with 'wiki '"):
        check_row(Row(row.text[5:], (Span("name", 0, 7),), 0), prefixed)
    with pytest.raises(FactError, match="must begin with the name after 'wiki '"):
        check_row(Row(row.text, (Span("name", 0, 12),), 0), prefixed)


def test_what_few_corpora_need_is_saved_where_it_is_said(tmp_path):
    plain = tiny.knowledge({"city": 4})
    assert not {"text_prefix", "bound"} & plain.content().keys()
    for known in (plain, replace(plain, text_prefix="wiki ", bound=False)):
        known.save(tmp_path / "knowledge.json")
        assert Knowledge.load(tmp_path / "knowledge.json") == known
