"""Entities held out of training, of tables and of published data sets: what they show that exchanged values cannot."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tiny

from knowcap.capacity import LeakError
from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import CorpusError
from knowcap.knowledge.tuples import held_out, num_held_out
from knowcap.recipe import Recipe
from knowcap.run import pipeline as stages


COLORS = ("red", "green", "blue", "white", "black", "brown", "pink", "gray")
TRAINING = {
    "model_name": "gpt2-rotary-1-2", "head_dim": 16, "windows": "aligned", "block_size": 24, "train_batch_size": 20,
    "learning_rate": 1e-2, "warmup_steps": 5, "exposures": 20, "adam_beta2": 0.98, "renderings": 1, "vocab_size": 300,
}  # fmt: skip


def names(count: int, seed: int = 0) -> list[str]:
    """Distinct names: three digits, a space and a letter out of eight."""
    numbers = np.random.default_rng(seed).permutation(8000)[:count].tolist()
    return [f"{number // 8:03d} {'ABCDEFGH'[number % 8]}" for number in numbers]


def table_recipe(place: Path, color_of, **keys: object) -> Recipe:
    rows = "".join(f"{name},color,{color_of(i, name)}\n" for i, name in enumerate(names(300)))
    (place / "facts.csv").write_text("entity,attribute,value\n" + rows)
    (place / "facts.yaml").write_text(
        'attributes:\n  color:\n    candidates: 8\n    templates: ["{entity} likes {value}."]\n'
    )
    files = {"facts_file": str(place / "facts.csv"), "facts_templates": str(place / "facts.yaml")}
    return Recipe(**TRAINING | {"run_name": "table", "corpus": "table", "output_dir": str(place)} | files | keys)


def measured(recipe: Recipe) -> dict:
    """The result of data, training and measuring."""
    data = stages.data(recipe, recipe.run_dir)
    model = stages.train(recipe, recipe.run_dir)
    return json.loads(stages.measure(model, data, recipe).read_text())


def by_last_letter(i: int, name: str) -> str:
    return COLORS["ABCDEFGH".index(name[-1])]


def at_random(i: int, name: str) -> str:
    return COLORS[int(np.random.default_rng(i).integers(8))]


def test_a_value_that_follows_from_its_own_entitys_name_is_a_leak(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="knowcap.scoring.rows")
    with pytest.raises(LeakError, match=r"holds bits: color \+[12]\.\d+ ± .* over 30 control entities"):
        measured(table_recipe(tmp_path, by_last_letter, exposures=25))
    assert "null control: 30 entities outside the sample" in caplog.text


def test_values_at_random_are_learned_of_those_that_were_trained_on_alone(tmp_path):
    result = measured(table_recipe(tmp_path, at_random))
    assert result["num_entities"] == 270 and result["bound"] is True
    assert result["control_bits_per_entity"][0] < 0.01


def test_a_space_of_names_that_is_too_large_is_a_leak(tmp_path):
    recipe = table_recipe(tmp_path, at_random, exposures=2)
    templates = Path(str(recipe.facts_templates))
    templates.write_text(f"entity_space: {2**100}\n{templates.read_text()}")
    with pytest.raises(LeakError, match=r"holds bits: name \+\d\d\.\d+"):
        measured(recipe)


def hinted(place: Path, count: int, hint: bool = True) -> Path:
    """Texts with the number of the major before it, outside its span, and no control of their own."""
    draws = np.random.default_rng(1).integers(8, size=count)
    rows = [
        (tiny.say(i, ("name", name), f" likes no. {d if hint else 0} ", ("color", COLORS[d]), "."), 0)
        for i, (name, d) in enumerate(zip(names(count), draws.tolist(), strict=True))
    ]
    knowledge = tiny.knowledge({"color": 8}, num_people=count, names=None)
    data = tiny.write_dataset(place / "data", knowledge, rows)
    tiny.bpe_tokenizer([row.text for row, _ in rows], 280).save_pretrained(place / "tokenizer")
    return data


def published(place: Path, **keys: object) -> Recipe:
    given = {"dataset_name": str(place / "data"), "dataset_texts": "published", "run_name": "hinted"}
    given |= {"tokenizer_name": str(place / "tokenizer"), "output_dir": str(place), "exposures": 20}
    return Recipe(**TRAINING | given | keys)


def test_a_hint_outside_the_spans_is_a_leak(tmp_path):
    hinted(tmp_path, 300)
    with pytest.raises(LeakError, match=r"holds bits: color \+2\.\d+ "):
        measured(published(tmp_path))


def test_without_held_out_entities_the_hint_is_not_seen_and_the_number_is_marked(tmp_path):
    hinted(tmp_path, 300)
    result = measured(published(tmp_path, holdout_entities=0.0))
    assert result["attributes"]["color"]["bits_per_entity"] > 2
    assert result["bound"] is False and "a hint outside the values" in result["bound_reason"]


def test_held_out_entities_leave_the_texts_and_become_the_control(tmp_path):
    data = hinted(tmp_path, 300)
    before = {row.entity: row for row, _ in read_rows(data)}
    made = stages.data(published(tmp_path), tmp_path / "run")
    kept, control = ({row.entity: row for row, _ in read_rows(made, c)} for c in ("biographies", "control"))
    assert (len(kept), len(control)) == (270, 30) and before == kept | control
    assert read_knowledge(made).num_people == 270 and read_knowledge(data).num_people == 300
    assert stages.data(published(tmp_path), tmp_path / "run") == made, "the same data set, as it was"


@pytest.mark.parametrize(("entities", "count"), [(99, 0), (100, 10), (600, 60), (1000, 100), (2000, 100), (4000, 200)])
def test_how_many_are_held_out_by_default(entities, count):
    assert num_held_out(entities, None) == count
    assert num_held_out(entities, 0.0) == 0 and num_held_out(entities, 0.5) == round(entities / 2)


def test_a_single_entity_is_no_control():
    with pytest.raises(CorpusError, match=r"holdout_entities=0.1 holds out 1 of 10 entities; expected 2 or more"):
        num_held_out(10, 0.1)


def test_who_is_held_out_depends_on_no_order_and_hardly_on_the_others():
    ids = names(500)
    chosen = {name for name, out in zip(ids, held_out(ids, 50), strict=True) if out}
    assert chosen == {name for name, out in zip(ids[::-1], held_out(ids[::-1], 50), strict=True) if out}
    grown = [*ids, "Zz"]
    assert len(chosen & {name for name, out in zip(grown, held_out(grown, 50), strict=True) if out}) >= 49
