"""bioR's texts: kept ones state every fact, their spans cut it out; others are rejected, for the right reason."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from writer_server import MONTHS, date_forms, facts_of, text_of

from knowcap.dataset.rewrite import Locator
from knowcap.dataset.rewrite.locate import date_pattern, hint_pattern
from knowcap.dataset.rewrite.stage import bior_knowledge
from knowcap.dataset.rewrite.task import KINDS, prompt_of
from knowcap.facts import Row, check_row, check_values
from knowcap.knowledge.people import People, full_name
from knowcap.knowledge.pools import BIRTH_DATES, Pools, format_birth_date, load_pools


POOLS = Pools(
    first_names=("Anya", "Ben"),
    middle_names=("Briar", "Cole"),
    last_names=("Forger", "Forge"),
    birth_cities=("Princeton, NJ", "Menlo Park, CA", "York, PA", "New York, PA"),
    universities=(
        "Massachusetts Institute of Technology",
        "University of Maryland, Baltimore",
        "University of Maryland, Baltimore County",
    ),
    majors=("Communications", "Technology", "Art"),
    employers=("Meta Platforms", "Disney", "Disney+", "Dow Inc."),
    work_cities=("Menlo Park, CA", "Burbank, CA", "Burbank, CA", "Midland, MI"),
)
PERSON = {
    "first_name": "Anya", "middle_name": "Briar", "last_name": "Forger", "birth_date": "October 2, 1996",
    "birth_city": "Princeton, NJ", "university": "Massachusetts Institute of Technology", "major": "Communications",
    "employer": "Meta Platforms", "work_city": "Menlo Park, CA", "pronoun": "She",
}  # fmt: skip
TEXT = (
    "Anya Briar Forger was born on October 2, 1996 in Princeton, NJ. She studied Communications at Massachusetts "
    "Institute of Technology. She works at Meta Platforms in Menlo Park, CA."
)
LOCATOR = Locator(POOLS)
VALUES = ("birth_city", "university", "major", "employer", "work_city")  # said as the lists have them


def locate(text: str, **changes: str):
    return LOCATOR.locate(text, PERSON | changes, 7)


def cut(row: Row) -> dict[str, str]:
    return {span.attribute: row.text[span.start : span.end] for span in row.spans}


def test_every_fact_has_its_span_in_the_order_of_the_text():
    row = locate(TEXT)
    assert isinstance(row, Row) and row.text == TEXT and row.entity == 7
    assert cut(row) == {
        "name": "Anya Briar Forger", "birth_date": "October 2, 1996", "birth_city": "Princeton, NJ", "pronoun": "She",
        "major": "Communications", "university": "Massachusetts Institute of Technology",
        "employer": "Meta Platforms", "work_city": "Menlo Park, CA",
    }  # fmt: skip
    assert list(cut(row)) == [span.attribute for span in sorted(row.spans, key=lambda s: s.start)]


def test_white_space_of_any_kind_becomes_single_blanks():
    spread = "\n " + TEXT.replace(" ", "\n\n").replace("Menlo\n\nPark", "Menlo\u00a0 Park") + "\t"
    assert locate(spread) == locate(TEXT)


@pytest.mark.parametrize(
    "form",
    ["October 2, 1996", "October 2nd, 1996", "2 October 1996", "2nd of October, 1996", "Oct. 2, 1996", "Oct 2 1996",
     "1996-10-02", "10/2/1996", "10/02/1996", "October 02, 1996", "October 2 of 1996", "2nd October 1996",
     "October the 2nd, 1996", "2nd day of October, 1996", "October 2nd in the year 1996"],
)  # fmt: skip
def test_a_date_is_found_in_the_form_that_it_takes(form):
    assert cut(locate(TEXT.replace("October 2, 1996", form)))["birth_date"] == form


@pytest.mark.parametrize(
    "form",
    ["October 3, 1996", "October 12, 1996", "October 2, 1997", "2/10/1996", "11/2/1996", "October 2", "1996",
     "October 22, 1996", "22 October 1996", "October 2th, 1996", "1996-02-10", "October 2, 19960", "110/2/1996"],
)  # fmt: skip
def test_another_date_or_part_of_one_is_not_the_date(form):
    assert locate(TEXT.replace("October 2, 1996", form)) == ("missing_birth_date",)


def test_all_forms_of_all_dates_are_found_and_are_no_other_date():
    draw = random.Random(0)
    for number in draw.sample(range(BIRTH_DATES), 300):
        value, other = format_birth_date(number), format_birth_date((number + draw.randrange(1, BIRTH_DATES)) % 67_200)
        for form in date_forms(value):
            assert date_pattern(value).search(f"born {form}, in") and hint_pattern(value)
            assert not date_pattern(other).search(f"born {form}, in"), (form, other)


def test_a_fact_within_a_longer_fact_is_not_found_there():
    assert locate(TEXT, major="Technology") == ("missing_major",)
    row = locate(TEXT.replace("Communications", "Technology"), major="Technology")
    assert row.text[: {s.attribute: s.start for s in row.spans}["major"]].endswith("She studied ")


@pytest.mark.parametrize("said", ["Disney", "Disney+"])
@pytest.mark.parametrize("own", ["Disney", "Disney+"])
def test_a_longer_value_of_the_list_is_not_the_shorter_one(own, said):
    text = TEXT.replace("Meta Platforms in Menlo Park, CA", f"{said} in Burbank, CA")
    found = locate(text, employer=own, work_city="Burbank, CA")
    assert cut(found)["employer"] == own if own == said else found == ("missing_employer",)


@pytest.mark.parametrize("said", POOLS.universities[1:])
@pytest.mark.parametrize("own", POOLS.universities[1:])
def test_a_campus_is_distinguished_from_another_with_a_longer_name(own, said):
    found = locate(TEXT.replace("Massachusetts Institute of Technology", said), university=own)
    assert cut(found)["university"] == own if own == said else found == ("missing_university",)


def test_a_value_is_found_as_whole_words_only():
    assert locate(TEXT.replace("Princeton, NJ", "New York, PA"), birth_city="York, PA") == ("missing_birth_city",)
    assert locate(TEXT.replace("Communications", "Artistry"), major="Art") == ("missing_major",)
    text = TEXT.replace("Meta Platforms in Menlo Park, CA", "Dow Inc. of Midland, MI")
    assert cut(locate(text, employer="Dow Inc.", work_city="Midland, MI"))["employer"] == "Dow Inc."


@pytest.mark.parametrize("born_first", [True, False])
def test_a_city_of_birth_and_of_work_needs_two_mentions(born_first):
    born, works = "She was born in Menlo Park, CA. ", "Meta Platforms employs her in Menlo Park, CA. "
    rest = "She was born on October 2, 1996 and studied Communications at Massachusetts Institute of Technology."
    text = "Anya Briar Forger is well known. " + (born + works if born_first else works + born)
    row = locate(text + rest, birth_city="Menlo Park, CA")
    starts = {span.attribute: span.start for span in row.spans}
    assert (starts["birth_city"] < starts["work_city"]) is born_first
    assert locate(text.replace(born, "") + rest, birth_city="Menlo Park, CA") == ("missing_work_city",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (TEXT + "\x00", "unprintable"),
        (TEXT + "\ud800", "unprintable"),
        ("I cannot write about private persons.", "name_not_first"),
        (f"**{TEXT}", "name_not_first"),
        (TEXT.replace("Forger", "Forgerson"), "name_not_first"),
        (TEXT.replace("Briar ", ""), "name_not_first"),
        (TEXT.replace("Communications", "communications"), "missing_major"),
        (TEXT.replace("She", "He"), "wrong_pronoun"),
        (TEXT.replace("She", "They"), "missing_pronoun"),
        (TEXT.replace("was born", "(class of 1996) was born"), "hinted_birth_date"),
        (TEXT.replace("was born", "(October 2) was born"), "hinted_birth_date"),
        (TEXT.replace("was born", "of meta platforms was born"), "hinted_employer"),
    ],
)
def test_a_text_is_rejected_for_a_reason(text, reason):
    found = locate(text)
    assert isinstance(found, tuple) and found[0] == reason


def test_all_that_is_missing_is_reported():
    assert locate("Anya Briar Forger lives.") == (
        "missing_birth_date", "missing_birth_city", "missing_university", "missing_major", "missing_employer",
        "missing_work_city", "missing_pronoun",
    )  # fmt: skip


@pytest.mark.parametrize("word", ["her", "Her", "hers", "herself", "SHE"])
def test_the_first_gendered_word_is_the_span_of_the_pronoun(word):
    row = locate(TEXT.replace(". She studied", f". Friends know that it is {word}. She studied"))
    assert cut(row)["pronoun"] == word


def test_what_is_kept_states_all_facts_by_brute_force():
    """Against a check that shares nothing with the search: every kept text of 400 people, half of them damaged."""
    people = People(load_pools(), 400, 3)
    locator, knowledge, draw = Locator(people.pools), bior_knowledge(people), random.Random(1)
    kept = 0
    for index, person in enumerate(people.texts(people.codes(np.arange(400)))):
        text = text_of(prompt_of(person, index, 0, 0, seed=3)[0], draw)
        if index % 2:
            victim = person[draw.choice(VALUES)]
            text = draw.choice([text.replace(victim, "X"), text[1:], text[: len(text) // 2], text.replace("he ", "")])
        row = locator.locate(text, person, index)
        if not isinstance(row, Row):
            assert index % 2, (text, row)
            continue
        kept += 1
        check_row(row, knowledge)
        values = cut(row)
        check_values(row, {a: person[a] for a in VALUES}, knowledge)
        assert set(values) == {"name", "birth_date", "pronoun", *VALUES}
        assert row.text.startswith(full_name(person)) and values["name"] == full_name(person)
        month, day, year = re.fullmatch(r"(\w+) (\d+), (\d+)", person["birth_date"]).groups()
        numbers = re.findall(r"\d+", values["birth_date"])
        assert year in numbers and {int(day)} <= {int(n) for n in numbers}
        assert month[:3] in values["birth_date"] or str(MONTHS.index(month) + 1) in {n.lstrip("0") for n in numbers}
        assert values["pronoun"].lower() in {"He": ("he", "his"), "She": ("she", "her")}[person["pronoun"]]
    assert kept >= 200


def test_prompts_state_all_facts_and_differ_from_draw_to_draw():
    prompts = [prompt_of(PERSON, person, rendering, attempt, 0)[0]
               for person in range(5) for rendering in range(5) for attempt in range(5)]  # fmt: skip
    assert len(set(prompts)) > 120 and len({next(k for k in KINDS if k in p) for p in prompts}) == len(KINDS)
    for prompt in prompts:
        facts = facts_of(prompt)
        assert facts.pop("pronoun") == "she, her, hers" and facts.pop("full name") == "Anya Briar Forger"
        assert sorted(facts.values()) == sorted(PERSON[attribute] for attribute in (*VALUES, "birth_date"))
    assert prompt_of(PERSON, 3, 2, 1, 0) == prompt_of(PERSON, 3, 2, 1, 0) != prompt_of(PERSON, 3, 2, 1, 1)
    assert len({prompt_of(PERSON, n, 0, 0, 0)[1] for n in range(50)}) == 50
