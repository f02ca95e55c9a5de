"""Counter-based randomness against published vectors and counts."""

from __future__ import annotations

import numpy as np
import pytest

from knowcap.knowledge.philox import KeyedPermutation, below, permutations, philox4x32, words


# Random123's kat_vectors: counter, key, expected.
VECTORS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert philox4x32(np.array(counter, dtype=np.uint64)[:, None], key)[:, 0].tolist() == expected


def test_a_draw_does_not_depend_on_its_neighbours():
    many = words(3, "x", np.arange(1000), substream=5)
    assert np.array_equal(words(3, "x", np.array([700, 2]), substream=5), many[:, [700, 2]])
    assert not np.array_equal(words(3, "y", np.arange(1000), substream=5), many)
    assert not np.array_equal(words(3, "x", np.arange(1000), substream=6), many)
    assert not np.array_equal(words(4, "x", np.arange(1000), substream=5), many)


def test_draws_below_a_limit_are_uniform():
    draws = below(words(0, "u", np.arange(200_000))[1], 200)
    counts = np.bincount(draws.astype(int), minlength=200)
    chi2 = ((counts - 1000.0) ** 2 / 1000).sum()
    assert 199 - 5 * np.sqrt(2 * 199) < chi2 < 199 + 5 * np.sqrt(2 * 199)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000, 65_536, 100_003])
def test_a_keyed_permutation_is_one(size):
    image = KeyedPermutation(size, 1, "p")(np.arange(size))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_a_keyed_permutation_reaches_a_big_domain_from_any_index_alone():
    permutation = KeyedPermutation(160_000_000, 0, "names")
    some = np.array([0, 1, 159_999_999, 77])
    assert permutation(some).tolist() == [int(permutation(np.array([i]))[0]) for i in some]


def test_permutations_of_a_few_are_uniform_over_their_keys():
    seen = {}
    for key in range(6000):
        order = tuple(KeyedPermutation(3, key, "p", substream=key % 7)(np.arange(3)).tolist())
        seen[order] = seen.get(order, 0) + 1
    chi2 = sum((count - 1000) ** 2 / 1000 for count in seen.values())
    assert len(seen) == 6
    assert chi2 < 5 + 5 * np.sqrt(10)


def test_neighbours_do_not_stay_neighbours():
    image = KeyedPermutation(10_000, 2, "p")(np.arange(10_000)).astype(float)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05


def test_an_index_outside_is_an_error():
    with pytest.raises(ValueError, match="outside a permutation of 5"):
        KeyedPermutation(5, 0, "p")(np.array([5]))


@pytest.mark.parametrize("size", [1, 2, 5, 30, 1000])
def test_permutations_made_at_once_are_those_made_alone(size):
    substreams = np.array([0, 1, 7, 500, 2**32 - 1])
    found = permutations(size, 3, "order", substreams)
    alone = [KeyedPermutation(size, 3, "order", int(substream))(np.arange(size)) for substream in substreams]
    assert found.dtype == np.int64 and np.array_equal(found, np.stack(alone))
