"""The planner's answers against figures typed from the papers and against closed forms."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from knowcap.cli import main
from knowcap.laws import published
from knowcap.laws.law import LawError, loss
from knowcap.laws.law import optimum as allocation
from knowcap.laws.plan.capacity import exposures_for, rate
from knowcap.laws.plan.content import bits_per_person, people_for
from knowcap.laws.plan.questions import ask
from knowcap.laws.plan.setting import GPUS, Setting
from knowcap.laws.quantity import figure, quantity


def optimum(law, flops: float) -> tuple[float, float]:
    """Compute-optimal parameters and tokens by a law."""
    found = allocation(law.law, law.constants, flops)
    return found.num_parameters, found.num_tokens


def held(exposures: float | None = None, **setting: str) -> float:
    """Bits a parameter, by the papers."""
    return rate(Setting(exposures, **setting), {}).value


def warns(answer, *parts: str) -> bool:
    """Whether one of an answer's warnings has all the parts."""
    return any(all(part in warning for part in parts) for warning in answer.warnings)


# Part 3.3: figures as printed.


def test_seven_billion_parameters_hold_fourteen_billion_bits():
    answer = ask("holds", num_parameters=7e9)
    assert answer.results["bits"] == 14e9 and answer.intervals == {}
    assert "English Wikipedia" in answer.text()


@pytest.mark.parametrize(("exposures", "parameters_per_bit"), [(1000, 0.5), (100, 1), (1, 10)])
def test_k_bits_take_k_half_k_and_ten_k_parameters_at_1000_100_and_1_exposures(exposures, parameters_per_bit):
    answer = ask("size", bits=3e8, exposures=exposures)
    assert answer.results["num_parameters"] == pytest.approx(parameters_per_bit * 3e8, rel=1e-12)
    answer = ask("train", num_parameters=parameters_per_bit * 3e8, bits=3e8)
    assert answer.results["exposures"] == pytest.approx(exposures, rel=1e-9)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ((1000, {"precision": "int8"}), 2.0),
        ((1000, {"precision": "int4"}), 0.7),
        ((1000, {"architecture": "moe"}), 2 / 1.3),
        ((100, {"architecture": "moe"}), 1 / 1.5),
        ((1000, {"architecture": "llama"}), 2.0),
        ((100, {"architecture": "llama"}), 1 / 1.3),
        ((100, {"architecture": "mistral"}), 1 / 1.3),
        ((100, {"architecture": "gpt2-no-mlp"}), 1 / 1.5),
        ((100, {"architecture": "gpt2-quarter-mlp"}), 1.0),
        ((100, {"junk": "unique"}), 1 / 20),
        ((300, {"junk": "unique"}), 1 / 3),
        ((600, {"junk": "unique"}), 1 / 1.5),
        ((1000, {"junk": "unique"}), 1 / 1.3),
        ((100, {"junk": "repeated"}), 1.0),
        ((100, {"junk": "marked"}), 1 / 2),
        ((300, {"junk": "marked"}), 1.0),
    ],
)
def test_bits_a_parameter_are_those_of_results_5_to_12(setting, expected):
    exposures, rest = setting
    assert held(exposures, **rest) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("people", "bits", "millions"),  # PAPER: bits a person, and parameters in millions where R_max = 2
    [(10e3, 61.557, 0.308), (1e6, 54.914, 27.457), (20e6, 50.592, 505.9)],
)
def test_people_have_the_bits_of_definition_4_3(people, bits, millions):
    assert bits_per_person(people) == pytest.approx(bits, abs=6e-4)
    answer = ask("size", num_people=people)
    assert answer.results["num_parameters"] == pytest.approx(millions * 1e6, rel=2e-3)
    assert people_for(people * bits_per_person(people)) == pytest.approx(people, rel=1e-9)


def test_people_beyond_all_names_count_their_values_alone():
    bits = 3 * published.BIOS_NAMES * bits_per_person(published.BIOS_NAMES)
    assert people_for(bits) == pytest.approx(3 * published.BIOS_NAMES)
    values = math.log2(2 * 67_200 * 200 * 300 * 100 * 263)
    assert people_for(14e9) == pytest.approx(14e9 / values, rel=1e-12) and values == pytest.approx(47.5916, abs=1e-4)


def test_a_doubled_model_needs_fewer_than_half_the_passes_over_the_same_facts():
    for exposures, needed in ((1000, 2.0), (100, 1.0), (30, held(30))):
        again = exposures_for(needed / 2, Setting(), {})
        assert again is not None and again < exposures / 2
        answer = ask("train", num_parameters=1e8, bits=needed * 1e8)
        same, twice = answer.table[0], answer.table[1]
        assert same["tokens_x"] == pytest.approx(again / exposures, rel=1e-6)
        assert (twice["tokens_x"], twice["FLOPs_x"]) == (2, 4)


def test_for_least_loss_a_doubled_model_asks_for_tokens_by_the_printed_exponents():
    rows = {row["twice_the_parameters"]: row["tokens_x"] for row in ask("train", num_parameters=1e8, bits=1e8).table}
    for approach, a, b in (("approach 1", 0.50, 0.50), ("approach 2", 0.49, 0.51), ("approach 3", 0.46, 0.54)):
        assert rows[f"least loss: Hoffmann et al. 2022, {approach}"] == pytest.approx(2 ** (b / a), rel=0.03)
    assert rows["least loss: Kaplan et al. 2020"] == pytest.approx(2 ** (0.27 / 0.73))


def test_more_exposures_never_hold_less_whatever_the_setting():
    grid = np.geomspace(1, 1000, 40)
    kinds = product(published.ARCHITECTURES, published.PRECISIONS, ("none", *published.JUNK))
    for architecture, precision, junk in kinds:
        setting = {"architecture": architecture, "precision": precision, "junk": junk}
        from_here = grid if junk == "none" else grid[grid >= 100]
        found = [held(e, **setting) for e in from_here]
        assert np.all(np.diff(found) > -1e-12)
        middle = math.sqrt(found[0] * found[-1])
        exposures = exposures_for(middle, Setting(**setting), {})
        assert exposures is not None and held(exposures, **setting) >= middle * (1 - 1e-9)
        assert exposures_for(found[-1] * 1.01 + 1, Setting(**setting), {}) is None


# Loss laws: figures as printed.


@pytest.mark.parametrize(("size", "flops", "tokens"), published.HOFFMANN_TABLE_3)
def test_approach_1_gives_table_3(size, flops, tokens):
    found = optimum(published.HOFFMANN_ENVELOPE, flops)
    assert found[0] == pytest.approx(size, rel=0.013)
    assert found[1] == pytest.approx(tokens, rel=0.06)  # printed in two digits


@pytest.mark.parametrize(("size", "flops", "tokens"), published.HOFFMANN_TABLE_A3_ISOFLOP)
def test_approach_2_gives_table_a3(size, flops, tokens):
    assert optimum(published.HOFFMANN_ISOFLOP, flops) == pytest.approx((size, tokens), rel=0.04)


@pytest.mark.parametrize(
    ("size", "flops", "tokens"),  # Table A3, approach 3; printed from constants of more digits than are known
    [(400e6, 2.21e19, 9.2e9), (10e9, 2.46e22, 410.1e9), (67e9, 1.71e24, 4.1e12), (10e12, 8.55e28, 1425.5e12)],
)
def test_approach_3_gives_table_a3(size, flops, tokens):
    assert optimum(published.HOFFMANN_PARAMETRIC, flops) == pytest.approx((size, tokens), rel=0.08)


def test_at_1e21_flops_the_sizes_are_those_that_hoffmann_compares():
    """Section D.4: 2.86 billion by approach 1, 4.68 billion by Kaplan."""
    results = ask("compute", flops=1e21).results
    assert results["num_parameters_envelope"] == pytest.approx(2.86e9, rel=2e-3)
    assert results["num_parameters_kaplan"] == pytest.approx(4.68e9, rel=2e-3)


def test_the_printed_exponents_come_out():
    rows = {(row["approach"], row["law_of"]): row["exponent_a"] for row in ask("compute", flops=1e21).table}
    assert rows["1 envelope", "Hoffmann"] == pytest.approx(0.50, abs=0.005)
    assert rows["2 IsoFLOP", "Hoffmann"] == pytest.approx(0.49, abs=0.005)
    assert rows["3 parametric", "Hoffmann"] == pytest.approx(0.46, abs=0.005)
    assert rows["3 parametric", "Epoch's refit"] == pytest.approx(0.513, abs=0.001)
    assert rows["Kaplan", "Kaplan"] == 0.73


@pytest.mark.parametrize(
    "law", [published.HOFFMANN_PARAMETRIC, published.EPOCH_PARAMETRIC, published.KAPLAN_ND], ids=lambda law: law.source
)
def test_no_other_size_of_the_same_budget_has_less_loss(law):
    for flops in (1e19, 1e22, 1e25):
        size, tokens = optimum(law, flops)
        assert 6 * size * tokens == pytest.approx(flops)
        sizes = size * np.geomspace(0.2, 5, 401)
        losses = [loss(law, n, flops / (6 * n)) for n in sizes]
        assert int(np.argmin(losses)) == 200


def test_a_size_that_is_settled_never_beats_the_optimum():
    answer = ask("compute", flops=1e21, num_parameters=1e9)
    assert answer.results["num_tokens"] == pytest.approx(1e21 / 6e9)
    settled = [step for step in answer.steps if step.what == "nats per token"]
    best = [row["nats_a_token"] for row in answer.table if row["nats_a_token"]]
    assert all(step.value > least for step, least in zip(settled, best, strict=True))


# Training.


def test_tokens_flops_and_hours_follow_from_exposures():
    options = {"num_parameters": 1e9, "num_people": 1e6, "exposures": 500, "gpu": "a100", "utilisation": 0.5}
    results = ask("train", **options, num_gpus=4).results
    assert results["tokens"] == pytest.approx(500 * 1e6 * 73.9)
    assert results["flops"] == pytest.approx(6e9 * results["tokens"])
    assert results["gpu_hours"] == pytest.approx(results["flops"] / 312e12 / 0.5 / 3600)
    assert results["hours"] == pytest.approx(results["gpu_hours"] / 4)
    junk = ask("train", **options, junk="unique").results
    assert junk["tokens"] == pytest.approx(8 * results["tokens"])
    moe = ask("train", **options, architecture="moe").results
    assert moe["flops"] == pytest.approx(0.088 * results["flops"])
    own = ask("train", **options, tokens_per_exposure=1e6).results
    assert own["tokens"] == 5e8


def test_the_papers_longest_run_comes_out_at_the_time_it_took():
    """GPT2-20-16 (255.3 M) on bioS(10M), 1000 exposures: 8.5 days on 64 A100, which is 7.7 % of their peak."""
    options = {"num_people": 10e6, "exposures": 1000, "gpu": "a100", "num_gpus": 64}
    answer = ask("train", num_parameters=255.3e6, utilisation=0.077, **options)
    assert answer.results["hours"] == pytest.approx(8.5 * 24, rel=0.01)


def test_what_a_model_cannot_hold_is_reported_with_a_size_that_can():
    with pytest.raises(LawError, match="1 million parameters hold 2 million bits .* give 500 million parameters"):
        ask("train", num_parameters=1e6, bits=1e9)
    answer = ask("train", num_parameters=1e6, bits=1e9, exposures=1000)
    assert warns(answer, "2 million of the 1 billion bits are stored") and answer.results["bits_held"] == 2e6


@pytest.mark.parametrize(("gpu", "peak"), [("a100", 312e12), ("h100-sxm", 989.4e12), ("mi300x", 1307.4e12)])
def test_peaks_are_dense_bf16(gpu, peak):
    assert GPUS[gpu][0] == peak


# Where the laws end.


@pytest.mark.parametrize(
    ("question", "options", "parts"),
    [
        ("size", {"bits": 1e6, "exposures": 5000}, ("up to 1000", "not known")),
        ("size", {"bits": 1e6, "exposures": 20}, ("below 100 exposures", "lecture")),
        ("size", {"bits": 1e12}, ("larger than the largest",)),
        ("size", {"bits": 1e6}, ("smaller than the smallest",)),
        ("size", {"bits": 1e8, "exposures": 500, "junk": "marked"}, ("runs with such junk of up to 300",)),
        ("size", {"bits": 1e8, "architecture": "moe", "precision": "int4"}, ("not measured together",)),
        ("size", {"bits": 1e8, "exposures": 100, "precision": "int4"}, ("int4 keeps 0.35",)),
        ("compute", {"flops": 1e26}, ("times the largest of Hoffmann's runs", "bend")),
        ("compute", {"flops": 5e23}, ("times the largest", "confirmed once")),
        ("compute", {"flops": 1e15}, ("below the smallest",)),
        ("compute", {"flops": 1e21, "unique_tokens": 1e9}, ("75.18 passes: repeated data",)),
        ("compute", {"flops": 1e21, "num_parameters": 1e8}, ("over-training", "a guess")),
    ],
)
def test_beyond_the_laws_a_warning_is_reported(question, options, parts):
    assert warns(ask(question, **options), *parts)


def test_within_the_laws_nothing_it_is_reported():
    assert ask("size", bits=1e8, exposures=1000, precision="int8").warnings == ()
    assert ask("holds", num_parameters=1e8).warnings == ()
    assert not warns(ask("compute", flops=1e20, num_parameters=1e9, unique_tokens=1e12), "extrapolated")
    assert not warns(ask("compute", flops=1e20, num_parameters=1e9, unique_tokens=1e12), "repeated")


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        ("size", {}, "got nothing to store; give one of bits, num_people, facts"),
        ("size", {"bits": 1, "num_people": 1}, "got bits and num_people to store"),
        (
            "size",
            {"bits": -1, "exposures": 0.5},
            "bits=-1, expected a finite number above 0.*\n  exposures=0.5, expected 1",
        ),
        ("size", {"bits": 1, "exposures": 50, "junk": "unique"}, "no figure below 100 exposures"),
        ("size", {"num_people": 1e9}, "expected 1 to 160,000,000, the number of names"),
        ("size", {"bits": 1, "entity_space": 5}, "have no effect without facts"),
        ("size", {"bits": 1, "architecture": "rnn"}, "architecture='rnn', expected gpt2 or"),
        ("holds", {"num_parameters": float("nan")}, "num_parameters=nan, expected a finite number"),
        ("holds", {}, "num_parameters is missing"),
        ("train", {"num_parameters": 1e9, "bits": 1, "gpu": "tpu"}, "gpu='tpu', expected a10, a100"),
        ("train", {"num_parameters": 1e9, "bits": 1, "utilisation": 1.2}, "utilisation=1.2, expected above 0"),
        ("train", {"num_parameters": 1e9, "bits": 1, "tokens_per_exposure": 0}, "tokens_per_exposure=0"),
        ("compute", {"flops": 0}, "flops=0, expected a finite number above 0"),
        ("compute", {"flops": 1, "unique_tokens": -1}, "unique_tokens=-1"),
    ],
)
def test_bad_input_is_reported(question, options, message):
    with pytest.raises(LawError, match=f"(?s){message}"):
        ask(question, **options)


# Numbers, the command line.


@pytest.mark.parametrize(
    ("text", "value"),
    [("7e9", 7e9), ("7B", 7e9), ("1.5k", 1500), ("2_000", 2000), ("2,000", 2000), (" 3T ", 3e12), ("1G", 1e9)],
)
def test_numbers_are_read_as_people_write_them(text, value):
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "seven", "1e400", "nan", "7X", "B"])
def test_what_is_no_number_is_reported(text):
    with pytest.raises(ValueError, match="expected a number such as 7e9"):
        quantity(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.5, "1.5"), (1234, "1,234"), (5e8, "500 million"), (1.4e10, "14 billion"), (3e12, "3 trillion"),
     (1e21, "1.000e+21"), (2e-5, "2.000e-05")],
)  # fmt: skip
def test_numbers_are_written_as_people_read_them(value, text):
    assert figure(value) == text


def test_the_command_prints_one_screen_or_json_with_the_same_numbers(capsys):
    for words in (
        "size --bits 1e9 --exposures 1000 --precision int8",
        "holds --num_parameters 7e9",
        "train --num_parameters 100M --num_people 2M --gpu a100 --num_gpus 8",
        "compute --flops 1e21",
        "memory --num_layers 24 --hidden_size 2048",
        "passes --num_parameters 100M --unique_tokens 10M --passes 16",
    ):
        assert main(["plan", *words.split()]) == 0
        text = capsys.readouterr().out
        assert main(["plan", *words.split(), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) <= 119
        assert text.startswith(content["headline"]) and "no interval" in text
        assert content["results"] and set(content["intervals"].values()) == {None}
        assert all(set(law["intervals"].values()) == {None} and not law["fitted"] for law in content["laws"])
        assert all(law["source"] in text.replace("\n      ", " ") for law in content["laws"])


def test_bad_words_end_with_status_2(capsys):
    assert main(["plan", "size", "--bits", "0"]) == 2
    assert capsys.readouterr().err == "knowcap: bits=0, expected a finite number above 0; correct it\n"
    for words in (
        ["plan", "size", "--bits", "many"],
        ["plan", "holds"],
        ["plan", "holds", "--layers", "2"],
        ["plan"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
    assert (
        "expected a question, size, holds, train, compute, memory, passes, next, or --web" in capsys.readouterr().err
    )


def test_the_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "train", "--help"])
    words = set(re.split(r"[\s,()]+", capsys.readouterr().out))
    assert {*published.ARCHITECTURES, *published.PRECISIONS, *published.JUNK, *GPUS} <= words
    assert main(["plan", "holds", "--num_parameters", "1", "--precision", "int2"]) == 2
    assert "precision='int2', expected fp32 or bf16 or int8 or int4" in capsys.readouterr().err


def test_the_command_line_does_not_wait_for_the_laws():
    code = "import sys, knowcap.cli; knowcap.cli.make_parser(); print([m for m in sys.modules if 'knowcap.laws' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
