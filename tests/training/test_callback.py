"""Bits per parameter while training: right figures, beside the loss, in any Trainer, and training is not changed."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import UniformModel, byte_tokenizer, knowledge, say, table_model, write_dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

import knowcap
from knowcap import KnowledgeCallback
from knowcap.capacity import capacity
from knowcap.dataset.stage import build
from knowcap.facts import FactError
from knowcap.recipe import Recipe
from knowcap.report.plots import plot_loss
from knowcap.scoring import score
from knowcap.training.stage import train


ROOT = Path(__file__).parents[2]
TOKENIZER = byte_tokenizer()
FACTS = knowledge({"city": 4}, num_people=4, names=64)
PEOPLE = [("Ad", "Rome"), ("Bo", "Oslo"), ("Cy", "Rome"), ("Di", "Bern")]
ROWS = [say(i, ("name", name), " of ", ("city", city), ".") for i, (name, city) in enumerate(PEOPLE)]


class Tracker(TrainerCallback):
    """Keeps what a tracker receives, in order."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, set[str]]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Notes the step and the names of the figures."""
        self.logged.append((state.global_step, set(logs)))


def stock_model() -> GPT2LMHeadModel:
    """A tiny GPT2 with dropout."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(TOKENIZER), n_positions=32, n_embd=16, n_layer=1, n_head=2))


def stock(folder: Path, *callbacks: TrainerCallback, steps: int = 5, **changes) -> Trainer:
    """A Trainer as anybody has one, over ROWS, trained; with dropout, which draws random numbers."""
    set_seed(3)
    ids = [[TOKENIZER.eos_token_id, *TOKENIZER(row.text)["input_ids"]] for row in ROWS]
    data = [{"input_ids": torch.tensor(i), "labels": torch.tensor(i)} for i in ids]
    settings = {"max_steps": steps, "logging_steps": 2, "report_to": "none", "save_strategy": "no"} | changes
    args = TrainingArguments(
        str(folder), use_cpu=True, per_device_train_batch_size=1, disable_tqdm=True, learning_rate=1e-2, **settings
    )
    trainer = Trainer(stock_model(), args, train_dataset=data, callbacks=list(callbacks))
    trainer.train()
    return trainer


def test_import_of_knowcap_stays_light():
    code = "import sys, knowcap; assert 'torch' not in sys.modules; print(knowcap.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == knowcap.__version__, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        knowcap.Nothing  # noqa: B018


def test_figures_are_the_closed_form():
    """An oracle's names need log 4 nats, its cities none; one that knows nothing has 1/257 for each token."""
    callback = KnowledgeCallback(ROWS, FACTS, TOKENIZER, every=1)
    oracle = table_model([(row, 1.0) for row in ROWS], TOKENIZER)
    for model in (oracle, nothing := UniformModel(len(TOKENIZER))):
        embedding = torch.nn.Embedding(len(TOKENIZER), 1)
        model.get_input_embeddings, model.get_output_embeddings = lambda e=embedding: e, lambda e=embedding: e
    figures = callback.measure(oracle)
    assert figures["bits_per_parameter"] == pytest.approx(4 * (6 - 2 + 2) / 1)
    assert figures["max_bits_per_parameter"] == pytest.approx(figures["bits_per_parameter"])
    missing = 4 * 7 * math.log2(len(TOKENIZER))  # two letters of a name, a blank and four of a city
    figures = callback.measure(nothing)
    assert figures["bits_per_parameter"] == pytest.approx(4 * (6 + 2) - missing, rel=1e-6)
    sample = KnowledgeCallback(ROWS, replace(FACTS, num_people=400), TOKENIZER, every=1, limit=2)
    assert sample.measure(nothing)["bits_per_parameter"] == pytest.approx(100 * (4 * (6 + 2) - missing), rel=1e-6)


@pytest.mark.parametrize(("start_token", "begins"), [("auto", "<s>"), ("eos", "</s>"), ("none", "")])
def test_texts_follow_the_start_token_of_the_tokenizer_as_in_measuring(start_token, begins):
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    facts, model = replace(FACTS, name_log2_candidates=None), stock_model()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    found = KnowledgeCallback(ROWS, facts, tokenizer, every=1, start_token=start_token).measure(model)
    expected = knowcap.measure_capacity(model, ROWS, tokenizer=tokenizer, knowledge=facts, start_token=start_token)
    assert found["bits_per_parameter"] == pytest.approx(expected["bits_per_parameter"], rel=1e-6)
    assert expected["start_token"] == begins
    with pytest.raises(ValueError, match="start_token='first', expected auto, bos, eos, none"):
        KnowledgeCallback(ROWS, facts, tokenizer, every=1, start_token="first")


@pytest.mark.parametrize("bf16", [False, True])
def test_a_stock_trainer_logs_bits_beside_the_loss_and_trains_the_same_bit_for_bit(tmp_path, bf16):
    first, last = Tracker(), Tracker()
    callback = KnowledgeCallback(ROWS, FACTS, TOKENIZER, every=2)
    watched = stock(tmp_path, first, callback, last, bf16=bf16)
    alone = stock(tmp_path, bf16=bf16)
    pairs = zip(watched.model.state_dict().values(), alone.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    losses = [[e for e in t.state.log_history if "loss" in e] for t in (watched, alone)]
    assert [(e["step"], e["loss"]) for e in losses[0]] == [(e["step"], e["loss"]) for e in losses[1]]
    logged = [e for e in watched.state.log_history if "bits_per_parameter" in e]
    assert [e["step"] for e in logged] == [2, 4, 5] == [e["step"] for e in callback.history]
    assert [e["bits_per_parameter"] for e in logged] == [e["bits_per_parameter"] for e in callback.history]
    assert logged[-1]["bits_per_parameter"] == callback.measure(watched.model)["bits_per_parameter"]
    in_float32 = stock_model()
    in_float32.load_state_dict(watched.model.state_dict())
    assert logged[-1]["bits_per_parameter"] == callback.measure(in_float32)["bits_per_parameter"]
    assert logged[0]["bits_per_parameter"] < logged[-1]["bits_per_parameter"] < logged[-1]["max_bits_per_parameter"]
    bits = [step for step, names in first.logged if {"bits_per_parameter", "max_bits_per_parameter"} <= names]
    assert bits == [2, 4, 5]
    assert first.logged == last.logged


def test_modes_gradients_and_random_numbers_are_left_as_they_were():
    model = stock_model()
    model.train()
    model.transformer.drop.eval()
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    modes = [module.training for module in model.modules()]
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    KnowledgeCallback(ROWS, FACTS, TOKENIZER, every=1).measure(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_compiled_or_wrapped_model_is_measured_as_the_model_in_it():
    model = stock_model()
    callback = KnowledgeCallback(ROWS, FACTS, TOKENIZER, every=1)
    assert callback.measure(torch.compile(model, backend="eager")) == callback.measure(model)


def test_a_data_set_folder_has_rows_and_knowledge_and_the_trainer_a_tokenizer(tmp_path):
    folder = write_dataset(tmp_path / "data", FACTS, [(row, r) for row in ROWS for r in (0, 1)])
    callback = KnowledgeCallback(folder, every=1, limit=3)
    assert callback.knowledge == FACTS and callback.num_entities == 3 and len(callback.rows) == 6
    with pytest.raises(ValueError, match="no processing_class; give the tokenizer"):
        callback.measure(stock_model())
    logged = {"model": stock_model(), "processing_class": TOKENIZER}
    state = SimpleNamespace(global_step=1, max_steps=9, epoch=0.5, is_world_process_zero=True, log_history=[])
    callback.on_step_end(None, state, None, **logged)
    assert state.log_history == [callback.history[0] | {"epoch": 0.5}]


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        (ROWS, {"every": 0}, ValueError, "every=0, expected 1 or more"),
        (ROWS, {"every": 1, "limit": 0}, ValueError, "limit=0, expected 1 or more, or None for all"),
        (ROWS, {"every": 1, "knowledge": None}, ValueError, "give a knowcap.facts.Knowledge"),
        ([], {"every": 1}, FactError, "got no rows"),
        (ROWS, {"every": 1, "knowledge": replace(FACTS, num_people=3)}, FactError, "rows of 4 entities"),
        ([say(0, "I am ", ("name", "Ad"))], {"every": 1}, FactError, "must begin with the name"),
    ],
)
def test_what_cannot_be_measured_is_reported_before_training(rows, options, error, message):
    with pytest.raises(error, match=message):
        KnowledgeCallback(rows, tokenizer=TOKENIZER, **({"knowledge": FACTS} | options))


def test_tensorboard_shows_bits_beside_the_loss(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = KnowledgeCallback(ROWS, FACTS, TOKENIZER, every=2)
    stock(tmp_path, callback, report_to="tensorboard")
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent)).Reload()
    shown = events.Scalars("train/bits_per_parameter")
    assert [e.step for e in shown] == [2, 4, 5]
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4]


RECIPE = Recipe(
    run_name="tiny", corpus="bioD", compact=True, num_people=40, num_attributes=2, chunks_per_value=2, diversity=4,
    chunk_length=2, alphabet_size=4, exposures=8, model_name="gpt2-1-2", head_dim=8, block_size=65, renderings=1,
    windows="aligned", train_batch_size=8, learning_rate=1e-2, warmup_steps=2, control_people=100, save_steps=8,
    logging_steps=4, measure_every=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A run that measures while it trains."""
    folder = tmp_path_factory.mktemp("once")
    train(RECIPE, folder)
    return folder


def history(run_dir: Path) -> list[dict]:
    """What the run measured while it trained."""
    return json.loads((run_dir / "model" / "training.json").read_text()).get("knowledge_history")


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    """Whether two runs have the same weights, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


def test_measure_every_ends_with_the_figures_of_measure_and_leaves_the_weights_alone(once, tmp_path):
    points = history(once)
    steps = json.loads((once / "model" / "training.json").read_text())["num_steps"]
    assert [p["step"] for p in points] == sorted({*range(5, steps + 1, 5), steps})
    train(replace(RECIPE, measure_every=0), tmp_path)
    assert same(once, tmp_path) and history(tmp_path) is None
    measured = tmp_path / "measured"
    shutil.copytree(once / "model", measured / "model")
    score(measured / "model", build(RECIPE, measured), progress=False)
    result = capacity(measured / "model")
    assert points[-1]["bits_per_parameter"] == pytest.approx(result["bits_per_parameter"], rel=1e-6)
    assert points[-1]["max_bits_per_parameter"] == pytest.approx(result["max_bits_per_parameter"])


def test_a_resumed_run_keeps_the_curve(once, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(once / "checkpoints" / "checkpoint-8", tmp_path / "checkpoints" / "checkpoint-8")
    train(RECIPE, tmp_path)
    assert history(tmp_path) == history(once) and same(once, tmp_path)


@pytest.mark.usefixtures("rendered")
def test_the_loss_plot_shows_the_curve(once, tmp_path):
    pytest.importorskip("matplotlib", reason='needs the extra: pip install -e ".[plot]"')
    training = json.loads((once / "model" / "training.json").read_text())
    plain = plot_loss({k: v for k, v in training.items() if k != "knowledge_history"}, tmp_path / "plain.png")
    assert plot_loss(training, tmp_path / "both.png").read_bytes() != plain.read_bytes()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(once, tmp_path):
    recipe = tmp_path / "two.yaml"
    keys = {name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__}
    keys |= {"run_name": "two", "output_dir": str(tmp_path), "quantize_bits": []}
    recipe.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in keys.items()))
    config = ROOT / "recipes" / "accelerate" / "cpu_2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["-m", "knowcap.train", "--config", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(history(once), history(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-3)
