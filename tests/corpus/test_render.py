"""Rendering: exact spans, fresh and uniform forms, nothing that tells a fact early."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from value_lists import NASTY

from knowcap.corpus.renderings import draw_forms, render
from knowcap.corpus.templates import SENTENCES, Template, load_templates
from knowcap.facts import check_row, check_values, scored_facts
from knowcap.knowledge.people import People, full_name
from knowcap.knowledge.pools import load_pools


@pytest.mark.parametrize(("pools", "count"), [(load_pools(), 24_000), (NASTY, 18)], ids=["ours", "nasty"])
def test_spans_cut_out_the_exact_values(pools, count):
    people, templates = People(pools, count, seed=4), load_templates()
    knowledge = people.knowledge()
    checked = 0
    for exposure in range(1 if count > 18 else 1200):
        persons = people.texts(people.codes(np.arange(count)))
        for row, person in zip(render(people, np.arange(count), exposure, templates), persons, strict=True):
            values = person | {"name": full_name(person)}
            assert all(row.text[s.start : s.end] == values[s.attribute] for s in row.spans)
            assert row.text.startswith(values["name"]) and row.spans[0].attribute == "name"
            assert sorted(s.attribute for s in row.spans) == sorted(("name", "pronoun", *SENTENCES))
            check_row(row, knowledge)
            checked += 1
    assert checked >= 18 * 1200


def test_no_value_stands_outside_its_span():
    people, templates = People(load_pools(), 500, seed=0), load_templates()
    for row, person in zip(
        render(people, np.arange(500), 0, templates), people.texts(people.codes(np.arange(500))), strict=True
    ):
        check_values(
            row,
            {a: person[a] for a in ("birth_date", "birth_city", "university", "employer", "work_city")},
            people.knowledge(),
        )


def test_the_pronoun_is_marked_once_where_it_comes_first():
    people, templates = People(load_pools(), 200, seed=0), load_templates()
    for row in render(people, np.arange(200), 3, templates):
        (span,) = [s for s in row.spans if s.attribute == "pronoun"]
        said = row.text[span.start : span.end]
        assert said in ("He", "She")
        assert f" {said} " not in row.text[: span.start]
        assert row.text.count(f". {said} ") == 5 and row.text.count(". ") >= 5


def test_forms_are_uniform_and_fresh_at_every_exposure():
    templates = {sentence: tuple(Template(f" x{i} ", ".") for i in range(7)) for sentence in SENTENCES}
    forms = [draw_forms(9, np.arange(2000), exposure, templates) for exposure in range(36)]
    orders = Counter(tuple(row) for f in forms for row in f.order.tolist())
    assert len(orders) == 720
    chi2 = sum((n - 100) ** 2 / 100 for n in orders.values())
    assert abs(chi2 - 719) < 5 * math.sqrt(2 * 719)
    joint = Counter()
    for f in forms:
        by_sentence = np.empty_like(f.templates)
        np.put_along_axis(by_sentence, f.order.astype(np.intp), f.templates, axis=1)
        for a in range(0, 6, 2):
            joint.update((a, *pair) for pair in by_sentence[:, a : a + 2].tolist())
    expected = 72_000 / 49
    chi2 = sum((n - expected) ** 2 / expected for n in joint.values())
    assert len(joint) == 3 * 49
    assert abs(chi2 - 3 * 48) < 5 * math.sqrt(2 * 3 * 48)
    assert not np.array_equal(forms[0].order, forms[1].order)


def test_forms_of_a_person_can_be_made_alone():
    templates = load_templates()
    together = draw_forms(1, np.arange(100), 8, templates)
    alone = draw_forms(1, np.array([42]), 8, templates)
    assert np.array_equal(alone.order[0], together.order[42])
    assert np.array_equal(alone.templates[0], together.templates[42])


def test_every_biography_scores_the_seven_facts_and_no_more():
    people, templates = People(load_pools(), 300, seed=0), load_templates()
    knowledge = people.knowledge()
    bits = knowledge.name_log2_candidates + people.pools.values_log2
    for row in render(people, np.arange(300), 0, templates):
        facts = scored_facts(row.spans, knowledge)
        assert sorted(f.attribute for f in facts) == sorted(
            ["name", "pronoun", "birth_date", "birth_city", "university", "major", "employer"]
        )
        assert math.isclose(sum(f.log2_candidates for f in facts), bits)
