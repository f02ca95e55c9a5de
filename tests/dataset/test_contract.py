"""A data set folder whose rules are broken one by one: each would change the number of bits without a word."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from data_set_folders import BIOS, SETTINGS, edit

from knowcap.dataset.contract import check_contract
from knowcap.dataset.folder import DatasetError, read_knowledge, read_rows
from knowcap.dataset.importing import check_folder
from knowcap.dataset.stage import write
from knowcap.facts import FactError, Row, Span
from knowcap.recipe import Recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(**SETTINGS | BIOS | {"control_people": 100, "renderings": 2})
    return write(recipe, tmp_path_factory.mktemp("made") / "bioS")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bioS"))


def check(folder: Path) -> None:
    check_contract(folder, read_knowledge(folder))


def change_knowledge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "knowledge.json").read_text())
    for key in ("content_digest", "files"):
        content.pop(key, None)
    change(content)
    (folder / "knowledge.json").write_text(json.dumps(content))


def change_attribute(folder: Path, name: str, **values: object) -> None:
    def change(content: dict[str, Any]) -> None:
        next(a for a in content["attributes"] if a["name"] == name).update(values)

    change_knowledge(folder, change)


def change_texts(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    def changed(table: pa.Table) -> pa.Table:
        rows = [row for row in map(change, table.to_pylist()) if row is not None]
        return pa.Table.from_pylist(rows, schema=table.schema)

    edit(folder, changed, "biographies")


def moved(attribute: str, first: int, last: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Moves start and end of an attribute's spans."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        spans = [
            s | {"start": s["start"] + first, "end": s["end"] + last} if s["attribute"] == attribute else s
            for s in row["spans"]
        ]
        return row | {"spans": spans}

    return change


def test_the_folder_as_it_was_made_is_right(folder):
    check(folder)
    check_folder(folder, "bioS")


def test_candidates_and_their_bits_must_agree(folder):
    change_attribute(folder, "major", log2_candidates=8.0)
    with pytest.raises(FactError, match=r"'major': log2_candidates=8.0 is not log2 of its 10 candidates"):
        read_knowledge(folder)


def test_candidates_are_as_many_as_the_list_has(folder):
    change_attribute(folder, "major", log2_candidates=8.0, candidates=256)
    with pytest.raises(
        FactError, match="major: knowledge.json has 256 candidates, but the config candidates lists 10"
    ):
        check(folder)


def test_the_names_are_as_many_as_the_lists_make(folder):
    change_knowledge(folder, lambda content: content.update(name_log2_candidates=100.0))
    with pytest.raises(FactError, match=r"name_log2_candidates=100, but the lists of the config candidates make 2\^"):
        check(folder)


def test_a_determined_attribute_must_be_declared(folder):
    cities = len(
        {row["text"] for row in pq.read_table(folder / "candidates").to_pylist() if row["attribute"] == "work_city"}
    )
    change_attribute(folder, "work_city", determined_by=None, candidates=cities, log2_candidates=math.log2(cities))
    with pytest.raises(FactError, match="work_city: each value on its list goes with values of another attribute"):
        check(folder)
    shutil.rmtree(folder / "candidates")
    with pytest.raises(FactError, match=r"work_city always follows from employer \(150 entities\)"):
        check(folder)


def test_one_fact_counts_once(folder):
    """The first major of a text is called its field, where it is stated twice."""

    def twice(row: dict[str, Any]) -> dict[str, Any]:
        span = next(s for s in row["spans"] if s["attribute"] == "major")
        value = row["text"][span["start"] : span["end"]]
        field = {"attribute": "field", "start": len(row["text"]) + 11, "end": len(row["text"]) + 11 + len(value)}
        return row | {"text": f"{row['text']} Field was {value}.", "spans": [*row["spans"], field]}

    change_texts(folder, twice)
    major = read_knowledge(folder).attribute("major")
    change_knowledge(folder, lambda content: content["attributes"].append(vars(replace(major, name="field"))))
    with pytest.raises(
        FactError, match=r"field says the same as major \(150 entities\), so that one fact would count"
    ):
        check(folder)


def test_an_entity_has_one_id(folder):
    change_texts(folder, lambda row: row | {"person_id": row["person_id"] + 1000 * row["exposure"]})
    change_knowledge(folder, lambda content: content.update(num_people=300))
    with pytest.raises(FactError, match="entities 0 and 1000 have the same name, '[^']*' .149 more"):
        check(folder)


def test_two_entities_have_two_names(folder):
    names = {row.entity: row.text[: row.spans[0].end] for row, _ in read_rows(folder)}

    def renamed(row: dict[str, Any]) -> dict[str, Any]:
        if row["person_id"] != 7:
            return row
        more = len(names[8]) - len(names[7])
        spans = [
            s | {"start": s["start"] + more * (i > 0), "end": s["end"] + more} for i, s in enumerate(row["spans"])
        ]
        return row | {"text": names[8] + row["text"][len(names[7]) :], "spans": spans}

    change_texts(folder, renamed)
    with pytest.raises(FactError, match=f"entities 7 and 8 have the same name, '{names[8]}'"):
        check(folder)


@pytest.mark.parametrize("lists", [True, False])
def test_a_name_is_whole(folder, lists):
    """Without lists, the words after the spans look like parts of names."""
    if not lists:
        shutil.rmtree(folder / "candidates")

    def first_two_names(row: dict[str, Any]) -> dict[str, Any]:
        name, *others = row["spans"]
        end = row["text"].index(" ", row["text"].index(" ") + 1)
        return row | {"spans": [name | {"end": end}, *others]}

    change_texts(folder, first_two_names)
    match = (
        "144 of 144 distinct values are not on the list"
        if lists
        else r"names are followed by \d+ words that begin with a capital"
    )
    with pytest.raises(FactError, match=match):
        check(folder)


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (1, 1, "begins within a word"),
        (-1, 0, "begins or ends with white space"),
        (0, -1, r"major: \d+ of \d+ distinct values are not on the list"),
    ],
)
def test_a_span_is_its_value(folder, first, last, message):
    change_texts(folder, moved("major", first, last))
    with pytest.raises(FactError, match=message):
        check(folder)


def test_the_rows_of_all_entities_are_there(folder):
    change_texts(folder, lambda row: row if row["person_id"] < 30 else None)
    with pytest.raises(FactError, match="texts about 30 entities, but knowledge.json has num_people=150"):
        check(folder)
    with pytest.raises(DatasetError, match="does not meet the contract of data sets: biographies has texts about 30"):
        check_folder(folder, "bioS")


def test_attributes_are_stated_by_as_many_as_declared(folder):
    def without_major(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"spans": [s for s in row["spans"] if s["attribute"] != "major" or row["person_id"] < 30]}

    change_texts(folder, without_major)
    with pytest.raises(FactError, match="major: 30 entities state it, but knowledge.json counts 150"):
        check(folder)
    change_attribute(folder, "major", stated=30)
    check(folder)


def test_a_value_is_not_stated_before_its_span(folder):
    def announced(row: dict[str, Any]) -> dict[str, Any]:
        name, *others = row["spans"]
        value = next(row["text"][s["start"] : s["end"]] for s in others if s["attribute"] == "major")
        text = f"{row['text'][: name['end']]} of {value}{row['text'][name['end'] :]}"
        more = len(text) - len(row["text"])
        return row | {"text": text, "spans": [name, *moved_by(others, more)]}

    change_texts(folder, announced)
    with pytest.raises(FactError, match="the major '.*' occurs before its span"):
        check(folder)


def moved_by(spans: list[dict[str, Any]], more: int) -> list[dict[str, Any]]:
    return [s | {"start": s["start"] + more, "end": s["end"] + more} for s in spans]


def test_an_entity_has_one_value(folder):
    swapped = {row.entity: row for row, exposure in read_rows(folder) if exposure == 1}

    def of_the_next(row: dict[str, Any]) -> dict[str, Any]:
        """The second text of an entity states the facts of the next one."""
        name, *_ = row["spans"]
        other = swapped[(row["person_id"] + 1) % 150]
        if row["exposure"] == 0:
            return row
        text = row["text"][: name["end"]] + other.text[other.spans[0].end :]
        spans = [s._asdict() for s in other.spans[1:]]
        return row | {"text": text, "spans": [name, *moved_by(spans, name["end"] - other.spans[0].end)]}

    change_texts(folder, of_the_next)
    with pytest.raises(FactError, match=r"entity 0 has two values of \w+, '.*' and '.*'; expected one"):
        check(folder)


def test_the_control_has_none_of_the_entities(folder):
    people = pq.read_table(folder / "biographies")
    edit(folder, lambda table: pa.concat_tables([table, people.slice(0, 4)]), "control")
    with pytest.raises(FactError, match=r"the null control has 2 entities of the texts, such as 0"):
        check(folder)


def test_words_are_told_apart_in_any_script(tmp_path):
    """A span may follow a letter where a script has no spaces, or a prefix in lower case."""
    rows = [
        (tiny.say(0, ("name", "法国"), "的首都是", ("capital", "巴黎"), "。"), 0),
        (tiny.say(1, ("name", "i-Afrika"), " ", "e", ("capital", "Goli"), "."), 0),
    ]
    knowledge = tiny.knowledge({"capital": 8}, num_people=2, names=None)
    check(tiny.write_dataset(tmp_path / "data", knowledge, rows))


def test_a_row_that_breaks_the_contract_is_named(tmp_path):
    rows = [(tiny.say(3, ("name", "Ann"), " likes ", ("pet", "cats"), "."), 0)]
    rows += [(Row("Bob likes dogs.", (Span("name", 0, 3), Span("toy", 10, 14)), 4), 0)]
    data = tiny.write_dataset(tmp_path / "data", tiny.knowledge({"pet": 4}, num_people=2), rows)
    with pytest.raises(FactError, match="entity 4: unknown attribute"):
        check(data)
