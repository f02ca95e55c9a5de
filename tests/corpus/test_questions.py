"""Questions: six a person, answered by what is true, and people split in two halves that have nothing in common."""

from __future__ import annotations

import math

import numpy as np
import pytest

from knowcap.corpus.bios import BioS
from knowcap.corpus.questions import QUESTIONS, HasQuestions, num_train_people, split_order
from knowcap.corpus.renderings import Variant
from knowcap.corpus.templates import load_templates
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools


def corpus(**variant) -> BioS:
    return BioS(People(load_pools(), 400, seed=6), load_templates(1), Variant(**variant))


def test_every_person_is_asked_six_questions_that_name_them_and_no_value():
    made = corpus()
    columns, people = made.questions(np.arange(400)), made.people_columns(0, 400)
    assert set(columns) == {"person_id", "attribute", "question", "answer"}
    rows = list(zip(*columns.values(), strict=True))
    assert len(rows) == 2400 and len({(p, a) for p, a, *_ in rows}) == 2400
    for person, attribute, question, answer in rows:
        name = " ".join(people[part][person] for part in ("first_name", "middle_name", "last_name"))
        assert question.count(name) == 1 and question.endswith("?")
        assert answer == people[attribute][person]
    assert {a for _, a, *_ in rows} == {"birth_date", "birth_city", "university", "major", "employer", "work_city"}


def test_a_question_tells_its_attribute_and_nothing_else():
    assert len(set(QUESTIONS.values())) == 6
    assert all(question.count("{name}") == 1 for question in QUESTIONS.values())


def test_people_of_any_numbers_are_asked_alone():
    made = corpus()
    together, alone = made.questions(np.arange(400)), made.questions(np.array([77]))
    assert {k: v[77 * 6 : 78 * 6] for k, v in together.items()} == alone


def test_all_variants_ask_alike():
    plain = corpus().questions(np.arange(20))
    assert corpus(full_name=True, permute=False, fixed_renderings=1).questions(np.arange(20)) == plain
    assert isinstance(corpus(), HasQuestions)


@pytest.mark.parametrize("num_people", [1, 2, 5, 1000])
def test_the_halves_are_disjoint_and_everybody(num_people):
    half = num_train_people(num_people)
    train = split_order(num_people, 3, np.arange(half))
    test = split_order(num_people, 3, np.arange(half, num_people))
    assert len(train) - len(test) in (0, 1)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(num_people))


def test_the_halves_are_drawn_by_the_seed_and_independent_of_values():
    people = People(load_pools(), 40_000, seed=1)
    train = split_order(40_000, 1, np.arange(20_000))
    assert not np.array_equal(np.sort(train), np.sort(split_order(40_000, 2, np.arange(20_000))))
    assert abs(train.mean() - 19_999.5) < 5 * 40_000 / math.sqrt(12 * 20_000)
    for codes, size in ((people.codes(train)[8], 2), (people.codes(train)[6], 100)):
        counts = np.bincount(codes, minlength=size)
        chi2 = float(((counts - 20_000 / size) ** 2 / (20_000 / size)).sum())
        assert abs(chi2 - (size - 1)) < 5 * math.sqrt(2 * (size - 1))
