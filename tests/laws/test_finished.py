"""Points of training curves are never finished runs: each run's last row is its point, however rows are ordered."""

from __future__ import annotations

import numpy as np
import pytest

from knowcap.laws import fit_law


FEW = {"num_bootstraps": 10}
TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
RUNS, STEPS = 24, 40


def curves(even: bool = True) -> dict[str, np.ndarray]:
    """Runs whose losses follow the law at their ends; before, the learning rate is high and losses are too."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(5e8, 2e10, 4)))
    share = np.linspace(1 / STEPS, 1, STEPS) if even else np.geomspace(0.01, 1, STEPS)
    size, run = np.repeat(n, STEPS), np.repeat(np.arange(RUNS), STEPS)
    tokens = np.outer(d, share).ravel()
    loss = TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]
    loss += 0.3 * (1 - np.tile(share, RUNS))
    return {"run": run, "num_parameters": size, "num_tokens": tokens, "loss": loss}


def shuffled(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(table["loss"]))
    return {name: column[order] for name, column in table.items()}


@pytest.mark.parametrize("progress", ["num_tokens", "flops", "step"])
@pytest.mark.parametrize("even", [True, False], ids=["even", "geometric"])
def test_curves_are_ordered_by_whatever_says_how_far_a_run_is(progress: str, even: bool) -> None:
    table = shuffled(curves(even))
    if progress == "step":
        table["step"] = table["num_tokens"] / 1e6
    if progress == "flops":
        table["flops"] = 6 * table["num_parameters"] * table.pop("num_tokens")
    fit = fit_law("chinchilla-parametric", table, **FEW)
    assert fit.num_points == RUNS
    assert fit.constants == pytest.approx(TRUTH, rel=1e-3)
    assert any(f"the last of each of {RUNS} runs" in note for note in fit.notes)


def test_curves_without_a_column_run_are_found_and_reported() -> None:
    table = curves()
    table.pop("run")
    fit = fit_law("chinchilla-parametric", table, **FEW)
    assert fit.num_points == RUNS and fit.constants == pytest.approx(TRUTH, rel=1e-3)
    assert any("look like training curves" in text for text in fit.warnings)
    named = {"run_id": [f"r{i}" for i in curves()["run"]], **table}
    fit = fit_law("chinchilla-parametric", shuffled({k: np.array(v) for k, v in named.items()}), **FEW)
    assert fit.num_points == RUNS and not any("look like" in text for text in fit.warnings)


def test_finished_runs_are_no_curves() -> None:
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e8, 1e11, 10)))
    table = {"num_parameters": n, "num_tokens": d, "loss": 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28}
    assert fit_law("chinchilla-parametric", table, **FEW).num_points == 60
    assert fit_law("chinchilla-parametric", table | {"run": np.arange(60)}, **FEW).num_points == 60
    fit = fit_law("chinchilla-parametric", table | {"run": ["all"] * 60}, **FEW)
    assert fit.num_points == 60 and any("several sizes under one name" in note for note in fit.notes)


def test_seeds_of_one_name_are_all_points() -> None:
    n = np.repeat(np.geomspace(1e6, 1e9, 5), 3)
    table = {"run": [f"{v:g}" for v in n], "num_parameters": n, "num_tokens": np.full(15, 1e10)}
    assert fit_law("kaplan-n", table | {"loss": (8.8e13 / n) ** 0.076}, **FEW).num_points == 15


def test_a_run_whose_end_has_no_loss_is_left_out() -> None:
    table = curves()
    table["loss"][20:STEPS] = np.nan  # run 0 stops at half of its tokens
    table["loss"][2 * STEPS - 2 : 2 * STEPS] = np.nan  # run 1 at 95 %
    fit = fit_law("chinchilla-parametric", table, **FEW)
    assert fit.num_points == RUNS - 1
    assert any("runs 0 have no number in their last rows" in text for text in fit.warnings)


def test_bits_of_checkpoints_are_no_points_of_the_capacity_law() -> None:
    p = np.repeat(np.geomspace(1e4, 1e6, 5), 4)
    share = np.tile([0.25, 0.5, 0.75, 1.0], 5)
    table = {"run": [f"{v:g}" for v in p], "num_parameters": p, "exposures": 1000 * share}
    table |= {"knowledge_bits": 2 * p * share**2, "max_knowledge_bits": np.full(20, 1e8)}
    fit = fit_law("capacity", table, **FEW)
    assert fit.num_points == 5 and fit.constants["bits_per_parameter"] == pytest.approx(2)


def test_rows_without_any_progress_are_in_the_order_of_the_table() -> None:
    table = {name: column for name, column in curves().items() if name in ("run", "num_parameters")}
    n = np.repeat(np.geomspace(1e6, 1e9, RUNS), STEPS)
    table |= {"num_parameters": n, "loss": (8.8e13 / n) ** 0.076 * np.tile(np.linspace(1.5, 1, STEPS), RUNS)}
    fit = fit_law("kaplan-n", table, **FEW)
    assert fit.num_points == RUNS and fit.constants["alpha_N"] == pytest.approx(0.076)
    assert any("add a column step" in text for text in fit.warnings)


def test_rows_without_a_name_are_runs_of_their_own() -> None:
    n = np.geomspace(1e6, 1e9, 6)
    table = {"run": ["a", "", None, float("nan"), "b", ""], "num_parameters": n, "num_tokens": 20 * n}
    assert fit_law("kaplan-n", table | {"loss": (8.8e13 / n) ** 0.076}, **FEW).num_points == 6
