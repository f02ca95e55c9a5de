"""Numbers out of range, units, memory and cost: the same from Python, the command and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import fails
from simulated import isoflop, noise_of

from knowcap.cli import main
from knowcap.laws import fit_law
from knowcap.laws.compare import compare_approaches
from knowcap.laws.law import LawError
from knowcap.laws.plan.page import TABS, answer
from knowcap.laws.plan.questions import ask


EVERY = {
    "size": {"bits": 1e9},
    "holds": {"num_parameters": 7e9},
    "train": {"num_parameters": 1e8, "num_people": 2e6, "price": 2.0},
    "compute": {"flops": 1e21, "num_parameters": 1e9, "price": 2.0},
    "memory": {"num_layers": 12, "hidden_size": 768},
    "passes": {"num_parameters": 1e8, "unique_tokens": 1e7, "passes": 16},
}


@pytest.mark.parametrize("question", EVERY)
def test_every_number_has_a_unit(question: str) -> None:
    content = ask(question, **EVERY[question]).content()
    assert content["units"].keys() == content["results"].keys() == content["intervals"].keys()
    assert all(content["units"].values())


# What is wrong, as words of a command, and what is said.
WRONG = [
    ("size", "--num_people 160000001", "expected 1 to 160,000,000, the number of names"),
    ("size", "--num_people 0.5", "expected 1 to 160,000,000"),
    ("size", "--num_people 1.5", "num_people=1.5, expected a whole number"),
    ("size", "--bits 0.3", "bits=0.3, expected 1 or more"),
    ("size", "--bits 1e308", "bits=1e+308, expected at most"),
    ("size", "--bits -5B", "bits=-5e+09, expected a finite number above 0"),
    ("size", "--bits 1e9 --exposures 1e308", "exposures=1e+308, expected at most"),
    ("size", "--facts none.csv --entity_space 1e308", "entity_space=1e+308, expected at most"),
    ("holds", "--num_parameters 0.5", "num_parameters=0.5, expected 1 or more"),
    ("holds", "--num_parameters 1e308", "num_parameters=1e+308, expected at most"),
    ("train", "--num_parameters 1e8 --bits 1e8 --num_gpus 0.5", "num_gpus=0.5, expected 1 or more"),
    ("train", "--num_parameters 1e8 --bits 1e8 --num_gpus 2.5", "num_gpus=2.5, expected a whole number"),
    ("train", "--num_parameters 1e8 --bits 1e8 --utilisation -40%", "utilisation=-0.4, expected above 0"),
    ("train", "--num_parameters 1e8 --bits 1e8 --utilisation 140%", "utilisation=1.4, expected above 0 and at most 1"),
    ("train", "--num_parameters 1e8 --bits 1e8 --price -2", "price=-2, expected a finite number above 0"),
    ("train", "--num_parameters 1e8 --bits 1e8 --tokens_per_exposure 1e308", "tokens_per_exposure=1e+308"),
    ("compute", "--flops 1e308", "flops=1e+308, expected at most"),
    ("compute", "--flops 1", "flops=1 is less than one parameter and one token take"),
    ("compute", "--flops 1e21 --num_parameters 1e30", "num_parameters=1e+30, expected at most"),
    ("compute", "--flops 1e12 --num_parameters 1e12", "1e+12 FLOPs are 0.17 tokens of training"),
    ("compute", "--flops 1e21 --unique_tokens 1e308", "unique_tokens=1e+308, expected at most"),
]


@pytest.mark.parametrize(("question", "words", "message"), WRONG, ids=[f"{q} {w}" for q, w, _ in WRONG])
def test_numbers_out_of_range_are_the_same_error_everywhere(question: str, words: str, message: str, capsys) -> None:
    assert message in fails(capsys, "plan", question, *words.split())
    given = dict(zip((w[2:] for w in words.split()[::2]), words.split()[1::2], strict=True))
    with pytest.raises(LawError) as error:
        answer(question, given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("question", "words", "note"),
    [
        ("holds", "--num_parameters 1e11", "more than the 160 million names"),
        ("holds", "--num_parameters 10", "fewer than one person of bioS has"),
        ("train", "--num_parameters 1e11 --bits 1e11", "more than the 160 million names"),
        ("size", "--bits 1", "fewer than one parameter holds"),
        ("compute", "--flops 1e21 --num_parameters 1e14", "under-training"),
        ("train", "--num_parameters 7e9 --bits 7e9", "2 or more, with weights and optimizer states divided"),
    ],
)
def test_numbers_that_mean_little_are_answered_with_a_note(question: str, words: str, note: str, capsys) -> None:
    assert main(["plan", question, *words.split(), "--json"]) == 0
    assert any(note in text for text in json.loads(capsys.readouterr().out)["warnings"])


def test_per_cents_and_numbers_with_units_are_read(capsys) -> None:
    words = "train --num_parameters 100M --num_people 2M --gpu a100 --json".split()
    found = []
    for share in ("0.4", "40%", "40 %", "0,4"):
        assert main(["plan", *words, "--utilisation", share]) == 0
        found.append(json.loads(capsys.readouterr().out)["results"])
    assert found == found[:1] * 4
    assert main(["plan", "compute", "--flops", "5,76 x 10^23 FLOPs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["flops"] == pytest.approx(5.76e23)


@pytest.mark.parametrize(("size", "gigabytes"), [(1.5e9, 24), (7.5e9, 120)])
def test_training_takes_the_bytes_that_zero_counts(size: float, gigabytes: float) -> None:
    """Rajbhandari et al. 2020: 24 GB for GPT-2 (section 3.1), 120 GB for 7.5 billion parameters (Figure 1)."""
    results = ask("holds", num_parameters=size).results
    assert results["training_bytes"] == gigabytes * 1e9
    each = [results[f"inference_bytes_{name}"] / size for name in ("fp32", "bf16", "int8", "int4")]
    assert each == [4, 2, 1, 0.5]
    assert results["weight_bytes"] == results["inference_bytes_bf16"]


def test_a_price_gives_the_cost_of_the_gpu_hours() -> None:
    options = {"num_parameters": 1e9, "num_people": 1e6, "num_gpus": 8}
    one, two = (ask("train", **options, price=price).results for price in (2.5, 5.0))
    assert one["cost"] == pytest.approx(2.5 * one["gpu_hours"]) and two["cost"] == pytest.approx(2 * one["cost"])
    assert "cost" not in ask("train", **options).results
    spent = ask("compute", flops=1e21, price=3.0, gpu="a100", utilisation=0.5).results
    assert spent["cost"] == pytest.approx(3 * 1e21 / (312e12 * 0.5 * 3600))


def test_all_approaches_in_one_file_are_taken_each_in_its_place(tmp_path, capsys) -> None:
    comparison = compare_approaches(isoflop(noise_of(0.002, seed=0))[0], num_bootstraps=50)
    path = comparison.write(tmp_path / "all.json")
    apart = [fit.write(tmp_path / f"{law}.json") for law, fit in comparison.fits.items()]
    assert len(apart) == 2
    together, single = (ask("compute", law=law, flops=1e21) for law in ([path], apart))
    assert together.results == single.results and together.intervals == single.intervals
    assert [row["law_of"] for row in together.table].count("your fit") == 2
    assert all("all.json, fitted to" in law.source for law in together.laws if law.fitted)
    assert main(["plan", "compute", "--flops", "1e21", "--law", str(path)]) == 0
    assert "num_parameters_parametric: " in capsys.readouterr().out
    with pytest.raises(LawError, match="chinchilla-isoflop is given twice"):
        ask("compute", law=[path, apart[0]], flops=1e21)


def test_a_fit_gives_the_interval_of_the_loss(tmp_path) -> None:
    fit = fit_law("chinchilla-parametric", isoflop(noise_of(0.002, seed=0))[0], num_bootstraps=200)
    found = ask("compute", law=[fit.write(tmp_path / "fit.json")], flops=1e23)
    size, tokens = found.results["num_parameters_parametric"], found.results["num_tokens_parametric"]
    expected = fit.predict({"num_parameters": size, "num_tokens": tokens}, interval=0.9)
    assert found.results["loss_parametric"] == pytest.approx(float(expected.value[0]))
    low, high = found.intervals["loss_parametric"]
    assert np.log([low, high]) == pytest.approx(np.log([expected.low[0], expected.high[0]]), rel=0.01)
    low, high = found.intervals["num_parameters_parametric"]
    assert low < size < high
    small = ask("compute", law=[tmp_path / "fit.json"], flops=1e21, num_parameters=3e8)
    low, high = small.intervals["loss_at_size_parametric"]
    assert low < small.results["loss_at_size_parametric"] < high


@pytest.mark.parametrize(("form", "fixed"), [("alpha = beta", {"beta": 0.34}), ("E = 0", {"E": 0.0})])
def test_a_simpler_form_and_the_best_fit_are_taken_with_what_they_fix(tmp_path, form: str, fixed: dict) -> None:
    whole = {"A": 400.0, "B": 1500.0, "E": 1.8, "alpha": 0.34, "beta": 0.36} | fixed
    fewer = {name: value for name, value in whole.items() if name not in fixed}
    fit = {"constants": fewer, "intervals": {}, "samples": {name: [v, v * 1.01] for name, v in fewer.items()}}
    best = {"law": "best", "best": fit | {"law": f"chinchilla-parametric ({form})"}}
    full = {"law": "chinchilla-parametric", "constants": whole, "intervals": {}}
    found = []
    for name, content in (("best", best), ("full", full)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        found.append(ask("compute", law=[tmp_path / f"{name}.json"], flops=1e20).results)
    assert found[0] == pytest.approx(found[1])


def test_a_fit_in_doubtful_units_is_refused(tmp_path) -> None:
    table = isoflop(noise_of(0.002, seed=0))[0]
    fit = fit_law(
        "chinchilla-parametric", table | {"num_parameters": table["num_parameters"] / 1e9}, num_bootstraps=20
    )
    with pytest.raises(LawError, match="units of chinchilla-parametric are in doubt"):
        ask("compute", law=[fit.write(tmp_path / "fit.json")], flops=1e21)


def test_constants_that_give_no_number_are_an_error(tmp_path) -> None:
    constants = {"exponent_parameters": 90.0, "coefficient_parameters": 1e300, "exponent_tokens": 0.5}
    content = {"law": "chinchilla-isoflop", "constants": constants | {"coefficient_tokens": 1.0}, "intervals": {}}
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(content))
    with pytest.raises(LawError, match=r"flops=1e\+21: a number here is too large"):
        ask("compute", law=[path], flops=1e21)


def test_a_paper_that_prints_a_range_has_it_beside_the_answer() -> None:
    """Part 3.3, Result 1: at least 2 bits per parameter at its peak, at most 2.3."""
    assert ask("holds", num_parameters=1e8).ranges["bits"] == pytest.approx((2e8, 2.3e8))
    assert ask("size", bits=1e8).ranges["num_parameters"] == pytest.approx((1e8 / 2.3, 5e7))
    assert ask("size", bits=1e8, exposures=100).ranges == {}
    low, high = ask("compute", flops=1e21).ranges["num_parameters"]
    assert low == pytest.approx(2.217e9, rel=1e-3) and high == pytest.approx(2.86e9, rel=1e-3)


def test_a_page_has_a_field_for_every_option_of_the_command() -> None:
    from knowcap.cli import make_parser

    parser = make_parser("plan")
    for question, (_, names, _) in TABS.items():
        words = {"size": [], "memory": [], "compute": ["--flops", "1"]}
        words["passes"] = ["--num_parameters", "1", "--unique_tokens", "1"]
        args = parser.parse_args(["plan", question, *words.get(question, ["--num_parameters", "1"])])
        others = {"command", "takes_recipe", "traceback", "imports", "web", "port", "save_space", "question", "usage"}
        assert set(vars(args)) - others - {"law", "json"} == set(names)
