"""Training in bf16, the precision of the GPU recipes: one tiny run, interrupted, measured, quantized and asked."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from launched import launch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap import KnowledgeCallback
from knowcap.capacity import capacity
from knowcap.dataset.corpora import corpus_of
from knowcap.extraction import stage as extraction
from knowcap.models import load_model, load_tokenizer
from knowcap.models.reload import reload_problem
from knowcap.recipe import Recipe
from knowcap.run import pipeline as stages
from knowcap.run.folder import claim_run_dir
from knowcap.training.precision import own_forward, unprepared
from knowcap.training.stage import train


RECIPE = Recipe(
    run_name="bf16", model_name="gpt2-rotary-1-2", num_people=30, head_dim=16, pools_fraction=0.05, num_templates=1,
    vocab_size=300, exposures=10, block_size=100, windows="aligned", train_batch_size=10, learning_rate=1e-2,
    warmup_steps=2, adam_beta2=0.98, control_people=100, renderings=1, questions=True, qa_share=0.25, precision="bf16",
    save_steps=15, logging_steps=15, measure_every=15, extract_rank=4, extract_embedding_rank=8, extract_steps=3,
    extract_batch_size=10, extract_learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run in bf16: trained, measured, quantized."""
    recipe = replace(RECIPE, output_dir=str(tmp_path_factory.mktemp("runs")))
    run_dir = claim_run_dir(recipe)
    data = stages.data(recipe, run_dir)
    stages.measure(stages.train(recipe, run_dir), data, recipe)
    return run_dir


def content(file: Path) -> dict:
    return json.loads(file.read_text())


def test_it_goes_on_after_an_interruption_to_the_same_float32_weights(run_dir, tmp_path):
    training = content(run_dir / "model" / "training.json")
    assert (training["precision"], training["device"], training["world_size"]) == ("bf16", "cpu", 1)
    steps = training["num_steps"]
    first = min(int(folder.name.split("-")[1]) for folder in (run_dir / "checkpoints").glob("checkpoint-*"))
    assert 0 < first < steps
    shutil.copytree(run_dir / "checkpoints" / f"checkpoint-{first}", tmp_path / "checkpoints" / f"checkpoint-{first}")
    train(RECIPE, tmp_path)
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (run_dir, tmp_path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
    keys = ("log_history", "knowledge_history")
    again = content(tmp_path / "model" / "training.json")
    assert [again[key] for key in keys] == [training[key] for key in keys]


def callback_of(recipe: Recipe, run_dir: Path) -> KnowledgeCallback:
    """What scores the texts that a run measures while it trains."""
    corpus, tokenizer = corpus_of(recipe), load_tokenizer(run_dir / "model")
    return KnowledgeCallback(corpus.rows(np.arange(30), 0), corpus.knowledge(), tokenizer, every=1)


def test_bits_while_training_are_those_of_the_saved_model_in_float32(run_dir):
    last = content(run_dir / "model" / "training.json")["knowledge_history"][-1]
    callback, model = callback_of(RECIPE, run_dir), load_model(run_dir / "model")
    assert callback.measure(model)["bits_per_parameter"] == pytest.approx(last["bits_per_parameter"], rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        other = callback.measure(model)["bits_per_parameter"]
    assert abs(other / last["bits_per_parameter"] - 1) > 2e-6, "in bf16 it is another figure"
    result = content(run_dir / "model" / "capacity.json")
    assert (result["dtype"], result["precision"]) == ("float32", "fp32")
    assert last["bits_per_parameter"] < result["max_bits_per_parameter"]


def test_two_processes_train_in_bf16_and_measure_in_float32(tmp_path):
    recipe = replace(RECIPE, exposures=3, measure_every=4, save_steps=100)
    launch(train, recipe, tmp_path, log=tmp_path / "log")
    training = content(tmp_path / "model" / "training.json")
    assert (training["world_size"], training["precision"]) == (2, "bf16")
    assert training["log_history"][-1]["loss"] < 0.9 * training["log_history"][0]["loss"]
    last = training["knowledge_history"][-1]
    found = callback_of(recipe, tmp_path).measure(load_model(tmp_path / "model"))
    assert found["bits_per_parameter"] == pytest.approx(last["bits_per_parameter"], rel=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_it_is_quantized_and_measured(run_dir, bits):
    from knowcap.models.quantized.settings import Settings

    copy = stages.quantize(run_dir, Settings.of(RECIPE, bits))
    stages.measure(copy, run_dir / "knowledge", RECIPE)
    results = [content(folder / "capacity.json") for folder in (copy, run_dir / "model")]
    assert results[0]["precision"] == f"int{bits}"
    assert results[0]["num_parameters"] == results[1]["num_parameters"]
    lost = (results[1]["knowledge_bits"] - results[0]["knowledge_bits"]) / results[1]["max_knowledge_bits"]
    assert 0 < abs(lost) < (0.02 if bits == 8 else 0.5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_tuned_and_what_was_tuned_is_what_is_asked(run_dir, method, monkeypatch):
    made = []
    monkeypatch.setattr(extraction, "tune", lambda *given, real=extraction.tune: made.append(real(*given)) or made[0])
    folder = stages.extract(run_dir, RECIPE, method=method, limit=3)
    assert content(folder / "tuning.json")["device"] == "cpu"
    assert content(folder / "extraction.json")["qa_share"] == 0.25
    tuned, reloaded = made[0][0], load_model(folder)
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected, found = tuned(ids).logits, reloaded(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            other = reloaded(ids).logits.float()
    assert (found - expected).abs().max() < 1e-5 < (other - expected).abs().max()


def test_questions_in_training_cost_a_name_the_inverse_share_of_biographies(run_dir, tmp_path):
    result = content(run_dir / "model" / "capacity.json")
    assert result["qa_share"] == content(run_dir / "model" / "training.json")["qa_share"] == 0.25
    assert result["qa_share_bits_per_entity"] == pytest.approx(math.log2(4 / 3))
    assert "useful_share" not in result
    shutil.copytree(run_dir / "model", tmp_path / "model")
    shutil.copytree(run_dir / "knowledge", tmp_path / "knowledge")
    stages.measure(tmp_path / "model", tmp_path / "knowledge", RECIPE, context="packed")
    packed = capacity(tmp_path / "model" / "packed")
    assert packed["qa_share"] == 0.25 and packed["qa_share_bits_per_entity"] is None, "a window shows the kind"


def test_a_prepared_model_computes_in_bf16_and_gets_its_own_forward_back():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=8, n_embd=32, n_layer=2, n_head=2)).eval()
    ids = torch.arange(8).reshape(1, 8)
    expected = model(ids).logits
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    in_bf16 = prepared(ids).logits
    assert not torch.equal(in_bf16, expected)
    with own_forward(model):
        assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(ids).logits, in_bf16), "training goes on as before"
    again = unprepared(prepared)
    assert again is model and "forward" not in vars(model)
    assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(ids, return_dict=False)[0], expected), "the decorators of its forward are still there"
    assert unprepared(model) is model
    with own_forward(model):
        assert torch.equal(model(ids).logits, expected)


def test_a_reload_is_the_same_if_tensors_are_equal_and_logits_close():
    saved, logits = {"a": torch.ones(3), "b": torch.zeros(2)}, torch.linspace(-5, 5, 30)
    same = {name: tensor.clone() for name, tensor in saved.items()}
    assert reload_problem(saved, same, logits, logits * (1 + 1e-6)) == ""
    assert "largest difference of a logit" in reload_problem(saved, same, logits, logits + 1e-3)
    assert "largest difference" in reload_problem(saved, same, logits, torch.full_like(logits, math.nan))
    one_bit = same | {"a": torch.nextafter(saved["a"], torch.tensor(2.0))}
    assert "changed tensors ['a']" in reload_problem(saved, one_bit, logits, logits)
    assert "changed tensors ['b']" in reload_problem(saved, {"a": saved["a"]}, logits, logits)
    assert "changed tensors ['c']" in reload_problem(saved, same | {"c": saved["a"]}, logits, logits)
