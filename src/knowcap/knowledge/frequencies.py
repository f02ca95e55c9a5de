"""How often each person is seen in training, where it is not equally often: by a power law of ranks, with a warm-up.

Ranks are drawn from the seed, independently of the people's names and values. Training is divided into exposures of
`num_people` texts each, as with equal frequencies, so that the number of texts is the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from knowcap.knowledge.philox import KeyedPermutation
from knowcap.recipe import Recipe


FREQUENCIES = "frequencies"  # in training.json, the measurement and capacity.json
EVEN: dict[str, Any] = {"exposures_exponent": 0.0, "warmup_exposures": 0}  # of a recipe where all are seen alike


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """The texts of each person: of rank r (1 … N) proportional to r^-exponent, `exposures` on average.

    The first `warmup_exposures` show only the people of the first ranks, a share `warmup_people_share` of all; the
    power law holds among those that are shown, in the warm-up and after it (Zucchet et al. 2025, "How do language
    models learn facts?", for a warm-up on a subset of the people).

    Whole numbers are found by largest remainders: each count is within one of the power law's, the sum is exact. In
    every exposure of its phase a person has the same number of texts to within one; which exposures have one more is
    drawn from the seed. A person may have none.
    """

    num_people: int
    exposures: int
    seed: int
    exponent: float = 0.0
    warmup_exposures: int = 0
    warmup_people_share: float = 1.0

    def content(self) -> dict[str, Any]:
        """The fields for JSON, as keywords; with the smallest and largest count, and the number of people without
        texts.
        """
        counts = self.by_rank
        summary = {"smallest": int(counts.min()), "largest": int(counts.max())}
        return asdict(self) | summary | {"people_never_seen": int(np.count_nonzero(counts == 0))}

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> Frequencies:
        """The frequencies that `content` describes."""
        return cls(**{key: content[key] for key in cls.__dataclass_fields__})

    @cached_property
    def people(self) -> np.ndarray:
        """The person of each rank: (N,) int64, a keyed permutation."""
        return KeyedPermutation(self.num_people, self.seed, "ranks")(np.arange(self.num_people))

    @cached_property
    def by_rank(self) -> np.ndarray:
        """The number of texts of the person of each rank: (N,) int64, none above the one before."""
        return sum((phase.counts for phase in self._phases), np.zeros(self.num_people, dtype=np.int64))

    @property
    def bits_below_maximum(self) -> float:
        """The bits of every name that a perfect model of the texts after the warm-up is below log2 N0 - log2 N.

        Its names have probabilities q, and the mean over people of -log2 q is log2 N and the divergence of q from
        equal frequencies. NaN if a person has none of these texts: the divergence is infinite.
        """
        counts = self._phases[-1].counts
        if not counts.min():
            return math.nan
        return math.fsum(np.log2(counts.sum() / (self.num_people * counts)).tolist()) / self.num_people

    def texts(self, exposure: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts at places (n,) of an exposure, each below N: their people, and which of its texts each is.

        A person's texts are numbered from 0 to its count - 1, each number once in all of training.
        """
        phase = self._phases[int(exposure >= self.warmup_exposures > 0)]
        rounds, number = phase.rounds, exposure - phase.first
        # All texts of the phase stand in a line, person by person: an exposure has every `rounds`-th of them.
        turn = KeyedPermutation(rounds, self.seed, "turns", phase.first)(np.array([number]))
        at = turn + rounds * np.asarray(places, dtype=np.int64)
        ranks = np.searchsorted(phase.ends, at, side="right")
        earlier = self._phases[0].counts[ranks] if phase.first else 0
        return self.people[ranks], at - phase.ends[ranks] + phase.counts[ranks] + earlier

    @cached_property
    def _phases(self) -> list[_Phase]:
        n, phases = self.num_people, []
        if self.warmup_exposures:
            shown = max(1, round(n * self.warmup_people_share))
            counts = np.zeros(n, dtype=np.int64)
            counts[:shown] = power_law_counts(shown, self.warmup_exposures * n, self.exponent)
            phases.append(_Phase(0, self.warmup_exposures, counts))
        rest = self.exposures - self.warmup_exposures
        return [*phases, _Phase(self.warmup_exposures, rest, power_law_counts(n, rest * n, self.exponent))]


class _Phase:
    """A part of training, `rounds` exposures from `first` on, in which the people of each rank have `counts` texts."""

    def __init__(self, first: int, rounds: int, counts: np.ndarray) -> None:
        self.first, self.rounds, self.counts, self.ends = first, rounds, counts, np.cumsum(counts)


def power_law_counts(size: int, total: int, exponent: float) -> np.ndarray:
    """Whole numbers proportional to r^-exponent for the ranks r = 1 … size, by largest remainders: (size,) int64.

    Their sum is `total`; none rises with the rank. Weights are rounded to float32 and summed exactly, so that the
    last bit of a machine's power function does not matter.
    """
    weights = (np.arange(1, size + 1, dtype=np.float64) ** -exponent).astype(np.float32).astype(np.float64)
    exact = weights * (total / math.fsum(weights))
    counts = np.floor(exact).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def frequencies_of(recipe: Recipe, num_people: int) -> Frequencies | None:
    """The recipe's frequencies; None if everybody is seen `exposures` times."""
    if not recipe.exposures_exponent and not recipe.warmup_exposures:
        return None
    return Frequencies(
        num_people=num_people,
        exposures=recipe.exposures,
        seed=recipe.seed,
        exponent=recipe.exposures_exponent,
        warmup_exposures=recipe.warmup_exposures,
        warmup_people_share=recipe.warmup_people_share if recipe.warmup_exposures else 1.0,
    )
