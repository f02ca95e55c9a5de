"""Data set folders that tests make, edit, and rewrite as another writer would."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from countries import write_table
from tiny import write_dataset

from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import Row
from knowcap.recipe import Recipe


SETTINGS = {
    "run_name": "rendered", "model_name": "gpt2-2-2", "vocab_size": 400, "exposures": 3, "block_size": 300,
    "windows": "aligned", "renderings": 1, "control_people": 0, "seed": 3,
}  # fmt: skip


BIOS = {"num_people": 150, "pools_fraction": 0.1, "num_templates": 1}


BIOD = {
    "corpus": "bioD", "num_people": 200, "num_attributes": 4, "chunks_per_value": 2, "diversity": 20,
    "chunk_length": 3, "alphabet_size": 10,
}  # fmt: skip


KEPT = ("seed", "num_templates", "permute", "full_name", "fixed_renderings", "tokenizer_name")


FORMS = {
    "bioS": BIOS,
    "bioS, fixed": BIOS | {"fixed_renderings": 2, "permute": False},
    "bioS, full names": BIOS | {"full_name": True},
    "bioS, paper": BIOS | {"lists": "paper"},
    "bioD": BIOD | {"pools_fraction": 0.2},
    "bioD, compact": BIOD | {"compact": True},
    "table": {"num_templates": 1},
}


def recipe_for(name: str, folder: Path) -> Recipe:
    """A recipe of that form; a table's files go to the folder."""
    more = write_table(folder) if name == "table" else {}
    return Recipe(**SETTINGS | FORMS[name] | more)


def from_folder(recipe: Recipe, folder: Path, **changes: object) -> Recipe:
    """A recipe that renders the people of a folder as `recipe` renders its own."""
    kept = {key: getattr(recipe, key) for key in KEPT}
    return replace(Recipe(**SETTINGS, dataset_name=str(folder)), **kept | changes)


def edit(folder: Path, change, config: str = "people") -> None:
    """Rewrites a config's one file, as somebody who makes the data set would: knowledge.json lists no files."""
    read_knowledge(folder).save(folder / "knowledge.json")
    (file,) = (folder / config).glob("train-*.parquet")
    pq.write_table(change(pq.read_table(file)), file)


def with_value(table: pa.Table, row: int, **values: object) -> pa.Table:
    """The table with other values in a row."""
    for name, value in values.items():
        column = table.column(name).to_pylist()
        column[row] = value
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(column, table.schema.field(name).type))
    return table


def rewritten(folder: Path, made: Path, lists: bool = True) -> Path:
    """As a language model may write it: entity ids of letters, 1 to 3 texts each, prose that repeats names."""
    knowledge = replace(read_knowledge(folder), name="bioR", bound=False, entity_column="who", version="2.0")
    rows = []
    for row, exposure in read_rows(folder):
        number = int(row.entity)
        if exposure < 1 + number % 3:
            last = row.text.split()[2]
            text = f"{row.text} Colleagues praise the many works of {last}, zealously; café №{number} is dear to all."
            rows.append((Row(text, row.spans, f"who-{number:03d}"), exposure))
    write_dataset(made, knowledge, rows)
    if lists:
        shutil.copytree(folder / "pools", made / "pools")
    return made
