"""What a table of facts amounts to in the planner: the bits that training and measuring on it would count."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knowcap.corpus.table import table_of
from knowcap.facts import Attribute, Knowledge
from knowcap.laws.law import LawError
from knowcap.laws.plan.questions import ask
from knowcap.recipe import Recipe


YAML = """entity_space: 5000
attributes:
  colour: {candidates: 16, templates: ["{entity} has the colour {value}."]}
  shape: {templates: ["{entity} has the form {value}."]}
  family: {determined_by: colour, templates: ["{entity} is one of the {value}."]}
"""


def rows_of(entities: int = 200, seed: int = 0) -> list[tuple[str, str, str]]:
    """Entities with a colour, a family that follows from it, and, most of them, a shape."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(entities):
        colour = int(random.integers(16))
        rows += [(f"thing{i:03d}", "colour", f"c{colour:02d}"), (f"thing{i:03d}", "family", f"f{colour // 4}")]
        if i % 4:
            rows.append((f"thing{i:03d}", "shape", f"s{int(random.integers(5))}"))
    return rows


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    lines = ["entity,attribute,value", *(",".join(row) for row in rows_of())]
    (tmp_path / "facts.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "facts.csv"


def frequency_bits(attribute: str) -> float:
    """The sum of -log2 of a value's frequency over all who state it, one by one."""
    values = [value for _, name, value in rows_of() if name == attribute]
    counts = Counter(values)
    return sum(-math.log2(counts[value] / len(values)) for value in values)


def test_without_a_yaml_every_attribute_counts_by_frequency_and_names_nothing(facts):
    answer = ask("size", facts=facts, exposures=1000)
    expected = sum(frequency_bits(name) for name in ("colour", "family", "shape"))
    assert answer.results["bits"] == pytest.approx(expected, rel=1e-12)
    assert answer.results["num_parameters"] == pytest.approx(expected / 2, rel=1e-12)
    assert any("family always follows from colour" in warning for warning in answer.warnings)
    assert "names count nothing" in answer.text()


def test_with_its_yaml_a_table_counts_what_its_training_would(facts, tmp_path):
    (tmp_path / "facts.yaml").write_text(YAML)
    answer = ask("size", facts=facts, facts_templates=tmp_path / "facts.yaml")
    by_hand = 200 * math.log2(16) + frequency_bits("shape") + 200 * math.log2(5000 / 200)
    assert answer.results["bits"] == pytest.approx(by_hand, rel=1e-12)
    recipe = Recipe(
        run_name="r", model_name="gpt2-1-1", corpus="table", num_people=0,
        facts_file=str(facts), facts_templates=str(tmp_path / "facts.yaml"), holdout_entities=0.0,
    )  # fmt: skip
    assert answer.results["bits"] == pytest.approx(table_of(recipe).knowledge().total_bits, rel=1e-12)


def test_a_parquet_gives_the_same_bits_as_its_csv(facts, tmp_path):
    columns = dict(zip(("entity", "attribute", "value"), map(list, zip(*rows_of(), strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "facts.parquet")
    one, other = (ask("size", facts=path).content() for path in (facts, tmp_path / "facts.parquet"))
    assert one["results"] == other["results"]


def test_a_table_of_counts_is_as_if_drawn_evenly(tmp_path):
    (tmp_path / "counts.csv").write_text("attribute,entities,distinct_values\ncity,1000,256\ncode,500,2\nsame,10,1\n")
    answer = ask("size", facts=tmp_path / "counts.csv", exposures=100)
    assert answer.results["bits"] == answer.results["num_parameters"] == 1000 * 8 + 500
    named = ask("size", facts=tmp_path / "counts.csv", entity_space=2**20)
    assert named.results["bits"] == pytest.approx(8500 + 1000 * math.log2(2**20 / 1000))


def test_a_data_set_has_the_bits_of_its_knowledge_json(tmp_path):
    knowledge = Knowledge("made", "1", 64, 0, "who", 10.0, (Attribute("a", 8, 3.0), Attribute("b", 2, 1.0)))
    knowledge.save(tmp_path / "knowledge.json")
    for path in (tmp_path, tmp_path / "knowledge.json"):
        assert ask("size", facts=path).results["bits"] == 64 * (10 - 6 + 3 + 1)


def test_training_on_a_table_reports_each_fact_once_an_exposure(facts):
    answer = ask("train", num_parameters=1e4, facts=facts, exposures=10)
    assert answer.results["tokens"] == pytest.approx(10 * len(rows_of()) * 73.9 / 6)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("none.csv", None, {}, "none.csv does not exist"),
        ("a.csv", "entity,value\nx,y\n", {}, "got columns entity, value, expected entity, attribute, value"),
        (
            "a.csv",
            "entity,attribute,value\nx,a,1\nx,a,2\ny,,3\n",
            {},
            "gives the a of 'x', as.*\n.*attribute is empty",
        ),
        ("a.csv", "entity,attribute,value\n", {}, "expected 2 or more"),
        ("a.csv", "entity,attribute,value\nx,a,1\ny,a,1\n", {}, "count 0 bits"),
        (
            "a.csv",
            "entity,attribute,value\nx,a,1\ny,a,2\n",
            {"entity_space": 1},
            "entity_space: 1, but the table has 2",
        ),
        ("a.csv", "entity,attribute,value\nx,a,1\ny,a,2\n", {"entity_space": 1.5}, "expected a whole number of names"),
        ("a.csv", "attribute,entities,distinct_values\na,ten,2\nb,0,1\n", {}, "line 2: got .*ten.*\n.*b: 0 entities"),
        ("a.csv", "attribute,entities,distinct_values\n", {}, "no rows"),
        ("a.csv", "attribute,entities,distinct_values\na,9,1\n", {}, "count 0 bits"),
        (
            "a.csv",
            "attribute,entities,distinct_values\na,9,2\n",
            {"entity_space": 3},
            "entity_space=3, but 9 entities",
        ),
        ("a.csv", "attribute,entities,distinct_values\na,9,2\na,8,2\n", {}, "line 3: 'a' is given twice"),
    ],
)
def test_a_table_that_cannot_be_counted_is_reported(tmp_path, name, text, options, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(LawError, match=f"(?s){message}"):
        ask("size", facts=tmp_path / name, **options)


def test_a_table_that_contradicts_its_yaml_is_reported(facts, tmp_path):
    (tmp_path / "facts.yaml").write_text(YAML.replace("16", "3").replace("by: colour", "by: shape"))
    with pytest.raises(
        LawError, match="(?s)colour: candidates: 3, but .* family is not determined by shape|family is"
    ):
        ask("size", facts=facts, facts_templates=tmp_path / "facts.yaml")
    with pytest.raises(LawError, match="give facts, or leave them out"):
        ask("size", bits=1, facts_templates=tmp_path / "facts.yaml")
    (tmp_path / "facts.yaml").write_text(YAML)
    with pytest.raises(LawError, match="entity_space is given beside facts_templates"):
        ask("size", facts=facts, facts_templates=tmp_path / "facts.yaml", entity_space=9000)
