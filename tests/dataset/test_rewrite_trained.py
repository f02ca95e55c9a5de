"""bioR the whole way: written behind a server, trained on as published, measured on its texts and on neutral ones."""

from __future__ import annotations

import json

import pytest
from writer_server import RuleWriter

from knowcap import cli
from knowcap.dataset.rewrite import Task, rewrite


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("bioR")
    data = rewrite(Task(num_people=40, texts_per_person=3, control_people=100), RuleWriter(), place / "bioR")
    recipe = place / "bior.yaml"
    recipe.write_text("model_name: gpt2-rotary-2-2\n")
    keys = {
        "dataset_name": data, "dataset_texts": "published", "exposures": 6, "head_dim": 16, "vocab_size": 700,
        "windows": "aligned", "block_size": 300, "train_batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 5,
        "quantize_bits": "8", "output_dir": place / "runs",
    }  # fmt: skip
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert cli.main(["run", "--config", str(recipe), *words]) == 0
    return place / "runs" / "bior"


def test_figures_on_the_texts_are_no_bound_and_neutral_ones_stand_beside(run):
    for folder in (run / "model", run / "quantized" / "int8"):
        own, neutral = (json.loads((path / "capacity.json").read_text()) for path in (folder, folder / "neutral"))
        assert own["bound"] is False and neutral["bound"] is True
        assert own["dataset"] == neutral["dataset"] == "bioR"
        assert own["num_entities"] == neutral["num_entities"] == 40
        assert own["max_knowledge_bits"] == pytest.approx(neutral["max_knowledge_bits"])
        card = (folder / "README.md").read_text()
        assert "not a bound" in card and "neutral" in card


def test_training_records_which_texts_it_read(run):
    training = json.loads((run / "model" / "training.json").read_text())
    assert training["dataset"] == "bioR" and training["exposures"] == 6
