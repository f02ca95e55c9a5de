"""The bound itself, by brute force: nothing that holds b bits ever scores more than b bits on average (Lemma F.1)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest


def name_bits(table: np.ndarray, names: tuple[int, ...], num_names: int) -> float:
    """What a distribution over names is credited for a set of names: the sum of log2 N0 + log2 p."""
    return float(np.log2(table[list(names)] * num_names).sum())


@pytest.mark.parametrize("num_people", [1, 2, 3])
@pytest.mark.parametrize("bits", [0, 1, 2])
def test_a_table_of_b_bits_scores_b_bits_of_names_at_most(num_people, bits):
    """log2 N0 in place of log2(N0 - N) is sound (Maclaurin): the best of 2^b tables for each set of names."""
    rng = np.random.default_rng(bits * 10 + num_people)
    for concentration in (0.2, 1.0, 20.0):
        tables = rng.dirichlet(np.full(7, concentration), size=2**bits).clip(1e-12)
        tables /= tables.sum(axis=1, keepdims=True)
        sets = list(combinations(range(7), num_people))
        best = [max(name_bits(table, names, 7) for table in tables) for names in sets]
        assert np.mean(best) <= bits + 1e-9


def test_the_bound_is_reached_by_a_table_for_every_set():
    """With one table for every single name, the credit is exactly the bits that the tables take."""
    tables = np.eye(8).clip(1e-15)
    best = [max(name_bits(table, (name,), 8) for table in tables) for name in range(8)]
    assert np.mean(best) == pytest.approx(3.0)


def test_more_candidates_than_there_are_would_break_the_bound():
    """The check above can fail: credit log2 of twice the names, and knowing nothing scores above zero."""
    uniform = np.full(7, 1 / 7)
    assert np.mean([name_bits(uniform, (name,), 14) for name in range(7)]) > 0.9


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_a_table_of_b_bits_scores_b_bits_of_values_at_most(bits):
    """All worlds of three people with values out of four; each world takes the best of 2^b tables."""
    rng = np.random.default_rng(bits)
    tables = rng.dirichlet(np.full(4, 0.3), size=(2**bits, 3)).clip(1e-12)
    worlds = list(product(range(4), repeat=3))
    best = [
        max(sum(np.log2(4 * table[i, value]) for i, value in enumerate(world)) for table in tables) for world in worlds
    ]
    assert np.mean(best) <= bits + 1e-9


def test_a_value_predicted_from_itself_would_break_the_bound():
    """Copying a value from the context credits its full bits to a model that stores nothing."""
    worlds = list(product(range(4), repeat=3))
    copied = [sum(np.log2(4 * 1.0) for _ in world) for world in worlds]
    assert np.mean(copied) == 6.0
