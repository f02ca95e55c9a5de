"""Mixtures of experts: the published joint law by its own tables, and what one weight makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import grid, mixtures, silence

from knowcap.laws import fit_law, joint_loss
from knowcap.laws.mixtures import effective_parameters


# Ludziejewski et al. 2025, Table 4: E, m, mu, n, nu of m N^mu + n D^nu + 1.3637.
REDUCED = (
    (1, 30.3640, -0.1817, 53.9838, -0.1965), (2, 27.7982, -0.1780, 66.8401, -0.2065),
    (4, 24.8462, -0.1731, 87.7022, -0.2192), (8, 21.8330, -0.1676, 119.9126, -0.2338),
    (16, 19.0159, -0.1617, 167.5073, -0.2494), (32, 16.5424, -0.1557, 234.6726, -0.2652),
)  # fmt: skip


@pytest.mark.parametrize("row", REDUCED)
def test_the_joint_law_is_that_of_its_printed_table(row: tuple[float, ...]) -> None:
    """At 3e8 active parameters and 1e10 tokens; the printed constants have three to six digits."""
    experts, m, mu, n, nu = row
    assert joint_loss(3e8, 1e10, experts) == pytest.approx(m * 3e8**mu + n * 1e10**nu + 1.3637, abs=0.01)


def test_the_best_dense_model_is_the_printed_one() -> None:
    """Table 1: at 1e20 FLOPs 1.7e9 parameters dense, 1.2e9 active of 4 experts."""
    n = np.geomspace(2e8, 2e10, 2000)
    for experts, size in ((1, 1.7e9), (4, 1.2e9)):
        assert n[np.argmin(joint_loss(n, 1e20 / 6 / n, experts))] == pytest.approx(size, rel=0.06)


def test_one_weight_describes_the_joint_law_within_a_per_cent() -> None:
    """Losses of the published law at 1 to 16 experts, most of whose parameters are the experts'."""
    active, d, experts = grid(
        np.geomspace(1e8, 2e9, 4), np.geomspace(4e9, 1e11, 4), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    )
    table = {
        "num_active_parameters": active, "num_tokens": d, "num_parameters": active * (1 + 0.6 * (experts - 1)),
        "loss": joint_loss(active, d, experts),
    }  # fmt: skip
    fit = fit_law("mixtures", table, num_bootstraps=10)
    assert np.abs(fit.residuals).max() < 0.012
    assert 0.1 < fit.constants["weight_of_total"] < 0.6


def test_a_dense_model_counts_as_it_is() -> None:
    constants = {"weight_of_total": 0.5}
    assert effective_parameters(constants, 1e9, 1e9) == pytest.approx(1e9)
    assert effective_parameters(constants, 1e9, 1.6e10) == pytest.approx(4e9)


def test_one_share_of_active_parameters_does_not_determine_the_weight() -> None:
    table, _ = mixtures(silence)
    same = table["num_parameters"] == 4 * table["num_active_parameters"]
    fit = fit_law("mixtures", {k: v[same] for k, v in table.items()}, num_bootstraps=10)
    assert any("trades off against A" in text for text in fit.warnings)
