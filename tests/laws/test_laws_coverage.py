"""Intervals of laws hold the truth at their stated rate: seeded simulations, each law by its own formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import SIMULATED, batch_curves, envelope, noise_of, silence

from knowcap.laws import fit_law


LEVEL = 0.9


def coverage(law: str, trials: int, num_bootstraps: int = 10, make=None) -> dict[str, float]:
    """How often the interval of each constant holds it."""
    simulate, _, size = SIMULATED[law]
    held: dict[str, list[bool]] = {}
    for seed in range(trials):
        table, truth = make(seed) if make else simulate(noise_of(size, seed))
        fit = fit_law(law, table, num_bootstraps=num_bootstraps, confidence_level=LEVEL, seed=seed)
        for name, value in truth.items():
            low, high = fit.intervals[name]
            held.setdefault(name, []).append((low is None or low <= value) and (high is None or value <= high))
    return {name: float(np.mean(values)) for name, values in held.items()}


def allowed(trials: int) -> float:
    """Three binomial standard errors."""
    return 3 * math.sqrt(LEVEL * (1 - LEVEL) / trials)


@pytest.mark.parametrize("law", ["kaplan-n", "capacity"])
def test_profiles_cover_at_their_rate(law: str) -> None:
    found = coverage(law, 80)
    assert all(abs(rate - LEVEL) < allowed(80) for rate in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize(
    "law", ["kaplan-d", "kaplan-c", "kaplan-nd", "kaplan-ns", "critical-batch", "exposures", "chinchilla-isoflop"]
)
def test_profiles_of_other_laws_cover_at_their_rate(law: str) -> None:
    found = coverage(law, 150)
    assert all(abs(rate - LEVEL) < allowed(150) + 0.01 for rate in found.values()), found


@pytest.mark.slow
def test_the_bootstrap_of_approach_3_covers_at_its_rate() -> None:
    """64 points: percentiles of a bootstrap are a little narrow, by five points of a hundred at most."""
    found = coverage("chinchilla-parametric", 150, 200)
    assert all(LEVEL - allowed(150) - 0.05 < rate < LEVEL + allowed(150) for rate in found.values()), found


def runs_that_differ(seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Curves of L(N, S), each off by a factor of its own, which a profile over rows would take for so many
    observations.
    """
    table, truth = SIMULATED["kaplan-ns"][0](noise_of(0.003, seed))
    _, run = np.unique(table["num_parameters"], return_inverse=True)
    return table | {"run": run, "loss": table["loss"] * noise_of(0.01, seed + 10_000)(run.max() + 1)[run]}, truth


@pytest.mark.slow
def test_intervals_over_runs_cover_where_runs_differ_as_wholes() -> None:
    """Five runs; rows taken for independent would cover half of the time."""
    found = coverage("kaplan-ns", 150, 200, runs_that_differ)
    assert all(rate > LEVEL - allowed(150) - 0.03 for rate in found.values()), found


@pytest.mark.slow
def test_intervals_of_batch_curves_cover() -> None:
    found = coverage("critical-batch", 100, 200, lambda seed: batch_curves(noise_of(0.003, seed), 7))
    assert all(rate > LEVEL - allowed(100) - 0.03 for rate in found.values()), found


@pytest.mark.slow
def test_intervals_of_the_envelope_cover_where_runs_differ_as_wholes() -> None:
    def make(seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        table, truth = envelope(silence)
        _, run = np.unique(table["run"], return_inverse=True)
        factor = noise_of(0.002, seed)(run.max() + 1)[run]
        return table | {"loss": table["loss"] * factor}, {"exponent_parameters": truth["exponent_parameters"]}

    found = coverage("chinchilla-envelope", 100, 10, make)
    assert all(rate > LEVEL - allowed(100) - 0.03 for rate in found.values()), found
