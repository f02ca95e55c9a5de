"""Architectures that are known only by a config.json: each is trained, resumed, saved, measured and quantized."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import Row
from knowcap.models import build_model, load_model, load_tokenizer, parameters_of, recipe_config
from knowcap.models.quantized.settings import Settings
from knowcap.recipe import Recipe
from knowcap.recipe_file import RECIPES_DIR
from knowcap.report.card import write_card
from knowcap.run import pipeline
from knowcap.run.folder import claim_run_dir
from knowcap.scoring import score_rows
from knowcap.training.kernels import faster_training


# What cannot be quantized: convolutions, gates of recurrent units, routers.
EXCLUDE = {
    "qwen3": (),
    "olmo2": (),
    "mamba2": ("*.conv1d",),
    "recurrent_gemma": ("*.conv_1d", "*.rg_lru.*"),
    "deepseek_v3": ("*.mlp.gate",),
}
RECIPE = Recipe(
    corpus="bioD", compact=True, num_people=64, num_attributes=2, chunks_per_value=1, diversity=256, chunk_length=2,
    alphabet_size=16, exposures=8, block_size=45, windows="aligned", train_batch_size=16, learning_rate=1e-2,
    warmup_steps=1, save_steps=4, logging_steps=2, renderings=1, control_people=150, quantization_group_size=0,
    adam_epsilon=1e-6, weight_decay=0.0,
)  # fmt: skip


def config_file(name: str) -> Path:
    return RECIPES_DIR / "architectures" / f"{name}.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run folder and recipe of each architecture, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("architectures"), {}

    def get(name: str) -> tuple[Recipe, Path]:
        if name not in made:
            recipe = replace(
                RECIPE, run_name=name, output_dir=str(root), model_name=str(config_file(name)),
                quantization_exclude=EXCLUDE[name],
            )  # fmt: skip
            run_dir = claim_run_dir(recipe)
            dataset_dir, model_dir = pipeline.data(recipe, run_dir), pipeline.train(recipe, run_dir)
            copies = [pipeline.quantize(run_dir, Settings.of(recipe, bits)) for bits in recipe.quantize_bits]
            for folder in (model_dir, *copies):
                pipeline.measure(folder, dataset_dir, recipe)
            write_card(model_dir)
            made[name] = recipe, run_dir
        return made[name]

    return get


@pytest.mark.parametrize("name", EXCLUDE)
def test_an_architecture_known_by_its_config_goes_through_every_stage(name, runs):
    recipe, run_dir = runs(name)
    training = json.loads((run_dir / "model" / "training.json").read_text())
    log = training["log_history"]
    assert training["model_name"] == name and log[-1]["loss"] < log[0]["loss"]
    # Counted by hand from the saved file, which has tied weights once, and by transformers.
    saved = load_file(run_dir / "model" / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    floating = {k: w for k, w in saved.items() if "e_score_correction" not in k}
    assert training["num_parameters"] == sum(w.numel() for w in floating.values()) == model.num_parameters()
    rows = model.config.vocab_size
    assert parameters_of(recipe, rows).num_parameters == training["num_parameters"]
    assert parameters_of(recipe, rows).num_active_parameters == training["num_active_parameters"]
    for folder in ("model", "quantized/int8", "quantized/int4"):
        capacity = json.loads((run_dir / folder / "capacity.json").read_text())
        assert capacity["model_name"] == name and capacity["num_parameters"] == training["num_parameters"]
        value, error = capacity["control_bits_per_entity"]
        assert value < 3 * error
    assert capacity["quantized_fraction"] > 0.5
    named = yaml.safe_load((run_dir / "recipe.yaml").read_text())["model_name"]
    assert json.loads((run_dir / named).read_text()) == json.loads(config_file(name).read_text())
    card = (run_dir / "model" / "README.md").read_text()
    assert f"The architecture is {name}. Its configuration is {named}.\n" in card


@pytest.mark.parametrize("name", EXCLUDE)
def test_training_has_the_models_own_loss_and_gradients(name):
    """knowcap.training.kernels replaces operations of stock models where they are the same functions."""
    config = recipe_config(replace(RECIPE, model_name=str(config_file(name))), 61)
    own, faster = (build_model(config, 0).train() for _ in range(2))
    ids = torch.randint(61, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.arange(12) > 9, -100)
    with faster_training(faster):
        losses = [model(input_ids=ids, labels=labels).loss for model in (own, faster)]
        for loss in losses:
            loss.backward()
    assert torch.allclose(*losses, rtol=1e-5)
    for (key, a), (_, b) in zip(own.named_parameters(), faster.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        assert a.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-6), key


@pytest.mark.parametrize("name", EXCLUDE)
def test_an_interrupted_training_ends_with_the_same_weights(name, runs, tmp_path):
    recipe, run_dir = runs(name)
    again = tmp_path / name
    shutil.copytree(run_dir, again, ignore=shutil.ignore_patterns("model", "quantized", "plots"))
    checkpoints = sorted((again / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    pipeline.train(recipe, again)
    expected, found = (load_file(folder / "model" / "model.safetensors") for folder in (run_dir, again))
    assert all(torch.allclose(found[key], weight, atol=1e-6) for key, weight in expected.items())


@pytest.mark.parametrize("name", EXCLUDE)
def test_the_number_of_texts_in_a_batch_does_not_change_nll(name, runs):
    _, run_dir = runs(name)
    model, tokenizer = load_model(run_dir / "model"), load_tokenizer(run_dir / "model")
    rows, knowledge = list(read_rows(run_dir / "knowledge"))[:8], read_knowledge(run_dir / "knowledge")
    # Texts of different lengths: padding stands beside some of them.
    short = [(Row(r.text[: r.spans[1].end], r.spans[:2], r.entity), rendering) for r, rendering in rows[:4]]
    one, many = (
        score_rows(model, tokenizer, [*rows, *short], knowledge, batch_size=size)["nll"].to_numpy() for size in (1, 12)
    )
    assert len(one) == 8 * 3 + 4 * 2 and np.abs(one - many).max() < 1e-4
