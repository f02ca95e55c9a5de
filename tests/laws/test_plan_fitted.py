"""Fits of one's own in the planner: they go before the papers' laws and bring intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knowcap.cli import main
from knowcap.laws.law import Law, LawError
from knowcap.laws.plan.fitted import interval_of, read_laws
from knowcap.laws.plan.questions import ask


EXPOSURES = {"bits_per_parameter": 2.4, "half_exposures": 120.0, "gamma": 0.8}
ALLOCATION = {
    "exponent_parameters": 0.5, "coefficient_parameters": 0.1, "exponent_tokens": 0.5, "coefficient_tokens": 1 / 0.6,
}  # fmt: skip
PARAMETRIC = {"A": 400.0, "B": 1500.0, "E": 1.8, "alpha": 0.35, "beta": 0.36}


def fit(folder: Path, law: str, constants: dict[str, float], **more: Any) -> Path:
    """A file as `knowcap fit` writes it."""
    content = {"law": law, "constants": constants, "intervals": {}, "objective": 0.1, "num_points": 12, "warnings": []}
    path = folder / f"{law}.json"
    path.write_text(json.dumps(content | more))
    return path


def test_a_capacity_fit_gives_bits_per_parameter_and_its_interval(tmp_path):
    path = fit(tmp_path, "capacity", {"bits_per_parameter": 1.6}, intervals={"bits_per_parameter": [1.5, 1.8]})
    answer = ask("size", law=[path], bits=3.6e6, precision="int4", architecture="moe")
    factor = 0.35 / 1.3
    assert answer.results["num_parameters"] == pytest.approx(3.6e6 / (1.6 * factor))
    assert answer.intervals["num_parameters"] == pytest.approx((2.0e6 / factor, 2.4e6 / factor))
    assert answer.laws[0].fitted and "capacity.json, fitted to 12 points; intervals at 95 %" in answer.text()
    holds = ask("holds", law=[path], num_parameters=1e6)
    assert holds.intervals["bits"] == pytest.approx((1.5e6, 1.8e6))
    low, high = holds.intervals["biographies"]
    assert low < holds.results["biographies"] < high
    assert "not applied" in " ".join(ask("size", law=[path], bits=1, exposures=10).warnings)


def test_an_exposures_fit_answers_for_any_number_within_its_runs(tmp_path):
    path = fit(tmp_path, "exposures", EXPOSURES, ranges={"exposures": [20, 2000]})
    for exposures in (20, 120, 700, 2000):
        expected = 2.4 / (1 + (120 / exposures) ** 0.8)
        found = ask("size", law=[path], bits=1e6, exposures=exposures)
        assert found.results["bits_per_parameter"] == pytest.approx(expected)
        assert not any("extrapolated" in warning for warning in found.warnings)
    assert ask("size", law=[path], bits=1e6).results["bits_per_parameter"] == pytest.approx(2.4 / (1 + 0.06**0.8))
    assert any("extrapolated" in w for w in ask("size", law=[path], bits=1e6, exposures=10).warnings)
    needed = ask("train", law=[path], num_parameters=1e6, bits=1.2e6).results["exposures"]
    assert needed == pytest.approx(120, rel=1e-6)  # half of R, at half_exposures
    with pytest.raises(LawError, match="after 2,000 exposures"):
        ask("train", law=[path], num_parameters=1e6, bits=2.39e6)


def test_the_interval_of_exposures_spans_those_of_the_corners(tmp_path):
    intervals = {"bits_per_parameter": [2.2, 2.6], "half_exposures": [100.0, 150.0], "gamma": [0.8, 0.8]}
    path = fit(tmp_path, "exposures", EXPOSURES, intervals=intervals, ranges={"exposures": [1, 1e5]})
    answer = ask("train", law=[path], num_parameters=1e6, bits=1e6)
    ends = [half / (r - 1) ** (1 / 0.8) for r in (2.2, 2.6) for half in (100, 150)]
    assert answer.intervals["exposures"] == pytest.approx((min(ends), max(ends)), rel=1e-6)
    ratio = answer.results["tokens"] / answer.results["exposures"]
    assert answer.intervals["tokens"] == pytest.approx((min(ends) * ratio, max(ends) * ratio), rel=1e-6)


def test_fitted_approaches_stand_in_place_of_the_papers(tmp_path):
    paths = [
        fit(tmp_path, "chinchilla-isoflop", ALLOCATION),
        fit(tmp_path, "chinchilla-envelope", ALLOCATION),
        fit(tmp_path, "chinchilla-parametric", PARAMETRIC),
        fit(tmp_path, "kaplan-nd", {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103}),
    ]
    answer = ask("compute", law=paths, flops=1e20)
    assert [row["law_of"] for row in answer.table] == ["your fit", "your fit", "your fit", "Kaplan", "your fit"]
    assert answer.results["num_parameters_isoflop"] == pytest.approx(1e9)
    assert answer.results["num_tokens_isoflop"] == pytest.approx(1e10 / 0.6)
    a = PARAMETRIC["beta"] / (PARAMETRIC["alpha"] + PARAMETRIC["beta"])
    assert answer.table[2]["exponent_a"] == pytest.approx(a)


def test_a_fit_gives_the_tokens_of_a_doubled_model(tmp_path):
    constants = ALLOCATION | {"exponent_parameters": 0.25, "exponent_tokens": 0.75}
    path = fit(tmp_path, "chinchilla-isoflop", constants)
    answer = ask("train", law=[path], num_parameters=1e8, bits=1e8)
    [row] = [row for row in answer.table if "chinchilla-isoflop.json" in row["twice_the_parameters"]]
    assert row["tokens_x"] == pytest.approx(8) and not any("no use" in warning for warning in answer.warnings)


def test_a_bootstrap_gives_narrower_intervals_than_corners(tmp_path):
    random = np.random.default_rng(3)
    exponent = 0.5 + 0.01 * random.standard_normal(400)
    coefficient = np.exp(math.log(0.1) - (exponent - 0.5) * math.log(1e20))  # all fits agree at 1e20
    samples = {"exponent_parameters": exponent, "coefficient_parameters": coefficient}
    samples |= {"exponent_tokens": 1 - exponent, "coefficient_tokens": 1 / (6 * coefficient)}
    listed = {name: values.tolist() for name, values in samples.items()}
    intervals = {name: np.percentile(values, [2.5, 97.5]).tolist() for name, values in samples.items()}
    corners = fit(tmp_path, "chinchilla-isoflop", ALLOCATION, intervals=intervals)
    answer = ask("compute", law=[corners], flops=1e21)
    low, high = answer.intervals["num_parameters_isoflop"]
    assert "wider than necessary" in " ".join(answer.text().split())
    boot = fit(tmp_path, "chinchilla-isoflop", ALLOCATION, intervals=intervals, samples=listed, confidence_level=0.9)
    found = ask("compute", law=[boot], flops=1e21).intervals["num_parameters_isoflop"]
    assert found == pytest.approx(tuple(np.percentile(coefficient * 1e21**exponent, [5, 95])))
    assert low < found[0] < found[1] < high and high / low > 4 * found[1] / found[0]


def test_corners_enclose_every_combination_within_the_intervals():
    intervals = {"A": (350.0, 450.0), "B": (1000.0, 2000.0), "alpha": (0.33, 0.37), "beta": (0.34, 0.38)}
    law = Law("chinchilla-parametric", PARAMETRIC, "a fit", intervals, fitted=True)

    def size(c):
        both = c["alpha"] + c["beta"]
        return (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / both) * 1e20 ** (c["beta"] / both)

    low, high = interval_of(law, size)
    random = np.random.default_rng(0)
    for _ in range(500):
        assert low <= size(PARAMETRIC | {name: random.uniform(*ends) for name, ends in intervals.items()}) <= high
    assert interval_of(Law("chinchilla-parametric", PARAMETRIC, "a paper"), size) is None


def test_what_a_fit_leaves_open_gives_no_interval_and_is_reported(tmp_path):
    path = fit(tmp_path, "capacity", {"bits_per_parameter": 1.6}, intervals={"bits_per_parameter": [1.5, None]})
    answer = ask("size", law=[path], bits=1e6)
    assert answer.intervals == {} and any("do not bound bits_per_parameter" in w for w in answer.warnings)


def test_budgets_beyond_a_fit_and_its_warnings_are_reported(tmp_path):
    path = fit(tmp_path, "chinchilla-isoflop", ALLOCATION, ranges={"flops": [1e15, 1e17]}, warnings=["few runs"])
    reported = ask("compute", law=[path], flops=1e20).warnings
    assert any("1,000 times the largest of the runs behind chinchilla-isoflop.json" in warning for warning in reported)
    assert "chinchilla-isoflop.json: few runs" in reported


def test_an_optimum_beyond_the_runs_of_a_fit_is_reported(tmp_path):
    ranges = {"num_parameters": [1e7, 2e9], "num_tokens": [1e8, 1e10]}
    path = fit(tmp_path, "chinchilla-isoflop", ALLOCATION, ranges=ranges)
    reported = " ".join(ask("compute", law=[path], flops=1e20).warnings)
    assert "16.67 billion tokens are outside the runs behind chinchilla-isoflop.json" in reported
    assert "parameters are outside" not in reported


def test_laws_that_a_question_has_no_use_for_are_reported(tmp_path):
    path = fit(tmp_path, "kaplan-d", {"D_c": 5e13, "alpha_D": 0.1})
    assert any("does not use the law kaplan-d" in warning for warning in ask("size", law=[path], bits=1e6).warnings)


def test_all_that_is_wrong_with_fits_is_reported_at_once(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    other = tmp_path / "other.json"
    other.write_text("[1]")
    wrong = fit(tmp_path, "capacity", {"bits_per_parameter": "two"}, intervals={"bits_per_parameter": [3, 1]})
    good = fit(tmp_path, "exposures", EXPOSURES)
    with pytest.raises(LawError) as reported:
        read_laws([broken, other, wrong, good, good, tmp_path / "none.json"])
    message = str(reported.value)
    for part in (
        "broken.json: Expecting", "other.json: expected the JSON of `knowcap fit`", "got 'two'",
        "is [3, 1], expected [low, high]", "the law exposures is given twice", "none.json",
    ):  # fmt: skip
        assert part in message


def test_the_command_takes_fits(tmp_path, capsys):
    path = fit(tmp_path, "capacity", {"bits_per_parameter": 1.6}, intervals={"bits_per_parameter": [1.5, 1.8]})
    assert main(["plan", "size", "--bits", "1.8M", "--law", str(path)]) == 0
    assert "num_parameters: 1 million to 1.2 million" in capsys.readouterr().out
    assert main(["plan", "size", "--bits", "1.8M", "--law", str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["intervals"]["num_parameters"] == pytest.approx([1e6, 1.2e6])
    assert content["intervals"]["weight_bytes"] == pytest.approx([2e6, 2.4e6])
    assert content["intervals"]["bits"] is None and content["laws"][0]["fitted"]
