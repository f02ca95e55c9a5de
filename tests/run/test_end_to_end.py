"""The whole way in one process: a model that knows everything is measured to know everything."""

from __future__ import annotations

import json
import shutil

import pytest

from knowcap.capacity import capacity
from knowcap.dataset.stage import build
from knowcap.recipe import Recipe
from knowcap.scoring import score
from knowcap.training.stage import train


# tests/scoring/test_memorize.py has smaller models of every family that are trained to perfection.
pytestmark = pytest.mark.slow

PERFECT = Recipe(
    run_name="perfect", num_people=8, model_name="gpt2-rotary-2-2", head_dim=32, pools_fraction=0.1,
    num_templates=2, vocab_size=400, exposures=1500, block_size=160, windows="aligned", train_batch_size=8,
    learning_rate=3e-3, warmup_steps=20, weight_decay=0.0,
    adam_beta2=0.98, save_steps=10_000, activation="gelu_pytorch_tanh", renderings=8, control_people=150,
)  # fmt: skip


@pytest.fixture(scope="module")
def perfect(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "perfect"
    data = build(PERFECT, run_dir)
    model = train(PERFECT, run_dir)
    score(model, data, progress=False)
    return run_dir, capacity(model)


def test_a_model_trained_to_perfection_comes_within_one_percent_of_the_maximum(perfect):
    _, result = perfect
    assert result["bits_per_parameter"] <= result["max_bits_per_parameter"]
    assert result["bits_per_parameter"] == pytest.approx(result["max_bits_per_parameter"], rel=0.01)


def test_the_maximum_is_the_closed_form(perfect):
    run_dir, result = perfect
    knowledge = json.loads((run_dir / "knowledge" / "knowledge.json").read_text())
    assert result["max_knowledge_bits"] == pytest.approx(knowledge["total_bits"])


def test_the_number_does_not_depend_on_the_batch_size(perfect, tmp_path):
    run_dir, result = perfect
    shutil.copytree(run_dir / "model", tmp_path / "model")
    score(tmp_path / "model", run_dir / "knowledge", batch_size=3, progress=False, overwrite=True)
    again = capacity(tmp_path / "model")
    assert again["bits_per_parameter"] == pytest.approx(result["bits_per_parameter"], abs=1e-6)
    assert again["control_bits_per_entity"] == pytest.approx(result["control_bits_per_entity"], rel=1e-4)


def test_people_it_was_never_taught_are_unknown_to_it(perfect):
    _, result = perfect
    assert result["control_bits_per_entity"][0] < 0
