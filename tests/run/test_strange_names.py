"""Names that are allowed and strange: runs, data sets, cards and pages with them; and a token that is nowhere."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import datasets
import pytest
import yaml

from knowcap.cli import main


MARK = "hf_AMarkThatStandsForAToken0123456789"
RECIPE = """
num_people: 20
model_name: gpt2-1-1
head_dim: 8
quantize_bits: []
pools_fraction: 0.05
num_templates: 1
vocab_size: 200
exposures: 1
renderings: 1
control_people: 100
block_size: 160
windows: aligned
train_batch_size: 8
warmup_steps: 0
"""
ATTRIBUTE = "size | <script>alert(1)</script> [x](y)"
VALUES = ["=1+1", "<b>bold</b>", "@at", "a|b", "{x}", "日本", "`tick`", "Zoë"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def front_matter(card: Path) -> dict:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """A run with a strange name and a token in the environment, and what its commands printed."""
    folder, printed = tmp_path_factory.mktemp("strange"), io.StringIO()
    (folder / "r.yaml").write_text(RECIPE)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setenv("HF_TOKEN", MARK)
        patch.setenv("MY_KEY", MARK)
        names = ["--run_name", "é b{c} #1&2 'x'", "--output_dir", str(folder / "runs")]
        assert main(["run", "--config", str(folder / "r.yaml"), *names]) == 0
        run_dir = folder / "runs" / names[1]
        assert main(["report", str(run_dir)]) == 0
        assert main(["export", "lm-eval", str(run_dir / "knowledge"), "--output_dir", str(folder / "tasks")]) in (0, 2)
        assert main(["run", "--config", str(folder / "r.yaml"), "--dataset_name", "me/missing"]) == 2
    return run_dir, printed.getvalue()


def test_a_token_is_in_no_file_and_no_message(run):
    run_dir, printed = run
    files = tree(run_dir.parents[1])
    assert len(files) > 15 and not [path for path, content in files.items() if MARK.encode() in content]
    assert MARK not in printed


def test_a_strange_run_can_be_loaded_by_the_lines_of_its_cards(run, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir, _ = run
    texts = datasets.load_dataset(str(run_dir / "knowledge"), split="train", cache_dir=str(tmp_path))
    assert texts.num_rows == 20
    assert AutoTokenizer.from_pretrained(run_dir / "model") and AutoModelForCausalLM.from_pretrained(run_dir / "model")
    assert front_matter(run_dir / "model" / "README.md")["model-index"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The data set folder of a table of strange names."""
    folder = tmp_path_factory.mktemp("table")
    with (folder / "facts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"Entity{n} Lo", ATTRIBUTE, VALUES[n % len(VALUES)]) for n in range(40)]
        csv.writer(file).writerows([("entity", "attribute", "value"), *rows])
    templates = {
        "attributes": {ATTRIBUTE: {"templates": ["{entity} has the size {value}."], "candidates": "frequency"}}
    }
    (folder / "t.yaml").write_text(yaml.safe_dump(templates, allow_unicode=True), encoding="utf-8")
    recipe = {"corpus": "table", "facts_file": str(folder / "facts.csv"), "facts_templates": str(folder / "t.yaml")}
    recipe |= {
        "model_name": "gpt2-1-1",
        "head_dim": 8,
        "quantize_bits": [],
        "vocab_size": 400,
        "exposures": 2,
        "block_size": 100,
    }
    recipe |= {"run_name": "t", "output_dir": str(folder / "runs"), "holdout_entities": 0.2, "windows": "aligned"}
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["data", "--config", str(folder / "r.yaml")]) == 0
    return folder / "runs" / "t" / "knowledge"


def test_a_card_shows_strange_names_as_they_are(table):
    text = (table / "README.md").read_text(encoding="utf-8")
    body = text.split("---\n", 2)[2]
    assert "<script" not in body and "&lt;script&gt;" in body and "](y)" not in body.replace("\\](y)", "")
    for block in re.findall(r"(?:^\|.*\n)+", body, flags=re.M):  # each line of a table has as many cells
        lines = [re.sub(r"\\\|", "", line) for line in block.splitlines()]
        assert len({line.count("|") for line in lines}) == 1, block
    assert front_matter(table / "README.md")["configs"]


def test_strange_values_are_texts_of_the_data_set(table, tmp_path):
    people = datasets.load_dataset(str(table), "people", split="train", cache_dir=str(tmp_path))
    assert set(people[ATTRIBUTE]) <= set(VALUES) and len(set(people[ATTRIBUTE])) > 4
    assert json.loads((table / "knowledge.json").read_text())["attributes"][0]["name"] == ATTRIBUTE
