"""Data set folders of others: nothing outside them is read or copied, and no small file takes a large memory."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from knowcap.corpus.candidates import CandidateRow, Candidates, candidates_by_attribute
from knowcap.dataset.folder import DatasetError, read_candidates
from knowcap.dataset.source import find_source
from knowcap.dataset.untrusted import MOST_BYTES, MOST_TEXT_BYTES, check_parquet, files_within
from knowcap.facts import CorpusError
from knowcap.run.push import HubError, push


KNOWLEDGE = tiny.knowledge({"birth_city": 2}, num_people=2, names=None)
ROWS = [
    (tiny.say(i, ("name", f"N{i} O."), " of ", ("birth_city", city), "."), 0)
    for i, city in enumerate(("Rome", "Oslo"))
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_dataset(tmp_path / "data", KNOWLEDGE, ROWS)


def test_links_out_of_a_folder_are_refused_and_not_published(folder, tmp_path):
    (tmp_path / "secret").write_text("of this machine", encoding="utf-8")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(DatasetError, match="LICENSE is a link that leaves the folder"):
        find_source(str(folder))
    with pytest.raises(HubError, match="LICENSE is a link that leaves the folder"):
        push(folder, hub_dataset_id="me/data")


def test_links_within_a_folder_are_files_of_it(folder):
    (folder / "LICENSE-2").symlink_to("LICENSE")
    (folder / "LICENSE").write_text("free", encoding="utf-8")
    assert {"LICENSE", "LICENSE-2"} <= set(find_source(str(folder)).files)


def test_a_folder_may_be_linked_as_a_whole(folder, tmp_path):
    (tmp_path / "linked").symlink_to(folder)
    assert find_source(str(tmp_path / "linked")).files == find_source(str(folder)).files


def test_links_of_the_hubs_cache_are_its_files(folder, tmp_path):
    snapshot, blobs = tmp_path / "datasets--me--x" / "snapshots" / "abc", tmp_path / "datasets--me--x" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(files_within(folder)):
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder / path, blobs / str(number))
        (snapshot / path).symlink_to(os.path.relpath(blobs / str(number), (snapshot / path).parent))
    assert find_source(str(snapshot)).files


@pytest.mark.parametrize("kind", ["loop of folders", "many loops", "loop of links", "nowhere", "pipe", "folder"])
def test_what_is_no_file_is_an_error_at_once(kind, folder, tmp_path):
    if kind == "loop of folders":
        (folder / "biographies" / "again").symlink_to(folder)
    elif kind == "many loops":
        for number in range(10):
            (folder / f"again{number}").symlink_to(folder)
    elif kind == "loop of links":
        (folder / "a").symlink_to(folder / "b")
        (folder / "b").symlink_to(folder / "a")
    elif kind == "nowhere":
        (folder / "LICENSE").symlink_to(folder / "missing")
    elif kind == "folder":
        (tmp_path / "other").mkdir()
        (folder / "people").symlink_to(tmp_path / "other")
    else:
        os.mkfifo(folder / "LICENSE")
    with pytest.raises(DatasetError, match="link to a folder|leads nowhere|no regular file"):
        find_source(str(folder))


def test_large_text_files_are_refused_before_they_are_read(folder):
    with (folder / "knowledge.json").open("r+b") as file:
        file.truncate(MOST_TEXT_BYTES + 1)
    with pytest.raises(DatasetError, match=r"knowledge.json has \d+ MB, expected at most"):
        find_source(str(folder))


def bomb(path: Path, schema: pa.Schema, row: dict, rows: int, groups: int = 1) -> Path:
    """A Parquet file of one row repeated."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch = pa.RecordBatch.from_pydict(
            {name: pa.array([row[name]] * rows, schema.field(name).type) for name in row}
        )
        for _ in range(groups):
            writer.write_batch(batch, row_group_size=rows)
    return path


TEXT = pa.schema([("text", pa.string())])
SPANS = pa.schema([("spans", pa.list_(pa.struct([("attribute", pa.string())])))])


@pytest.mark.parametrize("form", ["text", "spans", "rows"])
def test_a_small_parquet_file_that_unfolds_to_gigabytes_is_refused_from_its_metadata(form, tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    if form == "text":  # 100 x 500 rows of 100 KB: 5 GB
        bomb(path, TEXT, {"text": "x" * 100_000}, 500, groups=100)
    elif form == "spans":
        bomb(path, SPANS, {"spans": [{"attribute": "x" * 10_000}] * 20}, 200, groups=100)
    else:
        with pq.ParquetWriter(path, pa.schema([("n", pa.int64())])) as writer:
            writer.write_batch(
                pa.RecordBatch.from_arrays([np.zeros(3_000_000, np.int64)], ["n"]), row_group_size=1 << 22
            )
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match=r"unfolds to|rows are the same"):
        check_parquet(path)
    assert pa.total_allocated_bytes() - before < MOST_BYTES // 100


def test_ordinary_files_pass(folder, tmp_path):
    find_source(str(folder)).fetch("*/*.parquet")
    check_parquet(bomb(tmp_path / "repeated.parquet", TEXT, {"text": "a value"}, 100_000))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"text"])
def test_what_is_no_parquet_is_a_message(content, folder):
    (folder / "biographies" / "train-00001-of-00002.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        find_source(str(folder)).fetch("*/*.parquet")


@pytest.mark.parametrize(("part", "last_part"), [(0, 2**31 - 1), (-1, 0), (2, 1), (None, 0), (0, None)])
def test_parts_of_candidates_are_checked_before_they_are_made(part, last_part):
    with pytest.raises(CorpusError, match="candidates"):
        candidates_by_attribute([CandidateRow("a", part, last_part, "x")])


def test_columns_of_candidates_are_read_by_name(tmp_path):
    row = {"text": "Rome", "last_part": 0, "part": 0, "attribute": "city", "of": None}
    (tmp_path / "candidates").mkdir()
    path = tmp_path / "candidates" / "train-00000-of-00001.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [row],
            schema=pa.schema(
                [(name, pa.string() if name in ("text", "attribute", "of") else pa.int32()) for name in row]
            ),
        ),
        path,
    )
    assert read_candidates(tmp_path) == {"city": Candidates((("Rome",),))}
    pq.write_table(pa.Table.from_pylist([{"city": "Rome"}]), path)
    with pytest.raises(DatasetError, match="has the columns city; expected attribute, part"):
        read_candidates(tmp_path)


def test_values_are_split_as_by_trying_every_combination():
    rng = random.Random(0)
    for _ in range(300):
        parts = tuple(
            tuple({"".join(rng.choices("ab", k=rng.randint(0, 3))) for _ in range(rng.randint(1, 4))})
            for _ in range(rng.randint(1, 4))
        )
        value = "".join(rng.choices("ab", k=rng.randint(0, 6)))
        ways = [texts for texts in itertools.product(*parts) if "".join(texts) == value]
        if len(ways) == 1:
            assert Candidates(parts).split(value) == ways[0]
        else:
            with pytest.raises(CorpusError, match="several ways" if ways else "is not a candidate"):
                Candidates(parts).split(value)


def test_a_value_with_more_ways_than_can_be_listed_is_refused_at_once():
    with pytest.raises(CorpusError, match="several ways"):
        Candidates((("a", "aa"),) * 64).split("a" * 96)
