"""The null control on every corpus: it holds nothing, whatever the model, and a leak of any attribute is caught."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from countries import write_table

from knowcap.capacity import LeakError, capacity
from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.tokenizer import save_tokenizer
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import read_knowledge
from knowcap.dataset.stage import build
from knowcap.models import build_model, load_model, load_tokenizer, model_config
from knowcap.recipe import Recipe
from knowcap.scoring import DEFAULT_MODE, encode_rows, score
from knowcap.scoring import stage as stage_module
from knowcap.scoring.rows import control_rows
from knowcap.training.stage import train


BIOS = Recipe(
    run_name="control", num_people=60, pools_fraction=0.05, num_templates=2, vocab_size=200, control_people=150,
    model_name="gpt2-1-2", head_dim=8, exposures=12, block_size=300, windows="aligned", train_batch_size=12,
    learning_rate=1e-2, warmup_steps=3, renderings=2,
)  # fmt: skip
BIOD = replace(
    BIOS, corpus="bioD", num_templates=None, num_attributes=3, chunks_per_value=2, diversity=20, chunk_length=2,
    exposures=25,
)  # fmt: skip
RECIPES = {
    "bioS": BIOS,
    "bioS, one fixed way": replace(BIOS, fixed_renderings=1),
    "bioS, five ways, ordered, full names": replace(BIOS, fixed_renderings=5, permute=False, full_name=True),
    "bioD": BIOD,
    "bioD, compact": replace(BIOD, compact=True, pools_fraction=1.0),
    "table": replace(BIOS, num_people=0, pools_fraction=1.0, num_templates=None, vocab_size=260, exposures=30),
}


@pytest.fixture(scope="module", params=RECIPES)
def made(request, tmp_path_factory) -> tuple[Recipe, Path]:
    """A recipe and its run folder with the data set."""
    run_dir = tmp_path_factory.mktemp("control")
    recipe = RECIPES[request.param]
    recipe = replace(recipe, **write_table(run_dir)) if request.param == "table" else recipe
    build(recipe, run_dir)
    return recipe, run_dir


@pytest.fixture(scope="module")
def untrained(made) -> Path:
    """The folder of a model as it is before its first step."""
    recipe, run_dir = made
    tokenizer, rows = tokenizer_of(recipe, corpus_of(recipe))
    config = model_config(
        model_name=recipe.model_name, vocab_size=rows, block_size=recipe.block_size, head_dim=recipe.head_dim
    )
    build_model(config, seed=1).save_pretrained(run_dir / "untrained")
    save_tokenizer(tokenizer, recipe.block_size, run_dir / "untrained")
    return run_dir / "untrained"


def control_bits(model_dir: Path) -> dict[str, tuple[float, float]]:
    """Mean bits of the control's entities and their standard error, in sum and by attribute, from control.parquet."""
    facts: dict[tuple, list[float]] = defaultdict(list)
    for row in pq.read_table(model_dir / "control.parquet").to_pylist():
        if row["attribute"] != "name" and "first_chunk" not in row["attribute"]:
            facts[row["entity"], row["attribute"]].append(row["log2_candidates"] - row["nll"] / math.log(2))
    found: dict[str, dict] = defaultdict(lambda: defaultdict(float))
    for (entity, attribute), renderings in facts.items():
        for name in (attribute, "all"):
            found[name][entity] += float(np.mean(renderings))
    bits = {name: np.array(list(of_entity.values())) for name, of_entity in found.items()}
    return {name: (float(b.mean()), float(b.std(ddof=1)) / math.sqrt(len(b))) for name, b in bits.items()}


def check_nothing_is_held(model_dir: Path, result: dict) -> None:
    """The test's own bound, tighter than that of `capacity`: 3 standard errors, and 0.002 bits for rounding."""
    found = control_bits(model_dir)
    assert result["control_bits_per_entity"] == pytest.approx(found["all"], rel=1e-9)
    assert {name: bits for name, bits in found.items() if bits[0] > 3 * bits[1] + 0.002} == {}
    assert result["bits_per_parameter"] <= result["max_bits_per_parameter"]


def test_the_control_of_an_untrained_model_holds_nothing(made, untrained):
    score(untrained, made[1] / "knowledge", progress=False)
    check_nothing_is_held(untrained, capacity(untrained))


def test_the_control_of_a_model_that_has_begun_to_learn_holds_nothing(made):
    recipe, run_dir = made
    model = train(recipe, run_dir)
    score(model, run_dir / "knowledge", progress=False)
    result = capacity(model)
    check_nothing_is_held(model, result)
    # It has learned something: of the alphabet at least, which the untrained one does not know.
    score(run_dir / "untrained", run_dir / "knowledge", progress=False)
    assert result["bits_per_parameter"] > capacity(run_dir / "untrained")["bits_per_parameter"]


def leaking(model: torch.nn.Module, hints: dict[tuple[int, ...], int]) -> torch.nn.Module:
    """The model, but sure of what `hints` has for a prefix: as if the text had stated it before."""

    def lift(module, args, kwargs, output):
        ids, kept = kwargs["input_ids"].tolist(), kwargs["logits_to_keep"].nonzero().tolist()
        for logits, (row, place) in zip(output.logits, kept, strict=True):
            token = hints.get(tuple(ids[row][: place + 1]))
            if token is not None:
                logits[token] = 100.0
        return output

    model.register_forward_hook(lift, with_kwargs=True)
    return model


def test_a_leak_of_any_attribute_is_caught(made, untrained, monkeypatch, tmp_path):
    _, run_dir = made
    knowledge = read_knowledge(run_dir / "knowledge")
    rows, _ = control_rows(run_dir / "knowledge", DEFAULT_MODE.configs, knowledge, None)
    encoded = encode_rows([row for row, _ in rows], load_tokenizer(untrained), knowledge)
    worth = [a.name for a in knowledge.attributes if a.determined_by is None]
    for leaked in worth:
        hints = {}
        for target, fact in zip(encoded.targets.tolist(), encoded.target_facts.tolist(), strict=True):
            if encoded.facts[fact].attribute == leaked:
                start = int(encoded.row_starts[encoded.fact_rows[fact]])
                hints[tuple(encoded.ids[start:target].tolist())] = int(encoded.ids[target])
        with monkeypatch.context() as patch:
            patch.setattr(stage_module, "load_model", lambda path, _, hints=hints: leaking(load_model(path), hints))
            place = tmp_path / leaked
            score(untrained, run_dir / "knowledge", progress=False, limit=2, output_dir=place)  # and a control of 100
        with pytest.raises(LeakError, match=leaked):
            capacity(place)
