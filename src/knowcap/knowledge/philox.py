"""Counter-based randomness: any draw can be computed alone, in any order, on any machine, with the same result.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), vectorised over counters. A draw is
identified by seed, stream (a name for what is drawn) and index; no state is carried from one draw to the next.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_FEISTEL_ROUNDS = 8


def philox4x32(counter: Sequence[np.ndarray] | np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The generator's bijection.

    Args:
        counter: (4, n) of uint64, each below 2**32.
        key: two words below 2**32.

    Returns:
        (4, n) of uint64, each below 2**32: 128 random bits a counter.
    """
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (high >> _32) ^ c1 ^ np.uint64(k0), high & _LOW, (low >> _32) ^ c3 ^ np.uint64(k1), low & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def words(seed: int, stream: str, indices: np.ndarray, substream: int | np.ndarray = 0, block: int = 0) -> np.ndarray:
    """128 random bits for each index, as four 32-bit words.

    Args:
        seed: the recipe's seed, below 2**32.
        stream: a name for what is drawn; distinct names give independent draws.
        indices: (n,) of integers below 2**32.
        substream: a second index, such as an exposure's number, below 2**32; one for all, or (n,).
        block: below 2**32; more blocks of 128 bits of the same index, where one is not enough.

    Returns:
        (4, n) of uint64, each below 2**32.
    """
    indices = np.asarray(indices, dtype=np.uint64)
    counter = [indices, np.full_like(indices, substream), np.full_like(indices, block), np.zeros_like(indices)]
    return philox4x32(counter, (seed & 0xFFFFFFFF, zlib.crc32(stream.encode())))


def below(random: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Uniform integers in [0, limit) from 32-bit words, by multiplication; off by less than limit / 2**32 in
    probability.
    """
    return (random * np.asarray(limit, dtype=np.uint64)) >> _32


class KeyedPermutation:
    """A permutation of range(size) in which any index can be looked up alone: a keyed Feistel network with cycle
    walking.

    The domain is a rectangle a x b of just over `size` cells; one outside is permuted again until it falls inside.
    """

    def __init__(self, size: int, seed: int, stream: str, substream: int = 0) -> None:
        if size < 1:
            raise ValueError(f"size={size}, expected 1 or more")
        self.size = size
        self._keys = _keys(seed, stream, np.array([substream]))[:, 0, 0]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Where each index goes: (n,) integers below size → (n,) of int64."""
        indices = np.asarray(indices, dtype=np.uint64)
        if indices.size and int(indices.max()) >= self.size:
            raise ValueError(f"index {int(indices.max())} is outside a permutation of {self.size}")
        out = _feistel(indices, self.size, self._keys)
        outside = np.flatnonzero(out >= self.size)
        while outside.size:
            out[outside] = _feistel(out[outside], self.size, self._keys)
            outside = outside[out[outside] >= self.size]
        return out.astype(np.int64)


def permutations(size: int, seed: int, stream: str, substreams: np.ndarray) -> np.ndarray:
    """The whole `KeyedPermutation` of each substream (s,), made at once: (s, size) int64."""
    keys = _keys(seed, stream, np.asarray(substreams))
    out = _feistel(np.arange(size, dtype=np.uint64)[None], size, keys)
    while (outside := out >= size).any():
        out = np.where(outside, _feistel(out, size, keys), out)
    return out.astype(np.int64)


def _keys(seed: int, stream: str, substreams: np.ndarray) -> np.ndarray:
    """The keys of each round of each substream (s,): (rounds, s, 1)."""
    rounds = np.repeat(np.arange(_FEISTEL_ROUNDS), len(substreams))
    found = words(seed, "permutation/" + stream, rounds, np.tile(substreams, _FEISTEL_ROUNDS))
    return ((found[0] << _32) | found[1]).reshape(_FEISTEL_ROUNDS, len(substreams), 1)


def _feistel(x: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """The network over a rectangle of just over `size` cells, which takes each of its numbers to another one."""
    a = np.uint64(max(1, int(np.ceil(np.sqrt(size)))))
    b = np.uint64(-(-size // int(a)))
    left, right = x // b, x % b
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = (left + _mix(right ^ key) % a) % a
        else:
            right = (right + _mix(left ^ key) % b) % b
    return left * b + right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
