"""Data set folders made, and edited, by tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from countries import write_table

from knowcap.recipe import Recipe


SETTINGS = {
    "run_name": "told", "model_name": "gpt2-2-2", "vocab_size": 400, "exposures": 3, "block_size": 300,
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
    "bioD": BIOD | {"pools_fraction": 0.2},
    "bioD, compact": BIOD | {"compact": True},
    "table": {"num_templates": 1},
}


def recipe_for(name: str, folder: Path) -> Recipe:
    """A recipe of that form; a table's files go to the folder."""
    more = write_table(folder) if name == "table" else {}
    return Recipe(**SETTINGS | FORMS[name] | more)


def from_folder(recipe: Recipe, folder: Path, **changes: object) -> Recipe:
    """A recipe that tells the people of a folder as `recipe` tells its own."""
    kept = {key: getattr(recipe, key) for key in KEPT}
    return replace(Recipe(**SETTINGS, dataset_name=str(folder)), **kept | changes)


def edit(folder: Path, change, config: str = "people") -> None:
    """Rewrites a config's one file."""
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
