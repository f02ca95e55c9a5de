"""Two processes have the gradients of one on the same global batch, a mixture's auxiliary loss among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gradients
import pytest
import torch
from gradient_models import DENSE, MIXTURE
from gradients import keep_gradients
from launched import launch
from safetensors.torch import load_file

from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.models import build_model, recipe_config
from knowcap.recipe import Recipe
from knowcap.recipe_file import RECIPES_DIR
from knowcap.training.trainer import WindowDataset
from knowcap.training.windows import stream_of


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


def kept(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    return load_file(keep_gradients(recipe, folder))


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_have_the_gradients_of_one(forked, tmp_path):
    configs = []
    for recipe in (DENSE, MIXTURE):
        keys = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__} | {"quantize_bits": [8]}
        keys["gradient_accumulation_steps"] = 1
        configs.append(str(tmp_path / f"{recipe.run_name}.yaml"))
        Path(configs[-1]).write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in keys.items()))
    if forked:
        launch(gradients.main, str(tmp_path), *configs, log=tmp_path / "log")
    else:
        config = RECIPES_DIR / "accelerate" / "cpu_2.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, gradients.__file__]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, tmp_path, *configs], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    for number, recipe in enumerate((DENSE, MIXTURE)):
        one = kept(recipe, tmp_path / f"one-{number}")
        two = load_file(tmp_path / str(number) / "gradients.safetensors")
        assert largest_difference(two, one) < 1e-6, recipe.run_name
        assert max(gradient.abs().max() for gradient in one.values()) > 1e-3


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_mixtures_auxiliary_loss_weighs_the_same_in_any_number_of_micro_batches(accumulation, tmp_path):
    """The mean over all tokens of the loss, and the mean over micro-batches of the auxiliary loss, by plain torch."""
    recipe = replace(MIXTURE, gradient_accumulation_steps=accumulation)
    found = kept(recipe, tmp_path / "found")
    corpus = corpus_of(recipe, tmp_path / "knowledge", tmp_path / "texts")
    tokenizer, rows = tokenizer_of(recipe, corpus)
    stream = stream_of(recipe, corpus, tokenizer)
    stream.count()
    batch = WindowDataset(stream, 8).__getitems__(list(range(8)))
    model = build_model(recipe_config(recipe, rows), recipe.seed)
    everything = model(input_ids=batch["input_ids"]).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(everything.flatten(0, 1), batch["labels"][:, 1:].flatten())
    for ids in batch["input_ids"].chunk(accumulation):
        loss = loss + model(input_ids=ids).aux_loss / accumulation
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert largest_difference(found, expected) < 1e-6
