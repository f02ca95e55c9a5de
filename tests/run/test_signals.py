"""Signals end a command in good order, with a status that schedulers understand; the same command continues."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from knowcap.cli import main
from knowcap.processes import signals
from knowcap.run.agent import described
from knowcap.training.checkpoints import check
from knowcap.training.trainer import TrainingProgress


KEYS = {
    "corpus": "bioD", "num_people": 24, "alphabet_size": 4, "num_attributes": 2, "chunks_per_value": 1,
    "chunk_length": 2, "diversity": 4, "model_name": "gpt2-1-2", "head_dim": 4, "exposures": 8, "block_size": 40,
    "train_batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 2, "save_steps": 4, "quantize_bits": [],
    "precision": "fp32",
}  # fmt: skip


def command(folder: Path, word: str = "train", **changes: object) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(KEYS | changes))
    return [word, "--config", str(folder / "tiny.yaml"), "--output_dir", str(folder)]


def weights(folder: Path) -> bytes:
    return (folder / "tiny" / "model" / "model.safetensors").read_bytes()


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "tiny" / "checkpoints").glob("checkpoint-*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(command(folder)) == 0
    return folder


@pytest.fixture(autouse=True)
def with_ctrl_c():
    """Ctrl-C is ignored in processes in the background, as tests may be."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler, "handlers are restored"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and signals.noted() is None


def sent_at(step: int, *numbers: int):
    """A step at whose end signals come."""
    on_step_end = TrainingProgress.on_step_end

    def then_signal(self, args, state, control, **kwargs) -> None:
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    return then_signal


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ((signal.SIGTERM,), 75),
        ((signal.SIGUSR1,), 75),
        ((signal.SIGHUP,), 75),
        ((signal.SIGINT,), 130),
        ((signal.SIGTERM, signal.SIGCONT, signal.SIGTERM), 75),
        ((signal.SIGINT, signal.SIGTERM), 130),
    ],
    ids=lambda sent: "-".join(signal.Signals(n).name for n in sent) if isinstance(sent, tuple) else str(sent),
)
def test_a_signal_saves_a_checkpoint_and_the_same_command_goes_on_from_it(
    whole, tmp_path, monkeypatch, capfd, sent, status
):
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "on_step_end", sent_at(6, *sent))
        assert main(command(tmp_path)) == status
    error = capfd.readouterr().err
    assert f"{signal.Signals(sent[0]).name}: ending in good order; Ctrl-C once more ends it at once" in error
    assert "run the same command again to continue" in error
    assert steps(tmp_path)[-1] == 6 and not (tmp_path / "tiny" / "model").exists()
    assert main(command(tmp_path)) == 0
    assert "resuming from step 6" in capfd.readouterr().err
    assert weights(tmp_path) == weights(whole)


def test_ctrl_c_twice_ends_at_once(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "on_step_end", sent_at(6, signal.SIGINT, signal.SIGINT))
        assert main(command(tmp_path)) == 130
    assert steps(tmp_path) == [4]
    assert main(command(tmp_path)) == 0 and weights(tmp_path) == weights(whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", ["data", "train", "measure", "report"])
def test_outside_of_training_a_signal_ends_the_command_at_once(tmp_path, monkeypatch, stage, number, status):
    def signalled(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("it goes on")

    monkeypatch.setattr("knowcap.run.pipeline.check_start_token", lambda *_: None)
    for name in ("data", "train", "measure", "report"):
        monkeypatch.setattr(f"knowcap.run.pipeline.{name}", signalled if name == stage else lambda *_, **__: tmp_path)
    assert main(command(tmp_path, "run")) == status


def test_what_fails_as_it_is_ended_is_no_failure(tmp_path, monkeypatch, capsys):
    """As processes that work together do, when one of them has ended before."""

    def failing(*_: object) -> None:
        signals.note(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr("knowcap.training.stage.train", failing)
    assert main(command(tmp_path)) == 75
    assert "run the same command again" in capsys.readouterr().err


class Launched:
    """`knowcap train` in two processes that accelerate starts, once both train."""

    def __init__(self, folder: Path) -> None:
        words = command(folder, exposures=4000, save_steps=20)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "knowcap.cli", *words, "--accelerate_config", "cpu_2"], stderr=log
            )
        while not (folder / "tiny" / "checkpoints" / "checkpoint-20").exists():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.workers = [one for one in found if "knowcap.run.agent" not in one.cmdline()]
        self.all = [one.pid for one in found]

    def ended(self) -> tuple[int, str]:
        """The exit status and what was logged, within a minute; nothing is left running."""
        try:
            status = self.process.wait(60)
        finally:
            for pid in [self.process.pid, *self.all]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    raise AssertionError(f"process {pid} was left running")
        return status, self.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_processes_that_work_together_at_one_step(tmp_path, number, status):
    """SIGUSR1 is sent to all, as Slurm does; the others to the command alone."""
    launched = Launched(tmp_path)
    assert len(launched.workers) == 2
    for pid in launched.all if number == signal.SIGUSR1 else []:
        os.kill(pid, number)
    launched.process.send_signal(number)
    found, log = launched.ended()
    assert found == status and "Traceback" not in log, log
    check(tmp_path / "tiny" / "checkpoints" / f"checkpoint-{steps(tmp_path)[-1]}")


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_within_a_minute(tmp_path):
    launched = Launched(tmp_path)
    launched.workers[1].kill()
    status, log = launched.ended()
    assert status == 1 and "process 1 was ended by signal 9 (SIGKILL); most often memory has run out" in log, log


def test_the_message_about_processes_names_what_was_first():
    assert described({0: 2, 1: 75}) == (2, "") and described({0: 1, 1: 1}) == (1, "")
    assert described({0: 75, 1: 75}) == (75, "") and described({0: 1, 1: -signal.SIGTERM}) == (1, "")
    assert described({0: 1, 3: -9})[1].startswith("process 3 was ended by signal 9 (SIGKILL)")
    assert "(unknown)" in described({0: -200})[1]
