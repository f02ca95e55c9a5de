"""The next runs: their variance against conditioning by hand, their worth against evenly spaced runs of equal cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import grid, hoffmann, noise_of

from knowcap.cli import main
from knowcap.laws import LawError, fit_law
from knowcap.laws.fit import Fit
from knowcap.laws.law import optimum
from knowcap.laws.parametric import NAMES, parametric_model
from knowcap.laws.plan import design
from knowcap.laws.plan.design import Design, choose_runs, derivatives, evenly_spaced, noise_of_runs
from knowcap.laws.solve import minimize


TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
BUDGET, TARGET = 1e20, 1e22


def table(noise: float, seed: int) -> dict[str, np.ndarray]:
    """20 small runs about the best ratio."""
    budget, size = grid(np.geomspace(3e17, 1e19, 4), np.geomspace(0.25, 4, 5))
    n = 0.1 * budget**0.5 * size
    return runs(n, budget / 6 / n, noise, seed)


def runs(n: np.ndarray, d: np.ndarray, noise: float, seed: int) -> dict[str, np.ndarray]:
    return {"num_parameters": n, "num_tokens": d, "loss": hoffmann(n, d) * noise_of(noise, seed)(len(n))}


@pytest.fixture(scope="module")
def fit() -> Fit:
    return fit_law("chinchilla-parametric", table(0.003, 0), num_bootstraps=10)


def quick(of: dict[str, np.ndarray], fit: Fit) -> dict[str, float]:
    """The constants of approach 3, from one start."""
    start = np.array([[*(np.log(TRUTH[k]) for k in ("A", "B", "E")), TRUTH["alpha"], TRUTH["beta"]]])
    model = parametric_model(of["num_parameters"], of["num_tokens"])
    theta = minimize(model, np.log(of["loss"]), start, delta=1e-3, max_iterations=300).theta[0]
    return dict(zip(NAMES, [*np.exp(theta[:3]), *theta[3:]], strict=True))


def test_the_variance_is_that_of_conditioning_on_all_runs_at_once(fit: Fit) -> None:
    chosen = choose_runs(fit, BUDGET, TARGET)
    at = optimum(fit.law, fit.constants, TARGET)
    n = np.concatenate([fit.points["num_parameters"], chosen.num_parameters, [at.num_parameters]])
    d = np.concatenate([fit.points["num_tokens"], chosen.num_tokens, [at.num_tokens]])
    slopes, noise = derivatives(fit, {"num_parameters": n, "num_tokens": d}), noise_of_runs(fit)
    apart = (np.log(n)[:, None] - np.log(n)) ** 2 + (np.log(d)[:, None] - np.log(d)) ** 2
    prior = 4 * slopes @ slopes.T + 4 * noise**2 * np.exp(-apart / 2 / np.log(4) ** 2)
    seen = prior[:-1, :-1] + noise**2 * np.eye(len(n) - 1)
    variance = prior[-1, -1] - prior[-1, :-1] @ np.linalg.solve(seen, prior[:-1, -1])
    assert chosen.after == pytest.approx(np.sqrt(variance), rel=1e-4)
    assert chosen.after < 0.75 * chosen.before


def test_derivatives_are_those_of_the_closed_form(fit: Fit) -> None:
    """d log L / d log A = A / N^alpha / L, and by log E it is E / L."""
    n, d = np.array([1e8, 1e9]), np.array([1e10, 2e10])
    found, c = derivatives(fit, {"num_parameters": n, "num_tokens": d}), fit.constants
    loss = c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"]
    assert found[:, 0] == pytest.approx(c["A"] / n ** c["alpha"] / loss, rel=1e-6)
    assert found[:, 2] == pytest.approx(c["E"] / loss, rel=1e-6)


@pytest.mark.slow
def test_predictions_after_these_runs_are_better_than_after_evenly_spaced_ones() -> None:
    """40 tables: root mean square errors of the loss at 100 times the budget, against two usual choices of equal cost
    (eight runs each), and the error that was announced, in which there is a misfit that these tables do not have."""
    at = optimum("chinchilla-parametric", TRUTH, TARGET)
    truth = float(hoffmann(np.array(at.num_parameters), np.array(at.num_tokens)))
    errors: dict[str, list[float]] = {"design": [], "evenly spaced": [], "IsoFLOP": []}
    announced = []
    for seed in range(40):
        first = table(0.003, seed)
        fit = fit_law("chinchilla-parametric", first, num_bootstraps=10)
        chosen = choose_runs(fit, BUDGET, TARGET)
        announced.append(chosen.after)
        share = BUDGET / 8
        sizes = optimum(fit.law, fit.constants, share).num_parameters * np.geomspace(0.25, 4, 8)
        profile = Design(sizes, share / 6 / sizes, 0, 0)
        even = evenly_spaced(fit, BUDGET, 8)
        for name, plan in zip(errors, (chosen, even, profile), strict=True):
            new = runs(plan.num_parameters, plan.num_tokens, 0.003, 1000 + seed)
            c = quick({key: np.concatenate([first[key], new[key]]) for key in first}, fit)
            value = c["E"] + c["A"] / at.num_parameters ** c["alpha"] + c["B"] / at.num_tokens ** c["beta"]
            errors[name].append(np.log(value / truth))
    found = {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in errors.items()}
    assert found["design"] < 0.97 * found["evenly spaced"], found
    assert found["design"] < 0.8 * found["IsoFLOP"], found
    assert 0.4 < found["design"] / np.median(announced) < 1.5


def test_budget_number_and_candidates_are_kept(fit: Fit) -> None:
    for aim in design.AIMS:
        chosen = choose_runs(fit, BUDGET, TARGET, aim=aim, max_runs=5)
        assert len(chosen.flops) <= 5
        assert chosen.flops.sum() <= BUDGET * 1.001
        assert chosen.after < chosen.before
    n = np.geomspace(2e7, 2e9, 30)
    pool = {"num_parameters": n, "num_tokens": 20 * n}
    chosen = choose_runs(fit, BUDGET, TARGET, candidates=pool)
    assert chosen.flops.max() <= 0.6 * BUDGET * 1.001
    assert set(chosen.num_parameters) <= set(n)
    assert len(set(chosen.num_parameters)) == len(chosen.num_parameters)
    assert chosen.flops.sum() <= BUDGET * 1.001


def test_a_run_above_that_share_of_the_budget_is_chosen_where_there_is_no_smaller_one(fit: Fit) -> None:
    size = np.array([optimum(fit.law, fit.constants, share * BUDGET).num_parameters for share in (0.7, 0.9)])
    pool = {"num_parameters": size, "num_tokens": np.array([0.7, 0.9]) * BUDGET / 6 / size}
    assert choose_runs(fit, BUDGET, TARGET, candidates=pool).flops == pytest.approx([0.9 * BUDGET])


def test_what_cannot_be_chosen_is_said(fit: Fit) -> None:
    with pytest.raises(LawError, match="the cheapest candidate takes"):
        choose_runs(fit, 1e10, TARGET, candidates={"num_parameters": [1e8], "num_tokens": [2e9]})
    with pytest.raises(LawError, match="within a factor of 2"):
        choose_runs(fit, 1e30, TARGET, candidates={"num_parameters": [1e12], "num_tokens": [1e5]})
    with pytest.raises(LawError, match="expected one of loss, size"):
        choose_runs(fit, BUDGET, TARGET, aim="speed")
    other = fit_law("kaplan-n", table(0.003, 0), num_bootstraps=10)
    with pytest.raises(LawError, match="kaplan-n, expected one of"):
        choose_runs(other, BUDGET, TARGET)


def test_the_command_prints_the_runs_and_how_far_they_narrow(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "runs.csv"
    columns = table(0.003, 0)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines))
    assert main(["plan", "next", str(path), "--flops", "1e20", "--target", "1e22"]) == 0
    assert "evenly spaced" in (printed := capsys.readouterr().out)
    assert "narrow the loss at 1e+22 FLOPs" in printed
    assert main(["plan", "next", str(path), "--flops", "1e20", "--aim", "size", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["results"]["flops"] <= 1.001e20
    assert content["results"]["half_width"] < content["results"]["half_width_before"]
    assert sum(row["flops"] * row["seeds"] for row in content["table"]) == pytest.approx(content["results"]["flops"])
