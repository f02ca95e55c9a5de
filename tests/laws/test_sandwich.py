"""Sandwich variances against their definition with whole matrices; intervals that hold under noise of all kinds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import NOISES, held, noisy

from knowcap.laws import fit_law
from knowcap.laws.sandwich import correlated, robust


def defined(x: np.ndarray, residual: np.ndarray, groups: np.ndarray) -> tuple[list[float], list[float]]:
    """Variance of each constant by CR2, and Satterthwaite's degrees of freedom from the eigenvalues."""
    inverse = np.linalg.inv(x.T @ x)
    maker = np.eye(len(x)) - x @ inverse @ x.T
    variances, degrees = [], []
    for column in inverse:
        total, parts = 0.0, []
        for group in np.unique(groups):
            rows = groups == group
            values, axes = np.linalg.eigh(maker[np.ix_(rows, rows)])
            along = (axes * values**-0.5) @ axes.T @ x[rows] @ column
            total += float(along @ residual[rows]) ** 2
            parts.append(maker[:, rows] @ along)
        values = np.linalg.eigvalsh(np.array(parts) @ np.array(parts).T)
        variances.append(total)
        degrees.append(float(values.sum() ** 2 / (values**2).sum()))
    return variances, degrees


@pytest.mark.parametrize("size", [1, 4])
def test_variance_and_degrees_of_freedom_are_those_of_the_definition(size: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(24, 3)) * [1, 10, 0.1]
    residual = random.normal(size=24)
    residual -= x @ np.linalg.lstsq(x, residual, rcond=None)[0]
    groups = np.arange(24) // size
    found = robust(x, residual, None if size == 1 else groups)
    variances, degrees = defined(x, residual, groups)
    assert found.variance == pytest.approx(variances)
    assert found.freedom == pytest.approx(degrees)


def test_what_a_bootstrap_keeps_is_the_mean_of_the_uncorrected_sandwich() -> None:
    """Over 20,000 draws of independent noise, against s² (X'X)^-1."""
    random = np.random.default_rng(1)
    x, groups = random.normal(size=(12, 2)), np.arange(12) // 3
    inverse = np.linalg.inv(x.T @ x)
    noise = random.normal(size=(20_000, 12)) @ (np.eye(12) - x @ inverse @ x.T)
    moments = np.stack([noise[:, groups == g] @ x[groups == g] @ inverse for g in range(4)])
    mean = (moments**2).sum(0).mean(0)
    assert robust(x, noise[0], groups).kept == pytest.approx(mean / np.diag(inverse), rel=0.05)


def test_the_test_of_clusters_is_even_under_independence_and_sees_shared_noise() -> None:
    random = np.random.default_rng(2)
    groups = np.arange(30) // 6
    p = [correlated(random.normal(size=30), groups) for _ in range(400)]
    assert np.mean(np.array(p) < 0.3) == pytest.approx(0.3, abs=0.07)
    assert correlated(random.normal(size=5)[groups] + 0.3 * random.normal(size=30), groups) < 1e-3
    assert correlated(random.normal(size=5), np.arange(5)) == 1


@pytest.mark.parametrize("kind", NOISES)
def test_intervals_of_capacity_hold_at_their_rate_under_noise_of_every_kind(kind: str) -> None:
    """Nominal 90; within three binomial errors of 85 to 95 (tests/benchmarks/coverage.py has more laws and tables)."""
    trials = 60
    found = [held("capacity", kind, seed, 10)["bits_per_parameter"] for seed in range(trials)]
    assert all(math.isfinite(width) for _, width in found)
    assert np.mean([holds for holds, _ in found]) > 0.85 - 3 * math.sqrt(0.85 * 0.15 / trials)


@pytest.mark.parametrize(
    ("law", "kind"),
    [
        ("step-law", "equal"),
        ("accuracy", "size"),
        ("factors", "seed"),
        ("mixtures", "size"),
        ("data-constrained", "heavy"),
        pytest.param("multi-power", "equal", marks=pytest.mark.slow),
        pytest.param("multi-power", "seed", marks=pytest.mark.slow),
    ],
)
def test_intervals_of_more_laws_hold_in_most_tables(law: str, kind: str) -> None:
    """Nominal 90, in the mean over the constants of eight tables; half as wide they would hold in six of ten."""
    inside = [holds for seed in range(8) for holds, _ in held(law, kind, seed, 100).values()]
    assert np.mean(inside) > 0.75


def test_runs_and_groups_of_a_table_are_resampled_whole_by_every_law_of_curves() -> None:
    for law in ("capacity", "exposures", "kaplan-n", "kaplan-nd", "chinchilla-parametric"):
        table, _ = noisy(law, "equal", 0)
        number = len(next(iter(table.values())))
        for name in ("run", "group"):
            fit = fit_law(law, table | {name: np.arange(number) // 2}, num_bootstraps=10)
            assert fit.clusters[0] == "groups", (law, name)
        assert fit_law(law, table, num_bootstraps=10).clusters[0] == "points"
