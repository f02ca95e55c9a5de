"""dataset_scripts/: the same folder as `knowcap data` makes, and builders of `datasets` with the same rows."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import datasets
import pytest

from knowcap.cli.dataset_builder import main
from knowcap.corpus import biod
from knowcap.dataset.stage import build
from knowcap.knowledge import people
from knowcap.knowledge.pools import lists_version
from knowcap.recipe import Recipe
from knowcap.run.preflight import check_recipe


SCRIPTS = Path(__file__).parents[2] / "dataset_scripts"
SMALL = {
    "bios": {"num_people": 230, "seed": 4, "num_templates": 2, "control_people": 110},
    "biod": {"num_people": 230, "seed": 4, "num_attributes": 3, "diversity": 20, "control_people": 110},
}
TABLES = [("bios", t) for t in ("people", "biographies", "qa", "control")]
TABLES += [("biod", t) for t in ("people", "biographies", "control")]
each_script = pytest.mark.parametrize("name", SMALL)


def loaded_script(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_builder", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickled by name where datasets starts processes
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builders():
    """The builder class of each script."""
    modules = {name: loaded_script(name) for name in SMALL}
    yield {"bios": modules["bios"].BioS, "biod": modules["biod"].BioD}
    for module in modules.values():
        del sys.modules[module.__name__]


def words(keys: dict[str, object]) -> list[str]:
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """What each command line makes; of bioD some keys are the named setting's."""
    made = {}
    for name, keys in SMALL.items():
        made[name] = tmp_path_factory.mktemp("script") / name
        command = [str(SCRIPTS / f"{name}.py"), *words(keys), "--num_proc", "2", "--output_dir", str(made[name])]
        command += ["--config_name", "bioD-10k"] if name == "biod" else []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command)
            runpy.run_path(command[0], run_name="__main__")  # as `python SCRIPT …`, libraries being imported already
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@each_script
def test_the_command_line_makes_the_folder_that_knowcap_data_makes(folders, tmp_path, name):
    others = {"bios": {}, "biod": {"corpus": "bioD", "chunks_per_value": 2, "alphabet_size": 100}}
    recipe = Recipe(**SMALL[name], **others[name], renderings=1, lists="paper")
    assert content(build(recipe, tmp_path)) == content(folders[name])


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_the_builder_has_the_rows_of_the_folder(builders, folders, tmp_path, name, table):
    builder = builders[name](cache_dir=str(tmp_path), table=table, **SMALL[name])
    builder.download_and_prepare()
    built, loaded = builder.as_dataset(), datasets.load_dataset(str(folders[name]), table)
    assert set(built) == set(loaded)
    for split in loaded:
        assert built[split].features == loaded[split].features
        assert built[split].to_list() == loaded[split].to_list()


@each_script
@pytest.mark.parametrize("table", ["people", "biographies"])
def test_processes_and_streaming_give_the_same_rows(builders, tmp_path, monkeypatch, name, table):
    monkeypatch.setattr("knowcap.dataset.folder.ENTITIES_PER_FILE", 20)
    keys = SMALL[name] | {"num_people": 70, "control_people": 0, "table": table}
    one, two = (builders[name](cache_dir=str(tmp_path / str(n)), **keys) for n in (1, 2))
    one.download_and_prepare()
    two.download_and_prepare(num_proc=2)
    rows = one.as_dataset(split="train").to_list()
    assert len(rows) == 70
    assert two.as_dataset(split="train").to_list() == rows
    assert list(two.as_streaming_dataset(split="train")) == rows


@each_script
def test_a_builder_writes_parquet_that_load_dataset_reads(builders, folders, tmp_path, name):
    builder = builders[name](cache_dir=str(tmp_path / "cache"), **SMALL[name])
    builder.download_and_prepare(str(tmp_path / "made"), file_format="parquet")
    read = datasets.load_dataset("parquet", data_files=str(tmp_path / "made" / "*.parquet"), split="train")
    assert read.to_list() == datasets.load_dataset(str(folders[name]), split="train").to_list()


def test_sizes_of_bios_are_named(builders):
    sizes = {c.name: c.num_people for c in builders["bios"].BUILDER_CONFIGS}
    assert sizes == {
        "bioS-10k": 10_000, "bioS-20k": 20_000, "bioS-50k": 50_000, "bioS-100k": 100_000, "bioS-200k": 200_000,
        "bioS-500k": 500_000, "bioS-1m": 1_000_000,
    }  # fmt: skip
    assert builders["bios"].DEFAULT_CONFIG_NAME in sizes


def test_settings_of_biod_are_sound_and_within_the_ranges_of_the_paper(builders):
    for config in builders["biod"].BUILDER_CONFIGS:
        recipe = config.recipe()
        assert check_recipe(recipe, unusable={"model_name"}) == []
        assert {1 <= n <= 50 for n in (recipe.num_attributes, recipe.chunks_per_value, recipe.chunk_length)} == {True}
        assert 10 <= recipe.diversity <= 10_000 and 20 <= recipe.alphabet_size <= 40_000
        # Definition 2.2 has D << T^L
        assert recipe.diversity * 15 < recipe.alphabet_size**recipe.chunk_length
        assert config.name.startswith(f"bioD-{recipe.num_people // 1000}k")
        assert recipe.compact == config.name.endswith("compact")


@each_script
def test_a_new_version_of_what_is_drawn_is_a_new_version_of_the_builder(builders, tmp_path, name):
    """The cache of `datasets` depends on VERSION, not on the code."""
    version = lists_version({"bios": people.VERSION, "biod": biod.VERSION}[name], "paper")
    assert str(builders[name].VERSION) == version
    one, other = (builders[name](cache_dir=str(tmp_path), num_people=n) for n in (10, 11))
    assert str(one.config.version) == version and version in one.cache_dir
    assert one.cache_dir != other.cache_dir


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (
            "bios",
            ["--config_name", "bioS-500k", "--fixed_renderings", "5", "--permute", "false", "--full_name", "true"],
            Recipe(num_people=500_000, fixed_renderings=5, permute=False, full_name=True, renderings=1, lists="paper"),
        ),
        (
            "biod",
            ["--config_name", "bioD-20k", "--diversity", "9000", "--compact", "true", "--lists", "short"],
            Recipe(
                corpus="bioD", num_people=20_000, num_attributes=2, diversity=9000, chunk_length=5, alphabet_size=1000,
                compact=True, renderings=1,
            ),
        ),
    ],
)  # fmt: skip
def test_a_named_setting_and_keys_are_taken_from_the_command_line(
    builders, tmp_path, monkeypatch, name, given, expected
):
    seen = []
    monkeypatch.setattr(
        "knowcap.cli.dataset_builder.write", lambda recipe, folder, num_proc: seen.append((recipe, num_proc)) or folder
    )
    main(builders[name], [*given, "--output_dir", str(tmp_path / "x"), "--num_proc", "2"])
    assert seen == [(expected, 2)]


@pytest.mark.parametrize(
    ("name", "arguments", "messages"),
    [
        ("bios", ["--num_people", "many"], ["--num_people many: expected a whole number"]),
        ("bios", ["--num_people", "0"], ["num_people=0: expected 1 or more"]),
        ("bios", ["--num_people", "200_000_000"], ["unique names"]),
        ("bios", ["--num_people", "5", "--renderings", "0"], ["renderings=0: expected 1 or more"]),
        ("bios", ["--seed", "-1", "--num_proc", "0"], ["seed=-1: expected 0 to", "--num_proc 0, expected 1 or more"]),
        ("bios", ["--num_templates", "x", "--seed", "y"], ["--num_templates x: expected", "--seed y: expected"]),
        ("bios", ["--config_name", "bioS-7k"], ["invalid choice"]),
        ("bios", ["--push_to_hub", "me"], ["--push_to_hub: got 'me', expected owner/name"]),
        ("bios", ["--diversity", "7"], ["unrecognized arguments: --diversity"]),
        (
            "biod",
            ["--num_people", "20_000_000", "--compact", "true"],
            ["expected 1 to 16,777,216, the number of distinct names"],
        ),
        ("biod", ["--diversity", "99", "--chunk_length", "1", "--alphabet_size", "9"], ["makes 9 strings"]),
        ("biod", ["--chunk_length", "0", "--diversity", "0"], ["chunk_length=0: expected", "diversity=0: expected"]),
        ("biod", ["--permute", "false"], ["unrecognized arguments: --permute"]),
    ],
)
def test_wrong_arguments_are_one_message_and_make_nothing(builders, tmp_path, capsys, name, arguments, messages):
    with pytest.raises(SystemExit):
        main(builders[name], [*arguments, "--output_dir", str(tmp_path / "x")])
    reported = capsys.readouterr().err
    assert all(message in reported for message in messages) and "Traceback" not in reported
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_touched(builders, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(builders["bios"], [*words(SMALL["bios"]), "--output_dir", str(tmp_path)])
    assert "already exists" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


@each_script
def test_publishing_is_the_push_of_src(builders, tmp_path, monkeypatch, name):
    pushed = []
    monkeypatch.setattr("knowcap.run.push.push_dataset", lambda *arguments: pushed.append(arguments))
    keys = words(SMALL[name])
    made = main(builders[name], [*keys, "--output_dir", str(tmp_path / "x"), "--push_to_hub", "somebody/small"])
    assert pushed == [(made, "somebody/small")]
    assert json.loads((made / "knowledge.json").read_text())["num_people"] == 230


@pytest.mark.parametrize(("name", "table"), [("bios", "person"), ("biod", "qa")])
def test_no_known_table_is_an_error(builders, tmp_path, name, table):
    with pytest.raises(ValueError, match=f"table='{table}', expected one of"):
        builders[name](cache_dir=str(tmp_path), num_people=10, table=table)
