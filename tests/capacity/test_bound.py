"""The metric by brute force: a model that holds b bits never scores more than b bits on average (Lemma F.1)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from knowcap.metrics.bits_per_parameter.bits import knowledge_bits, max_knowledge_bits


def credited(probabilities: np.ndarray, candidates: int) -> float:
    """Bits that the metric credits for facts of so many candidates, each given this probability."""
    nll = -np.log(probabilities)[:, None]
    return knowledge_bits(nll, np.full_like(nll, np.log2(candidates)))


@pytest.mark.parametrize("num_people", [1, 2, 3])
@pytest.mark.parametrize("bits", [0, 1, 2])
def test_a_table_of_b_bits_scores_b_bits_of_names_at_most(num_people, bits):
    """log2 N0 in place of log2(N0 - N) is sound (Maclaurin): the best of 2^b tables for each set of names."""
    rng = np.random.default_rng(bits * 10 + num_people)
    for concentration in (0.2, 1.0, 20.0):
        tables = rng.dirichlet(np.full(7, concentration), size=2**bits).clip(1e-12)
        tables /= tables.sum(axis=1, keepdims=True)
        sets = list(combinations(range(7), num_people))
        best = [max(credited(table[list(names)], 7) for table in tables) for names in sets]
        assert np.mean(best) <= bits + 1e-9


def test_the_bound_is_reached_by_a_table_for_every_set():
    """With one table for every single name, the credit is exactly the bits that the tables take."""
    tables = np.eye(8).clip(1e-15)
    best = [max(credited(table[[name]], 8) for table in tables) for name in range(8)]
    assert np.mean(best) == pytest.approx(3.0)


@pytest.mark.parametrize("num_people", [1, 2, 4])
def test_no_table_scores_more_for_a_set_of_names_than_r_max(num_people):
    """The maximum of names is that of a table that is uniform over the set, and no other one reaches it."""
    most = max_knowledge_bits([[3.0]] * num_people, attribute_names=["name"], name_attribute="name")
    uniform = np.full(num_people, 1 / num_people)
    assert credited(uniform, 8) == pytest.approx(most)
    others = np.random.default_rng(0).dirichlet(np.ones(num_people), size=50)
    assert all(credited(table, 8) <= most + 1e-9 for table in others)


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_a_table_of_b_bits_scores_b_bits_of_values_at_most(bits):
    """All worlds of three people with values out of four; each world takes the best of 2^b tables."""
    rng = np.random.default_rng(bits)
    tables = rng.dirichlet(np.full(4, 0.3), size=(2**bits, 3)).clip(1e-12)
    worlds = list(product(range(4), repeat=3))
    best = [max(credited(table[np.arange(3), list(world)], 4) for table in tables) for world in worlds]
    assert np.mean(best) <= bits + 1e-9
