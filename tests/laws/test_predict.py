"""Predictions of new runs: their intervals, the rollout that they are learned from, and the ranking of laws by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from command_line import fails
from figures import PNG
from simulated import SIMULATED, grid, hoffmann, isoflop, kaplan_nd, noise_of, silence

from knowcap.cli import main
from knowcap.laws import LawError, fit_law
from knowcap.laws.best import fit_best
from knowcap.laws.compare import differences
from knowcap.laws.fitting import predicts
from knowcap.laws.law import loss, predicted
from knowcap.laws.plan.fitted import read_laws
from knowcap.laws.predict import WIDEST, cuts


FEW: dict[str, Any] = {"num_bootstraps": 100}


def line(number: int = 12, noise: float = 0.01, seed: int = 0, floor: float = 0.0) -> dict[str, np.ndarray]:
    """Runs of a power law in the tokens, with a floor of the loss."""
    x = np.geomspace(1e7, 1e10, number)
    loss = floor + 5 * (x / 1e7) ** -0.1
    return {"num_tokens": x, "loss": loss * noise_of(noise, seed)(number)}


def test_within_a_table_the_interval_is_that_of_a_regressions_new_point() -> None:
    table = line(40)
    fit = fit_law("kaplan-d", table, num_bootstraps=1000)
    x, y = np.log(table["num_tokens"]), np.log(table["loss"])
    new = np.array([2e7, 3e8, 8e9])
    slope, start = np.polyfit(x, y, 1)
    error = np.sqrt(((y - start - slope * x) ** 2).sum() / 38)
    leverage = 1 / 40 + (np.log(new) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    half = scipy.stats.t.ppf(0.95, 38) * error * np.sqrt(1 + leverage)
    found = fit.predict({"num_tokens": new}, interval=0.9)
    assert found.value == pytest.approx(fit.predict({"num_tokens": new}))
    assert np.log(found.high / found.low) / 2 == pytest.approx(half, rel=0.05)
    assert np.log(found.high / found.value) == pytest.approx(np.log(found.value / found.low))


def test_a_rollout_has_the_errors_of_lines_through_the_smaller_runs() -> None:
    table = line(floor=1.0)
    rollout = fit_law("kaplan-d", table, **FEW).rollout
    assert rollout is not None
    x, y = np.log(table["num_tokens"]), np.log(table["loss"])
    for step, largest in enumerate(rollout.largest):
        fitted = x <= np.log(largest) + 1e-9
        assert rollout.num_points[step] == fitted.sum()
        errors = y[~fitted] - np.polyval(np.polyfit(x[fitted], y[fitted], 1), x[~fitted])
        assert rollout.error[rollout.cut == step] == pytest.approx(errors, abs=1e-7)
        assert rollout.reach[rollout.cut == step] == pytest.approx(x[~fitted] - x[fitted].max())
    assert (np.diff(rollout.largest) > 0).all() and rollout.largest[-1] < table["num_tokens"][-1]


def test_budgets_stay_together_and_the_largest_is_never_fitted() -> None:
    size = np.log(np.repeat([1e18, 1e19, 1e20, 1e21, 1e22], 4) * np.tile([1.0, 1.01, 1.02, 1.03], 5))
    chosen = cuts(size, 7)
    assert [int(rows.sum()) for rows in chosen] == [12, 16]
    assert cuts(size[:12], 7) == [] and cuts(size, 17) == []


@pytest.mark.parametrize("floor", [0.0, 1.0], ids=["the law is true", "a floor is missing"])
def test_intervals_hold_about_nine_in_ten_of_the_larger_runs(floor: float) -> None:
    held = []
    for seed in range(40):
        table = line(14, 0.003, seed, floor)
        known = {name: column[:10] for name, column in table.items()}
        found = fit_law("kaplan-d", known, **FEW, seed=seed).predict({"num_tokens": table["num_tokens"][10:]}, 0.9)
        held.append((found.low <= table["loss"][10:]) & (table["loss"][10:] <= found.high))
    assert 0.8 <= np.mean(held) <= 1.0


def test_a_table_too_small_for_a_rollout_has_the_widest_interval_beyond_it_and_says_so() -> None:
    fit = fit_law("kaplan-d", line(4), **FEW)
    assert fit.rollout is None and fit.band.misfit == WIDEST and fit.band.steps == 0
    (note,) = fit.band.notes(beyond=1.0)
    assert "too small to learn the law's misfit" in note and fit.band.notes(beyond=0.0) == []
    larger = fit_law("kaplan-d", line(12), **FEW)
    assert larger.band.notes(beyond=1.0) == [] and "tested up to" in larger.band.notes(beyond=20.0)[0]
    beyond, level = np.array([3.0]), 0.9
    known = replace(fit.band, misfit=0.0).half_width(np.zeros(1), beyond, level)
    widest = 1.645 * WIDEST * 3 * (3 + np.log(1e10 / 1e7))
    assert fit.band.half_width(np.zeros(1), beyond, level) == pytest.approx(np.hypot(known, widest), rel=1e-3)


def test_the_saved_fit_gives_the_same_interval_by_the_standard_library(tmp_path: Path) -> None:
    fit = fit_law("kaplan-nd", kaplan_nd(noise_of(0.01, 1))[0], num_bootstraps=400)
    path = fit.write(tmp_path / "fit.json")
    law = read_laws([path])["kaplan-nd"]
    for n, d in ((1e8, 1e9), (1e10, 5e11)):
        found = fit.predict({"num_parameters": n, "num_tokens": d}, interval=0.9)
        ends = predicted(
            law,
            lambda c, n=n, d=d: loss(replace(law, constants=c), n, d) or 0.0,
            {"num_parameters": n, "num_tokens": d},
        )
        assert ends == pytest.approx((found.low[0], found.high[0]), rel=1e-3)
    assert predicted(replace(law, samples={}), lambda c: 1.0, {}) is None
    assert predicted(law, lambda c: 1.0, {}, level=0.42) is None


def test_predictions_that_cannot_have_an_interval_are_an_error() -> None:
    fit = fit_law("kaplan-d", line(), **FEW)
    with pytest.raises(LawError, match="expected a confidence level"):
        fit.predict({"num_tokens": 1e9}, interval=90)
    with pytest.raises(LawError, match="no bootstrap"):
        replace(fit, samples=None).predict({"num_tokens": 1e9}, interval=0.9)


def test_a_law_that_misfits_is_warned_of_and_one_that_does_not_is_not() -> None:
    bent = fit_law("kaplan-d", line(noise=0.001, floor=2.0), **FEW).warnings
    assert any("residuals have a trend with num_tokens" in text for text in bent)
    assert any("misses the larger ones by" in text and "knowcap fit best" in text for text in bent)
    for seed in range(10):
        warnings = fit_law("kaplan-d", line(seed=seed), **FEW).warnings
        assert not any("trend" in text or "misses" in text for text in warnings)


def test_the_true_law_has_the_least_rollout_error_and_far_predictions_are_told_apart() -> None:
    n, d = grid(np.geomspace(5e7, 5e9, 6), np.geomspace(1e9, 2e11, 6))
    table = {"num_parameters": n, "num_tokens": d, "loss": hoffmann(n, d) * noise_of(0.001, 1)(36)}
    ranking = fit_best(table, **FEW)
    names = [c.fit.law for c in ranking.candidates]
    assert names[0].startswith("chinchilla-parametric") and names.index("kaplan-nd") > names.index(names[0])
    assert {"kaplan-n", "kaplan-d", "kaplan-c", "chinchilla-parametric (alpha = beta)"} <= set(names)
    errors = [c.error for c in ranking.candidates]
    assert errors == sorted(errors) and np.isfinite(errors).all()
    assert len({len(c.rollout.error) for c in ranking.candidates if c.rollout is not None}) == 1
    assert "kaplan-ns" in ranking.missing and "capacity" not in ranking.missing
    content = json.loads(json.dumps(ranking.to_dict()))
    assert [row["law"] for row in content["ranking"]] == names and content["best"]["law"] == names[0]
    assert names[0] in ranking.text() and "not fitted: kaplan-ns" in ranking.text()


@pytest.mark.usefixtures("rendered")
def test_the_best_law_is_written_and_drawn_with_its_predictions(tmp_path: Path, capsys) -> None:
    table = line(noise=0.001, floor=2.0)
    runs, new, out, plot = (tmp_path / name for name in ("runs.csv", "new.csv", "best.json", "best.png"))
    rows = zip(table["num_tokens"], table["loss"], strict=True)
    runs.write_text("num_tokens,loss\n" + "".join(f"{a},{b}\n" for a, b in rows))
    new.write_text("num_tokens\n1e11\n")
    words = ["--predict", str(new), "--json", str(out), "--plot", str(plot), "--num_bootstraps", "100"]
    assert main(["fit", "best", str(runs), *words]) == 0
    content = json.loads(out.read_text())
    assert [row["law"] for row in content["ranking"]] == ["kaplan-d (with a floor)", "kaplan-d"]
    (row,) = content["best"]["predictions"]["rows"]
    assert row["low"] < 2 + 5 * 1e4**-0.1 < row["high"] and plot.read_bytes().startswith(PNG)
    assert "1e+11" in capsys.readouterr().out


def test_approaches_that_differ_by_more_than_their_intervals_are_told_apart() -> None:
    few, many = (
        fit_law("chinchilla-isoflop", isoflop(noise_of(1e-4, 0), alpha, 0.3)[0], **FEW) for alpha in (0.3, 0.4)
    )
    (sentence,) = differences(
        {"chinchilla-isoflop": few, "chinchilla-envelope": replace(many, law="chinchilla-envelope")}
    )
    first, second = few.constants["exponent_parameters"], many.constants["exponent_parameters"]
    assert first == pytest.approx(0.5, abs=0.01) and second == pytest.approx(0.3 / 0.7, abs=0.01)
    assert f"{first:.5g} and {second:.5g}" in sentence and "chinchilla-isoflop gives larger models" in sentence
    assert differences({"chinchilla-isoflop": few, "chinchilla-envelope": few}) == []


def test_simpler_forms_come_back_from_runs_that_follow_them() -> None:
    n, d = grid(np.geomspace(5e7, 5e9, 5), np.geomspace(1e9, 2e11, 5))
    equal = {"num_parameters": n, "num_tokens": d, "loss": hoffmann(n, d, 0.3, 0.3)}
    bare = equal | {"loss": 406.4 / n**0.3 + 410.7 / d**0.25}
    x = np.geomspace(1e7, 1e10, 12)
    floor = {"num_tokens": x, "loss": 1.5 + (2e9 / x) ** 0.3}
    for table, form, truth in (
        (equal, "chinchilla-parametric (alpha = beta)", {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.3}),
        (bare, "chinchilla-parametric (E = 0)", {"A": 406.4, "B": 410.7, "alpha": 0.3, "beta": 0.25}),
        (floor, "kaplan-d (with a floor)", {"D_c": 2e9, "alpha_D": 0.3, "E": 1.5}),
    ):
        (found,) = [c.fit for c in fit_best(table, num_bootstraps=10).candidates if c.fit.law == form]
        assert found.constants == pytest.approx(truth, rel=1e-3)
        rows = {name: table[name] for name in found.reads}
        assert found.predict(rows) == pytest.approx(table["loss"], rel=1e-6)


def test_new_runs_are_predicted_on_the_command_line(tmp_path: Path, capsys) -> None:
    table, _ = kaplan_nd(silence)
    runs, new, out = (tmp_path / name for name in ("runs.csv", "new.csv", "fit.json"))
    rows = zip(table["num_parameters"], table["num_tokens"], table["loss"], strict=True)
    runs.write_text("size,num_tokens,loss\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    new.write_text("size,num_tokens\n7e9,1.4e11\n1e8,1e9\n")
    words = ["--columns", "num_parameters=size", "--num_bootstraps", "100"]
    assert main(["fit", "kaplan-nd", str(runs), *words, "--predict", str(new), "--json", str(out)]) == 0
    truth = ((6.4e13 / 7e9) ** (0.076 / 0.103) + 1.8e13 / 1.4e11) ** 0.103
    first, second = json.loads(out.read_text())["predictions"]["rows"]
    assert first["loss"] == pytest.approx(truth, rel=1e-5) and first["low"] <= first["loss"] <= first["high"]
    assert second["num_tokens"] == 1e9
    printed = capsys.readouterr().out
    assert f"{truth:.5g}" in printed and "49 times" in printed  # the FLOPs
    new.write_text("size\n7e9\n")
    assert "column num_tokens" in fails(capsys, "fit", "kaplan-nd", str(runs), *words, "--predict", str(new))
    assert "--interval: got 90" in fails(capsys, "fit", "kaplan-nd", str(runs), *words, "--interval", "90")


@pytest.mark.parametrize("law", SIMULATED)
def test_every_law_predicts_the_rows_of_a_file(law: str, tmp_path: Path) -> None:
    """Of a table without noise; laws of a best size or rate predict that, which is no column of it."""
    table, _ = SIMULATED[law][0](silence)
    runs, out = tmp_path / "runs.csv", tmp_path / "fit.json"
    rows = "\n".join(",".join(map(str, row)) for row in zip(*table.values(), strict=True))
    runs.write_text(",".join(table) + "\n" + rows)
    words = ["--num_bootstraps", "10", "--json", str(out)]
    assert main(["fit", law, str(runs), "--predict", str(runs), *words]) == 0
    found = json.loads(out.read_text())["predictions"]["rows"]
    assert len(found) == len(table["loss"] if "loss" in table else next(iter(table.values())))
    name = "loss of a schedule" if law == "multi-power" else predicts(law)
    assert all(row["low"] <= row[name] <= row["high"] for row in found)
    observed = "loss" if law == "multi-power" else name
    if observed in table and law not in ("chinchilla-envelope", "chinchilla-isoflop", "step-law", "critical-batch"):
        assert [row[name] for row in found] == pytest.approx(list(table[observed]), rel=1e-3)
