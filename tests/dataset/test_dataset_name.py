"""Runs on a published data set, from a folder or the stand-in of the Hub over HTTP, and what speaks against them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from data_set_folders import edit, from_folder, recipe_for, rewritten, with_value
from hub_server import TOKEN, HubServer
from readme_commands import ROOT, commands
from safetensors.torch import load_file

from knowcap.cli import main, make_parser
from knowcap.dataset import source as dataset_source
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.importing import read_record
from knowcap.dataset.source import find_source
from knowcap.dataset.stage import build, write
from knowcap.recipe import KEYS, Recipe, RecipeError
from knowcap.run import push as hub
from knowcap.run.preflight import load_recipe


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MADE = Recipe(
    run_name="made", num_people=60, pools_fraction=0.05, num_templates=1, renderings=2, exposures=3, vocab_size=300,
    control_people=100, seed=5, model_name="gpt2-2-2",
)  # fmt: skip
BIOD = replace(
    MADE, corpus="bioD", num_attributes=2, chunks_per_value=2, diversity=10, chunk_length=2, alphabet_size=5,
    num_templates=None,
)  # fmt: skip
RECIPE = """
model_name: gpt2-2-2
head_dim: 8
num_templates: 1
vocab_size: 300
exposures: 3
block_size: 160
windows: aligned
train_batch_size: 8
warmup_steps: 2
quantize_bits: []
seed: 5
"""
CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("data")
    write(BIOD, data / "numbers")
    return write(MADE, data / "people")


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    """A copy of a bioS in the working directory (people), a bioD (numbers), and recipes: mine, published, numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("knowcap.run.estimate._PROBE_SECONDS", 0)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "numbers.yaml").write_text(RECIPE.replace("num_templates: 1\n", ""))
    (tmp_path / "published.yaml").write_text(RECIPE.replace("num_templates: 1\n", "") + "dataset_texts: published\n")
    shutil.copytree(made.with_name("numbers"), tmp_path / "numbers")
    return Path(shutil.copytree(made, tmp_path / "people"))


@pytest.fixture
def server(monkeypatch):
    """The stand-in of the Hub, as the place that this process asks."""
    with HubServer() as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        there = template.replace(template.split("/{repo_id}")[0], running.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", there)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running
    huggingface_hub.utils.close_session()


def fails(capsys, *words: str) -> str:
    """The message of a command that ends with status 2 before anything is made."""
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert not Path("runs").exists()
    return err


def problems_of(path: str, **overrides: object) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, {"dataset_name": "people"} | overrides)
    return error.value.problems


def trained(run_dir: Path) -> dict:
    return json.loads((run_dir / "model" / "training.json").read_text())


# Whole runs.


def settled(recipe: Recipe) -> list[str]:
    """The keys that a data set has settled, as words of a command."""
    keys = ("corpus", "num_people", "pools_fraction", "renderings", "control_people", "num_attributes")
    keys += ("chunks_per_value", "diversity", "chunk_length", "alphabet_size")
    return [word for key in keys for word in (f"--{key}", str(getattr(recipe, key)))]


def test_training_on_a_folder_is_training_on_its_recipe(folder):
    assert main(["train", "--config", "numbers.yaml", "--dataset_name", "numbers"]) == 0
    assert main(["train", "--config", "numbers.yaml", "--run_name", "own", *settled(BIOD)]) == 0
    one, other = (load_file(Path("runs") / name / "model" / "model.safetensors") for name in ("numbers", "own"))
    assert all(np.array_equal(one[name], other[name]) for name in other)
    training = trained(Path("runs/numbers"))
    assert [training[key] for key in ("dataset", "dataset_name", "dataset_revision")] == ["bioD", "numbers", None]
    assert {p.name for p in Path("runs/numbers/knowledge").iterdir()} >= {p.name for p in Path("numbers").iterdir()}


def test_a_run_from_the_hub_takes_a_revision_and_records_its_commit(folder, server, capsys):
    hub.push_dataset(Path("numbers"), "me/people", revision="first")
    commit = server.repos["dataset", "me/people"].branches["first"][-1].oid
    edit(Path("numbers"), lambda table: table.slice(1))
    hub.push_dataset(Path("numbers"), "me/people")
    words = ["--config", "numbers.yaml", "--dataset_name", "me/people", "--dataset_revision", "first"]
    assert main(["run", *words]) == 0
    training = trained(Path("runs/numbers"))
    assert (training["dataset_name"], training["dataset_revision"]) == ("me/people", commit)
    card = Path("runs/numbers/model/README.md").read_text()
    assert "- me/people" in card and commit in card
    assert read_record(Path("runs/numbers/knowledge"))["commit"] == commit
    asked = len(server.log)
    assert main(["data", *words]) == 0  # goes on from what the run has, whatever the branch is now
    assert len(server.log) == asked
    err = fails_there(capsys, "data", *words[:-1], "main")
    assert "dataset_revision is 'first' there and 'main' here" in err


def fails_there(capsys, *words: str) -> str:
    """The message of a command that ends with status 2, in a folder that has runs."""
    capsys.readouterr()
    assert main(words) == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_two_launched_processes_train_on_foreign_texts_as_one_does(folder, capsys):
    rewritten(folder, Path("bioR"))
    words = ["--config", "published.yaml", "--dataset_name", "bioR", "--block_size", "250"]
    assert main(["run", *words]) == 0
    capacity = json.loads(Path("runs/published/capacity.json").read_text())
    assert (capacity["dataset"], capacity["num_entities"]) == ("bioR", 60)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu_2.yaml")]
    command += ["-m", "knowcap.train", *words, "--run_name", "two"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(Path("runs") / name / "model" / "model.safetensors") for name in ("published", "two"))
    assert trained(Path("runs/two"))["world_size"] == 2
    assert trained(Path("runs/two"))["num_tokens"] == trained(Path("runs/published"))["num_tokens"]
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


# The knowledge stage.


def test_a_folder_that_changed_is_not_taken_for_the_one_that_a_run_has(folder):
    recipe = load_recipe("mine.yaml", {"dataset_name": "people"})
    made = build(recipe, Path("runs/mine"))
    (folder / "README.md").write_text("another card\n")
    os.utime(folder / "knowledge.json")
    assert build(recipe, Path("runs/mine")) == made
    edit(folder, lambda table: with_value(table, 0, pronoun="She" if table["pronoun"][0].as_py() == "He" else "He"))
    with pytest.raises(DatasetError, match="people/.*has changed since .*choose another run_name"):
        build(recipe, Path("runs/mine"))
    shutil.rmtree(folder)
    assert build(recipe, Path("runs/mine")) == made  # it has its own copy


def test_a_run_of_people_made_here_is_not_taken_over(folder):
    write(MADE, Path("runs/mine/knowledge"))
    with pytest.raises(DatasetError, match="was made by knowcap itself, not of dataset_name='people'"):
        build(load_recipe("mine.yaml", {"dataset_name": "people"}), Path("runs/mine"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: edit(f, lambda t: t.drop_columns(["spans"]), "biographies"), "lacks the columns spans"),
        (lambda f: edit(f, lambda t: with_value(t, 3, text="Nobody."), "biographies"), "outside the text of 7"),
        (lambda f: shutil.rmtree(f / "biographies"), "it has no biographies/train-"),
        (
            lambda f: (f / "qa" / "test-00000-of-00001.parquet").rename(f / "qa" / "test-00000-of-00002.parquet"),
            "qa has 1 of the 2 files of its split 'test'",
        ),
    ],
)
def test_a_data_set_that_breaks_the_contract_leaves_nothing_behind(folder, spoil, message):
    recipe = load_recipe("mine.yaml", {"dataset_name": "people"})
    spoil(folder)
    with pytest.raises(DatasetError, match=f"dataset_name='people' does not meet the contract .*{message}"):
        build(recipe, Path("runs/mine"))
    assert not Path("runs/mine/knowledge").exists()


def test_the_path_of_a_folder_is_not_published(folder, server):
    recipe = load_recipe("mine.yaml", {"dataset_name": str(folder)})
    made = build(recipe, Path("runs/mine"))
    hub.push_dataset(made, "me/people")
    files = server.files("me/people", "dataset")
    assert {"knowledge.json", "recipe.yaml", "pools/city.txt", "people/train-00000-of-00001.parquet"} <= files.keys()
    assert not [path for path, content in files.items() if str(folder.parent).encode() in content]


# What is reported before any work, all at once.


def test_keys_that_the_data_set_has_settled_are_reported_together(folder):
    keys = {"num_people": 5, "pools_fraction": 0.5, "facts_file": "x.csv", "renderings": 3, "diversity": 7}
    reported = problems_of("mine.yaml", **keys)
    assert [problem.split("=")[0] for problem in reported] == [*sorted(keys, key=list(KEYS).index)]
    assert all(
        "no effect with dataset_name='people', which has its own people; leave it" in problem for problem in reported
    )


def test_keys_of_telling_are_idle_beside_published_texts(folder):
    reported = problems_of("published.yaml", num_templates=1, permute=False)
    why = (
        "has no effect with dataset_texts: published, which trains on the texts of 'people' as they are; leave it out"
    )
    assert reported == [f"num_templates=1 {why}", f"permute=False {why}"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"corpus": "bioD"}, "corpus='bioD', but dataset_name='people' is bioS; leave it out"),
        ({"full_name": True}, "full_name=True, but data set 'bioS' has a gender, .*; give full_name: false"),
        ({"vocab_size": 20}, "vocab_size=20 is too small: lists and templates need"),
        ({"dataset_revision": "main"}, "dataset_revision='main', but dataset_name='people' is a folder"),
        (
            {"dataset_name": "./nowhere"},
            "dataset_name='./nowhere': no such folder; give a data set folder or a Hub id",
        ),
        ({"dataset_name": "mine.yaml"}, "dataset_name='mine.yaml': no such folder"),
        ({"dataset_name": "not an id"}, "'not an id': it is neither a folder nor a Hub id"),
        ({"dataset_name": "."}, r"'.' has no knowledge.json; it has .*; did you mean ./numbers\?"),
        ({"dataset_name": "me/nowhere"}, "'me/nowhere' is not in the cache, and the Hub is not reached"),
        ({"num_templates": 1000}, "num_templates: got 1000"),
    ],
)
def test_a_recipe_that_contradicts_its_data_set_is_reported(folder, keys, message):
    (problem,) = problems_of("mine.yaml", **keys)
    assert re.search(message, problem), problem


def test_texts_of_unknown_people_can_only_be_taken_as_they_are(folder):
    rewritten(folder, Path("bioR"))
    (problem,) = problems_of("mine.yaml", dataset_name="bioR")
    assert "data set 'bioR' cannot be rendered again: it has no recipe.yaml" in problem
    assert "use `dataset_texts: published`" in problem
    assert load_recipe("published.yaml", {"dataset_name": "bioR"}).dataset_texts == "published"
    shutil.rmtree(Path("bioR/pools"))
    (problem,) = problems_of("published.yaml", dataset_name="bioR")
    assert "has no value lists" in problem and "give a tokenizer_name" in problem


def test_keys_without_effect_on_a_bioD_or_a_table_are_reported(folder, tmp_path):
    for name, key in (("bioD", "num_templates"), ("table", "permute")):
        recipe = recipe_for(name, tmp_path)
        made = write(recipe, tmp_path / name)
        keys = {"block_size": 300, "num_templates": None} | {key: False if key == "permute" else 1}
        (problem,) = problems_of("mine.yaml", dataset_name=str(made), **keys)
        assert f"{key}=" in problem and "has no effect on data set" in problem
        assert from_folder(recipe, made).dataset_name == str(made)


def test_a_revision_without_a_data_set_has_no_effect(folder):
    (problem,) = problems_of("mine.yaml", dataset_name=None, num_people=60, dataset_revision="x")
    assert problem == "dataset_revision='x' has no effect without dataset_name; leave it out"


def test_broken_lists_and_files_are_one_message(folder, capsys):
    words = ["run", "--config", "mine.yaml", "--dataset_name", "people"]
    (folder / "pools" / "city.txt").unlink()
    assert "missing: city.txt" in fails(capsys, *words)
    shutil.rmtree(folder / "pools")
    assert "data set 'bioS' lacks pools/" in fails(capsys, *words)
    (folder / "knowledge.json").write_text("[1]")
    assert "knowledge.json is invalid" in fails(capsys, *words)


def test_an_estimate_needs_no_run_folder(folder, capsys):
    for config, name in (("numbers.yaml", "numbers"), ("published.yaml", "people")):
        assert main(["run", "--config", config, "--dataset_name", name, "--dry_run"]) == 0
        assert "people                      60\n" in capsys.readouterr().out
    assert not Path("runs").exists()


PAGE = ROOT / "src" / "knowcap" / "dataset" / "README.md"
README_COMMANDS = [command for command in commands(PAGE) if "--dataset_name" in command]


@pytest.mark.parametrize("command", README_COMMANDS)
def test_the_commands_of_the_readme_have_no_problems(folder, server, command):
    Path("runs/quickstart").mkdir(parents=True)
    shutil.copytree(folder, "runs/quickstart/knowledge")
    hub.push_dataset(folder, "you/quickstart-people")
    args, words = make_parser().parse_known_args(command.split()[1:])
    recipe = load_recipe(args.config, words)
    assert build(recipe, Path("runs") / recipe.run_name).is_dir()
    assert len(README_COMMANDS) == 3


# The Hub's answers.


def test_the_head_of_a_repo_is_all_that_is_fetched_before_a_run(folder, server):
    hub.push_dataset(folder, "me/people")
    server.log.clear()
    load_recipe("mine.yaml", {"dataset_name": "me/people"})
    got = {request.rsplit("/", 1)[1] for request in server.log if "/resolve/" in request}
    assert got >= {"knowledge.json", "recipe.yaml", "city.txt"} and not [name for name in got if "parquet" in name]


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("me/nothing", None, "'me/nothing' is not a folder and not a public data set on the Hub"),
        ("me/people", "nothing", "'me/people' at 'nothing' has no such revision; expected a branch, tag or commit"),
        ("me/empty", None, "'me/empty' has no knowledge.json; it has .gitattributes; make it with `knowcap data`"),
    ],
)
def test_a_repo_that_is_not_there_is_one_message(folder, server, capsys, name, revision, message):
    hub.push_dataset(folder, "me/people")
    huggingface_hub.HfApi(endpoint=server.url).create_repo("me/empty", repo_type="dataset")
    words = ["run", "--config", "mine.yaml", "--dataset_name", name]
    assert message in fails(capsys, *words, *([] if revision is None else ["--dataset_revision", revision]))


@pytest.mark.parametrize(("status", "code", "message"), [
    (403, "GatedRepo", "'me/people' is gated; request access on its page"),
    (500, "", "'me/people' cannot be downloaded: "),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_message(folder, server, capsys, monkeypatch, status, code, message):
    hub.push_dataset(folder, "me/people")
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.fail(status, times=50, on="/api/datasets/me/people", X_Error_Code=code)
    reported = fails(capsys, "run", "--config", "mine.yaml", "--dataset_name", "me/people")
    assert message in reported and TOKEN not in reported


def test_a_run_folder_is_not_deleted_for_a_data_set_that_cannot_be_had(folder, server, capsys):
    hub.push_dataset(folder, "me/people")
    words = ["data", "--config", "mine.yaml", "--dataset_name", "me/people"]
    assert main(words) == 0
    del server.repos["dataset", "me/people"]
    dataset_source._on_hub.cache_clear()
    assert main(words) == 0
    assert "not a public data set on the Hub" in fails_there(capsys, *words, "--overwrite_output_dir")
    assert (Path("runs/mine/knowledge/knowledge.json")).is_file()


def test_offline_a_data_set_comes_from_the_cache(folder, server, monkeypatch):
    hub.push_dataset(folder, "me/cached")
    build(load_recipe("mine.yaml", {"dataset_name": "me/cached"}), Path("runs/mine"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    dataset_source._on_hub.cache_clear()
    recipe = replace(load_recipe("mine.yaml", {"dataset_name": "me/cached"}), run_name="again")
    asked = len(server.log)
    build(recipe, Path("runs/again"))
    assert len(server.log) == asked
    assert find_source("me/cached").commit == server.repos["dataset", "me/cached"].branches["main"][-1].oid
