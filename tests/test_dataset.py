"""The data set folder, as `load_dataset` reads it."""

from __future__ import annotations

import json

import pytest
from datasets import load_dataset

from knowcap.dataset import DatasetError, build, num_rows, read_knowledge, read_rows
from knowcap.facts import check_row
from knowcap.recipe import Recipe


def recipe(**changes) -> Recipe:
    keys = {"run_name": "x", "model_name": "gpt2-2-2", "num_people": 120, "pools_fraction": 0.1, "renderings": 2}
    return Recipe(**keys | {"control_people": 150} | changes)


@pytest.fixture
def folder(tmp_path):
    return build(recipe(), tmp_path)


def test_every_config_loads_and_streams(folder):
    people = load_dataset(str(folder), "people", split="train")
    assert people.num_rows == 120 and people.column_names[:2] == ["person_id", "first_name"]
    texts = load_dataset(str(folder), split="train")
    assert texts.num_rows == 240 and texts[3]["exposure"] == 1
    streamed = next(iter(load_dataset(str(folder), "control", split="train", streaming=True)))
    assert streamed["person_id"] == 120


def test_loaded_spans_cut_out_the_persons_values(folder):
    people = load_dataset(str(folder), "people", split="train")
    for row in load_dataset(str(folder), split="train"):
        person = people[row["person_id"]]
        for span in row["spans"]:
            if span["attribute"] != "name":
                assert row["text"][span["start"] : span["end"]] == person[span["attribute"]]


def test_two_folders_that_differ_in_the_seed_alone_load_as_themselves(tmp_path):
    first, second = build(recipe(), tmp_path / "a"), build(recipe(seed=1), tmp_path / "b")
    names = [load_dataset(str(f), "people", split="train")[0]["last_name"] for f in (first, second, first)]
    assert names[0] == names[2] != names[1]


def test_rows_are_those_of_the_contract_person_by_person(folder):
    knowledge = read_knowledge(folder)
    rows = list(read_rows(folder))
    assert [(row.entity, rendering) for row, rendering in rows] == [(i, e) for i in range(120) for e in range(2)]
    for row, _ in rows:
        check_row(row, knowledge)
    assert num_rows(folder) == 240


def test_the_control_is_of_people_outside_the_sample(folder):
    inside = {row.text[: row.spans[0].end] for row, _ in read_rows(folder)}
    outside = {row.text[: row.spans[0].end] for row, _ in read_rows(folder, "control")}
    assert len(outside) == 150 and not inside & outside


def test_too_small_a_control_is_left_out(tmp_path):
    folder = build(recipe(control_people=20), tmp_path)
    assert not (folder / "control").exists()
    with pytest.raises(DatasetError, match="no Parquet files of config 'control'"):
        list(read_rows(folder, "control"))


def test_a_folder_of_other_people_is_told(folder):
    with pytest.raises(DatasetError, match="another run_name"):
        build(recipe(seed=5), folder.parent)


def test_the_same_recipe_gives_the_same_folder_byte_for_byte(folder, tmp_path):
    again = build(recipe(), tmp_path / "again")
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_the_card_and_knowledge_json_say_the_bits(folder):
    content = json.loads((folder / "knowledge.json").read_text())
    assert f"{content['total_bits']:,.0f} bits in all" in (folder / "README.md").read_text()
