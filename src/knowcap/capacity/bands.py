"""Bits by how often people were seen in training, where that differs: ten bands of people, the most frequent first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from knowcap.capacity.tables import Facts, mean
from knowcap.facts import NAME
from knowcap.knowledge.frequencies import FREQUENCIES, Frequencies
from knowcap.metrics.bits_per_parameter.bits import total_interval


UNEQUAL = "frequencies_bits_per_entity"  # in capacity.json where people are not seen equally often, for any seed
NUM_BANDS = 10  # with (almost) equally many people each


class Bands:
    """Bits of ten bands of people, where people are not seen equally often.

    Band b of 10 has the people of ranks b N / 10 to (b + 1) N / 10: of equally many people, so that each has an
    interval, and of the same people in every recipe of one seed and N, whatever the power law.

    The people are drawn as ever, and their ranks independently of their facts: the sum over bands is the same lower
    bound as without them (Part 3.3, Lemma F.1). It is not one for a band's names alone: a model that expects frequent
    people has more bits of their names than log2 N0 - log2 N, and fewer of the others'.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        """Takes the frequencies of a measurement."""
        self._content, self._law = content, Frequencies.of_content(content)
        n = self._law.num_people
        self._ranks = np.empty(n, dtype=np.int64)
        self._ranks[self._law.people] = np.arange(n)
        number = min(NUM_BANDS, n)
        self._ends = [(-(-band * n // number), -(-(band + 1) * n // number)) for band in range(number)]
        self._bits: list[list[tuple[np.ndarray, ...]]] = [[] for _ in self._ends]  # of each band's people, by block

    @classmethod
    def of(cls, measurement: dict[str, Any]) -> Bands | None:
        """Those of a measurement; None where all people are seen equally often."""
        content = measurement.get(FREQUENCIES)
        return None if content is None else cls(content)

    def add(self, facts: Facts) -> None:
        """Takes the facts of some people, without first chunks."""
        found = self._ranks[facts.entities.astype(np.int64)]
        for (first, end), bits in zip(self._ends, self._bits, strict=True):
            bits.append(_bits(facts, np.flatnonzero((found >= first) & (found < end)), self._law.num_people))

    def content(self, confidence_level: float, seed: int) -> dict[str, Any]:
        """The entries of capacity.json.

        Args:
            confidence_level, seed: of the bootstrap over the people of a band.

        Returns:
            `frequencies`; `bands`, a list of `num_entities`, the mean, smallest and largest number of `exposures` of a
            person, `bits_per_entity` with `confidence_interval`, its parts `name_bits_per_entity` and
            `value_bits_per_entity`, `max_bits_per_entity` (a name's: log2 N0 - log2 N) and `share_of_max`, NaN for a
            band without scored people; and `frequencies_bits_per_entity`: what a perfect model of the stream is below
            R_max for every name, log2 N less the cross entropy of the frequencies after the warm-up, NaN if that is
            infinite. The sum of num_entities x bits_per_entity is name_bits + value_bits, if all people are scored.
        """
        counts, made = self._law.by_rank, []
        for (first, end), blocks in zip(self._ends, self._bits, strict=True):
            exposures = {"exposures": float(counts[first:end].mean())}
            exposures |= {"exposures_least": int(counts[end - 1]), "exposures_most": int(counts[first])}
            bits = tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))
            made.append({"num_entities": end - first, **exposures, **_band(bits, confidence_level, seed)})
        return {FREQUENCIES: self._content, UNEQUAL: self._law.bits_below_maximum, "bands": made}


def _bits(facts: Facts, rows: np.ndarray, num_people: int) -> tuple[np.ndarray, ...]:
    """Bits of the people at rows: of all facts, of the name, of values, and at most: each (rows,)."""
    names = np.array([attribute == NAME for attribute in facts.attributes])
    bits, most = facts.bits[rows], facts.references[rows].copy()
    most[:, names] -= math.log2(num_people)
    return tuple(np.nansum(table, axis=1) for table in (bits, bits[:, names], bits[:, ~names], most))


def _band(bits: tuple[np.ndarray, ...], confidence_level: float, seed: int) -> dict[str, Any]:
    """The bits of a person of a band, means over those of `_bits`."""
    totals, of_name, of_values, largest = bits
    interval = np.full(2, np.nan)
    if totals.size:
        interval = total_interval(totals, 1, confidence_level, seed)
    known, best = mean(of_name + of_values), mean(largest)
    return {
        "bits_per_entity": known,
        "confidence_interval": interval.tolist(),
        "name_bits_per_entity": mean(of_name),
        "value_bits_per_entity": mean(of_values),
        "max_bits_per_entity": best,
        "share_of_max": known / best if best else math.nan,
    }
