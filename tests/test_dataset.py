"""The data set folder: what `load_dataset` gives back is what the corpus says, and it is there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from knowcap import parquet
from knowcap.corpora import corpus_of
from knowcap.dataset import DatasetError, build, has_config, num_rows, read_knowledge, read_rows, tables, write
from knowcap.facts import Span, check_row
from knowcap.parquet import ParquetError, Table, write_tables
from knowcap.recipe import Recipe, load_recipe


RECIPE = Recipe(
    num_people=251, seed=5, pools_fraction=0.1, num_templates=3, renderings=2, control_people=120, vocab_size=400
)
CONFIGS = ("people", "biographies", "qa", "control")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(RECIPE, tmp_path_factory.mktemp("data") / "bioS")


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_load_dataset_gives_back_what_the_corpus_says(folder, config, streaming):
    corpus = corpus_of(RECIPE)
    loaded = datasets.load_dataset(str(folder), config, streaming=streaming)
    assert list(loaded) == (["train", "test"] if config == "qa" else ["train"])
    rows = [row for split in loaded.values() for row in split]
    if config == "people":
        columns = corpus.people_columns(0, 251)
        assert rows == [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif config == "qa":
        assert len(rows) == 251 * 6
        columns = corpus.questions(np.arange(251))
        expected = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        assert sorted(rows, key=repr) == sorted(expected, key=repr)
    else:
        persons = np.arange(251) if config == "biographies" else np.arange(251, 371)
        told = zip(*(corpus.rows(persons, e) for e in range(2)), strict=True)
        for got, row in zip(rows, (row for both in told for row in both), strict=True):
            assert (got["person_id"], got["text"]) == (row.entity, row.text)
            assert [Span(**span) for span in got["spans"]] == list(row.spans)
        assert [row["exposure"] for row in rows] == [0, 1] * len(persons)


def test_biographies_are_what_is_loaded_by_default(folder):
    assert datasets.load_dataset(str(folder), split="train").column_names == ["person_id", "exposure", "text", "spans"]
    assert set(datasets.get_dataset_config_names(str(folder))) == set(CONFIGS)


@pytest.mark.parametrize("changes", [{"seed": 6}, {"fixed_renderings": 1, "permute": False, "renderings": 1}])
def test_a_folder_made_again_is_not_read_from_the_cache(tmp_path, changes):
    for recipe in (RECIPE, replace(RECIPE, **changes)):
        made = write(recipe, tmp_path / "same place")
        for config in ("people", "biographies"):
            rows = datasets.load_dataset(str(made), config, split="train").to_list()
            (file,) = (made / config).glob("*.parquet")
            assert rows == pq.read_table(file).to_pylist()


def test_rows_and_bytes_are_told_as_they_are(folder):
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    for info in front["dataset_info"]:
        files = sorted((folder / info["config_name"]).glob("*.parquet"))
        assert info["download_size"] == sum(file.stat().st_size for file in files)
        assert info["dataset_size"] == sum(split["num_bytes"] for split in info["splits"]) > 0
        assert sum(split["num_examples"] for split in info["splits"]) == num_rows(folder, info["config_name"])


def test_the_halves_of_qa_share_nobody(folder):
    qa = datasets.load_dataset(str(folder), "qa")
    train, test = ({*qa[split]["person_id"]} for split in ("train", "test"))
    assert not train & test and (len(train), len(test)) == (126, 125)


def test_what_is_read_meets_the_contract(folder):
    knowledge = read_knowledge(folder)
    rows = list(read_rows(folder))
    assert len(rows) == num_rows(folder) == 502
    for row, _ in rows:
        check_row(row, knowledge)
    assert [rendering for _, rendering in rows] == [0, 1] * 251


@pytest.mark.parametrize("num_proc", [2, 3])
def test_the_files_are_the_same_whatever_the_number_of_processes(tmp_path, monkeypatch, num_proc):
    monkeypatch.setattr(parquet, "ENTITIES_PER_FILE", 50)
    one, several = write(RECIPE, tmp_path / "one"), write(RECIPE, tmp_path / "several", num_proc)
    assert content(one) == content(several)
    assert len(list((one / "people").iterdir())) == 6


def test_files_and_chunks_only_cut_the_rows_apart(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ENTITIES_PER_FILE", 40)
    monkeypatch.setattr(parquet, "CHUNK", 7)
    cut = write(RECIPE, tmp_path / "cut")
    for config in ("people", "biographies", "control"):
        files = sorted((cut / config).glob("*.parquet"))
        assert len(files) > 2 and pq.ParquetFile(files[0]).num_row_groups > 1
        (whole,) = (folder / config).glob("*.parquet")
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert rows == pq.read_table(whole).to_pylist()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"renderings": 4}, 4),
        ({"renderings": 4, "exposures": 3}, 3),
        ({"renderings": 4, "fixed_renderings": 1}, 1),
        ({"renderings": 4, "fixed_renderings": 6}, 4),
    ],
)
def test_no_text_is_published_twice(tmp_path, changes, expected):
    made = write(replace(RECIPE, num_people=20, **changes), tmp_path / "made")
    assert num_rows(made) == 20 * expected
    assert len({row.text for row, _ in read_rows(made)}) == 20 * expected


def test_an_unsaid_gender_is_not_in_knowledge_json(tmp_path):
    made = write(replace(RECIPE, full_name=True), tmp_path / "named")
    content, other = json.loads((made / "knowledge.json").read_text()), corpus_of(RECIPE).knowledge()
    assert "pronoun" not in [a["name"] for a in content["attributes"]]
    assert content["bits_per_person"] == pytest.approx(other.bits_per_person - 1)
    assert not [s for row, _ in read_rows(made) for s in row.spans if s.attribute == "pronoun"]


def test_one_person_alone_is_a_data_set(tmp_path):
    made = write(replace(RECIPE, num_people=1, control_people=0), tmp_path / "one")
    assert not has_config(made, "control")
    assert list(datasets.load_dataset(str(made), "qa")) == ["train"]


def test_the_recipe_on_the_card_makes_the_same_folder(folder, tmp_path):
    block = (folder / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "again.yaml").write_text(block + "vocab_size: 400\n")
    again = build(load_recipe(tmp_path / "again.yaml"), tmp_path / "run")
    assert content(again) == content(folder)


def test_the_card_counts_what_is_there(folder):
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert [c["config_name"] for c in front["configs"]] == list(CONFIGS)
    assert front["license"] == "apache-2.0"
    assert "| biographies | train | 502 |" in card and "| qa | test | 750 |" in card
    cities = [person["birth_city"] for person in datasets.load_dataset(str(folder), "people", split="train")]
    shares = [cities.count(city) / 251 for city in set(cities)]
    entropy = -sum(p * math.log2(p) for p in shares)
    assert f"| birth_city | 20 | {math.log2(20):.4f} | {len(set(cities))} | {entropy:.4f} |" in card
    lengths = [len(text) for text in datasets.load_dataset(str(folder), split="train")["text"]]
    assert f"{np.mean(lengths):.1f} code points" in card
    assert str(folder) not in card


def test_a_folder_that_is_there_is_kept_and_another_knowledge_refused(tmp_path):
    made = build(RECIPE, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    assert build(RECIPE, tmp_path) == made
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before
    with pytest.raises(DatasetError, match="the recipe asks for 252"):
        build(replace(RECIPE, num_people=252), tmp_path)


def failing(first: int, end: int):
    raise ValueError(f"no rows {first} to {end}")


def killed(first: int, end: int):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_goes_wrong_in_a_writer_is_told(tmp_path, num_proc):
    broken = [Table("people", split, 0, 5, failing) for split in ("train", "test")]
    with pytest.raises(ValueError, match="no rows 0 to 5"):
        list(write_tables(tmp_path, broken, num_proc))


def test_a_killed_writer_is_told(tmp_path):
    broken = [Table("people", split, 0, 5, killed) for split in ("train", "test")]
    with pytest.raises(ParquetError, match="exit code -9"):
        list(write_tables(tmp_path, broken, 2))


SCRIPT = """
import sys
from pathlib import Path
from knowcap import dataset, parquet
from knowcap.recipe import Recipe
if __name__ == "__main__":
    dataset.write(Recipe(num_people=300_000, renderings=1), Path(sys.argv[1]), 2)
"""


def test_a_killed_write_leaves_no_half_folder_and_no_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "bioS")], stderr=subprocess.DEVNULL
    )
    partial = tmp_path / ".bioS.partial"
    until(lambda: any(partial.rglob("*.parquet")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) >= 2
    process.kill()
    process.wait()
    assert not (tmp_path / "bioS").exists()
    until(lambda: not any(running(pid) for pid in pids))
    write(RECIPE, tmp_path / "bioS")
    assert not partial.exists()
    assert num_rows(tmp_path / "bioS", "people") == 251


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_tables_are_described_before_they_are_made():
    made = {(t.config, t.split): t.end - t.first for t in tables(RECIPE, corpus_of(RECIPE))}
    assert made == {
        ("people", "train"): 251, ("biographies", "train"): 251, ("qa", "train"): 126, ("qa", "test"): 125,
        ("control", "train"): 120,
    }  # fmt: skip
