"""IsoFLOP profiles that reach far beyond their optimum: exponents of simulated settings with known optima."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import PROFILE_BUDGETS, PROFILE_SETTINGS, PROFILE_SIZES, noise_of, profile_optima, profiles, silence

from knowcap.laws import LawError, Options, fit_isoflop, fit_law


FEW = Options(num_bootstraps=20)


@pytest.mark.parametrize("setting", PROFILE_SETTINGS, ids=str)
def test_the_exponent_lies_within_35_thousandths_of_the_optimum(setting: tuple[float, float, str]) -> None:
    """With all sizes in the parabolas the mean error is up to 0.12 (tests/benchmarks/isoflop.py)."""
    table, truth = profiles(setting, noise_of(0.002, seed=1))
    fit = fit_isoflop(*table.values(), FEW)
    assert fit.constants["exponent_parameters"] == pytest.approx(truth, abs=0.035)
    best, found = profile_optima(setting), fit.extra["budgets"]
    near = [entry["num_parameters"] / best[PROFILE_BUDGETS == entry["budget"]][0] for entry in found]
    assert np.allclose(near, 1, atol=0.4)


@pytest.mark.parametrize("setting", PROFILE_SETTINGS[::4], ids=str)
def test_budgets_are_left_out_only_where_the_least_loss_lies_at_an_edge(setting: tuple[float, float, str]) -> None:
    table, _ = profiles(setting, silence)
    fit = fit_isoflop(*table.values(), FEW)
    kept = {entry["budget"] for entry in fit.extra["budgets"]}
    for budget in PROFILE_BUDGETS:
        losses = table["loss"][table["budget"] == budget]
        inside = 0 < int(np.argmin(losses)) < len(PROFILE_SIZES) - 1
        assert budget in kept or not inside
    left = [text for text in fit.warnings if "left out" in text]
    assert len(left) == len(PROFILE_BUDGETS) - len(kept)


def test_noise_widens_the_window_and_none_narrows_it() -> None:
    setting = PROFILE_SETTINGS[3]
    quiet = fit_isoflop(*profiles(setting, noise_of(1e-5, seed=0))[0].values(), FEW)
    loud = fit_isoflop(*profiles(setting, noise_of(0.05, seed=0))[0].values(), FEW)
    assert quiet.extra["window"] == 3
    assert loud.extra["window"] > quiet.extra["window"]


def test_three_sizes_give_the_vertex_of_the_parabola_through_them() -> None:
    """Against the parabola's own formula: losses (x - log best)^2 + 2 at two budgets."""
    n = np.tile([1e7, 2e7, 5e7], 2)
    budget = np.repeat([1e17, 1e19], 3)
    best = np.repeat([1.7e7, 2.6e7], 3)
    loss = 2 + (np.log(n) - np.log(best)) ** 2
    fit = fit_isoflop(n, budget / 6 / n, loss, budget, FEW)
    assert [entry["num_parameters"] for entry in fit.extra["budgets"]] == pytest.approx([1.7e7, 2.6e7])
    assert fit.intervals["exponent_parameters"] == (None, None)  # no run is left to show noise


def test_losses_that_fall_up_to_the_largest_size_are_no_profile() -> None:
    table, _ = profiles(PROFILE_SETTINGS[0], silence)
    fell = {name: column[table["num_parameters"] < 6e6] for name, column in table.items()}
    with pytest.raises(LawError, match="1 different sizes, expected 3 or more"):
        fit_isoflop(*fell.values(), FEW)
    budget = table["budget"] >= PROFILE_BUDGETS[-3]
    small = {name: column[budget & (table["num_parameters"] < 3e7)] for name, column in table.items()}
    with pytest.raises(LawError, match="the loss is lowest at the largest size tried"):
        fit_isoflop(*small.values(), FEW)


def test_groups_that_several_budgets_share_widen_the_interval() -> None:
    """The noise of a size is that of all its runs."""
    table, _ = profiles(PROFILE_SETTINGS[3], noise_of(0.003, seed=2))
    plain = fit_law("chinchilla-isoflop", table, num_bootstraps=200)
    grouped = fit_law("chinchilla-isoflop", table | {"group": table["num_parameters"]}, num_bootstraps=200)

    def width(ends: tuple[float | None, float | None]) -> float:
        low, high = ends
        return np.inf if low is None or high is None else high - low

    assert grouped.constants == plain.constants
    assert width(grouped.intervals["exponent_parameters"]) >= width(plain.intervals["exponent_parameters"])
    assert "groups" in grouped.clusters
