"""People: distinct names by construction, uniform values, made alone and in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from knowcap.facts import CorpusError
from knowcap.knowledge.people import CODES, People, full_name
from knowcap.knowledge.pools import BIRTH_DATES, Pools, load_pools


SMALL = Pools(("A", "B", "C"), ("D", "E"), ("F", "G", "H", "I"), ("P, QQ", "R, SS"), ("U", "V", "W"), ("M", "N"),
              ("X", "Y", "Z"), ("P, QQ", "P, QQ", "T, TT"))  # fmt: skip


def test_all_names_of_small_pools_come_once():
    people = People(SMALL, 24, seed=3)
    names = [full_name(p) for p in people.texts(people.codes(np.arange(24)))]
    assert len(set(names)) == 24


def test_names_of_many_people_are_distinct():
    people = People(load_pools(), 200_000, seed=1)
    first, middle, last = people.codes(np.arange(200_000))[:3].astype(np.int64)
    assert len(np.unique((first * 400 + middle) * 1000 + last)) == 200_000


def test_outsiders_have_names_that_no_person_has():
    people = People(SMALL, 20, seed=0)
    inside = {full_name(p) for p in people.texts(people.codes(np.arange(20)))}
    outside = {full_name(p) for p in people.texts(people.codes(np.arange(20, 24)))}
    assert people.num_outsiders == len(outside) == 4
    assert not inside & outside


def test_a_person_can_be_made_alone():
    people = People(load_pools(), 1000, seed=5)
    together = people.codes(np.arange(1000))
    assert np.array_equal(people.codes(np.array([999, 17])), together[:, [999, 17]])
    assert not np.array_equal(People(load_pools(), 1000, seed=6).codes(np.arange(1000)), together)


@pytest.mark.parametrize("column", CODES)
def test_values_are_uniform(column):
    pools = load_pools()
    size = {"first_name": 400, "middle_name": 400, "last_name": 1000, "birth_date": BIRTH_DATES} | {
        k: v for k, v in pools.candidates.items() if k != "birth_date"
    }
    count = 300_000
    codes = People(pools, count, seed=2).codes(np.arange(count))[CODES.index(column)].astype(np.int64)
    bins = min(size[column], 300)
    observed = np.bincount(codes * bins // size[column], minlength=bins)
    widths = np.bincount(np.arange(size[column]) * bins // size[column], minlength=bins) / size[column]
    chi2 = ((observed - count * widths) ** 2 / (count * widths)).sum()
    assert abs(chi2 - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))


def test_values_are_independent_of_one_another():
    codes = People(load_pools(), 100_000, seed=2).codes(np.arange(100_000)).astype(float)
    correlation = np.corrcoef(codes)
    assert np.abs(correlation - np.eye(len(CODES))).max() < 5 / math.sqrt(100_000)


def test_the_work_city_is_the_employers_headquarters():
    people = People(SMALL, 24, seed=0)
    headquarters = dict(zip(SMALL.employers, SMALL.work_cities, strict=True))
    assert all(p["work_city"] == headquarters[p["employer"]] for p in people.texts(people.codes(np.arange(24))))


# PAPER.md 1.1: bits a person, and all of them in millions (Part 3.3, Def. 4.3).
@pytest.mark.parametrize(
    ("num_people", "bits", "millions"),
    [
        (10_000, 61.557, 0.616), (20_000, 60.557, 1.211), (50_000, 59.235, 2.962), (100_000, 58.235, 5.824),
        (200_000, 57.235, 11.447), (500_000, 55.914, 27.957), (1_000_000, 54.914, 54.914),
        (2_000_000, 53.914, 107.83), (5_000_000, 52.592, 262.96), (10_000_000, 51.592, 515.92),
        (20_000_000, 50.592, 1011.8),
    ],
)  # fmt: skip
def test_bits_per_person_are_the_papers(num_people, bits, millions):
    knowledge = People(load_pools(), num_people, seed=0).knowledge()
    assert knowledge.bits_per_person == pytest.approx(bits, abs=6e-4)
    assert knowledge.total_bits / 1e6 == pytest.approx(millions, rel=1e-4, abs=5e-4)
    exact = num_people * (math.log2(160_000_000 / num_people) + math.log2(212_083_200_000_000))
    assert knowledge.total_bits == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("num_people", [0, 25])
def test_more_people_than_names_is_an_error(num_people):
    with pytest.raises(CorpusError, match="expected 1 to 24, the number of names"):
        People(SMALL, num_people, seed=0)
