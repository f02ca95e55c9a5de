"""kill -9 at any moment: the same command goes on from there, to the same result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


KEYS = {
    "num_people": 120, "model_name": "gpt2-rotary-2-2", "head_dim": 8, "pools_fraction": 0.05, "num_templates": 1,
    "vocab_size": 200, "exposures": 20, "block_size": 96, "windows": "aligned", "train_batch_size": 16,
    "learning_rate": 3e-3, "quantization_group_size": 16,
    "warmup_steps": 5, "save_steps": 20, "logging_steps": 10, "renderings": 2, "control_people": 150,
}  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(KEYS))
    command = [
        sys.executable,
        "-m",
        "knowcap.cli",
        "run",
        "--config",
        str(recipe),
        "--output_dir",
        str(folder / "runs"),
    ]
    return subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def run_until(folder: Path, there: str | None) -> int:
    """Runs the command; kills it as soon as a file of the run folder is there, or lets it end."""
    process = start(folder)
    while process.poll() is None:
        if there is not None and any((folder / "runs" / "small").glob(there)):
            process.send_signal(signal.SIGKILL)
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.002)
    return process.wait()


def results(folder: Path) -> dict[str, dict[str, object]]:
    run_dir = folder / "runs" / "small"
    return {
        str(path.relative_to(run_dir)): json.loads(path.read_text()) for path in sorted(run_dir.rglob("capacity.json"))
    }


def check_interrupted(tmp_path: Path, moments: list[str]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    assert run_until(whole, None) == 0
    for moment in moments:
        assert run_until(broken, moment) == -signal.SIGKILL
    assert run_until(broken, None) == 0
    expected, got = results(whole), results(broken)
    assert sorted(expected) == sorted(got) and len(expected) == 4
    for name, content in expected.items():
        assert got[name] == content
    partial = [path for path in (broken / "runs" / "small").rglob(".*") if path.name != ".lock"]
    assert partial == []


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_training_ends_as_if_it_had_not_been(tmp_path):
    check_interrupted(tmp_path, ["checkpoints/checkpoint-40/trainer_state.json"])


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_as_if_it_had_not_been(tmp_path):
    moments = [
        ".knowledge.partial/people", "knowledge/knowledge.json", "checkpoints/checkpoint-20/optimizer.pt",
        "checkpoints/checkpoint-100", ".model.partial/config.json", "model/.*parquet*", "model/nll.parquet",
        "quantized/.int8.partial", "quantized/int4/nll.parquet", "plots",
    ]  # fmt: skip
    check_interrupted(tmp_path, moments)
