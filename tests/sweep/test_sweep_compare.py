"""Cells are compared where they are of equal size: which with which, by how much, and what is said of the others."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_run
from sweep_cells import write_sweep

from knowcap.cli import main
from knowcap.recipe import RecipeError
from knowcap.sweep import Sweep, load_sweep
from knowcap.sweep import table as results
from knowcap.sweep.cells import choose
from knowcap.sweep.compare import Entry, architecture_table, comparison_tables, contests, difference, entries
from knowcap.sweep.dry_run import dry_run


MODELS = "model_name: [gpt2-2-2, gpt2-rotary-2-2]"


def sweep_of(folder: Path, text: str) -> Sweep:
    return load_sweep(write_sweep(folder, f"base: base.yaml\n{text}\n"), folder / "runs")


def rows_of(sweep: Sweep, figures) -> list[dict[str, Any]]:
    """Made-up rows: `figures` gives size and bits per parameter of a recipe."""
    rows = {}
    for cell in sweep.cells:
        size, bits = figures(cell.recipe)
        rows[cell.name] = {
            "run": cell.name, "bits_per_parameter": bits, "model_name": cell.recipe.model_name,
            "exposures": cell.recipe.exposures, sweep.compare or "num_parameters": size, "num_parameters": size,
        }  # fmt: skip
    won = choose(sweep, rows)
    return [row | {"won": won[name]} for name, row in rows.items()]


def test_the_best_of_each_seed_is_compared_in_pairs_of_seeds(tmp_path):
    """The differences are 0.1, 0.2, 0.3: mean 0.2, deviation 0.1; Student's t of 2 degrees of freedom is 4.302653."""
    text = f"grid: {{{MODELS}, seed: [0, 1, 2], learning_rate: [1e-3, 2e-3]}}\nbest_of: learning_rate"
    sweep = sweep_of(tmp_path, f"{text}\ncompare: num_parameters")
    best = {"gpt2-2-2": [0.5, 0.7, 0.6], "gpt2-rotary-2-2": [0.6, 0.9, 0.9]}
    faster = {"gpt2-2-2": 1e-3, "gpt2-rotary-2-2": 2e-3}

    def figures(recipe):
        lost = 0.0 if recipe.learning_rate == faster[recipe.model_name] else 0.3
        return 1000 if recipe.model_name == "gpt2-2-2" else 1040, best[recipe.model_name][recipe.seed] - lost

    (table,) = comparison_tables(sweep, rows_of(sweep, figures))
    assert table.title == "Compared at equal num_parameters (within 5 %)"
    head, first, second = table.rows
    assert head[:3] == ("model_name", "learning_rate", "num_parameters")
    assert first == ("gpt2-rotary-2-2", "0.002", "1,040", "0.800", "3 seeds", "best")
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert second == (
        "gpt2-2-2", "0.001", "1,000", "0.600", "3 seeds", f"+0.200 ± {half:.3f}, not distinguished",
    )  # fmt: skip


def test_a_difference_is_paired_and_says_how_many_seeds_it_has():
    assert difference({0: 0.9, 1: 0.5, 2: 0.7}, {0: 0.8, 1: 0.4, 2: 0.6}) == "+0.100 ± 0.000"
    assert difference({0: 0.9, 1: 0.5}, {1: 0.4, 7: 3.0}) == "+0.100, one seed"
    assert difference({0: 0.9}, {1: 0.4}) == "+0.500, no seed in common"


def test_cells_without_an_equal_are_said_with_the_nearest(tmp_path):
    sweep = sweep_of(
        tmp_path,
        "grid: {model_name: [gpt2-2-2, gpt2-1-2, gpt2-rotary-2-2, llama-2-2], num_people: [50, 60]}\n"
        "compare: num_parameters\ntolerance: 0.1",
    )
    sizes = {"gpt2-2-2": 1000, "gpt2-1-2": 600, "gpt2-rotary-2-2": 1090, "llama-2-2": 1500}
    bits = {"gpt2-2-2": 0.5, "gpt2-1-2": 0.6, "gpt2-rotary-2-2": 0.4, "llama-2-2": 0.7}
    few, many, alone = comparison_tables(sweep, rows_of(sweep, lambda r: (sizes[r.model_name], bits[r.model_name])))
    for table, people in ((few, 50), (many, 60)):
        assert table.title == f"Compared at equal num_parameters (within 10 %): num_people {people}"
        assert [row[0] for row in table.rows[1:]] == ["gpt2-2-2", "gpt2-rotary-2-2"]
        assert table.rows[2][-1] == "+0.100, one seed"
    assert [row[:3] for row in alone.rows[1:]] == [
        (f"{name}, num_people {people}", f"{sizes[name]:,}", nearest)
        for people in (50, 60)
        for name, nearest in (("gpt2-1-2", "gpt2-2-2, +67 %"), ("llama-2-2", "gpt2-rotary-2-2, -27 %"))
    ]


def test_at_equal_flop_exposures_are_traded_for_parameters(tmp_path):
    grid = f"grid: {{{MODELS}, exposures: [8, 16]}}"
    flops = {("gpt2-2-2", 8): 1e9, ("gpt2-2-2", 16): 2e9, ("gpt2-rotary-2-2", 8): 2e9, ("gpt2-rotary-2-2", 16): 4e9}

    def figures(recipe):
        return flops[recipe.model_name, recipe.exposures], recipe.exposures / 100

    sweep = sweep_of(tmp_path, f"{grid}\ncompare: flops")
    table, alone = comparison_tables(sweep, rows_of(sweep, figures))
    assert [row[0] for row in table.rows] == [
        "model_name, exposures", "gpt2-2-2, exposures 16", "gpt2-rotary-2-2, exposures 8",
    ]  # fmt: skip
    assert len(alone.rows) == 3
    by_size = sweep_of(tmp_path, f"{grid}\ncompare: num_parameters")
    rows = rows_of(by_size, lambda r: (1000, r.exposures / 100 + len(r.model_name) / 1000))
    found = comparison_tables(by_size, rows)
    assert [table.title.split(": ")[1] for table in found] == ["exposures 8", "exposures 16"]


def test_any_key_of_training_is_compared(tmp_path):
    sweep = sweep_of(tmp_path, "grid: {optimizer: [adamw_torch_fused, muon], seed: [0, 1]}\ncompare: num_parameters")
    rows = rows_of(sweep, lambda r: (1000, 0.5 + 0.1 * (r.optimizer == "muon") + r.seed))
    (table,) = comparison_tables(sweep, rows)
    assert [row[0] for row in table.rows] == ["optimizer", "optimizer muon", "optimizer adamw_torch_fused"]
    assert table.rows[2][-1] == "+0.100 ± 0.000"


def test_settings_that_follow_from_the_model_neither_part_nor_name_what_is_compared(tmp_path):
    text = (
        'list: [{model_name: gpt2-2-2, quantization_exclude: ["*.c_fc"], adam_beta2: 0.9}, {model_name: llama-2-2}]\n'
        "grid: {seed: [0, 1]}\ncompare: num_parameters"
    )
    sweep = sweep_of(tmp_path, text)
    (table,) = comparison_tables(sweep, rows_of(sweep, lambda r: (1000, 0.5 + 0.1 * (r.model_name == "llama-2-2"))))
    assert [row[0] for row in table.rows] == ["model_name", "llama-2-2", "gpt2-2-2"]
    paired = (
        "list: [{optimizer: sgd, weight_decay: 0.1}, {optimizer: muon, weight_decay: 0.2}]\ncompare: num_parameters"
    )
    sweep = sweep_of(tmp_path, paired)
    (table,) = comparison_tables(sweep, rows_of(sweep, lambda r: (1000, r.weight_decay)))
    assert [row[0] for row in table.rows] == ["optimizer", "optimizer muon", "optimizer sgd"]


def test_two_configurations_of_one_model_type_have_a_line_each(tmp_path):
    sweep = sweep_of(tmp_path, f"grid: {{{MODELS}}}")
    shared = {"bits_per_flop": 1e-9, "bits_per_stored_bit": 0.01, "model_name": "qwen3"}
    table = architecture_table(sweep, [row | shared for row in rows_of(sweep, lambda r: (1000, 0.5))])
    assert table is not None
    assert [row[0] for row in table.rows[1:]] == ["qwen3, gpt2-2-2", "qwen3, gpt2-rotary-2-2"]


def test_nothing_is_compared_unless_asked_and_open_contests_wait(tmp_path):
    sweep = sweep_of(tmp_path, f"grid: {{{MODELS}}}")
    assert comparison_tables(sweep, rows_of(sweep, lambda r: (1000, 0.5))) == []
    text = f"grid: {{{MODELS}, learning_rate: [1e-3, 2e-3]}}\nbest_of: learning_rate\ncompare: num_parameters"
    sweep = sweep_of(tmp_path, text)
    rows = rows_of(sweep, lambda r: (1000, 0.5))
    (whole,) = comparison_tables(sweep, rows)
    assert len(whole.rows) == 3
    rows[-1]["won"] = rows[-2]["won"] = None  # one of its cells is not finished
    (alone,) = comparison_tables(sweep, rows)
    assert alone.title.startswith("Not comparable") and alone.rows[1][0] == "gpt2-2-2"
    assert alone.note.startswith("2 of 4 cells are not finished") and "finished" not in whole.note


@pytest.mark.parametrize("seed", range(20))
def test_every_entry_is_in_one_contest_all_sizes_of_which_are_within_the_tolerance(seed, tmp_path):
    draw = random.Random(seed)
    sizes = [draw.choice([1e3, 1e4]) * draw.uniform(0.9, 1.1) for _ in range(12)]
    sweep = Sweep("a", tmp_path, "b", tmp_path, (), None, "num_parameters", 0.05)
    made = [Entry((), (("seed", n),), (), size) for n, size in enumerate(sizes)]
    found = contests(sweep, made)
    assert sorted(e.size for group in found for e in group) == sorted(sizes)
    ranges = sorted((min(e.size for e in g), max(e.size for e in g)) for g in found)
    assert all(high <= 1.05 * low for low, high in ranges)
    assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False)), "no contest lies within another"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("compare: num_parameter", "did you mean 'num_parameters'?"),
        ("compare: loss", "expected num_parameters or num_active_parameters or flops"),
        ("tolerance: 0.1", "tolerance has no effect without compare"),
        ("compare: flops\ntolerance: 5 %", "expected a share from 0 to 1, such as 0.05"),
    ],
)
def test_a_comparison_that_cannot_be_is_reported_before_any_cell(tmp_path, text, part):
    with pytest.raises(RecipeError, match="compare|tolerance") as error:
        sweep_of(tmp_path, f"grid: {{seed: [0]}}\n{text}")
    assert part in str(error.value)


def test_a_dry_run_says_which_cells_will_be_compared(tmp_path):
    grid = "grid: {model_name: [gpt2-2-2, gpt2-rotary-2-2, llama-2-2], seed: [0, 1]}"
    sweep = sweep_of(tmp_path, f"{grid}\ncompare: num_parameters\ntolerance: 0.3")
    text = dry_run(sweep)
    found = entries(sweep, {cell.name: 1.0 for cell in sweep.cells})
    assert [dict(entry.compared)["model_name"] for entry in found] == ["gpt2-2-2", "gpt2-rotary-2-2", "llama-2-2"]
    parameters = {line.split()[1]: line.split()[2].replace(",", "") for line in text.splitlines()[1:7]}
    two, three = (int(parameters[f"{name}_seed0"]) for name in ("gpt2-rotary-2-2", "gpt2-2-2"))
    assert three / two < 1.3
    assert "equal num_parameters: " in text and "gpt2-rotary-2-2" in text.split("equal num_parameters: ")[1]


def made_up(folder: Path) -> Sweep:
    """Finished cells of two architectures at 100 and 1000 exposures, with two seeds."""
    text = f"grid: {{{MODELS}, exposures: [100, 1000], seed: [0, 1]}}\ncompare: num_parameters\ntolerance: 0.5"
    sweep = sweep_of(folder, text)
    for cell in sweep.cells:
        r = cell.recipe
        share = 0.5 + 0.1 * (r.model_name == "gpt2-2-2") + r.exposures / 10_000 + r.seed / 100
        make_run(cell.run_dir, share, seed=r.seed, model_name=r.model_name, exposures=r.exposures)
        (cell.run_dir / "report.md").write_text("")
        (cell.run_dir / "model" / "config.json").write_text('{"vocab_size": 200}')
    return sweep


def test_terminal_and_page_have_the_comparison_and_a_line_for_each_architecture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("knowcap.report.page.loss_svg", lambda *_: "")  # a second each
    sweep = made_up(tmp_path)
    assert main(["sweep", str(tmp_path / "grid.yaml"), "--output_dir", str(tmp_path / "runs"), "--report_only"]) == 0
    out, page = capsys.readouterr().out, (sweep.folder / "report.html").read_text()
    assert out.count("Compared at equal num_parameters (within 50 %): exposures") == 2
    assert page.count("Compared at equal num_parameters (within 50 %): exposures") == 2
    rows = results.rows_of(sweep)
    table = architecture_table(sweep, rows)
    assert table is not None and [row[0] for row in table.rows[1:]] == ["gpt2-2-2", "gpt2-rotary-2-2"]
    assert table.text() in out and "By architecture" in page
    for line in table.rows[1:]:
        for place, exposures in ((2, 100), (5, 1000)):
            runs = [row for row in rows if row["model_name"] == line[0] and row["exposures"] == exposures]
            assert len(runs) == 2
            bits = sum(row["bits_per_parameter"] for row in runs) / 2
            spent = sum(row["knowledge_bits"] / row["flops"] for row in runs) / 2
            int8 = sum(row["int8_bits_per_parameter"] for row in runs) / 2 / 14.2  # stored bits of made-up int8
            assert line[place] == f"{bits:.3f}" and line[place + 1] == f"{spent:.2e}"
            assert line[place + 2] == f"{bits / 32:.3f} (int8 {int8:.3f})"
