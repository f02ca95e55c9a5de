"""The texts of a data set folder generated again: to the token those that the recipe gives."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from data_set_folders import FORMS, SETTINGS, edit, from_folder, recipe_for, with_value
from value_lists import NASTY

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.pieces import Pieces
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.head import pools_of, read_folder_recipe
from knowcap.dataset.stage import write
from knowcap.facts import CorpusError, Knowledge
from knowcap.knowledge.pools import load_pools, write_pools
from knowcap.knowledge.recorded import _name_codes
from knowcap.recipe import Recipe
from knowcap.training.packing import Stream


def shards(recipe: Recipe, corpus: Corpus, pieces: Pieces) -> list[np.ndarray]:
    """The tokens of every shard."""
    sizes = {key: getattr(recipe, key) for key in ("exposures", "block_size", "windows", "shard_size")}
    stream = Stream(corpus, pieces, **sizes)
    return [stream.shard(exposure, n).tokens for exposure in range(recipe.exposures) for n in range(stream.shards)]


@pytest.fixture(scope="module")
def bios(tmp_path_factory):
    recipe = recipe_for("bioS", Path())
    return recipe, write(recipe, tmp_path_factory.mktemp("data") / "bioS")


@pytest.fixture
def copy(bios, tmp_path):
    """A copy to be changed at will, and a recipe that tells its people."""
    folder = Path(shutil.copytree(bios[1], tmp_path / "bioS"))
    return from_folder(bios[0], folder), folder


@pytest.mark.parametrize("name", FORMS)
def test_a_folder_gives_the_windows_of_its_recipe_to_the_token(name, tmp_path):
    recipe = recipe_for(name, tmp_path)
    folder = write(recipe, tmp_path / "data")
    generated, made = corpus_of(from_folder(recipe, folder)), corpus_of(recipe)
    assert generated.knowledge() == made.knowledge()
    # What the tokenizer is made of, and what it is asked to spell.
    assert list(generated.vocabulary_texts()) == list(made.vocabulary_texts())
    assert generated.piece_texts().groups == made.piece_texts().groups
    pieces = Pieces(made.piece_texts(), tokenizer_of(recipe, made)[0])
    both = [shards(recipe, corpus, pieces) for corpus in (generated, made)]
    assert len(both[0]) == len(both[1]) and all(map(np.array_equal, *both))


@pytest.mark.parametrize("name", ["bioS", "bioD", "table"])
def test_another_seed_tells_the_same_people_otherwise(name, tmp_path):
    recipe = recipe_for(name, tmp_path)
    folder = write(recipe, tmp_path / "data")
    ours, other = (corpus_of(from_folder(recipe, folder, seed=seed)) for seed in (3, 4))
    assert ours.people_columns(0, 50) == other.people_columns(0, 50)
    texts = [[row.text for row in corpus.rows(np.arange(50), 0)] for corpus in (ours, other)]
    assert texts[0] != texts[1] and ours.knowledge() == other.knowledge()


def test_rows_in_another_order_and_several_files_are_the_same_people(copy):
    recipe, folder = copy
    before = corpus_of(recipe).people.columns
    (file,) = (folder / "people").glob("*.parquet")
    table = pq.read_table(file).take(np.random.default_rng(0).permutation(150))
    file.unlink()
    for number in range(3):
        pq.write_table(table.slice(50 * number, 50), folder / "people" / f"train-{number:05d}-of-00003.parquet")
    assert all(np.array_equal(a, b) for a, b in zip(corpus_of(recipe).people.columns, before, strict=True))


def test_a_changed_person_changes_that_persons_texts_and_no_other(copy):
    recipe, folder = copy
    everybody = np.arange(150)
    before = [row.text for row in corpus_of(recipe).rows(everybody, 1)]
    city = load_pools(folder / "pools").birth_cities[7]
    edit(folder, lambda table: with_value(table, 42, birth_city=city, birth_date="October 2, 1996"))
    after = [row.text for row in corpus_of(recipe).rows(everybody, 1)]
    assert [i for i in range(150) if before[i] != after[i]] == [42]
    assert city in after[42] and "October 2, 1996" in after[42]


def test_codes_are_kept_in_the_smallest_type_that_holds_them(copy):
    people = corpus_of(copy[0]).people
    assert [column.dtype.itemsize for column in people.columns] == [1, 1, 1, 4, 1, 1, 1, 1, 1]
    assert people.codes(np.arange(150)).dtype == np.int32
    assert people.num_outsiders == 0


BROKEN = {
    "a value in no list": (
        lambda t: with_value(t, 5, major="Alchemy"),
        "the major 'Alchemy' of 5 is not in the lists; add it to .*pools/",
    ),
    "a date that isn't": (lambda t: with_value(t, 5, birth_date="May 31, 1990"), "birth_date 'May 31, 1990' of 5"),
    "a third pronoun": (lambda t: with_value(t, 0, pronoun="They"), "the pronoun 'They' of 0"),
    "no value": (lambda t: with_value(t, 0, major=None), "the major None of 0"),
    "one name twice": (
        lambda t: with_value(t, 9, **{c: t.column(c)[2].as_py() for c in ("first_name", "middle_name", "last_name")}),
        "people: 2 and 9 have the same name, .*; names must be distinct",
    ),
    "a work city elsewhere": (
        lambda t: with_value(t, 4, work_city=next(
            city for city in t.column("work_city").unique().to_pylist() if city != t.column("work_city")[4].as_py()
        )),
        "people: 4 works at .* but its headquarters are in",
    ),
    "somebody missing": (lambda t: t.slice(1), "1 of 150 are missing, person_id 0 first"),
    "somebody twice": (lambda t: pa.concat_tables([t, t.slice(3, 1)]), "person_id 3 is listed twice"),
    "somebody too many": (lambda t: with_value(t, 3, person_id=150), "got person_id 150, expected 0 to 149"),
    "ids of letters": (
        lambda t: t.set_column(0, "person_id", pc.cast(t.column(0), pa.string())),
        "person_id is string, expected integers",
    ),
    "a missing column": (lambda t: t.drop_columns(["major"]), "lacks major, it has .*dataset_texts: published"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_people_that_cannot_be_generated_are_an_error_that_names_them(copy, what):
    change, message = BROKEN[what]
    edit(copy[1], change)
    with pytest.raises(CorpusError, match=message):
        corpus_of(copy[0])


def with_item(table: pa.Table, value: str) -> pa.Table:
    values = table.column("values")[6].as_py()
    return with_value(table, 6, values=[value, *values[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: with_item(t, "100 101 102"), "person_id 6 has 1 chunks a value, expected 2"),
        (lambda t: with_item(t, "100 101, 102 103 104"), "person_id 6 has 2 symbols a chunk, expected 3"),
        (
            lambda t: with_item(t, "100 101 102, 103 104 999"),
            "person_id 6 has the symbol '999', expected 100 to 109",
        ),
        (lambda t: with_value(t, 6, values=["100 101 102"]), "person_id 6 has 1 values, expected 4"),
        (
            lambda t: with_value(t, 6, name="Nobody At All"),
            "the name 'Nobody At All' of person_id 6 does not consist of",
        ),
        (lambda t: with_value(t, 6, name=t.column("name")[8].as_py()), "people: 6 and 8 have the same name"),
        (
            lambda t: with_item(t, "109 109 108, 109 109 109"),
            "ID 1 has 2[12] distinct chunks, expected at most",
        ),
    ],
)
def test_values_of_another_shape_are_an_error_that_names_the_person(tmp_path, change, message):
    recipe = recipe_for("bioD", tmp_path)
    folder = write(recipe, tmp_path / "data")
    edit(folder, change)
    with pytest.raises(CorpusError, match=message):
        corpus_of(from_folder(recipe, folder))


def test_names_of_several_words_are_found_in_the_lists():
    lists = [["Al", "Ann Marie"], [" Jo", " van"], [" O'Neil Jr.", " der Berg", " Li"]]
    names = ["Al Jo Li", "Ann Marie van der Berg", "Al van O'Neil Jr."]
    batch = pa.RecordBatch.from_pydict({"person_id": [0, 1, 2], "name": names})
    assert _name_codes(batch, lists).tolist() == [[0, 0, 2], [1, 1, 1], [0, 1, 0]]


def test_facts_that_changed_what_is_to_be_known_are_refused(tmp_path):
    recipe = recipe_for("table", tmp_path)
    folder = write(recipe, tmp_path / "data")
    edit(folder, lambda table: with_value(table, 0, continent="Atlantis"))
    with pytest.raises(
        CorpusError, match="knowledge.json has attributes=.*correct one of them, or use `dataset_texts: pub"
    ):
        corpus_of(from_folder(recipe, folder))


@pytest.mark.parametrize("pools", [NASTY, load_pools()], ids=["nasty", "ours"])
def test_lists_come_back_from_a_folder_as_they_were(tmp_path, pools):
    write_pools(pools, tmp_path / "pools")
    assert load_pools(tmp_path / "pools") == pools


def test_the_folder_brings_its_lists_cut_as_they_were_used_and_its_recipe(bios):
    recipe, folder = bios
    assert load_pools(folder / "pools") == pools_of(corpus_of(recipe)) == load_pools(None, 0.1)
    assert replace(read_folder_recipe(folder), **{key: getattr(recipe, key) for key in SETTINGS}) == recipe
    block = (folder / "README.md").read_text().split("<<'END'\n")[1].split("END\n")[0]
    assert (folder / "recipe.yaml").read_text().endswith(block)
    assert "`pools/`" in (folder / "README.md").read_text()


def test_a_table_brings_its_templates_but_no_path_of_its_maker(tmp_path):
    folder = write(recipe_for("table", tmp_path), tmp_path / "data")
    assert (folder / "templates.yaml").read_bytes() == (tmp_path / "countries.yaml").read_bytes()
    assert "facts_file: countries.csv" in (folder / "recipe.yaml").read_text()
    assert not [p for p in folder.rglob("*.*") if p.is_file() and str(tmp_path).encode() in p.read_bytes()]


def test_the_recipe_of_a_folder_says_which_lists_it_has_and_without_it_they_are_the_short_ones(bios, tmp_path):
    recipe = replace(bios[0], lists="paper")
    folder = write(recipe, tmp_path / "paper")
    written = {f.parent.name: f.read_text() for f in (folder / "recipe.yaml", bios[1] / "recipe.yaml")}
    assert "lists: paper" in written["paper"] and "lists" not in written["bioS"]
    assert Knowledge.load(folder / "knowledge.json").version == "2.0.0"
    (folder / "recipe.yaml").write_text(written["paper"].replace("lists: paper\n", ""))
    with pytest.raises(CorpusError, match=r"has version 2.0.0 .* has 1.0.0"):
        corpus_of(from_folder(recipe, folder))


def test_another_version_of_the_templates_is_refused_with_both(copy):
    recipe, folder = copy
    knowledge = Knowledge.load(folder / "knowledge.json")
    replace(knowledge, version="0.9.0").save(folder / "knowledge.json")
    with pytest.raises(CorpusError, match=r"has version 0.9.0 .* has 1.0.0; .*`dataset_texts: published`"):
        corpus_of(recipe)
