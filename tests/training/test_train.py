"""Training: the same on one process or two, interrupted or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from knowcap.recipe import Recipe
from knowcap.training.checkpoints import newest_checkpoint
from knowcap.training.packing import TrainingError
from knowcap.training.stage import _count, train
from knowcap.training.trainer import ResumableSampler, WindowDataset


RECIPE = Recipe(
    run_name="tiny", num_people=60, model_name="gpt2-2-2", head_dim=8, pools_fraction=0.05, num_templates=1,
    vocab_size=200,
    exposures=4, block_size=160, windows="aligned", train_batch_size=8, learning_rate=3e-3,
    warmup_steps=2, save_steps=4,
    logging_steps=2, precision="fp32",
)  # fmt: skip
CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    train(RECIPE, folder)
    return folder


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def test_the_model_folder_records_what_was_trained(once):
    training = json.loads((once / "model" / "training.json").read_text())
    assert training["exposures"] == 4 and training["world_size"] == 1
    assert training["num_parameters"] == sum(w.numel() for w in weights(once).values())
    log = training["log_history"]
    assert log[-1]["loss"] < log[0]["loss"]
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {p.name for p in (once / "model").iterdir()}


def test_every_token_is_trained_on_once(once, monkeypatch):
    seen = []
    monkeypatch.setattr(WindowDataset, "__getitems__", _watched(WindowDataset.__getitems__, seen))
    run_dir = once.parent / "watched"
    train(replace(RECIPE, logging_steps=1000), run_dir)
    training = json.loads((run_dir / "model" / "training.json").read_text())
    assert (
        sum(seen) == training["num_tokens"] == json.loads((once / "model" / "training.json").read_text())["num_tokens"]
    )


def _watched(getitems, seen):
    def watched(self, windows):
        batch = getitems(self, windows)
        seen.append(int((batch["labels"] != -100).sum()))
        return batch

    return watched


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same training, with the loss of every step."""
    folder = tmp_path_factory.mktemp("again")
    train(replace(RECIPE, logging_steps=1), folder)
    return folder


def test_training_again_in_one_process_gives_the_same_weights(once, again):
    assert all(torch.equal(a, b) for a, b in zip(weights(once).values(), weights(again).values(), strict=True))


def test_the_final_loss_is_that_of_the_last_step_however_rarely_losses_are_logged(once, again):
    watched = once.parent / "watched"
    if not watched.is_dir():  # from the test above, unless this one runs alone
        train(replace(RECIPE, logging_steps=1000), watched)
    steps, some, few = (json.loads((f / "model" / "training.json").read_text()) for f in (again, once, watched))
    losses = {entry["step"]: entry["loss"] for entry in steps["log_history"]}
    last = max(losses)
    assert len(losses) == last == steps["num_steps"]
    for training in (steps, some, few):
        assert training["final_loss"] == pytest.approx(losses[last], abs=1e-4)
        assert training["log_history"][-1]["step"] == last
    assert abs(losses[last] - losses[last - 1]) > 1e-3, "another step's loss would be seen"


def test_a_finished_model_is_left_alone(once):
    before = (once / "model" / "model.safetensors").stat().st_mtime_ns
    train(RECIPE, once)
    assert (once / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on_without_reading_again_what_it_trained_on(once, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    steps = sorted((once / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    shutil.copytree(steps[0], killed / "checkpoints" / steps[0].name)
    asked = []
    getitems = WindowDataset.__getitems__
    monkeypatch.setattr(
        WindowDataset, "__getitems__", lambda self, windows: asked.extend(windows) or getitems(self, windows)
    )
    train(RECIPE, killed)
    assert min(asked) == int(steps[0].name.split("-")[1]) * RECIPE.train_batch_size
    assert all(torch.equal(a, b) for a, b in zip(weights(once).values(), weights(killed).values(), strict=True))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_one_process_that_sees_several_gpus_trains_as_one_that_sees_one(once, tmp_path, monkeypatch):
    monkeypatch.setattr("knowcap.training.arguments.uses_gpu", lambda: True)  # and computes on the CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    train(RECIPE, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(weights(once).values(), weights(tmp_path).values(), strict=True))
    one, four = (json.loads((f / "model" / "training.json").read_text()) for f in (once, tmp_path))
    assert one["num_steps"] == four["num_steps"] and one["device"] == four["device"] == "cpu"


@pytest.mark.parametrize("content", [None, '{"global_step": '])
def test_a_half_written_checkpoint_is_not_taken(once, tmp_path, content):
    found = sorted((once / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for path in found:
        shutil.copytree(path, tmp_path / path.name)
    state = tmp_path / found[-1].name / "trainer_state.json"
    state.unlink() if content is None else state.write_text(content)
    path, step = newest_checkpoint(tmp_path)
    assert path == str(tmp_path / found[-2].name) and step == int(found[-2].name.split("-")[1])
    assert state.parent.exists()


def launch(config: str, run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    recipe = run_dir.parent / f"{run_dir.name}.yaml"
    keys = {name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__}
    keys |= {"run_name": run_dir.name, "output_dir": str(run_dir.parent), "quantize_bits": []}
    recipe.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in keys.items()))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    command += ["-m", "knowcap.train", "--config", str(recipe), *overrides]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow  # default: test_gradients holds two processes to one's gradients
def test_two_processes_train_as_one_does(once, tmp_path):
    done = launch("cpu_2.yaml", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    training = json.loads((tmp_path / "two" / "model" / "training.json").read_text())
    assert training["world_size"] == 2
    assert "world size 2" in done.stdout + done.stderr
    first, second = weights(once), weights(tmp_path / "two")
    assert max(float((first[k] - second[k]).abs().max()) for k in first) < 1e-4


def test_fsdp_on_a_cpu_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="no GPU"):
        train(RECIPE, tmp_path)


def test_a_batch_that_processes_cannot_share_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="multiple of 3"):
        train(RECIPE, tmp_path)


@pytest.mark.parametrize(
    ("num_people", "cores", "expected"),
    [(60, 64, 1), (30_000, 64, 1), (40_000, 64, 2), (100_000, 64, 5), (100_000, 2, 2), (10_000_000, 192, 32)],
)
def test_more_processes_count_windows_where_there_are_more_texts(monkeypatch, tmp_path, num_people, cores, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    asked = []
    corpus = SimpleNamespace(num_people=num_people)
    stream = SimpleNamespace(exposures=1000, shards=2, corpus=corpus)
    stream.count = lambda progress, num_proc: asked.append(num_proc) or (np.ones((1000, 2), dtype=np.int64), 7)
    stream.use_counts = lambda counts: asked.append(counts.shape)
    assert [_count(stream, tmp_path / "windows.npz") for _ in range(2)] == [7, 7]
    assert asked == [expected, (1000, 2)]  # the second time from the file


def test_the_sampler_counts_all_windows_but_gives_the_rest():
    assert list(ResumableSampler(6, 9)) == [6, 7, 8] and len(ResumableSampler(6, 9)) == 9


def test_the_last_step_is_filled_with_masked_windows(once):
    class Three:
        def __len__(self):
            return 3

        def batch(self, windows):
            return np.ones((len(windows), 5), dtype=np.int64), np.ones((len(windows), 5), dtype=np.int64)

    windows = WindowDataset(Three(), 2)
    assert (windows.steps, len(windows)) == (2, 4)
    last = windows.__getitems__([2, 3])
    assert (last["labels"][0] == 1).all() and (last["labels"][1] == -100).all()
    assert (windows.__getitems__([3])["labels"] == -100).all()
    fixed = WindowDataset(Three(), 2, 7).__getitems__([2, 3])
    assert fixed["input_ids"].shape == fixed["labels"].shape == (2, 7)
    assert torch.equal(fixed["labels"][:, :5], last["labels"]) and (fixed["labels"][:, 5:] == -100).all()
    assert torch.equal(WindowDataset(Three(), 2, 4).__getitems__([0, 1])["labels"], torch.ones(2, 5).long())
