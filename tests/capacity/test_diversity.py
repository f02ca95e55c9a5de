"""bioD's sets and values: distinct, uniform, made alone in any order, whatever their sizes."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from knowcap.facts import CorpusError
from knowcap.knowledge.diversity import Diversity


def make(k: int = 1, c: int = 1, d: int = 1, length: int = 1, t: int = 1, seed: int = 0) -> Diversity:
    """bioD's numbers in the paper's order."""
    return Diversity(k, c, d, length, t, seed)


def chi_square(counts: list[int], expected: float) -> float:
    """How many standard deviations the statistic lies above its mean."""
    statistic = sum((count - expected) ** 2 / expected for count in counts)
    freedom = len(counts) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("d", "length", "t"),
    [(1, 1, 1), (1, 7, 1), (8, 3, 2), (9, 2, 3), (5, 2, 3), (4, 2, 3), (256, 2, 16), (200, 2, 16),
     (10_000, 50, 40_000),
     (10_000, 5, 20), (1024, 10, 2), (511, 10, 2), (20, 1, 20), (3000, 6, 4)],
)  # fmt: skip
def test_the_strings_of_a_set_are_distinct_and_of_the_alphabet(d, length, t):
    strings = make(d=d, length=length, t=t).strings(0)
    assert strings.shape == (d, length)
    assert 0 <= strings.min() <= strings.max() < t
    assert len(set(map(tuple, strings.tolist()))) == d


@pytest.mark.parametrize("d", [2, 4, 5, 7])
def test_every_set_of_strings_is_equally_likely(d):
    """By brute force: T^L = 8 strings, all ordered pairs of the first two and all sets of D; both ways of drawing."""
    draws = 8000
    sets, firsts, made = Counter(), Counter(), make(d=d, length=3, t=2)
    for attribute in range(draws):
        numbers = made.strings(attribute) @ [4, 2, 1]
        sets[frozenset(numbers.tolist())] += 1
        firsts[tuple(numbers[:2].tolist())] += 1
    assert len(sets) == math.comb(8, d)
    assert len(firsts) == 8 * 7
    assert abs(chi_square(list(sets.values()), draws / math.comb(8, d))) < 4
    assert abs(chi_square(list(firsts.values()), draws / 56)) < 4


def test_the_symbols_of_a_huge_set_are_uniform_at_every_place():
    strings = make(d=10_000, length=50, t=20).strings(3)
    for place in range(50):
        assert abs(chi_square(np.bincount(strings[:, place], minlength=20).tolist(), 500)) < 5


def test_attributes_and_seeds_have_sets_of_their_own():
    sets = [make(k=2, d=50, length=4, t=10, seed=seed).strings(a) for seed in (0, 1) for a in (0, 1)]
    shared = [len(set(map(tuple, a.tolist())) & set(map(tuple, b.tolist()))) for a in sets for b in sets if a is not b]
    assert max(shared) < 5  # 50 of 10,000: 0.25 expected


def test_values_are_uniform_and_independent_over_people_attributes_and_chunks():
    chunks = make(k=3, c=6, d=4, length=2, t=4).chunks(np.arange(4000))
    assert chunks.shape == (4000, 3, 6)
    columns = chunks.reshape(4000, 18)
    for a in range(18):
        assert abs(chi_square(np.bincount(columns[:, a], minlength=4).tolist(), 1000)) < 5
        for b in range(a):
            pairs = np.bincount(columns[:, a] * 4 + columns[:, b], minlength=16)
            assert abs(chi_square(pairs.tolist(), 250)) < 5


def test_a_person_alone_has_the_values_that_it_has_among_all():
    d = make(k=3, c=5, d=100, length=3, t=9, seed=7)
    everybody = d.chunks(np.arange(1000))
    assert np.array_equal(d.chunks(np.array([998, 3])), everybody[[998, 3]])
    assert not np.array_equal(make(k=3, c=5, d=100, length=3, t=9, seed=8).chunks(np.arange(1000)), everybody)


@pytest.mark.parametrize(("d", "c", "length", "t"), [(10, 3, 4, 5), (2, 62, 2, 3), (2, 63, 2, 3), (624, 1, 4, 5)])
def test_bits_are_the_closed_forms(d, c, length, t):
    """Integers and fractions, taken to a logarithm last."""
    numbers = make(c=c, d=d, length=length, t=t)
    assert numbers.log2_candidates == pytest.approx(math.log2(d**c), rel=1e-12)
    ratio = Fraction(t**length, d)
    assert numbers.log2_strings == pytest.approx(math.log2(ratio.numerator) - math.log2(ratio.denominator), abs=1e-9)
    assert numbers.candidates == (d**c if d**c < 2**63 else None)


def test_bits_far_beyond_64_are_sums_of_logs():
    numbers = make(c=50, d=10_000, length=50, t=40_000)
    assert numbers.candidates is None
    assert numbers.log2_candidates == pytest.approx(math.log2(10_000**50), rel=1e-12)
    assert numbers.log2_strings == pytest.approx(math.log2(40_000**50 // 10_000), rel=1e-12)


def test_a_set_of_all_strings_has_no_bits():
    assert make(d=256, length=2, t=16).log2_strings == 0.0
    assert make(d=1, length=5, t=1).log2_strings == 0.0
    assert make(d=255, length=2, t=16).log2_strings == pytest.approx(math.log2(256 / 255))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"d": 257, "length": 2, "t": 16},
            r"diversity=257, but chunk_length=2 over alphabet_size=16 makes 256 strings",
        ),
        ({"d": 2, "length": 9, "t": 1}, r"diversity=2, .* makes 1 strings"),
        ({"k": 0}, "num_attributes=0, expected 1 or more"),
        ({"c": -1}, "chunks_per_value=-1, expected 1 or more"),
        ({"t": 2**31}, "alphabet_size=2147483648, expected"),
    ],
)
def test_impossible_settings_name_the_numbers(changes, message):
    with pytest.raises(CorpusError, match=message):
        make(**changes)


@pytest.mark.parametrize("num_people", [1, 5, 40, 500])
def test_first_chunks_that_occur_are_counted_as_a_set_of_them_counts(num_people):
    numbers = make(k=3, c=2, d=50, length=3, t=9, seed=2)
    chunks = numbers.chunks(np.arange(num_people))
    assert numbers.num_first_chunks(num_people) == [len(set(chunks[:, a, 0].tolist())) for a in range(3)]
