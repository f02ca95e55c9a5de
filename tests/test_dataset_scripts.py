"""dataset_scripts/: the same folder as `knowcap data` makes, and builders of `datasets` with the same rows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from knowcap.dataset import build
from knowcap.knowledge import people
from knowcap.recipe import Recipe


BIOS = Path(__file__).parents[1] / "dataset_scripts" / "bios.py"
SMALL = ["--num_people", "230", "--seed", "4", "--num_templates", "2", "--control_people", "110"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bios_builder", BIOS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickled by name where datasets starts processes
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the command line makes, in a process of its own."""
    made = tmp_path_factory.mktemp("script") / "bioS"
    command = [sys.executable, str(BIOS), *SMALL, "--num_proc", "2", "--output_dir", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_command_line_makes_the_folder_that_knowcap_data_makes(folder, tmp_path):
    recipe = Recipe(num_people=230, seed=4, num_templates=2, control_people=110, renderings=1)
    assert content(build(recipe, tmp_path)) == content(folder)


@pytest.mark.parametrize("table", ["people", "biographies", "qa", "control"])
def test_the_builder_has_the_rows_of_the_folder(script, folder, tmp_path, table):
    builder = script.BioS(
        cache_dir=str(tmp_path), num_people=230, seed=4, num_templates=2, control_people=110, table=table
    )
    builder.download_and_prepare()
    built, loaded = builder.as_dataset(), datasets.load_dataset(str(folder), table)
    assert set(built) == set(loaded)
    for split in loaded:
        assert built[split].features == loaded[split].features
        assert built[split].to_list() == loaded[split].to_list()


def test_processes_and_streaming_give_the_same_rows(script, tmp_path, monkeypatch):
    monkeypatch.setattr("knowcap.parquet.ENTITIES_PER_FILE", 20)
    keys = {"num_people": 60, "num_templates": 1, "control_people": 0}
    one, two = (script.BioS(cache_dir=str(tmp_path / str(n)), **keys) for n in (1, 2))
    one.download_and_prepare()
    two.download_and_prepare(num_proc=2)
    rows = one.as_dataset(split="train").to_list()
    assert len(rows) == 60
    assert two.as_dataset(split="train").to_list() == rows
    assert list(two.as_streaming_dataset(split="train")) == rows


def test_configs_are_named_by_their_size(script):
    sizes = {c.name: c.num_people for c in script.BioS.BUILDER_CONFIGS}
    assert sizes == {
        "bioS-10k": 10_000, "bioS-20k": 20_000, "bioS-50k": 50_000, "bioS-100k": 100_000, "bioS-200k": 200_000,
        "bioS-500k": 500_000, "bioS-1m": 1_000_000,
    }  # fmt: skip
    assert script.BioS.DEFAULT_CONFIG_NAME in sizes


def test_a_new_version_of_the_lists_is_a_new_version_of_the_builder(script, tmp_path):
    """The cache of `datasets` is told apart by VERSION, not by the code."""
    assert str(script.BioS.VERSION) == people.VERSION
    builder = script.BioS(cache_dir=str(tmp_path), num_people=10, num_templates=1)
    assert str(builder.config.version) == people.VERSION and people.VERSION in builder.cache_dir
    assert builder.cache_dir != script.BioS(cache_dir=str(tmp_path), num_people=11, num_templates=1).cache_dir


def test_a_named_size_and_a_variant_are_taken_from_the_command_line(script, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "write", lambda recipe, folder, num_proc: seen.append((recipe, num_proc)) or folder)
    script.main(
        ["--config_name", "bioS-500k", "--fixed_renderings", "5", "--permute", "false", "--full_name", "true"]
        + ["--output_dir", str(tmp_path / "x"), "--num_proc", "2"]
    )
    expected = Recipe(num_people=500_000, fixed_renderings=5, permute=False, full_name=True, renderings=1)
    assert seen == [(expected, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_people", "many"], "--num_people many: expected a whole number"),
        (["--num_people", "0"], "num_people=0: expected 1 or more"),
        (["--num_people", "200_000_000"], "unique names"),
        (["--num_people", "5", "--renderings", "0"], "renderings=0: expected 1 or more"),
        (["--num_people", "5", "--num_proc", "0"], "--num_proc 0, expected 1 or more"),
        (["--config_name", "bioS-7k"], "invalid choice"),
    ],
)
def test_a_wrong_argument_is_one_message_and_makes_nothing(script, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.main([*arguments, "--output_dir", str(tmp_path / "x")])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_touched(script, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        script.main([*SMALL, "--output_dir", str(tmp_path)])
    assert "is there already" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_publishing_is_the_push_of_src(script, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr("knowcap.hub.push_dataset", lambda *arguments: pushed.append(arguments))
    made = script.main([*SMALL, "--output_dir", str(tmp_path / "x"), "--push_to_hub", "somebody/bioS-230"])
    assert pushed == [(made, "somebody/bioS-230")]
    assert json.loads((made / "knowledge.json").read_text())["num_people"] == 230


def test_no_known_table_is_an_error(script, tmp_path):
    with pytest.raises(ValueError, match="table='person', expected one of"):
        script.BioS(cache_dir=str(tmp_path), num_people=10, table="person")
