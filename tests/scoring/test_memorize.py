"""A tiny model of every family learns a handful of people by heart, through the whole way of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knowcap.capacity import capacity
from knowcap.dataset.stage import build
from knowcap.models import MODEL_FAMILIES
from knowcap.recipe import Recipe
from knowcap.scoring import score
from knowcap.training.stage import train


HANDFUL = Recipe(
    run_name="handful", corpus="bioD", compact=True, num_people=8, num_attributes=3, diversity=16, chunk_length=2,
    alphabet_size=4, exposures=280, block_size=16, windows="aligned", head_dim=16, initializer_range=0.1,
    train_batch_size=8, learning_rate=5e-3, warmup_steps=20, weight_decay=0.0, adam_beta2=0.98, save_steps=10_000,
    logging_steps=50, renderings=4, control_people=100,
)  # fmt: skip


# The others take the same path through the code.
QUICK = ("llama", "gpt2-moe")
FAMILIES = [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in MODEL_FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_every_family_learns_a_handful_of_people_to_one_percent(family, tmp_path):
    name = f"{family}-2-2-4" if MODEL_FAMILIES[family].experts else f"{family}-2-2"
    recipe = replace(HANDFUL, model_name=name)
    data = build(recipe, tmp_path)
    model = train(recipe, tmp_path)
    score(model, data, progress=False)
    found = capacity(model)
    assert found["bits_per_parameter"] <= found["max_bits_per_parameter"]
    assert found["bits_per_parameter"] == pytest.approx(found["max_bits_per_parameter"], rel=0.01)
