"""The ways of scoring through the stage: their files, their figures, and what they may not differ in."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from knowcap.capacity import capacity
from knowcap.capacity.kept import read_capacity_file
from knowcap.dataset.folder import read_candidates, read_knowledge
from knowcap.dataset.stage import build
from knowcap.models import load_model
from knowcap.recipe import Recipe, RecipeError
from knowcap.report.card import write_card
from knowcap.run import pipeline as stages
from knowcap.scoring import DEFAULT_MODE, OTHER_MODES, ScoringMode, read_measurement, score
from knowcap.scoring.measurement import describe, is_trained_on
from knowcap.scoring.mode import ScoringError
from knowcap.training.stage import train


BASE = {
    "run_name": "ways", "num_people": 60, "model_name": "gpt2-rotary-2-2", "head_dim": 16, "pools_fraction": 0.1,
    "num_templates": 2, "vocab_size": 400, "exposures": 15, "block_size": 320, "windows": "aligned",
    "train_batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 10, "renderings": 2, "control_people": 100,
}  # fmt: skip
RECIPES = {
    "bioS": Recipe(**BASE),
    "bioD": Recipe(
        **BASE | {"exposures": 5}, corpus="bioD", num_attributes=2, chunks_per_value=2, diversity=20, chunk_length=2
    ),
}


@pytest.fixture(scope="module", params=RECIPES)
def run(request, tmp_path_factory):
    recipe = RECIPES[request.param]
    run_dir = tmp_path_factory.mktemp("runs") / "ways"
    data = build(recipe, run_dir)
    return recipe, data, train(recipe, run_dir)


def test_every_way_is_measured_beside_the_others(run):
    recipe, data, model = run
    results = {}
    for mode in (
        DEFAULT_MODE,
        ScoringMode("closed_set"),
        ScoringMode(context="packed"),
        ScoringMode("closed_set", "packed"),
    ):
        path = score(model, data, progress=False, mode=mode)
        assert path == model / mode.folder / "nll.parquet"
        results[mode] = capacity(path.parent)
        assert (results[mode]["scoring"], results[mode]["context"]) == (mode.scoring, mode.context)
        assert read_capacity_file(model / mode.folder) == results[mode]
    plain, closed, packed, both = results.values()
    assert closed["value_bits"] >= plain["value_bits"]
    assert closed["attributes"]["name"]["nll_nats"] <= plain["attributes"]["name"]["nll_nats"] + 1e-6
    assert both["knowledge_bits"] != packed["knowledge_bits"] != plain["knowledge_bits"]
    most = plain["max_knowledge_bits"] - closed["max_knowledge_bits"]
    assert (most > 0) == (recipe.corpus == "bioD")  # the diversity term has no place in a closed set
    assert closed["diversity_bits"] == 0.0


def test_the_card_shows_every_way_with_its_distance(run):
    _, data, model = run
    for mode in (DEFAULT_MODE, ScoringMode(context="packed")):
        capacity(score(model, data, progress=False, mode=mode).parent)
    card = write_card(model).read_text()
    plain, packed = (json.loads((model / f / "capacity.json").read_text()) for f in ("", "packed"))
    gap = packed["bits_per_parameter"] - plain["bits_per_parameter"]
    (line,) = [line for line in card.splitlines() if line.startswith("| `packed/` |")]
    assert line.startswith("| `packed/` | token, packed |") and line.endswith(f"| {round(gap, 3) + 0.0:+.3f} |")


def test_lists_of_the_data_set_are_those_of_its_knowledge(run):
    recipe, data, _ = run
    lists = read_candidates(data)
    known = json.loads((data / "knowledge.json").read_text())
    for attribute in known["attributes"]:
        if attribute["determined_by"] is None:
            count = 1
            for part in lists[attribute["name"]].parts:
                count *= len(part)
            assert count == attribute["candidates"]
    count = 1
    for part in lists["name"].parts:
        count *= len(part)
    assert 2 ** known["name_log2_candidates"] == pytest.approx(count)


def test_ways_have_folders_of_their_own_and_bad_ones_are_reported():
    assert DEFAULT_MODE.folder == "" and len({mode.folder for mode in OTHER_MODES}) == len(OTHER_MODES) == 7
    with pytest.raises(ScoringError, match="context='pack', expected isolated or packed"):
        ScoringMode(context="pack")


def test_the_recipe_gives_the_start_token_unless_the_call_does(run, tmp_path):
    recipe, data, model = run
    plain = pq.read_table(score(model, data, progress=False))
    with_key = replace(recipe, start_token="bos")
    options = {"output_dir": tmp_path, "limit": None}
    found = stages.measure(model, data, with_key, **options).parent / "nll.parquet"
    assert read_measurement(found)["options"]["start_token"] == "bos"
    assert pq.read_table(found)["nll"].equals(plain["nll"]), "BOS and EOS are one token in models of knowcap"
    assert (tmp_path / "nll.parquet").is_file(), "the start token has no folder of its own"
    with pytest.raises(ScoringError, match="measured with start_token=bos, expected eos; score again"):
        stages.measure(model, data, with_key, start_token="eos", **options)


def test_a_model_is_trained_here_on_its_own_facts_only(run):
    _, data, model = run
    knowledge = read_knowledge(data)
    assert is_trained_on(model, knowledge)
    for other in ({"num_people": 61}, {"seed": 1}, {"name": "facts"}):
        assert not is_trained_on(model, replace(knowledge, **other))
    assert describe(model, load_model(model), replace(knowledge, name="facts"))["exposures"] is None


def test_no_start_token_before_scored_names_is_an_error_before_training(tmp_path):
    recipe = replace(RECIPES["bioS"], start_token="none")
    with pytest.raises(RecipeError, match="start_token: none, but each text begins with a name that is scored"):
        stages.run(recipe, tmp_path)
    assert not (tmp_path / "model").exists()
