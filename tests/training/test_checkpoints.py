"""Checkpoints: a damaged one is passed over, and training ends with the same bytes as if it had never been damaged."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from knowcap.files import WriteError
from knowcap.processes import signals
from knowcap.recipe import Recipe
from knowcap.training import checkpoints, trainer
from knowcap.training.checkpoints import MANIFEST, check, newest_checkpoint, remove_old, settings_of
from knowcap.training.stage import train
from knowcap.training.trainer import PENDING, TrainingProgress


RECIPE = Recipe(
    run_name="tiny", corpus="bioD", num_people=24, alphabet_size=4, num_attributes=2, chunks_per_value=1,
    chunk_length=2, diversity=4, model_name="gpt2-1-2", head_dim=4, exposures=8, block_size=40, train_batch_size=8,
    learning_rate=3e-3, warmup_steps=2, save_steps=4, save_total_limit=3, logging_steps=3, precision="fp32",
)  # fmt: skip
DAMAGES = ("cut", "empty", "flip", "delete", "foreign")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with its three newest checkpoints."""
    folder = tmp_path_factory.mktemp("once")
    train(RECIPE, folder)
    return folder


@pytest.fixture
def unfinished(once: Path, tmp_path: Path) -> Path:
    """The same, but for the model."""
    shutil.copytree(once / "checkpoints", tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def steps(run_dir: Path) -> list[int]:
    """The steps of a run's checkpoints, in their order."""
    return sorted(int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").glob("checkpoint-*"))


def newest(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / f"checkpoint-{steps(run_dir)[-1]}"


def damage(file: Path, how: str) -> None:
    """Damages a file; one bit is flipped in its middle."""
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
    changed = {"cut": content[:-7], "empty": b"", "flip": flipped, "foreign": b'{"another": "file"}'}
    file.unlink() if how == "delete" else file.write_bytes(changed[how])


def result(run_dir: Path) -> tuple[bytes, dict]:
    """The weights, and training.json without times and the digest of its content."""
    training = json.loads((run_dir / "model" / "training.json").read_text()) | {"train_seconds": 0}
    return (run_dir / "model" / "model.safetensors").read_bytes(), training | {"content_digest": ""}


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damage_of_every_file_is_seen(once, unfinished, how, caplog):
    name = newest(unfinished).name
    before = steps(unfinished)[-2]
    for file in sorted(path.name for path in newest(once).iterdir()):
        shutil.rmtree(newest(unfinished))
        shutil.copytree(once / "checkpoints" / name, unfinished / "checkpoints" / name)
        damage(newest(unfinished) / file, how)
        caplog.clear()
        if file == MANIFEST and how == "delete":  # as an earlier version left it, and all parts can be read
            assert newest_checkpoint(unfinished / "checkpoints")[1] == steps(unfinished)[-1]
            continue
        path, step = newest_checkpoint(unfinished / "checkpoints")
        assert step == before and path == str(unfinished / "checkpoints" / f"checkpoint-{before}"), file
        (line,) = caplog.messages
        assert line.startswith(str(unfinished / "checkpoints" / name)) and "resumes before it" in line
        assert file in line


@pytest.mark.parametrize(("file", "how"), [("optimizer.pt", "delete"), ("trainer_state.json", "flip")])
def test_training_from_before_a_damaged_checkpoint_ends_with_the_same_bytes(once, unfinished, file, how):
    last = steps(unfinished)
    damage(newest(unfinished) / file, how)
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once)
    assert steps(unfinished) == last and newest_checkpoint(unfinished / "checkpoints")[1] == last[-1]


def test_training_without_a_whole_checkpoint_begins_again(once, unfinished, caplog):
    for path in (unfinished / "checkpoints").glob("checkpoint-*"):
        damage(path / "model.safetensors", "flip")
    (unfinished / "checkpoints" / "checkpoint-copy").mkdir()
    (unfinished / "checkpoints" / "checkpoint-9 (copy)").mkdir()
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once)
    assert sum("model.safetensors has changed" in line for line in caplog.messages) == 3


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_table_of_windows_is_made_again(once, unfinished, how, caplog):
    table = unfinished / "checkpoints" / "windows.npz"
    content = table.read_bytes()
    damage(table, how)
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once) and table.read_bytes() == content
    assert any("windows are counted again" in line for line in caplog.messages) == (how != "delete")


def test_a_table_of_other_numbers_is_not_believed(once, unfinished, caplog):
    table = unfinished / "checkpoints" / "windows.npz"
    with np.load(table) as file:
        counts, tokens, digest = file["windows"], file["tokens"], file["digest"]
    np.savez(table, windows=counts + 1, tokens=tokens, digest=digest)
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once) and any("counted again" in line for line in caplog.messages)


def test_a_checkpoint_of_another_training_is_not_used(once, unfinished, tmp_path, caplog):
    other = tmp_path / "other"
    train(replace(RECIPE, seed=1), other)
    shutil.rmtree(unfinished / "checkpoints")
    shutil.copytree(other / "checkpoints", unfinished / "checkpoints")
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once)
    assert any("it is of another training: seed is 1 there and 'default' here" in line for line in caplog.messages)


def test_settings_that_may_change_within_a_run_are_not_compared():
    changed = replace(RECIPE, save_steps=9, logging_steps=1, run_name="moved", output_dir="elsewhere")
    assert settings_of(changed) == settings_of(RECIPE)
    assert settings_of(replace(RECIPE, learning_rate=1e-4)) != settings_of(RECIPE)


def test_a_file_that_was_not_saved_with_it_is_not_loaded(unfinished):
    (newest(unfinished) / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(checkpoints.DamagedError, match=r"index.json was not saved with it; remove it"):
        check(newest(unfinished))
    (newest(unfinished) / "model.safetensors.index.json").unlink()
    (newest(unfinished) / "notes.txt").write_text("mine")
    check(newest(unfinished))


def earlier_version(run_dir: Path) -> None:
    """Leaves a run's checkpoints as the version before manifests wrote them."""
    for path in (run_dir / "checkpoints").glob("checkpoint-*"):
        (path / MANIFEST).unlink()


def test_a_checkpoint_of_an_earlier_version_is_read(once, unfinished, caplog):
    caplog.set_level(logging.INFO, "knowcap")
    earlier_version(unfinished)
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once)
    assert any("has no digests, as an earlier version wrote it" in line for line in caplog.messages)


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "flip"])
def test_what_cannot_be_read_in_a_checkpoint_of_an_earlier_version_is_seen(once, unfinished, how):
    earlier_version(unfinished)
    name, before = newest(unfinished).name, steps(unfinished)[-2]
    for file in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        shutil.rmtree(newest(unfinished))
        shutil.copytree(once / "checkpoints" / name, unfinished / "checkpoints" / name)
        (newest(unfinished) / MANIFEST).unlink()
        damage(newest(unfinished) / file, how)
        assert newest_checkpoint(unfinished / "checkpoints")[1] == before, file


class Trap:
    """Pickled, it is a command that loading would run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {self.file}",))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_loading_a_checkpoint_runs_nothing(unfinished, tmp_path, name):
    """Without a manifest too: files of torch are loaded weights-only."""
    earlier_version(unfinished)
    torch.save({"state": Trap(tmp_path / "ran")}, newest(unfinished) / name)
    assert newest_checkpoint(unfinished / "checkpoints")[1] == steps(unfinished)[-2]
    (newest(unfinished) / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    assert newest_checkpoint(unfinished / "checkpoints")[1] == steps(unfinished)[-2]
    assert not (tmp_path / "ran").exists()


def test_the_trainer_loads_weights_only(once, unfinished, monkeypatch):
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: asked.append(kw.get("weights_only")) or load(*args, **kw))
    shutil.rmtree(newest(unfinished))
    train(RECIPE, unfinished)
    assert len(asked) >= 3 and all(asked)


def test_a_checkpoint_is_put_in_its_place_when_it_is_on_the_disk(tmp_path, monkeypatch):
    seen: list[tuple[str, str]] = []
    replaced = checkpoints.replace_folder

    def flushed(path: Path) -> None:
        seen.append(("flush", path.name))

    monkeypatch.setattr(checkpoints, "flush", flushed)
    monkeypatch.setattr(checkpoints, "write_json", lambda path, _: (seen.append(("write", path.name)), path.touch()))
    monkeypatch.setattr(
        checkpoints, "replace_folder", lambda made, final: (seen.append(("rename", final.name)), replaced(made, final))
    )
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").touch()
    checkpoints.finish(tmp_path / "made", tmp_path / "checkpoint-5", {})
    assert seen == [("flush", "made"), ("write", MANIFEST), ("rename", "checkpoint-5")]


def test_a_clock_that_is_set_back_removes_no_newer_checkpoint(tmp_path):
    """The step is what counts: the files' times are those of years ago, the newest one's the oldest."""
    for step, time in ((8, 3e8), (10, 2e8), (100, 1e8)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (time, time))
    remove_old(tmp_path, 100, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]
    remove_old(tmp_path, 100, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-100"]


def test_training_with_one_kept_checkpoint_keeps_the_newest_whatever_the_clock(once, tmp_path, monkeypatch):
    rename = checkpoints.replace_folder

    def dated(made: Path, final: Path) -> None:
        rename(made, final)
        time = 1e9 - 1e6 * int(final.name.split("-")[1])
        os.utime(final, (time, time))

    monkeypatch.setattr(checkpoints, "replace_folder", dated)
    train(replace(RECIPE, save_total_limit=1), tmp_path)
    assert steps(tmp_path) == steps(once)[-1:] and result(tmp_path) == result(once)


def test_damaged_checkpoints_do_not_count_among_those_that_are_kept(tmp_path):
    for step in (4, 8, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old(tmp_path, 10, 2, frozenset({8, 12}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-4"]


def state(run_dir: Path) -> dict[str, Any]:
    """Of the Trainer, in the newest checkpoint: epochs, losses and so on, without seconds."""
    found = json.loads((newest(run_dir) / "trainer_state.json").read_text())
    for entry in found["log_history"]:
        del entry["seconds"]
    return found


class SignalAt(TrainingProgress):
    """The signal comes in a step."""

    step = 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == self.step:
            signals.note(15)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, model_name="mixtral-1-2-2")], ids=["dense", "experts"])
def test_training_that_a_signal_ended_goes_on_to_the_same_bytes_and_losses(tmp_path, monkeypatch, recipe):
    """At steps between two logged losses, of which the first is the mean of what came before and after."""
    train(recipe, tmp_path / "whole")
    monkeypatch.setattr("knowcap.training.stage.TrainingProgress", SignalAt)
    monkeypatch.setattr(signals, "_noted", None)
    for step in (2, 7, 8):
        monkeypatch.setattr(SignalAt, "step", step)
        with pytest.raises(signals.Interrupted) as ended:
            train(recipe, tmp_path / "ended")
        assert signals.exit_status(ended.value) == 75
        assert steps(tmp_path / "ended")[-1] == step and not (tmp_path / "ended" / "model").exists()
        assert (newest(tmp_path / "ended") / PENDING).is_file() == (step % 4 != 0)
        monkeypatch.setattr(signals, "_noted", None)
    train(recipe, tmp_path / "ended")
    assert result(tmp_path / "ended") == result(tmp_path / "whole")
    states = [(newest(tmp_path / name) / "rng_state.pth").read_bytes() for name in ("ended", "whole")]
    assert states[0] == states[1]  # of dropout, where a model has it
    assert state(tmp_path / "ended") == state(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["model.safetensors", "optimizer.pt", "trainer_state.json", MANIFEST])
def test_a_disk_that_is_full_at_a_checkpoint_leaves_none(once, unfinished, monkeypatch, moment):
    """Every library's own error, by the system's limit of a file's size, once a file of the checkpoint is there."""
    import resource

    shutil.rmtree(newest(unfinished))
    before, limits = steps(unfinished), resource.getrlimit(resource.RLIMIT_FSIZE)
    finish, save = trainer.finish, trainer.Trainer._save_checkpoint
    whole = unfinished / "checkpoints" / f"checkpoint-{before[-1]}"

    def full(action, size):
        def limited(*args):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            try:
                return action(*args)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        return limited

    if moment == MANIFEST:
        monkeypatch.setattr(trainer, "finish", full(finish, 100))
    else:
        monkeypatch.setattr(trainer.Trainer, "_save_checkpoint", full(save, (whole / moment).stat().st_size - 1))
    with pytest.raises(WriteError, match=r"checkpoint-\d+.* cannot be written"):
        train(RECIPE, unfinished)
    assert newest_checkpoint(unfinished / "checkpoints")[1] == before[-1] and steps(unfinished) == before
    monkeypatch.undo()
    train(RECIPE, unfinished)
    assert result(unfinished) == result(once)
