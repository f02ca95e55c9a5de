"""What a training run shows and logs, whether or not bars are shown and whenever it is interrupted."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from knowcap.progress import progress_bar
from knowcap.training import trainer as progress


def steps(callback: progress.TrainingProgress, first: int, last: int, saving: int = 0) -> list[int]:
    """Takes steps first + 1 … last of 10; returns those with a log entry by its doing."""
    state = SimpleNamespace(global_step=first, max_steps=10, log_history=[], is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    logged = []
    for state.global_step in range(first + 1, last + 1):
        saved = bool(saving) and (state.global_step % saving == 0 or state.global_step == 10)
        control = SimpleNamespace(should_save=saved, should_log=False)
        callback.on_step_end(None, state, control)
        logged += [state.global_step] if control.should_log else []
    state.log_history.append({"loss": 1.0})
    callback.on_log(None, state, None)
    callback.on_train_end(None, state, None)
    return logged


def test_every_checkpoint_and_the_last_two_steps_come_with_a_log_entry():
    assert steps(progress.TrainingProgress(1000), 0, 10, saving=4) == [4, 8, 9, 10]
    assert steps(progress.TrainingProgress(1000), 6, 10, saving=3) == [9, 10]


@pytest.mark.parametrize("disable", [True, False])
def test_a_bar_may_be_switched_off(monkeypatch, disable):
    monkeypatch.setattr(progress, "progress_bar", partial(progress_bar, disable=disable))
    callback = progress.TrainingProgress(1000)
    assert steps(callback, 4, 10) == [9, 10]
    assert callback.seconds >= 0
