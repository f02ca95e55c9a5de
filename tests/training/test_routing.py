"""What is logged of a mixture's routers, against counts by plain torch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from gradient_models import DENSE, MIXTURE

from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.models import build_model, model_config, recipe_config
from knowcap.training.routing import Routing
from knowcap.training.stage import train
from knowcap.training.trainer import WindowDataset
from knowcap.training.windows import stream_of


# 41 people, two a window: the last window of an exposure is half padded, and the first step's.
LOGGED = replace(
    MIXTURE, num_people=41, exposures=4, train_batch_size=24, gradient_accumulation_steps=1, logging_steps=1,
    warmup_steps=2, measure_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(LOGGED, folder)
    return folder


def first_pass(recipe, run_dir):
    """The first batch's labels, and what the untrained model makes of it."""
    corpus = corpus_of(recipe, run_dir / "knowledge", run_dir / "texts")
    tokenizer, rows = tokenizer_of(recipe, corpus)
    stream = stream_of(recipe, corpus, tokenizer)
    stream.count()
    batch = WindowDataset(stream, recipe.train_batch_size).__getitems__(list(range(recipe.train_batch_size)))
    model = build_model(recipe_config(recipe, rows), recipe.seed)
    with torch.no_grad():
        return batch["labels"], model(input_ids=batch["input_ids"])


def test_the_first_step_logs_each_experts_share_the_auxiliary_loss_and_a_loss_without_it(run_dir):
    labels, found = first_pass(LOGGED, run_dir)
    step = json.loads((run_dir / "model" / "training.json").read_text())["log_history"][0]
    real = (labels != -100).flatten()
    assert 0 < real.sum() < real.numel()  # some are padded
    for layer, logits in enumerate(found.router_logits):
        chosen = logits[real].topk(2).indices.flatten()
        shares = torch.bincount(chosen, minlength=4).double() / len(chosen)
        assert step["expert_shares"][layer] == pytest.approx(shares.tolist(), abs=1e-12)
    assert step["router_aux_loss"] == pytest.approx(found.aux_loss.item(), rel=1e-5)
    logits, targets = found.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    assert step["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)


def test_every_step_is_logged_and_measuring_in_between_changes_nothing(run_dir, tmp_path):
    log = json.loads((run_dir / "model" / "training.json").read_text())["log_history"]
    assert len(log) > 3
    assert all(sum(layer) == pytest.approx(1) for entry in log for layer in entry["expert_shares"])
    train(replace(LOGGED, measure_every=0), tmp_path)
    assert json.loads((tmp_path / "model" / "training.json").read_text())["log_history"] == log


def test_the_saved_model_keeps_the_weight_of_the_auxiliary_loss(run_dir):
    config = json.loads((run_dir / "model" / "config.json").read_text())
    assert (config["router_aux_loss_coef"], config["num_experts_per_tok"]) == (1.0, 2)


def test_a_model_without_experts_logs_a_loss_alone(tmp_path):
    train(replace(DENSE, logging_steps=1), tmp_path)
    for entry in json.loads((tmp_path / "model" / "training.json").read_text())["log_history"]:
        assert entry.keys() == {"step", "loss", "learning_rate", "tokens"}


def test_shares_are_those_since_the_last_look_in_training_alone():
    model = build_model(model_config("mixtral-2-2-4", vocab_size=11, block_size=8, head_dim=8), 0)
    routing, accelerator = Routing(model), Accelerator(cpu=True)
    ids = torch.arange(8).reshape(1, 8)
    model.train()(input_ids=ids, labels=ids)
    aux, shares = routing.take(accelerator)
    assert aux > 0 and [sum(layer) for layer in shares] == pytest.approx([1, 1])
    model.eval()(input_ids=ids, labels=ids)
    assert routing.take(accelerator) == (0.0, [[0.0] * 4] * 2)
