"""Threads and processes of a run's training on a CPU: the fastest that was timed, kept with the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from knowcap.files import CORES_FILE, read_json
from knowcap.recipe import Recipe
from knowcap.run import cores, pipeline
from knowcap.run.cores import Cores, choose, cores_of, threads_used
from knowcap.run.launch import Launcher


RECIPE = Recipe(
    run_name="timed", corpus="bioD", num_people=40, alphabet_size=4, compact=True, exposures=200_000, block_size=30,
    model_name="gpt2-rotary-1-1", head_dim=8, windows="aligned", train_batch_size=8,
)  # fmt: skip


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A machine of two cores: a step takes 50 ms a window, with two threads 45. Returns what was timed."""
    timed = []

    def seconds(model, recipe, windows, threads):
        timed.append((windows, threads))
        return 0.05 * windows / (1.1 if threads == 2 else 1)

    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(cores, "_seconds", seconds)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(cores, "_CGROUP", Path("no such folder"))
    return timed


@pytest.mark.parametrize(
    ("times", "steps", "expected"),
    [
        ({(1, 1): 0.060, (1, 2): 0.070}, 1000, (1, 1)),
        ({(1, 1): 0.060, (1, 2): 0.050, (2, 1): 0.048}, 10**6, (1, 2)),  # not clearly faster
        ({(1, 1): 0.060, (1, 2): 0.050, (2, 1): 0.035}, 10**6, (2, 1)),
        ({(1, 1): 0.060, (1, 2): 0.050, (2, 1): 0.035}, 1000, (1, 2)),  # 15 s are less than processes take to start
        ({(1, 1): 0.060, (1, 4): 0.050, (2, 2): 0.035, (4, 1): 0.020}, 10**6, (4, 1)),
    ],
)
def test_the_fastest_is_chosen_and_several_processes_only_if_they_are_worth_it(times, steps, expected):
    found = choose(times, steps)
    assert (found.num_processes, found.num_threads) == expected
    assert len(found.step_milliseconds) == len(times)


def test_a_long_training_is_timed_once_and_the_choice_is_kept(two_cores, tmp_path):
    first = cores_of(RECIPE, tmp_path)
    assert (first.num_processes, first.num_threads) == (2, 1)
    assert two_cores == [(8, 1), (8, 2), (4, 1)]
    assert read_json(tmp_path / "checkpoints" / CORES_FILE)["num_processes"] == 2
    assert cores_of(RECIPE, tmp_path) == first
    assert len(two_cores) == 3


def test_a_training_of_half_a_minute_is_worth_timing_threads_but_not_the_start_of_processes(two_cores, tmp_path):
    short = replace(RECIPE, exposures=32)  # 80 steps of 0.4 s
    assert cores_of(short, tmp_path) == Cores(
        1, 2, {"1 process of 1 thread": 400.0, "1 process of 2 threads": pytest.approx(363.64)}
    )
    assert two_cores == [(8, 1), (8, 2)]


def test_a_short_training_uses_one_thread(two_cores, tmp_path):
    assert cores_of(replace(RECIPE, exposures=2), tmp_path) == Cores(1, 1, {"1 process of 1 thread": 400.0})
    assert two_cores == [(8, 1)]


def test_a_batch_that_cannot_be_divided_stays_in_one_process(two_cores, tmp_path):
    assert cores_of(replace(RECIPE, train_batch_size=9), tmp_path).num_processes == 1
    assert two_cores == [(9, 1), (9, 2)]


def test_set_threads_are_used_and_nothing_is_timed(two_cores, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert cores_of(RECIPE, tmp_path) == Cores(1, 2)
    assert not two_cores
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS='all', expected a number of threads"):
        cores_of(RECIPE, tmp_path)


def test_with_a_gpu_there_is_one_process(two_cores, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cores_of(RECIPE, tmp_path).num_processes == 1
    assert not two_cores


def test_chosen_processes_are_launched_and_chosen_threads_are_set(tmp_path, monkeypatch):
    launched, used = [], []
    monkeypatch.setattr(Launcher, "launch", lambda self, *words: launched.append((self, words)))
    monkeypatch.setattr("knowcap.training.stage.train", lambda *_: used.append(torch.get_num_threads()))
    monkeypatch.setattr(pipeline, "describe_training", lambda _: "")
    monkeypatch.setattr(pipeline, "cores_of", lambda *_: Cores(2, 1))
    pipeline.train(RECIPE, tmp_path)
    ((launcher, words),) = launched
    assert words == ("knowcap.train", ["--config", str(tmp_path / "recipe.yaml")])
    command = launcher.command(*words)
    assert command[command.index("--num_processes") + 1] == "2"
    assert command[command.index("--num_cpu_threads_per_process") + 1] == "1"
    monkeypatch.setattr(pipeline, "cores_of", lambda *_: Cores(1, 2))
    before = torch.get_num_threads()
    pipeline.train(RECIPE, tmp_path)
    assert used == [2]
    assert torch.get_num_threads() == before


def test_steps_are_really_timed(tmp_path: Path):
    from knowcap.models import build_model, recipe_config

    model = build_model(recipe_config(RECIPE, 16), 0).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0 < cores._seconds(model, RECIPE, 2, 1) < 60
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_threads_are_restored_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), threads_used(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before
