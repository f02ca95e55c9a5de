"""Verdicts: of constructed results with known intervals, in each of the four ways; results that were changed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import scipy
from finding_files import FINDING, SWEEP, write_finding, write_results

from knowcap.cli import main
from knowcap.files import FileError
from knowcap.findings import judge, load_finding
from knowcap.findings.statistic import (
    FAILS,
    HOLDS,
    NOT_RUN,
    UNDECIDED,
    Undefined,
    estimate,
    slope,
    t_interval,
    together,
    verdict_of,
)


RATIO = (
    "{says: a half, statistic: ratio, of: {exposures: 100, num_people: 500}, to: {exposures: 1000, num_people: 500}, "
    "at_least: 0.4, at_most: 0.6}"
)


def judged(folder: Path, statements: str, numbers, **parts):
    """The verdict of a finding with made results."""
    finding = load_finding(write_finding(folder, statements, **parts))
    for sweep in finding.sweeps:
        write_results(folder / "results", sweep, numbers)
    return judge(finding, folder / "results")


def halves(ratio: float, noise: float = 0.01):
    """A cell's bits: 1.6 at 1000 exposures, times `ratio` at 100, with seeds that differ."""

    def numbers(cell):
        bits = 1.6 if cell.recipe.exposures == 1000 else 1.6 * ratio
        return {"bits_per_parameter": bits * (1 + noise * (cell.recipe.seed - 11.5) * (cell.recipe.exposures == 100))}

    return numbers


def test_the_t_interval_is_scipys():
    numbers = [1.3, 1.9, 1.1, 1.62, 1.4]
    found = scipy.stats.ttest_1samp(numbers, 0.0).confidence_interval(0.95)
    assert t_interval(numbers) == pytest.approx((sum(numbers) / 5, found.low, found.high))


def test_a_ratio_is_paired_and_its_interval_that_of_the_logarithm():
    pairs = {10: (1.0, 2.1), 11: (1.3, 2.5), 12: (0.9, 1.7)}
    found = estimate("ratio", {seed: [[a], [b]] for seed, (a, b) in pairs.items()})
    logs = scipy.stats.ttest_rel(*zip(*[(math.log(a), math.log(b)) for a, b in pairs.values()], strict=True))
    interval = logs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.value == pytest.approx(math.prod(a / b for a, b in pairs.values()) ** (1 / 3))


@pytest.mark.parametrize(
    ("statistic", "sides", "expected"),
    [
        ("value", [[3.0]], 3.0),
        ("difference", [[3.0], [1.0]], 2.0),
        ("ratio", [[3.0], [1.5]], 2.0),
        ("ratio", [[-3.0], [1.5]], -2.0),
        ("spread", [[1.0, 4.0, 2.0]], 4.0),
        ("slope", [[3 * 10**-0.7, 3 * 100**-0.7, 3 * 1000**-0.7], [10.0, 100.0, 1000.0]], -0.7),
    ],
)
def test_statistics_of_one_seed(statistic, sides, expected):
    assert estimate(statistic, {10: sides}).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("statistic", "sides"), [("ratio", [[1.0], [0.0]]), ("spread", [[1.0, -1.0]]), ("slope", [[1.0, 0.0], [1.0, 2.0]])]
)
def test_a_quotient_by_what_is_not_positive_is_undefined(statistic, sides):
    with pytest.raises(Undefined, match="seed 10"):
        estimate(statistic, {10: sides})


def test_slope_is_scipys():
    xs, ys = [1.0, 2.0, 4.0, 5.0], [0.3, 1.1, 1.0, 2.4]
    assert slope(xs, ys) == pytest.approx(scipy.stats.linregress(xs, ys).slope)


def test_the_paired_ratios_interval_covers_the_truth_in_95_of_100_cases():
    source, covered = random.Random(0), 0
    for _ in range(1000):
        sides = {}
        for seed in (10, 11, 12, 13):
            people = source.gauss(0, 0.5)  # what both sides of a seed share
            logs = (people + source.gauss(math.log(0.5), 0.1), people + source.gauss(0, 0.1))
            sides[seed] = [[math.exp(x)] for x in logs]
        found = estimate("ratio", sides)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert abs(covered / 1000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 1000)


@pytest.mark.parametrize(
    ("numbers", "limits", "expected"),
    [
        ([0.5, 0.51, 0.49], (0.4, 0.6), HOLDS),
        ([0.5, 0.51, 0.49], (0.4, None), HOLDS),
        ([0.5, 0.51, 0.49], (0.6, None), FAILS),
        ([0.5, 0.51, 0.49], (None, 0.4), FAILS),
        ([0.5, 0.9, 0.1], (0.4, 0.6), UNDECIDED),
        ([0.5, 0.9, 0.1], (0.4, None), UNDECIDED),
        ([0.5, 0.5], (0.4, 0.6), UNDECIDED),
    ],
)
def test_the_interval_decides(numbers, limits, expected):
    found = estimate("value", {10 + n: [[x]] for n, x in enumerate(numbers)})
    assert verdict_of(found, *limits) == expected


def test_a_finding_holds_if_all_statements_do_and_not_if_one_does_not():
    assert together([HOLDS, HOLDS]) == HOLDS
    assert together([HOLDS, UNDECIDED, FAILS]) == FAILS
    assert together([HOLDS, UNDECIDED]) == together([HOLDS, NOT_RUN]) == UNDECIDED
    assert together([NOT_RUN, NOT_RUN]) == NOT_RUN


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (halves(0.5), HOLDS),
        (halves(0.8), FAILS),
        (halves(0.59, 0.1), UNDECIDED),
        (lambda cell: None, NOT_RUN),
    ],
)
def test_each_verdict_from_results(tmp_path, numbers, expected):
    found = judged(tmp_path, RATIO, numbers)
    assert found.verdict == found.statements[0].verdict == expected


def test_seeds_with_all_cells_count_and_the_others_cells_are_named(tmp_path):
    numbers = halves(0.5)
    one = judged(tmp_path, RATIO, lambda c: None if (c.recipe.seed, c.recipe.exposures) == (12, 100) else numbers(c))
    assert one.statements[0].estimate.seeds == (10, 11, 13) and one.verdict == HOLDS
    assert one.statements[0].missing == ("04-half/N500_exposures-100_seed12",)
    two = judged(tmp_path, RATIO, lambda c: numbers(c) if c.recipe.seed < 12 else None)
    assert (two.verdict, two.statements[0].reason) == (UNDECIDED, "2 of at least 3 seeds")
    assert len(two.statements[0].missing) == 4


def test_the_best_learning_rate_is_that_of_the_mean_over_seeds(tmp_path):
    sweep = (
        "base: biod/compact-cpu\nbest_of: learning_rate\n"
        "grid: {exposures: [100, 1000], learning_rate: [1e-3, 2e-3], seed: [10, 11, 12]}\n"
    )
    bits = {
        1e-3: {10: 3.0, 11: 1.0, 12: 1.0},
        2e-3: {10: 2.0, 11: 1.9, 12: 2.1},
    }  # the first is best with seed 10 alone

    def numbers(cell):
        return {"bits_per_parameter": bits[cell.recipe.learning_rate][cell.recipe.seed]}

    found = judged(
        tmp_path, "{says: x, statistic: value, of: {exposures: 100}, at_least: 1.5}", numbers, sweep=sweep
    ).statements[0]
    assert found.estimate.value == pytest.approx(2.0) and found.chosen == ("0.002",) and found.num_cells == 6


def test_several_cells_of_a_seed_become_one_number(tmp_path):
    def numbers(cell):
        return {"bits_per_parameter": 1.0 if cell.recipe.num_people == 500 else 2.0}

    lines = [
        f"{{says: x, statistic: value, of: {{exposures: 100}}, over: {o}, at_least: 0}}"
        for o in ("mean", "best", "worst")
    ]
    lines.append("{says: x, statistic: spread, of: {exposures: 100}, at_most: 3}")
    lines.append("{says: x, statistic: slope, along: num_people, of: {exposures: 100}, at_most: 3}")
    found = judged(tmp_path, "\n".join(lines), numbers).statements
    assert [one.estimate.value for one in found] == pytest.approx([1.5, 2.0, 1.0, 2.0, 1.0])


def test_columns_are_quotients_and_paths_into_the_cells_files(tmp_path):
    line = "{says: x, statistic: value, of: {exposures: 100, num_people: 500}, at_least: 0, column: %s}"
    columns = ("int8_bits_per_parameter / bits_per_parameter", "capacity.memorizable_accuracy")
    found = judged(
        tmp_path,
        "\n".join(line % column for column in columns),
        lambda cell: {"bits_per_parameter": 2.0, "int8_bits_per_parameter": 1.5, "memorizable_accuracy": 0.25},
    )
    assert [one.estimate.value for one in found.statements] == [0.75, 0.25]


def test_a_missing_column_is_an_error_that_names_what_there_is(tmp_path):
    cells = "{exposures: 100, num_people: 500}"
    line = f"{{says: x, statistic: value, of: {cells}, at_least: 0, column: capacity.attributes.x}}"
    with pytest.raises(FileError, match="has no attributes.x: at 'attributes' there is run, model_name"):
        judged(tmp_path, line, halves(0.5))


def test_a_finding_uses_the_cells_of_other_sweeps_once(tmp_path):
    write_finding(tmp_path, RATIO)
    other = "\n".join(line for line in SWEEP.replace("[100, 1000]", "[100]").splitlines())
    head = FINDING.replace("  statements:", "  sweeps: [04-half]\n  statements:").replace("number: 4", "number: 5")
    finding = load_finding(write_finding(tmp_path, RATIO, sweep=other, head=head, name="05-shared"))
    assert [sweep.name for sweep in finding.sweeps] == ["05-shared", "04-half"]
    for sweep in finding.sweeps:
        write_results(tmp_path / "results", sweep, halves(0.5))
    found = judge(finding, tmp_path / "results")
    assert found.verdict == HOLDS and found.statements[0].num_cells == 8


@pytest.mark.parametrize("column", ["bits_per_parameter", "int8_bits_per_parameter", "knowledge_bits", "exposures"])
def test_changed_results_are_an_error(tmp_path, column):
    judged(tmp_path, RATIO, lambda cell: halves(0.5)(cell) | {"int8_bits_per_parameter": 0.5})
    finding, results = load_finding(tmp_path / "04-half.yaml"), tmp_path / "results"
    file = results / "04-half" / "cells.json"
    content = json.loads(file.read_text())
    name = "N500_exposures-100_seed10"
    content["cells"][name]["row"][column] *= 1.01
    file.write_text(json.dumps(content))
    with pytest.raises(FileError, match=f"{column} of cell {name} is .*, but .* in .*; one of them was changed"):
        judge(finding, results)


def test_results_of_other_settings_are_an_error(tmp_path):
    judged(tmp_path, RATIO, halves(0.5))
    file = write_finding(tmp_path, RATIO, sweep=SWEEP.replace("grid:", "list: [{weight_decay: 0.5}]\ngrid:"))
    with pytest.raises(FileError, match=r"other settings than the sweep file has now: weight_decay .* \(now 0.5\)"):
        judge(load_finding(file), tmp_path / "results")


def test_the_command_prints_table_and_json(tmp_path, capsys):
    judged(tmp_path, RATIO, halves(0.5))
    words = ["findings", str(tmp_path / "04-half.yaml"), "--results", str(tmp_path / "results")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["4", "Half", "of", "it", "(small)", "holds"]
    assert "a half" in lines[3] and "ratio 0.5 [" in lines[3] and "0.4 to 0.6" in lines[3]
    assert main([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["verdict"] == "holds" and found["statements"][0]["seeds"] == [10, 11, 12, 13]
