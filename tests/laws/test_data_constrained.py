"""Repeated data: the law against its authors' numbers and runs, and what it says of tables that it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated import data_constrained, noise_of, silence

from knowcap.cli import main
from knowcap.laws import (
    LawError,
    Options,
    capacity_at,
    data_constrained_loss,
    effective_tokens,
    fit_data_constrained,
    fit_law,
    value_of_pass,
)
from knowcap.laws.published import BITS_PER_PARAMETER, EXPOSURES, MUENNIGHOFF


FEW = Options(num_bootstraps=40)

# Held-out loss of runs on 100 million different tokens of C4: parameters in millions, tokens in billions, loss.
# Published by Muennighoff et al. (github.com/huggingface/datablations, plotstables/return_alloc.ipynb, Apache 2.0).
RUNS = """
7.09875 0.1 8.10736  7.09875 0.2 7.36236  14.1 0.1 7.27814  14.1 0.2 6.66414  14.1 0.4 6.27318  14.1 0.8 5.81682
14.1 1.5 5.36475  14.1 2.7 4.99278  14.1 3.9 4.74113  14.1 5.9 4.54623  14.1 7.5 4.4723  14.1 14 4.38339
14.1 20 4.51041  14.1 91 4.39607  14.1 174 4.35969  14.1 300 4.36911  14.1 600 4.33147  14.1 900 4.30402
35.5 0.2 6.25289  35.5 0.4 5.79959  35.5 0.8 5.28418  44 0.2 6.18997  44 0.4 5.64887  44 1.5 4.38767  44 2.7 4.1136
44 3.9 3.9882  44 5.9 3.89434  44 7.5 3.85426  44 14 3.80767  44 20 3.92903  44 32 3.89224  44 91 3.8362
44 174 3.81231  82.7 0.4 5.48832  82.7 1.5 4.20696  82.7 2.7 3.95389  82.7 3.9 3.84405  82.7 5.9 3.77471
82.7 7.5 3.74773  82.7 14 3.72523  82.7 20 3.79013  82.7 32 3.74709  82.7 91 3.7435  82.7 174 3.73435  82.7 300 3.8687
146.5 1.5 4.0335  146.5 2.7 3.80764  146.5 3.9 3.73276  146.5 5.9 3.71807  146.5 7.5 3.73504  146.5 14 3.80143
146.5 20 3.75626  146.5 32 3.79308  146.5 60 3.84642  146.5 91 3.86295  146.5 174 3.89742  220.5 1.5 3.93217
220.5 2.7 3.75279  220.5 3.9 3.7219  220.5 5.9 3.78097  220.5 7.5 3.84843  281 1.5 3.87723  281 2.7 3.72759
281 3.9 3.75496  281 5.9 3.88221  281 7.5 3.99341
"""


def published() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n, d, loss = np.array(RUNS.split(), dtype=float).reshape(-1, 3).T
    return n * 1e6, d * 1e9, np.full_like(n, 1e8), loss


def test_the_law_gives_the_authors_own_losses() -> None:
    """The two models of their figure 1, as their README prints them."""
    for n, d, expected in ((6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)):
        assert data_constrained_loss(MUENNIGHOFF.constants, n, d, 25e9) == pytest.approx(expected, rel=1e-12)


def test_the_best_allocation_of_the_authors_example_has_nine_passes() -> None:
    """25 billion tokens, 9.3e21 FLOPs: 227 billion tokens, 9.1 passes, 6.8 billion parameters (their README)."""
    flops = 6 * 8.67e9 * 178e9
    n = np.geomspace(1e9, 1e11, 4000)
    best = n[np.argmin(data_constrained_loss(MUENNIGHOFF.constants, n, flops / 6 / n, 25e9))]
    assert best == pytest.approx(6.8e9, rel=0.01)
    assert flops / 6 / best / 25e9 == pytest.approx(9.1, rel=0.01)


def test_the_runs_of_the_paper_give_its_two_constants_within_a_factor_of_two() -> None:
    """Printed: R_D 15.39 and R_N 5.31, of 182 runs, these among them, with the other constants given, as here."""
    fit = fit_data_constrained(*published(), FEW, base=MUENNIGHOFF.constants)
    for name in ("R_D", "R_N"):
        assert 0.5 < fit.constants[name] / MUENNIGHOFF.constants[name] < 2
        low, high = fit.intervals[name]
        truth = MUENNIGHOFF.constants[name]  # residuals of one size go together, and seven sizes leave R_N open below
        assert (low is None or low / 2 < truth) and (high is None or truth < 2 * high)
    assert fit.constants["A"] == pytest.approx(MUENNIGHOFF.constants["A"])


def test_a_first_pass_is_fresh_and_later_ones_fade_by_a_fixed_share() -> None:
    """The tokens of pass k + 1 are worth exp(-1 / R_D) of those of pass k, and all of them R_D + 1 passes."""
    c = MUENNIGHOFF.constants
    shares = [value_of_pass(c, 1e9, 1e9, k)["fresh_share"] for k in range(1, 6)]
    assert np.divide(shares[1:], shares[:-1]) == pytest.approx(np.exp(-1 / c["R_D"]))
    assert effective_tokens(c, 1e9, 1e9) == pytest.approx(1e9)
    assert effective_tokens(c, 1e15, 1e9) == pytest.approx(1e9 * (1 + c["R_D"]))


def test_a_pass_is_worth_little_for_the_loss_where_it_still_adds_bits() -> None:
    bits = {"bits_per_parameter": 2.2, "half_exposures": 130.0, "gamma": 1.0}
    found = value_of_pass(MUENNIGHOFF.constants, 1e8, 1e7, 100, bits, max_knowledge_bits=1e12)
    assert found["fresh_share"] < 0.01
    expected = 1e8 * (capacity_at(bits, 101) - capacity_at(bits, 100))
    assert found["bits_after"] - found["bits_before"] == pytest.approx(float(expected))
    assert value_of_pass(MUENNIGHOFF.constants, 1e8, 1e7, 100, bits, 1e3)["bits_after"] == 1e3


def test_the_curve_of_bits_passes_through_the_papers_three_values() -> None:
    for exposures, bits in BITS_PER_PARAMETER.items():
        assert capacity_at(EXPOSURES.constants, exposures) == pytest.approx(bits, rel=1e-5)


def test_the_plan_of_passes_has_both_gains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The tokens of pass 17 add U R_D (exp(-15 / R_D) - exp(-16 / R_D)), and bits are those of 17 and 16 exposures."""
    options = ["plan", "passes", "--num_parameters", "100M", "--unique_tokens", "10M", "--passes", "16"]
    assert main([*options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    (row,) = (row for row in content["table"] if row["passes_so_far"] == 16)
    r = MUENNIGHOFF.constants["R_D"]
    assert row["worth_percent"] == pytest.approx(100 * r * (np.exp(-15 / r) - np.exp(-16 / r)))
    held = [1e8 * capacity_at(EXPOSURES.constants, k) for k in (16, 17)]
    assert row["bits_rise_by"] == pytest.approx(held[1] - held[0])
    fit = fit_law("data-constrained", data_constrained(silence)[0], num_bootstraps=10)
    assert main([*options, "--law", str(fit.write(tmp_path / "fit.json")), "--bits", "1e6"]) == 0
    assert "16 passes one more is worth 36.6 %" in capsys.readouterr().out
    assert main([*options[:-1], "0.5"]) == 2


def test_derivatives_are_those_of_the_law() -> None:
    from knowcap.laws.data_constrained import NAMES, _model

    n, d, u, _ = published()
    model = _model({"num_parameters": n, "num_tokens": d, "unique_tokens": u * np.geomspace(0.5, 9, len(u))}, 7)
    theta = np.log([[MUENNIGHOFF.constants[name] for name in NAMES]])
    for i, step in enumerate(1e-6 * np.eye(7)):
        numeric = (model(theta + step)[0] - model(theta - step)[0]) / 2e-6
        assert model(theta)[1][..., i] == pytest.approx(numeric, abs=1e-8)


def test_runs_that_overfit_are_left_out_with_a_warning() -> None:
    table, truth = data_constrained(silence)
    worst = (table["num_tokens"] > 99 * table["unique_tokens"]) & (table["num_parameters"] > 2e9)
    table["loss"] = np.where(worst, 2 * table["loss"], table["loss"])
    fit = fit_law("data-constrained", table, num_bootstraps=10)
    assert fit.num_points == len(worst) - worst.sum()
    assert fit.constants == pytest.approx(truth, rel=1e-5)
    assert any(f"{worst.sum()} of {len(worst)} runs are left out" in text for text in fit.warnings)


def test_what_does_not_determine_the_constants_is_said() -> None:
    table, _ = data_constrained(noise_of(0.002, 1))
    few = table["num_tokens"] < 5 * table["unique_tokens"]
    fit = fit_law("data-constrained", {k: v[few] for k, v in table.items()}, num_bootstraps=10)
    assert any("R_D is extrapolated" in text for text in fit.warnings)
    repeated = table["num_tokens"] > 2 * table["unique_tokens"]
    fit = fit_law("data-constrained", {k: v[repeated] for k, v in table.items()}, num_bootstraps=10)
    assert any("0 runs are on fresh data" in text for text in fit.warnings)
    fresh = table["num_tokens"] == table["unique_tokens"]
    with pytest.raises(LawError, match="no run repeats its data"):
        fit_law("data-constrained", {k: v[fresh] for k, v in table.items()})
    swapped = table | {"num_tokens": table["unique_tokens"], "unique_tokens": 2 * table["num_tokens"]}
    with pytest.raises(LawError, match="exchanged"):
        fit_law("data-constrained", swapped)


def test_unique_tokens_follow_from_exposures() -> None:
    table, _ = data_constrained(silence)
    given = {k: v for k, v in table.items() if k != "unique_tokens"}
    given["exposures"] = table["num_tokens"] / table["unique_tokens"]
    one, other = (fit_law("data-constrained", t, num_bootstraps=10) for t in (table, given))
    assert other.constants == pytest.approx(one.constants)
    assert not any("fresh data and has no term" in text for text in other.warnings)
