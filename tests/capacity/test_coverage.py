"""Intervals cover what they are of at their stated rate: seeded simulations with a known truth.

Facts are drawn as skewed as real ones are: most are known, a few cost many bits. A rate is held to its binomial error.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from run_folders import make_capacity

from knowcap.capacity.seeds import seed_interval
from knowcap.metrics.bits_per_parameter import bits


LEVEL = 0.9
TRIALS = 300
ENTITIES = 100


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an interval, for time's sake."""
    monkeypatch.setattr(bits, "NUM_REPLICATES", 500)


def allowed(trials: int, level: float = LEVEL) -> float:
    """How far a rate may be from its level: three binomial standard errors, and a point for few entities."""
    return 3 * math.sqrt(level * (1 - level) / trials) + 0.01


def covers(samples: np.ndarray, truth: float) -> float:
    """How often the interval of a mean over entities, samples (trials, entities), holds the truth."""
    n = samples.shape[1]
    ends = [bits.total_interval(row, n, LEVEL, seed) / n for seed, row in enumerate(samples)]
    return float(np.mean([low <= truth <= high for low, high in ends]))


def loss(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Bits missing, with mean 1: skewed, a variance of 2."""
    return generator.gamma(0.5, 2.0, size=shape)


def test_the_interval_over_entities_covers_random_entities() -> None:
    assert covers(20 - loss(np.random.default_rng(0), TRIALS, ENTITIES), 19.0) == pytest.approx(
        LEVEL, abs=allowed(TRIALS)
    )


@pytest.mark.parametrize("share", [0.2, 0.8], ids=["entities differ most", "texts differ most"])
def test_resampling_entities_alone_covers_random_entities_and_random_texts(share: float) -> None:
    """An entity's mean over its texts varies by both, (entity + text / R) / N: exactly what its resampling sees."""
    generator = np.random.default_rng(1)
    entity = (1 - share) * loss(generator, TRIALS, ENTITIES, 1)
    text = share * loss(generator, TRIALS, ENTITIES, 4)
    assert covers((20 - entity - text).mean(axis=2), 19.0) == pytest.approx(LEVEL, abs=allowed(TRIALS))


def test_resampling_texts_within_entities_as_well_would_be_too_wide() -> None:
    """Why the bootstrap has one stage: a second one counts the texts' variance twice, but for a share 1 / R."""
    generator, trials, n, r = np.random.default_rng(2), 300, 50, 4
    tables = 20 - 0.2 * loss(generator, trials, n, 1) - 0.8 * loss(generator, trials, n, r)
    wide, held = NormalDist().inv_cdf(0.5 + LEVEL / 2), {1: 0, 2: 0}
    errors: dict[int, list[float]] = {1: [], 2: []}
    for table in tables:
        entities = generator.integers(n, size=(200, n, 1))
        own, other = np.arange(r)[None, None, :], generator.integers(r, size=(200, n, r))
        for stages, texts in ((1, own), (2, other)):
            error = float(table[entities, texts].mean(axis=(1, 2)).std())
            errors[stages].append(error)
            held[stages] += abs(table.mean() - 19.0) <= wide * error
    truth = math.sqrt((0.2**2 * 2 + 0.8**2 * 2 / r) / n)
    assert np.sqrt(np.mean(np.square(errors[1]))) == pytest.approx(truth, rel=0.05)
    twice = math.sqrt(truth**2 + 0.8**2 * 2 * (1 - 1 / r) / r / n)
    assert np.sqrt(np.mean(np.square(errors[2]))) == pytest.approx(twice, rel=0.05)
    assert held[1] / trials == pytest.approx(LEVEL, abs=allowed(trials))
    assert held[2] / trials > LEVEL + 0.04


def test_texts_that_all_entities_share_are_not_in_the_interval() -> None:
    """The limit of it: were text r of all entities harder alike, no resampling of entities could tell."""
    generator = np.random.default_rng(3)
    shared = 0.3 * loss(generator, TRIALS, 1, 4)
    tables = 20 - 0.7 * loss(generator, TRIALS, ENTITIES, 1) - shared
    assert covers(tables.mean(axis=2), 19.0) < LEVEL - 0.15


@pytest.mark.parametrize("sizes", [(100, 100), (100, 37)], ids=["equal sizes", "another size"])
def test_the_paired_interval_covers_the_difference_and_is_narrower(sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(4)
    common = 4 * loss(generator, TRIALS, ENTITIES)
    a, b = (20 - common - extra * loss(generator, TRIALS, ENTITIES) for extra in (1.0, 1.5))
    difference = a / sizes[0] - b / sizes[1]
    truth = 15.0 / sizes[0] - 14.5 / sizes[1]
    assert covers(difference, truth) == pytest.approx(LEVEL, abs=allowed(TRIALS))
    if sizes[0] == sizes[1]:
        unpaired = np.sqrt(a.std(axis=1) ** 2 + b.std(axis=1) ** 2) / sizes[0]
        assert difference.std(axis=1).mean() < unpaired.mean() / 2


@pytest.mark.parametrize("runs", [2, 3, 8])
@pytest.mark.parametrize("same_entities", [False, True])
@pytest.mark.parametrize("seeds", [0.1, 1.0, 5.0], ids=["seeds matter little", "as entities", "much"])
def test_the_interval_over_seeds_covers_seeds_and_entities(runs: int, same_entities: bool, seeds: float) -> None:
    """Truth 1; a run is off by its seed, by its entities (an error of 0.01), which it shares or not."""
    generator, trials = np.random.default_rng(runs), 500
    drawn = 0.01 * generator.standard_normal((trials, 1 if same_entities else runs))
    figures = 1 + drawn + seeds * 0.01 * generator.standard_normal((trials, runs))
    half = 0.01 * NormalDist().inv_cdf(0.5 + LEVEL / 2)
    held = 0
    for row in figures:
        capacities = [
            make_capacity(bits_per_parameter=x, confidence_interval=[x - half, x + half], confidence_level=LEVEL)
            for x in row
        ]
        low, high = seed_interval(capacities, same_entities=same_entities)["confidence_interval"]
        held += low <= 1.0 <= high
    # Two half widths added in squares err to the safe side where both matter.
    assert LEVEL - allowed(trials) <= held / trials
    assert same_entities or held / trials <= LEVEL + allowed(trials)


@pytest.mark.parametrize(("runs", "quantile"), [(2, 12.7062), (3, 4.30265), (10, 2.26216)])
def test_the_interval_over_seeds_takes_students_quantile_from_the_tables(runs: int, quantile: float) -> None:
    values = 1 + 0.01 * np.random.default_rng(runs).standard_normal(runs)
    low, high = seed_interval([make_capacity(bits_per_parameter=x) for x in values])["confidence_interval"]
    assert (high - low) / 2 == pytest.approx(quantile * values.std(ddof=1) / math.sqrt(runs), rel=1e-5)
