"""The devices of a training process: one GPU without a launcher, and what a launcher asked for, or an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from knowcap.cli import main, train_main
from knowcap.extraction import ExtractionError, Tuning, tuning
from knowcap.models import devices
from knowcap.recipe import Recipe
from knowcap.run.launch import Launcher
from knowcap.training import arguments
from knowcap.training.arguments import machine_problems, training_arguments
from knowcap.training.packing import TrainingError
from knowcap.training.stage import train, training_arguments_of


RECIPE = Recipe(
    run_name="tiny", num_people=60, model_name="gpt2-1-2", head_dim=8, train_batch_size=8, precision="fp32"
)
TUNING = Tuning("full", rank=2, embedding_rank=2, steps=3, batch_size=6, learning_rate=1e-3, weight_decay=0.0)


@pytest.fixture
def four_gpus(monkeypatch):
    """Four GPUs that are visible to the Trainer and to knowcap, and that compute on the CPU."""
    for module in (arguments, devices):
        monkeypatch.setattr(module, "uses_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_one_process_uses_one_gpu_and_the_recipes_batch_in_training_and_tuning(four_gpus, tmp_path, caplog):
    stock = TrainingArguments(str(tmp_path), per_device_train_batch_size=8)
    assert (stock.n_gpu, stock.train_batch_size) == (4, 32), "the batch that the Trainer would make of it"
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    assert isinstance(Trainer(model, stock)._wrap_model(model), torch.nn.DataParallel)
    with caplog.at_level("INFO", logger="knowcap"):
        trained, tuned = training_arguments_of(RECIPE, tmp_path), tuning._arguments(TUNING, RECIPE, tmp_path)
    for args, size in ((trained, 8), (tuned, 6)):
        assert (args.n_gpu, args.train_batch_size) == (1, size)
        trainer = Trainer(model, args)
        assert trainer._wrap_model(model) is model
        assert trainer.get_total_train_batch_size(args) == size
    assert "4 GPUs are visible" in caplog.text and "--accelerate_config multi_gpu --num_processes 4" in caplog.text


def test_precision_and_compilation_are_the_recipes_whatever_the_launcher_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    model = torch.nn.Linear(2, 2)
    stock = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True)).accelerator.state
    assert (stock.mixed_precision, stock.dynamo_plugin.backend.value) == ("bf16", "INDUCTOR"), "what they would be"
    for precision, expected in (("fp32", "no"), ("bf16", "bf16")):
        args = training_arguments(replace(RECIPE, precision=precision), tmp_path)
        state = Trainer(model, args).accelerator.state
        assert (state.mixed_precision, state.dynamo_plugin.backend.value) == (expected, "NO")


def test_a_configuration_with_use_cpu_trains_on_the_cpu_of_a_machine_with_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.uses_gpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert not devices.uses_gpu()


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({}, 2),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "-1,-1"}, 0),
        ({"ACCELERATE_USE_CPU": "True"}, 0),
        ({"ACCELERATE_USE_CPU": "False"}, 0),
        ({"ACCELERATE_USE_CPU": "False", "CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({"ACCELERATE_MIXED_PRECISION": None}, 0),
    ],
    ids=["all", "some", "cpu_2", "cpu", "one, if there", "one, by its id", "torchrun"],
)
def test_gpus_that_a_launcher_asked_for_and_that_are_not_there_are_an_error(monkeypatch, tmp_path, changes, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    several = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"} if "ACCELERATE_USE_CPU" not in changes else {}
    for name, value in ({"ACCELERATE_MIXED_PRECISION": "no"} | several | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    problems = machine_problems(RECIPE)
    assert len(problems) == bool(gpus)
    if gpus:
        assert f"asks for {gpus} GPU" in problems[0] and "it has none" in problems[0]
        with pytest.raises(TrainingError, match="launch with cpu.yaml"):
            train(RECIPE, tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine_problems(RECIPE) == []


@pytest.mark.parametrize("command", ["run", "train", "sweep"])
def test_gpus_that_are_not_there_are_reported_before_any_work(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    what = ["quickstart"] if command == "sweep" else ["--config", "quickstart"]
    words = [command, *what, "--output_dir", str(tmp_path / "runs"), "--accelerate_config"]
    assert main([*words, "multi_gpu"]) == 2
    assert "asks for 8 GPUs on this machine, but it has 2; give --num_processes 2" in capsys.readouterr().err
    assert main([*words, "cpu", "--num_processes", "2"]) == 2
    assert "cpu.yaml starts one process, since its distributed_type is NO" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_process_that_accelerate_launched_for_a_missing_gpu_makes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert train_main(["--config", "quickstart", "--output_dir", str(tmp_path / "runs")]) == 2
    assert "asks for 8 GPUs on this machine, but it has none" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_launcher_starts_nothing_on_a_machine_without_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="but it has 0; give --accelerate_config cpu_2"):
        Launcher.named("fsdp2").launch("knowcap.scoring", [])


def test_tuning_in_several_processes_is_refused_as_it_would_multiply_the_batch(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ExtractionError, match="tuning runs in one process, but 2 were launched"):
        tuning._arguments(TUNING, RECIPE, tmp_path)
