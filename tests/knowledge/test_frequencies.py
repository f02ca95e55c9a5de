"""Power-law exposures: whole numbers of an exact sum, ranks that are drawn, every text once in all of training."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from knowcap.knowledge.frequencies import Frequencies, frequencies_of, power_law_counts
from knowcap.recipe import Recipe


EVEN = Frequencies(num_people=97, exposures=30, seed=5)
LAWS = {
    "even": EVEN,
    "power law": replace(EVEN, exponent=0.7),
    "people without texts": replace(EVEN, exponent=2.0, exposures=3),
    "one exposure": replace(EVEN, exponent=1.0, exposures=1),
    "warm-up": replace(EVEN, warmup_exposures=10, warmup_people_share=0.25),
    "power law, warm-up": replace(EVEN, exponent=1.2, warmup_exposures=10, warmup_people_share=0.5),
    "one person": replace(EVEN, exponent=1.0, num_people=1),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def texts_of(law: Frequencies) -> list[Counter]:
    """How many texts of each person every exposure has."""
    return [Counter(law.texts(e, np.arange(law.num_people))[0].tolist()) for e in range(law.exposures)]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
@pytest.mark.parametrize(("size", "total"), [(1, 7), (10, 5), (97, 97), (97, 2910), (150, 123_457)])
def test_counts_are_those_of_largest_remainders_in_exact_arithmetic(exponent, size, total):
    weights = [Fraction(1, rank**exponent) for rank in range(1, size + 1)]
    exact = [weight * total / sum(weights) for weight in weights]
    expected = [math.floor(share) for share in exact]
    for rank in sorted(range(size), key=lambda r: (expected[r] - exact[r], r))[: total - sum(expected)]:
        expected[rank] += 1
    counts = power_law_counts(size, total, exponent)
    assert counts.sum() == total
    assert (np.diff(counts) <= 0).all()
    assert np.abs(counts - np.array(expected)).max() <= 1  # weights are float32; a remainder may move to a neighbor
    assert np.count_nonzero(counts != expected) <= 2


@pytest.mark.parametrize("exponent", [0.3, 0.6, 0.8, 1.0, 1.5])
def test_counts_follow_the_power_law(exponent):
    size, total = 3000, 3000 * 1000
    ranks = np.arange(1, size + 1)
    expected = total * ranks**-exponent / (ranks**-exponent).sum()
    assert np.abs(power_law_counts(size, total, exponent) - expected).max() <= 1 + expected.max() * 1e-6


@laws
def test_every_text_of_every_person_comes_once_in_training(law):
    found = [law.texts(exposure, np.arange(law.num_people)) for exposure in range(law.exposures)]
    assert all(len(people) == law.num_people for people, _ in found)
    pairs = Counter(pair for people, numbers in found for pair in zip(people.tolist(), numbers.tolist(), strict=True))
    counts = dict(zip(law.people.tolist(), law.by_rank.tolist(), strict=True))
    assert pairs == Counter((person, number) for person, count in counts.items() for number in range(count))
    assert sum(counts.values()) == law.num_people * law.exposures


@laws
def test_a_text_is_found_alone_and_in_a_new_object(law):
    people, numbers = law.texts(law.exposures - 1, np.arange(law.num_people))
    again = replace(law)
    for place in range(0, law.num_people, 13):
        person, number = again.texts(law.exposures - 1, np.array([place]))
        assert (person[0], number[0]) == (people[place], numbers[place])


@pytest.mark.parametrize("name", ["even", "power law", "people without texts", "one exposure"])
def test_a_person_is_spread_over_the_exposures(name):
    law = LAWS[name]
    found = texts_of(law)
    for person, count in zip(law.people.tolist(), law.by_rank.tolist(), strict=True):
        share = [counter[person] for counter in found]
        assert {math.floor(count / law.exposures), math.ceil(count / law.exposures)} >= set(share)


def test_rare_people_come_early_and_late():
    law = Frequencies(num_people=2000, exposures=50, seed=1, exponent=1.0)
    exposures = {person: [] for person in law.people[-500:].tolist()}
    for exposure, counter in enumerate(texts_of(law)):
        for person in exposures.keys() & counter.keys():
            exposures[person].append(exposure)
    means = np.array([np.mean(where) for where in exposures.values()])
    count = len(next(iter(exposures.values())))
    assert 5 < count < 15
    assert np.mean(means) == pytest.approx(24.5, abs=1.5)
    spread = np.sqrt((50**2 - 1) / 12 / count * (50 - count) / 49)  # of a mean of `count` of 50 drawn at random
    assert 0.6 * spread < means.std() < 1.4 * spread


@pytest.mark.parametrize("name", ["warm-up", "power law, warm-up"])
def test_a_warm_up_shows_the_people_of_the_first_ranks_and_then_all_are_shown(name):
    law = LAWS[name]
    shown = set(law.people[: round(law.warmup_people_share * law.num_people)].tolist())
    found = texts_of(law)
    during, after = (sum(part, Counter()) for part in (found[: law.warmup_exposures], found[law.warmup_exposures :]))
    assert set(during) == shown
    assert set(after) == set(range(law.num_people))
    if not law.exponent:
        assert set(after.values()) == {law.exposures - law.warmup_exposures}
        assert max(during.values()) - min(during.values()) <= 1


def test_a_tiny_exponent_shows_all_people_equally_often():
    law = Frequencies(num_people=100_000, exposures=30, seed=5, exponent=1e-9)
    assert set(law.by_rank.tolist()) == {30}


def test_ranks_are_drawn_from_the_seed_and_are_not_the_order_of_the_people():
    law = Frequencies(num_people=5000, exposures=1, seed=0)
    assert sorted(law.people.tolist()) == list(range(5000))
    other = replace(law, seed=1)
    for one, two in [(law.people, np.arange(5000)), (law.people, other.people), (other.people, np.arange(5000))]:
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / math.sqrt(5000)
    assert np.array_equal(law.people, replace(law, exposures=9, exponent=1.0).people)


def test_the_content_gives_the_same_frequencies_and_their_summary():
    law = LAWS["people without texts"]
    content = law.content()
    assert Frequencies.of_content(content) == law
    counts = sum(texts_of(law), Counter())
    assert content["largest"] == max(counts.values())
    assert content["smallest"] == 0
    assert content["people_never_seen"] == law.num_people - len(counts) > 0
    assert content["exposures"] == sum(counts.values()) / law.num_people


def test_names_cost_the_divergence_of_the_frequencies_from_equal_ones():
    law = LAWS["power law"]
    q = law.by_rank / law.by_rank.sum()
    assert law.bits_below_maximum == pytest.approx(np.mean(-np.log2(q)) - math.log2(law.num_people))
    assert law.bits_below_maximum > 0.1
    assert LAWS["warm-up"].bits_below_maximum == 0  # all are equally frequent after it
    assert math.isnan(LAWS["people without texts"].bits_below_maximum)


def test_a_recipe_has_frequencies_where_people_are_seen_unequally():
    recipe = Recipe(num_people=97, exposures=30, seed=5)
    assert frequencies_of(recipe, 97) is None
    assert frequencies_of(replace(recipe, exposures_exponent=0.7), 97) == LAWS["power law"]
    warm = replace(recipe, warmup_exposures=10, warmup_people_share=0.25)
    assert frequencies_of(warm, 97) == LAWS["warm-up"]
