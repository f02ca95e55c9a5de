"""A sweep run: finished cells are skipped, failed ones are tried again, and the table is that of its cells."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from run_folders import make_run
from sweep_cells import BASE, kill, run_until, start, write_sweep

from knowcap.cli import main
from knowcap.recipe import Recipe
from knowcap.run.cores import Cores, cores_of, threads_used
from knowcap.sweep import load_sweep
from knowcap.sweep.cells import choose, describe_winners
from knowcap.sweep.run import write_results
from knowcap.sweep.workers import run_cell


FIT = (
    "num_parameters", "num_parameters_non_embedding", "num_tokens", "flops", "loss", "knowledge_bits",
    "max_knowledge_bits", "exposures", "run",
)  # fmt: skip
RATES = "base: base.yaml\ngrid: {seed: [0, 1], learning_rate: [1e-3, 2e-3, 3e-3]}\nbest_of: learning_rate\n"


class Stages:
    """In place of a run's stages: writes what they would, with the share of all bits that a cell's recipe is given."""

    def __init__(self, shares: dict[tuple[int, float], float], failing: tuple[str, ...] = ()) -> None:
        self.shares, self.failing, self.ran = shares, failing, []

    def run(self, recipe: Recipe, run_dir: Path, *_: object) -> None:
        """Fails at the given calls."""
        self.ran.append(recipe.run_name)
        if recipe.run_name in self.failing:
            raise RuntimeError("out of luck")
        kept = (run_dir / "recipe.yaml").read_text()
        make_run(run_dir, self.shares.get((recipe.seed, recipe.learning_rate), 0.5), seed=recipe.seed)
        (run_dir / "recipe.yaml").write_text(kept)
        (run_dir / "report.md").write_text("")
        (run_dir / "model" / "config.json").write_text('{"vocab_size": 200}')


@pytest.fixture
def here(monkeypatch):
    """Cells run in this process, one after another."""
    monkeypatch.setattr("knowcap.cli.sweep._engine", lambda args: None)


@pytest.fixture
def command(tmp_path, monkeypatch, here):
    """Runs the sweep of RATES with made-up stages; returns the status."""
    file = write_sweep(tmp_path, RATES)
    monkeypatch.setattr("knowcap.sweep.run.text_problems", lambda cells: [])  # seconds a call, and no texts are made

    def run(stages: Stages, *words: str) -> int:
        monkeypatch.setattr("knowcap.sweep.workers.stages", stages)
        return main(["sweep", str(file), "--output_dir", str(tmp_path / "runs"), *words])

    return run


def table(folder: Path) -> list[dict]:
    return pq.read_table(folder / "runs" / "sweeps" / "grid" / "results.parquet").to_pylist()


def test_a_failed_cell_is_reported_and_tried_again_and_the_others_go_on(tmp_path, command, capsys):
    failing = Stages({}, ("seed0_lr0.002", "seed1_lr0.001"))
    assert command(failing) == 1
    message = capsys.readouterr().err
    assert "2 of 6 cells failed" in message and "seed0_lr0.002: RuntimeError: out of luck" in message
    assert len(failing.ran) == 6 and len(table(tmp_path)) == 4
    assert all(row["won"] is None for row in table(tmp_path)), "no contest is whole"
    folder = tmp_path / "runs" / "sweeps" / "grid"
    assert sorted(p.name for p in (folder / "failures").iterdir()) == ["seed0_lr0.002.txt", "seed1_lr0.001.txt"]
    assert "out of luck" in (folder / "report.html").read_text()

    mended = Stages({})
    assert command(mended) == 0
    assert mended.ran == ["seed0_lr0.002", "seed1_lr0.001"], "only what failed is run"
    assert [row["run"] for row in table(tmp_path)] == [
        f"seed{s}_lr{rate}" for s in (0, 1) for rate in (0.001, 0.002, 0.003)
    ]
    assert not list((folder / "failures").iterdir())
    assert "out of luck" not in (folder / "report.html").read_text()

    skipped, before = Stages({}), (folder / "results.parquet").read_bytes()
    assert command(skipped) == 0
    assert skipped.ran == [] and (folder / "results.parquet").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["--cell", "0"]])
@pytest.mark.parametrize(("variable", "expected"), [(None, 1), ("2", 2)])
def test_a_cell_has_one_thread_as_in_a_pools_process_unless_set(
    words, variable, expected, tmp_path, command, monkeypatch
):
    write_sweep(tmp_path, "base: base.yaml\ngrid: {seed: [0, 1]}\n")

    class Noting(Stages):
        found: set[tuple[str, int]] = set()

        def run(self, recipe: Recipe, run_dir: Path, *_: object) -> None:
            self.found.add((str(cores_of(recipe, run_dir)), torch.get_num_threads()))
            super().run(recipe, run_dir)

    Noting.found.clear()
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with threads_used(3):
        assert command(Noting({}), *words) == 0
        assert torch.get_num_threads() == 3 and os.environ.get("OMP_NUM_THREADS") == variable
    assert Noting.found == {(str(Cores(1, expected)), expected)}


def test_the_best_of_a_key_wins_and_the_others_are_shown(tmp_path, command, capsys):
    shares = {(0, 1e-3): 0.3, (0, 2e-3): 0.7, (0, 3e-3): 0.6, (1, 1e-3): 0.9, (1, 2e-3): 0.2, (1, 3e-3): 0.4}
    assert command(Stages(shares)) == 0
    assert [row["run"] for row in table(tmp_path) if row["won"]] == ["seed0_lr0.002", "seed1_lr0.001"]
    assert len(table(tmp_path)) == 6
    out = capsys.readouterr().out
    bits = {row["run"]: f"{row['bits_per_parameter']:.3f}" for row in table(tmp_path)}
    first = "seed 0: best with learning_rate 0.002 ({seed0_lr0.002}), before learning_rate 0.003 ({seed0_lr0.003})"
    for name, value in bits.items():
        first = first.replace("{" + name + "}", value)
    assert first in out
    page = (tmp_path / "runs" / "sweeps" / "grid" / "report.html").read_text()
    assert first in page and page.count('class="won"') == 2 and page.count('class="lost"') == 4


def test_a_contest_is_open_until_its_last_cell_is_finished(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path, RATES))
    rows = {cell.name: {"run": cell.name, "bits_per_parameter": 1.0 - n / 10} for n, cell in enumerate(sweep.cells)}
    del rows["seed1_lr0.003"]
    won = choose(sweep, rows)
    assert won == {
        "seed0_lr0.001": True, "seed0_lr0.002": False, "seed0_lr0.003": False, "seed1_lr0.001": None,
        "seed1_lr0.002": None, "seed1_lr0.003": None,
    }  # fmt: skip
    lines = describe_winners(sweep, rows.values())
    assert "best with" in lines[0] and "leads with" in lines[1] and "1 of 3 not finished" in lines[1]


def test_winners_are_named_without_the_path_of_their_configuration(tmp_path):
    rates = "base: biod/architecture-cpu\nbest_of: learning_rate\ngrid:\n  learning_rate: [1e-3, 2e-3]\n"
    sweep = load_sweep(write_sweep(tmp_path, f"{rates}  model_name: [architectures/qwen3.json]\n"))
    rows = [{"run": cell.name, "bits_per_parameter": 1.0} for cell in sweep.cells]
    (line,) = describe_winners(sweep, rows)
    assert line.startswith("model_name qwen3: best with learning_rate 0.001")


def test_jobs_of_an_array_run_their_own_cells_and_a_last_call_collects(tmp_path, command):
    for number in (4, 1, 0, 5, 3):
        assert command(Stages({}), "--cell", str(number)) == 0
    folder = tmp_path / "runs" / "sweeps" / "grid"
    assert not (folder / "results.parquet").exists()
    stages = Stages({})
    assert command(stages, "--report_only") == 0
    assert stages.ran == [] and len(table(tmp_path)) == 5
    assert "1 cells are not finished" in (folder / "report.html").read_text()
    assert command(stages) == 0
    assert stages.ran == ["seed0_lr0.003"] and len(table(tmp_path)) == 6


def test_a_failing_job_of_an_array_has_a_status_of_its_own(command, capsys):
    assert command(Stages({}, ("seed0_lr0.002",)), "--cell", "0", "--cell", "1") == 1
    assert "seed0_lr0.002 failed: RuntimeError: out of luck" in capsys.readouterr().err


def test_the_table_holds_the_figures_of_the_runs_json_files(tmp_path, here):
    file = write_sweep(
        tmp_path,
        "base: base.yaml\ngrid: {model_name: [gpt2-2-2, gpt2-rotary-2-2], warmup_steps: [3], "
        "exposures_exponent: [0.5]}\n",
        BASE.replace("exposures: 16", "exposures: 4"),
    )
    assert main(["sweep", str(file), "--output_dir", str(tmp_path / "runs")]) == 0
    rows = table(tmp_path)
    sweep = load_sweep(file, tmp_path / "runs")
    assert [row["run"] for row in rows] == [cell.name for cell in sweep.cells]
    assert set(FIT) <= set(rows[0])
    for row, cell in zip(rows, sweep.cells, strict=True):
        capacity, training = (
            json.loads((cell.run_dir / "model" / f"{name}.json").read_text()) for name in ("capacity", "training")
        )
        for key in set(FIT) - {"run", "num_tokens", "flops", "loss"}:
            assert row[key] == capacity[key]
        assert row["num_tokens"] == training["num_tokens"] and row["loss"] == training["final_loss"]
        assert row["flops"] == 6 * capacity["num_parameters"] * training["num_tokens"]
        assert row["bits_per_flop"] == capacity["knowledge_bits"] / row["flops"]
        assert row["num_active_parameters"] == capacity["num_parameters"]
        assert row["bits_per_stored_bit"] == pytest.approx(capacity["bits_per_stored_bit"])
        assert (row["optimizer"], row["lr_scheduler_type"]) == ("adamw_torch_fused", "cosine_with_min_lr")
        int8 = json.loads((cell.run_dir / "quantized" / "int8" / "capacity.json").read_text())
        assert row["int8_bits_per_parameter"] == int8["bits_per_parameter"]
        assert row["int8_bits_per_stored_bit"] == pytest.approx(int8["bits_per_stored_bit"])
        assert row["int4_bits_per_parameter"] is None
        assert [band["exposures"] for band in int8["bands"]] == [band["exposures"] for band in capacity["bands"]]
        assert row["warmup_steps"] == 3 and row["won"] is True
        for band, name in ((capacity["bands"][0], "top"), (capacity["bands"][-1], "bottom")):
            assert row[f"{name}_band_exposures"] == band["exposures"]
            assert row[f"{name}_band_bits_per_entity"] == band["bits_per_entity"]
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.rglob("*.json")}
    assert main(["sweep", str(file), "--output_dir", str(tmp_path / "runs")]) == 0
    assert {path: path.stat().st_mtime_ns for path in sweep.folder.rglob("*.json")} == before
    write_results(sweep)
    assert table(tmp_path) == rows


@pytest.mark.slow
def test_a_sweep_killed_in_any_cell_goes_on_and_ends_with_the_same_table(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_sweep(whole), write_sweep(broken)
    assert run_until(start(whole), lambda: False, lambda: None) == 0
    runs = broken / "runs" / "sweeps" / "grid"
    names = [cell.name for cell in load_sweep(broken / "grid.yaml").cells]
    moments = ["knowledge/knowledge.json", "checkpoints/checkpoint-30", "model/nll.parquet", "quantized/int8"]
    for name, moment in zip(names, moments, strict=True):
        process = start(broken)
        status = run_until(process, (runs / name / moment).exists, lambda p=process: kill(p))
        assert status == -9, (broken / "log").read_text()
    assert run_until(start(broken), lambda: False, lambda: None) == 0
    assert "resuming from step" in (broken / "log").read_text()
    tables = [folder / "runs" / "sweeps" / "grid" / "results.parquet" for folder in (whole, broken)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert len(pq.read_table(tables[1])) == 4


def test_a_cell_leaves_the_environment_as_it_was(tmp_path, monkeypatch):
    found: list[str | None] = []

    def compiling(*_: object) -> None:
        """Sets what TrainingArguments sets for torch_compile."""
        found.append(os.environ.get("ACCELERATE_DYNAMO_BACKEND"))
        os.environ.update(ACCELERATE_DYNAMO_BACKEND="inductor", KNOWCAP_TEST="2")
        raise RuntimeError("out of luck")

    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    monkeypatch.setenv("KNOWCAP_TEST", "1")
    monkeypatch.setattr("knowcap.sweep.workers.stages.run", compiling)
    for cell in load_sweep(write_sweep(tmp_path, RATES), tmp_path / "runs").cells[:2]:
        assert run_cell(cell).error == "RuntimeError: out of luck"
    assert found == [None, None] and os.environ["KNOWCAP_TEST"] == "1"
