"""Laws: known constants come back from simulated runs, and what follows from them agrees with the papers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated import (
    SIMULATED,
    batch_curves,
    capacity,
    envelope,
    grid,
    hoffmann,
    isoflop,
    noise_of,
    optimum,
    parametric,
    silence,
)

from knowcap.laws import (
    LAWS,
    LawError,
    Options,
    capacity_at,
    exposures_needed,
    fit_capacity,
    fit_envelope,
    fit_kaplan_n,
    fit_law,
    kaplan_allocation,
    min_steps,
    overfitting,
    parametric_allocation,
    tokens_needed,
)
from knowcap.laws.compare import compare_approaches, isoflop_bias


FEW = {"num_bootstraps": 60}


@pytest.mark.parametrize("law", LAWS)
def test_constants_come_back_without_noise(law: str) -> None:
    make, near, _ = SIMULATED[law]
    table, constants = make(silence)
    fit = fit_law(law, table, **FEW)
    assert {name: fit.constants[name] for name in constants} == pytest.approx(constants, rel=near)
    assert fit.num_points == len(table["num_parameters"] if "num_parameters" in table else table["loss"])


@pytest.mark.parametrize("law", [law for law in LAWS if SIMULATED[law][2]])
def test_constants_lie_near_their_intervals_with_noise(law: str) -> None:
    """Within twice the interval's half width, which chance leaves once in ten thousand."""
    make, _, size = SIMULATED[law]
    table, constants = make(noise_of(size, seed=3))
    fit = fit_law(law, table, **FEW)
    for name, truth in constants.items():
        (low, high), value = fit.intervals[name], fit.constants[name]
        assert low is not None and high is not None and low <= value <= high
        assert value - 2 * (value - low) <= truth <= value + 2 * (high - value), name
        assert high > low


@pytest.mark.parametrize("law", LAWS)
def test_the_json_has_the_promised_form_and_no_numbers_that_json_lacks(law: str, tmp_path: Path) -> None:
    make, _, size = SIMULATED[law]
    fit = fit_law(law, make(noise_of(size or 1e-4, seed=5))[0], **FEW)
    content = json.loads(fit.write(tmp_path / "new" / "fit.json").read_text(), parse_constant=pytest.fail)
    assert content["law"] == law
    assert content["constants"] == pytest.approx(fit.constants)
    assert set(content["intervals"]) == set(content["constants"])
    assert all(len(ends) == 2 for ends in content["intervals"].values())
    assert content["num_points"] == fit.num_points
    assert isinstance(content["objective"], float)
    assert all(isinstance(text, str) for text in content["warnings"])
    assert len(content["residuals"]) == len(fit.points["observed"])


def test_residuals_are_what_the_prediction_leaves_and_the_objective_is_their_sum_of_squares() -> None:
    table, _ = SIMULATED["kaplan-nd"][0](noise_of(0.01, seed=1))
    fit = fit_law("kaplan-nd", table, **FEW)
    left = np.log(table["loss"]) - np.log(fit.predict(table))
    assert fit.residuals == pytest.approx(left, abs=1e-9)
    assert fit.objective == pytest.approx(float((left**2).sum()))


def test_a_straight_line_in_the_logs_is_least_squares_and_its_interval_is_students() -> None:
    """Against numpy's own line, and t = 2.3646 of 7 degrees of freedom."""
    n = np.geomspace(1e5, 1e9, 9)
    loss = (8.8e13 / n) ** 0.076 * noise_of(0.01, seed=2)(9)
    fit = fit_kaplan_n(n, loss, Options(num_bootstraps=20))
    (slope, start), square = np.polyfit(np.log(n), np.log(loss), 1, cov=True)
    assert fit.constants["alpha_N"] == pytest.approx(-slope, rel=1e-9)
    assert np.log(fit.constants["N_c"]) == pytest.approx(-start / slope, rel=1e-9)
    half = 2.3646 * np.sqrt(square[0, 0])
    assert fit.profile_intervals["alpha_N"] == pytest.approx((-slope - half, -slope + half), rel=1e-4)


def test_the_interval_of_a_ratio_is_fiellers() -> None:
    """log N_c = c is inside as long as the line through (c, 0) is not worse by F: solved here as a quadratic."""
    n = np.geomspace(1e5, 1e9, 9)
    loss = (8.8e13 / n) ** 0.076 * noise_of(0.02, seed=2)(9)
    fit = fit_kaplan_n(n, loss, Options(num_bootstraps=20))
    (slope, start), square = np.polyfit(np.log(n), np.log(loss), 1, cov=True)
    t = 2.364624
    terms = [slope**2 - t**2 * square[0, 0], 2 * (slope * start - t**2 * square[0, 1]), start**2 - t**2 * square[1, 1]]
    assert np.log(fit.profile_intervals["N_c"]) == pytest.approx(np.sort(np.roots(terms)), rel=1e-4)


def test_critical_batch_comes_back_from_training_curves() -> None:
    table, constants = batch_curves(silence)
    fit = fit_law("critical-batch", table, **FEW)
    assert fit.constants == pytest.approx(constants, rel=2e-3)
    noisy = fit_law("critical-batch", batch_curves(noise_of(0.003, seed=1))[0], **FEW)
    assert noisy.constants["B_star"] == pytest.approx(2.1e8, rel=0.1)


def test_steps_become_minimal_steps_by_the_critical_batch() -> None:
    """A batch of B_crit takes twice S_min (Kaplan et al., equation 5.1)."""
    loss = np.array([2.5, 3.5])
    critical = 2.1e8 / loss ** (1 / 0.21)
    assert min_steps(2000.0, critical, loss, 2.1e8, 0.21) == pytest.approx([1000.0, 1000.0])
    table, constants = SIMULATED["kaplan-ns"][0](silence)
    batch = np.full_like(table["step"], 1e6)
    steps = table["step"] * (1 + 2.1e8 / table["loss"] ** (1 / 0.21) / batch)
    slow = table | {"step": steps, "batch_tokens": batch}
    fit = fit_law("kaplan-ns", slow, critical_batch=(2.1e8, 0.21), **FEW)
    assert fit.constants == pytest.approx(constants, rel=1e-5)
    raw = fit_law("kaplan-ns", slow, **FEW)
    assert raw.constants["S_c"] > 1.05 * constants["S_c"]
    assert any("S_min" in text for text in raw.warnings)


def test_overfitting_and_the_tokens_against_it_are_kaplans() -> None:
    """D >= 5e3 N^0.74 keeps it below 0.02 (Kaplan et al., 4.4), with the constants of their table 2."""
    constants = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    n = np.array([1e6, 1e9])
    assert tokens_needed(constants, n) == pytest.approx(5e3 * n**0.74, rel=0.15)
    assert overfitting(constants, n, tokens_needed(constants, n, 0.05)) == pytest.approx([0.05, 0.05])


def test_kaplans_compute_optimal_exponent_follows_from_his_constants() -> None:
    """alpha_C / alpha_N is 0.71 by his rounded exponents, N_opt = 1.3e9 C^0.73 (PF-days) was observed (Kaplan et al.,
    6.1 and B.1); at the optimum no other size is better."""
    constants = {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76}
    found = kaplan_allocation(constants, 2.1e8, 0.21, 8.64e19)
    assert found["exponent_parameters"] == pytest.approx(0.71, abs=0.03)
    assert found["num_parameters"] == pytest.approx(1.3e9, rel=0.6)
    spent = 6 * found["num_parameters"] * found["num_tokens"]
    assert spent == pytest.approx(8.64e19)

    def compute(n: float, loss: float) -> float:
        left = loss - (6.5e13 / n) ** 0.077
        steps = 2.1e3 / left ** (1 / 0.76)
        return 6 * n * 2.1e8 / loss ** (1 / 0.21) * steps

    others = [compute(found["num_parameters"] * factor, found["loss"]) for factor in (0.8, 0.9, 1.1, 1.25)]
    assert min(others) > compute(found["num_parameters"], found["loss"]) == pytest.approx(8.64e19)


def test_the_parametric_optimum_is_the_best_on_a_fine_grid_and_near_hoffmanns() -> None:
    """67B parameters and 1.5T tokens for 5.76e23 FLOPs by approach 1, 40B by approach 3 (Hoffmann et al.)."""
    constants = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
    found = parametric_allocation(constants, 5.76e23)
    assert 6 * found.num_parameters * found.num_tokens == pytest.approx(5.76e23)
    sizes = np.geomspace(1e9, 1e12, 20_001)
    best = sizes[np.argmin(hoffmann(sizes, 5.76e23 / 6 / sizes))]
    assert found.num_parameters == pytest.approx(best, rel=1e-3)
    assert 3e10 < found.num_parameters < 5e10


def test_capacity_is_the_least_of_all_ways_to_part_the_runs() -> None:
    """Against a brute-force search over a fine grid of both constants."""
    table, _ = capacity(noise_of(0.2, seed=4))
    fit = fit_capacity(*table.values(), options=Options(num_bootstraps=20))
    p, bits, m = (np.log(column) for column in table.values())
    r, s = np.meshgrid(np.log(np.linspace(1.5, 2.6, 300)), np.log(np.linspace(0.7, 1.4, 300)))
    squares = ((np.minimum(r[..., None] + p, s[..., None] + m) - bits) ** 2).sum(-1)
    assert fit.objective <= squares.min() + 1e-12
    assert fit.objective == pytest.approx(squares.min(), rel=1e-3)


def test_capacity_without_full_runs_has_no_saturation_and_full_runs_alone_have_no_capacity() -> None:
    p = np.geomspace(1e4, 1e6, 6)
    fit = fit_capacity(p, 2 * p, np.full(6, 1e9), Options(num_bootstraps=20))
    assert fit.constants == pytest.approx({"bits_per_parameter": 2.0})
    assert fit.extra["saturates_at"][0]["num_parameters"] == pytest.approx(5e8)
    with pytest.raises(LawError, match="R is only known to be 0.1 bits per parameter or more"):
        fit_capacity(p, np.full(6, 1e3), np.full(6, 1e3))


def test_capacity_reports_growth_that_is_not_in_proportion_and_takes_the_most_exposures() -> None:
    p = np.geomspace(1e4, 1e6, 8)
    fit = fit_capacity(p, p**0.8, np.full(8, 1e9), Options(num_bootstraps=20))
    assert any("to the 0.80" in text for text in fit.warnings)
    both = {
        "num_parameters": np.tile(p, 2),
        "knowledge_bits": np.concatenate([p, 2 * p]),
        "max_knowledge_bits": np.full(16, 1e9),
        "exposures": np.repeat([100.0, 1000.0], 8),
    }
    fit = fit_law("capacity", both, **FEW)
    assert fit.constants["bits_per_parameter"] == pytest.approx(2.0)
    assert any("8 of 16 runs of 1000" in text for text in fit.warnings)


def test_the_curve_of_exposures_goes_through_the_papers_three_points() -> None:
    """k/2 parameters hold k bits after 1000 passes, k after 100, 10 k after 1 (lecture notes on Part 3.3)."""
    p, e = (a.ravel() for a in np.meshgrid(np.geomspace(1e4, 1e6, 4), [1.0, 100.0, 1000.0]))
    held = {1.0: 0.1, 100.0: 1.0, 1000.0: 2.0}
    table = {
        "num_parameters": p,
        "knowledge_bits": p * [held[v] for v in e],
        "exposures": e,
        "max_knowledge_bits": 1e9 + 0 * p,
    }
    fit = fit_law("exposures", table, **FEW)
    assert capacity_at(fit.constants, [1, 100, 1000]) == pytest.approx([0.1, 1.0, 2.0], rel=1e-4)
    assert exposures_needed(fit.constants, [0.1, 1.0, 2.0, 99.0]) == pytest.approx([1, 100, 1000, np.inf], rel=1e-3)
    assert [level["bits_per_parameter"] for level in fit.extra["levels"]] == pytest.approx([0.1, 1.0, 2.0])
    assert any("extrapolated" in text for text in fit.warnings)


def test_both_parameter_counts_are_fitted_and_the_difference_is_reported() -> None:
    n = np.geomspace(1e6, 1e9, 8)
    table = {"num_parameters": n + 3e5, "num_parameters_non_embedding": n, "loss": (8.8e13 / n) ** 0.076}
    fit = fit_law("kaplan-n", table, **FEW)
    assert fit.non_embedding is not None
    assert fit.non_embedding.constants == pytest.approx({"N_c": 8.8e13, "alpha_N": 0.076})
    assert fit.constants["alpha_N"] > 0.0765
    assert fit.to_dict()["non_embedding"]["constants"]["N_c"] == pytest.approx(8.8e13)
    assert any(f"{fit.constants['alpha_N']:.4g} → 0.076" in note for note in fit.notes)


@pytest.mark.parametrize("solver", ["grid", "projection"])
def test_both_solvers_reach_the_same_optimum_and_no_neighbour_is_better(solver: str) -> None:
    from knowcap.laws import fit_parametric

    table, _ = parametric(noise_of(0.01, seed=6))
    fit = fit_parametric(*table.values(), options=Options(num_bootstraps=10), solver=solver)
    both = fit_parametric(*table.values(), options=Options(num_bootstraps=10))
    assert fit.objective == pytest.approx(both.objective, rel=1e-8)

    def objective(constants: dict[str, float]) -> float:
        law = constants["E"] + constants["A"] / table["num_parameters"] ** constants["alpha"]
        law = law + constants["B"] / table["num_tokens"] ** constants["beta"]
        size = np.abs(np.log(law) - np.log(table["loss"]))
        return float(np.where(size < 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())

    assert objective(fit.constants) == pytest.approx(fit.objective)
    generator = np.random.default_rng(0)
    for _ in range(200):
        moved = {
            k: v * (1 + 10 ** generator.uniform(-5, -1) * generator.standard_normal())
            for k, v in fit.constants.items()
        }
        assert objective(moved) >= fit.objective


def test_the_surface_over_two_exponents_is_round_where_the_five_constants_lie_in_a_valley() -> None:
    fit = fit_law("chinchilla-parametric", parametric(noise_of(0.003, seed=1))[0], **FEW)
    assert fit.extra["condition_number_of_exponents"] < 100
    assert fit.condition_number > 1e5


def bias(
    alpha: float, beta: float, width: float, drift: float, centre: float = 1.0, window: float | None = None
) -> float:
    """Of approach 2, with sizes about `centre` times the optimum, which drift as budgets grow."""
    truth = optimum(alpha, beta)
    budget, factor = grid(np.geomspace(1e18, 1e22, 5), np.geomspace(1 / width, width, 9))
    best = truth["coefficient_parameters"] * budget ** truth["exponent_parameters"]
    constants = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": alpha, "beta": beta}
    sizes = best * factor * centre * (budget / 1e20) ** drift
    return isoflop_bias(constants, sizes, budget, window)["exponent_parameters"]


def test_the_bias_of_approach_2_comes_with_unequal_exponents_and_grids_that_drift() -> None:
    """A grid that keeps its place is wrong by the same factor at every budget. The window takes half of it away."""
    assert abs(bias(0.3, 0.3, 4, 0.0)) < 1e-9
    assert abs(bias(0.46, 0.2, 4, 0.0)) < 1e-9
    everywhere = bias(0.46, 0.2, 4, 0.1, centre=3.0, window=np.inf)
    assert abs(everywhere) > 0.01
    assert abs(bias(0.46, 0.2, 4, 0.1, centre=3.0)) < abs(everywhere) / 2
    assert bias(0.46, 0.2, 4, -0.1, centre=3.0) == pytest.approx(-bias(0.46, 0.2, 4, 0.1, centre=3.0), abs=1e-6)


def test_the_three_approaches_agree_on_equal_exponents_and_stand_side_by_side() -> None:
    """One table for all: profiles for IsoFLOP and curves for the envelope differ, so the envelope is missing."""
    table, truth = isoflop(silence)
    found = compare_approaches(table, [1e21], **FEW)
    assert set(found.fits) == {"chinchilla-isoflop", "chinchilla-parametric"}
    assert "curves" in found.missing["chinchilla-envelope"]
    for law in found.fits:
        assert found.exponent(law, "exponent_parameters")[0] == pytest.approx(truth["exponent_parameters"], abs=2e-3)
        assert found.allocations[1e21][law].num_parameters == pytest.approx(
            truth["coefficient_parameters"] * 1e21 ** truth["exponent_parameters"], rel=0.02
        )
    assert abs(found.bias["exponent_parameters"]) < 1e-3


def test_the_envelope_is_not_flattened_by_the_staircase_of_sizes() -> None:
    """1 - 1 / k² of k inner stairs, 0.96 of five, is what a line through all 1,500 values would find."""
    table, truth = envelope(silence, sizes=7)
    columns = [table[name] for name in ("run", "num_parameters", "num_tokens", "flops", "loss")]
    fit = fit_envelope(*columns, options=Options(num_bootstraps=20))
    assert fit.constants["exponent_parameters"] == pytest.approx(truth["exponent_parameters"], rel=0.02)
    flops = np.geomspace(table["flops"].min(), table["flops"].max(), 1500)
    sizes = np.unique(table["num_parameters"])
    best = sizes[np.argmin([hoffmann(n, flops / 6 / n) for n in sizes], axis=0)]
    inner = (best > sizes[0]) & (best < sizes[-1])
    flat = np.polyfit(np.log(flops[inner]), np.log(best[inner]), 1)[0]
    assert flat == pytest.approx(0.96 * truth["exponent_parameters"], rel=0.01)


def test_budgets_are_found_where_no_column_names_them() -> None:
    table, truth = isoflop(silence)
    wobble = np.random.default_rng(0).uniform(0.98, 1.02, len(table["loss"]))
    flops = table["budget"] * wobble
    fit = fit_law(
        "chinchilla-isoflop", {"num_parameters": table["num_parameters"], "flops": flops, "loss": table["loss"]}, **FEW
    )
    assert len(fit.extra["budgets"]) == 6
    assert fit.constants["exponent_parameters"] == pytest.approx(truth["exponent_parameters"], abs=0.05)


def test_a_budget_without_an_interior_minimum_is_left_out_and_reported() -> None:
    table, truth = isoflop(silence)
    first = table["budget"] == table["budget"].min()
    kept = ~first | (table["num_parameters"] > 1.05 * np.median(table["num_parameters"][first]))
    fit = fit_law("chinchilla-isoflop", {k: v[kept] for k, v in table.items()}, **FEW)
    assert len(fit.extra["budgets"]) == 5
    assert any("no interior minimum, the loss is lowest at the smallest size" in text for text in fit.warnings)
    assert fit.constants["exponent_parameters"] == pytest.approx(truth["exponent_parameters"], abs=0.01)


def test_importing_the_laws_brings_no_torch() -> None:
    heavy = ("torch", "transformers", "matplotlib", "pyarrow")
    code = f"import sys, knowcap.laws; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
