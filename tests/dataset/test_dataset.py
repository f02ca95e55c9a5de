"""The data set folder: what `load_dataset` gives back is what the corpus says, and it is there whole or not at all."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from broken_tables import failing, killed
from countries import TEMPLATES, write_table
from huggingface_hub import DatasetCardData
from tiny import bpe_tokenizer

from knowcap.cli import main
from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.candidates import candidate_rows
from knowcap.dataset.card import size_category
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import (
    DatasetError,
    Table,
    has_config,
    num_rows,
    read_knowledge,
    read_rows,
    write_tables,
)
from knowcap.dataset.stage import build, tables, write
from knowcap.facts import Span, check_row
from knowcap.processes import ProcessError
from knowcap.provenance import __version__
from knowcap.recipe import Recipe


RECIPE = Recipe(
    num_people=251, seed=5, pools_fraction=0.1, num_templates=3, renderings=2, control_people=120, vocab_size=400
)
CONFIGS = ("people", "biographies", "qa", "candidates", "control")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(RECIPE, tmp_path_factory.mktemp("data") / "bioS")


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_load_dataset_gives_back_the_texts_of_the_corpus(folder, config, streaming):
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
    elif config == "candidates":
        assert rows == [{name: row._asdict()[name] for name in rows[0]} for row in candidate_rows(corpus)]
        assert "entity" not in rows[0], "no entity has a list of its own"
    else:
        persons = np.arange(251) if config == "biographies" else np.arange(251, 371)
        front = zip(*(corpus.rows(persons, e) for e in range(2)), strict=True)
        for got, row in zip(rows, (row for both in front for row in both), strict=True):
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


def test_the_card_has_the_numbers_of_rows_and_bytes(folder):
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    for info in front["dataset_info"]:
        files = sorted((folder / info["config_name"]).glob("*.parquet"))
        assert info["download_size"] == sum(file.stat().st_size for file in files)
        assert info["dataset_size"] == sum(split["num_bytes"] for split in info["splits"]) > 0
        assert sum(split["num_examples"] for split in info["splits"]) == num_rows(folder, info["config_name"])


def test_the_halves_of_qa_share_no_person(folder):
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


@pytest.mark.parametrize(("corpus", "num_proc"), [("bioS", 3), ("bioD", 2), ("table", 2)])
def test_the_files_are_the_same_whatever_the_number_of_processes(tmp_path, monkeypatch, corpus, num_proc):
    monkeypatch.setattr("knowcap.dataset.folder.ENTITIES_PER_FILE", 12)
    keys = write_table(tmp_path) if corpus == "table" else {"corpus": corpus, "num_people": 50, "control_people": 100}
    recipe = Recipe(**keys, renderings=2)
    one, several = write(recipe, tmp_path / "one"), write(recipe, tmp_path / "several", num_proc)
    assert content(one) == content(several)
    assert len(list((one / "people").iterdir())) == 5


def test_files_and_chunks_only_cut_the_rows_apart(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("knowcap.dataset.folder.ENTITIES_PER_FILE", 40)
    monkeypatch.setattr("knowcap.dataset.folder.CHUNK", 7)
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


CORPORA = {
    "bioS": RECIPE,
    "bioS, one fixed way": replace(RECIPE, fixed_renderings=1, permute=False, full_name=True, vocab_size=1024),
    "bioD": Recipe(corpus="bioD", num_people=130, num_attributes=3, diversity=20, alphabet_size=40, renderings=2),
    "bioD, compact": Recipe(corpus="bioD", num_people=130, compact=True, diversity=20, control_people=0, seed=9),
}


@pytest.fixture(scope="module", params=[*CORPORA, "table", "table, no licence"])
def made(request, tmp_path_factory) -> tuple[Recipe, Path]:
    """A recipe and its data set folder, one of each kind."""
    place = tmp_path_factory.mktemp("made")
    if request.param in CORPORA:
        recipe = CORPORA[request.param]
    else:
        terms = "" if "no" in request.param else "license: cc0-1.0\nlanguage: [en, sw]\n"
        recipe = Recipe(**write_table(place, templates=terms + TEMPLATES), seed=3, renderings=3)
    return recipe, write(recipe, place / "folder")


def front(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_every_corpus_is_read_whole_or_streamed(made, streaming):
    recipe, folder = made
    corpus = corpus_of(recipe)
    everybody, entity_column = np.arange(corpus.num_people), corpus.knowledge().entity_column
    people = datasets.load_dataset(str(folder), "people", split="train", streaming=streaming)
    columns = {name: pa.array(values).to_pylist() for name, values in corpus.people_columns(0, len(everybody)).items()}
    assert list(people) == [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    texts = datasets.load_dataset(str(folder), split="train", streaming=streaming)
    found = [(r[entity_column], r["exposure"], r["text"], [Span(**span) for span in r["spans"]]) for r in texts]
    count = max(exposure for _, exposure, *_ in found) + 1
    front = zip(*(corpus.rows(everybody, exposure) for exposure in range(count)), strict=True)
    expected = [(r.entity, e, r.text, list(r.spans)) for of_one in front for e, r in enumerate(of_one)]
    assert found == expected


def test_the_command_on_the_card_makes_the_same_files(made, tmp_path, monkeypatch):
    recipe, folder = made
    if recipe.facts_file:  # which the card says must lie there
        for path in (recipe.facts_file, recipe.facts_templates):
            shutil.copy(path, tmp_path)
            assert f"`{Path(path).name}`" in (folder / "README.md").read_text()
    block = (folder / "README.md").read_text().split("```sh\n")[1].split("```")[0]
    knowcap = 'knowcap() { printf "%s\\0" "$@" >> words; }\n'  # the command's words, for this process
    subprocess.run(["bash", "-ec", knowcap + block], check=True, cwd=tmp_path, capture_output=True)
    monkeypatch.chdir(tmp_path)
    assert main(Path("words").read_text().split("\0")[:-1]) == 0
    assert content(tmp_path / "runs" / "again" / "knowledge") == content(folder)


def test_the_card_counts_tokens_and_rows_and_names_the_version(made):
    recipe, folder = made
    card, corpus = (folder / "README.md").read_text(), corpus_of(recipe)
    tokenizer, _ = tokenizer_of(recipe, corpus)
    texts = [row.text for row, _ in read_rows(folder)]
    for what, counts in (("tokens", [len(tokenizer.encode(t).ids) for t in texts]), ("code points", map(len, texts))):
        counts = list(counts)
        assert f"| {what} | {np.mean(counts):.1f} | {min(counts):,} | {max(counts):,} |" in card
    assert f"knowcap {__version__}" in card and read_knowledge(folder).version in card
    assert str(folder) not in card and str(folder.parent) not in card
    people = datasets.load_dataset(str(folder), "people", split="train")
    for number, a in enumerate(corpus.knowledge().attributes):
        has = people[a.name] if a.name in people.column_names else [values[number] for values in people["values"]]
        shares = np.array([*Counter(value for value in has if value is not None).values()]) / len(people)
        shares /= shares.sum()
        entropy = abs(float((shares * np.log2(shares)).sum()))
        assert re.search(rf"^\| {a.name} \| .* \| {len(shares):,} \| {entropy:.4f} \|$", card, re.M)


def test_the_front_matter_follows_the_conventions_of_the_hub(made):
    recipe, folder = made
    settings = front(folder)
    assert settings["pretty_name"] == f"{read_knowledge(folder).name}({read_knowledge(folder).num_people:,})"
    assert settings["size_categories"] == ["n<1K"]
    assert settings["annotations_creators"] == settings["language_creators"] == ["machine-generated"]
    assert DatasetCardData(**settings).to_dict()["configs"] == settings["configs"]
    if recipe.corpus != "table":
        assert (settings["license"], settings["language"]) == ("apache-2.0", ["en"])
        assert settings["source_datasets"] == ["original"]
        assert "Licence: apache-2.0." in (folder / "README.md").read_text()
    else:  # only what its owner has said
        assert "source_datasets" not in settings and "synthetic" not in settings["tags"]


def test_the_front_matter_has_what_load_dataset_and_the_hub_read(folder):
    found = front(folder)
    for config in found["configs"]:
        assert re.fullmatch("sha256 [0-9a-f]{32}", config.pop("description"))
    for info in found["dataset_info"]:
        assert info.pop("dataset_size") == sum(split.pop("num_bytes") for split in info["splits"]) > 0
        assert info.pop("download_size") > 0
    rows = {
        "people": {"train": 251}, "biographies": {"train": 502}, "qa": {"train": 756, "test": 750},
        "candidates": {"train": 534}, "control": {"train": 240},
    }  # fmt: skip
    assert found == {
        "pretty_name": "bioS(251)",
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "tags": ["synthetic", "knowledge-capacity", "physics-of-language-models"],
        "source_datasets": ["original"],
        "license": "apache-2.0",
        "language": ["en"],
        "configs": [
            {"config_name": config}
            | ({"default": True} if config == "biographies" else {})
            | {"data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits]}
            for config, splits in rows.items()
        ],
        "dataset_info": [
            {"config_name": config, "splits": [{"name": name, "num_examples": n} for name, n in splits.items()]}
            for config, splits in rows.items()
        ],
    }


def test_a_table_has_the_licence_and_language_that_its_templates_declare(tmp_path):
    declared = write_table(tmp_path, templates="license: odbl\nlanguage: 'no'\n" + TEMPLATES)
    folder = write(Recipe(**declared), tmp_path / "declared")
    assert (front(folder)["license"], front(folder)["language"]) == ("odbl", ["no"])
    assert "Licence: odbl." in (folder / "README.md").read_text()
    folder = write(Recipe(**write_table(tmp_path)), tmp_path / "silent")
    assert "license" not in front(folder) and "language" not in front(folder)
    assert "No licence was declared by a `license:` in `countries.yaml`" in (folder / "README.md").read_text()


def test_tokens_are_those_of_the_tokenizer_that_the_recipe_names(tmp_path):
    bpe_tokenizer(["She was born in a town, and He too."] * 9, 300).save_pretrained(tmp_path / "other")
    recipe = replace(RECIPE, num_people=20, control_people=0, tokenizer_name=str(tmp_path / "other"))
    folder = write(recipe, tmp_path / "folder")
    card = (folder / "README.md").read_text()
    assert "with other, cut to the tokens in use" in card and str(tmp_path) not in card
    tokenizer, _ = tokenizer_of(recipe, corpus_of(recipe))
    lengths = [len(tokenizer.encode(row.text).ids) for row, _ in read_rows(folder)]
    assert f"| tokens | {np.mean(lengths):.1f} | {min(lengths)} | {max(lengths)} |" in card


@pytest.mark.parametrize(
    ("rows", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10_000, "10K<n<100K")]
    + [(123_456, "100K<n<1M"), (20_000_000, "10M<n<100M"), (10**12 - 1, "100B<n<1T"), (10**12, "n>1T")],
)
def test_sizes_have_the_names_of_the_hub(rows, category):
    assert size_category(rows) == category


def test_the_card_counts_what_is_there(folder):
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert [c["config_name"] for c in front["configs"]] == list(CONFIGS)
    assert "| biographies | train | 502 |" in card and "| qa | test | 750 |" in card
    cities = [person["birth_city"] for person in datasets.load_dataset(str(folder), "people", split="train")]
    shares = [cities.count(city) / 251 for city in set(cities)]
    entropy = -sum(p * math.log2(p) for p in shares)
    assert f"| birth_city | 20 | {math.log2(20):.4f} | {len(set(cities))} | {entropy:.4f} |" in card
    lengths = [len(text) for text in datasets.load_dataset(str(folder), split="train")["text"]]
    assert f"| code points | {np.mean(lengths):.1f} | {min(lengths)} | {max(lengths)} |" in card
    assert str(folder) not in card


def test_a_folder_that_is_there_is_kept_and_another_knowledge_refused(tmp_path):
    made = build(RECIPE, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    assert build(RECIPE, tmp_path) == made
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before
    with pytest.raises(DatasetError, match="the recipe asks for 252"):
        build(replace(RECIPE, num_people=252), tmp_path)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_goes_wrong_in_a_writer_is_reported(tmp_path, num_proc):
    broken = [Table("people", split, 0, 5, failing) for split in ("train", "test")]
    with pytest.raises(ValueError, match="no rows 0 to 5"):
        list(write_tables(tmp_path, broken, num_proc))


def test_a_killed_writer_is_reported(tmp_path):
    broken = [Table("people", split, 0, 5, killed) for split in ("train", "test")]
    with pytest.raises(ProcessError, match="exit code -9"):
        list(write_tables(tmp_path, broken, 2))


SCRIPT = """
import sys
from pathlib import Path
from knowcap.dataset.stage import write
from knowcap.recipe import Recipe
if __name__ == "__main__":
    write(Recipe(num_people=300_000, renderings=1), Path(sys.argv[1]), 2)
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


def until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_tables_are_described_before_they_are_made():
    made = {(t.config, t.split): t.end - t.first for t in tables(RECIPE, corpus_of(RECIPE))}
    assert made == {
        ("people", "train"): 251, ("biographies", "train"): 251, ("qa", "train"): 126, ("qa", "test"): 125,
        ("candidates", "train"): 534, ("control", "train"): 120,
    }  # fmt: skip
