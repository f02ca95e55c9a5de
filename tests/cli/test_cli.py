"""The command line: bad input is one message and status 2, before any work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest
from command_line import fails

from knowcap.cli import EXTRAS, main, train_main
from knowcap.cli.commands import COMMANDS
from knowcap.run import estimate
from knowcap.run import pipeline as stages
from knowcap.run.folder import claim_run_dir
from knowcap.run.launch import Launcher, LaunchError
from knowcap.run.preflight import load_recipe


RECIPE = """# A recipe to try things with.
num_people: 60
model_name: gpt2-2-2
head_dim: 8
quantization_group_size: 16
pools_fraction: 0.05
num_templates: 1
vocab_size: 200
exposures: 4
block_size: 160
windows: aligned
train_batch_size: 8
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("knowcap.run.estimate._PROBE_SECONDS", 0)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


HEAVY = (
    "torch", "transformers", "datasets", "evaluate", "matplotlib", "pyarrow", "huggingface_hub", "accelerate", "scipy",
    "tokenizers", "numpy", "pandas", "jinja2", "yaml",
)  # fmt: skip


def imported_by(code: str) -> set[str]:
    """The modules that a new process imports for it."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_package_and_the_help_import_no_library():
    found = imported_by("import knowcap")
    assert not found & {*HEAVY, "knowcap.recipe", "importlib.metadata", "subprocess"}
    found = imported_by("from knowcap.cli import main; main(['--help'])")
    assert not found & {*HEAVY, "knowcap.recipe", "knowcap.files"}
    assert "knowcap.cli.parsers" in found


def test_the_parser_of_all_commands_imports_no_heavy_library():
    light = {"numpy", "tokenizers", "yaml"}  # checks of recipes use them
    found = imported_by("import knowcap.cli; knowcap.cli.make_parser()")
    assert not found & set(HEAVY) - light
    assert {f"knowcap.cli.{command.module}" for command in COMMANDS.values()} <= found


def test_every_command_has_a_line_in_the_help_and_its_own_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    for name, command in COMMANDS.items():
        assert f"{name} {command.text}" in help_text
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0 and "--traceback" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["meassure"])
    assert end.value.code == 2 and "'measure'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--num_peopel", "5"], ["unknown key 'num_peopel'; did you mean 'num_people'?"]),
        (["--learning_rate", "fast"], ["learning_rate: got 'fast', expected a number such as 1e-3"]),
        (["--vocab_size=10"], ["vocab_size=10 is too small"]),
        (["--model_name=gpt2-2"], ["model_name='gpt2-2'", "gpt2-rotary-L-H"]),
        (["--model_name=gpt2-rotary-2-2", "--head_dim=7"], ["rotary", "head_dim=7"]),
        (["--num_people=200_000_000"], ["num_people=200_000_000 exceeds", "lower num_people or pass larger pools"]),
        (["--pools_dir=nowhere"], ["nowhere", "folder"]),
        (["--output_dir=mine.yaml"], ["mine.yaml is a file, expected a folder"]),
        (["--run_name=../up"], ["run_name='../up'"]),
        (["--accelerate_config=gpus"], ["accelerate_config='gpus'", "cpu_2"]),
        (["--num_processes=2"], ["--accelerate_config"]),
        (["stray"], ["'stray': expected --key value"]),
        (["--block_size=20"], ["block_size=20", "aligned windows"]),
        (["--block_size=20", "--windows=cut"], ["block_size=20", "scored in one piece"]),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else None,
)
def test_bad_input_is_one_message_and_makes_nothing(recipe, capsys, words, parts):
    message = fails(capsys, "run", "--config", str(recipe), *words)
    assert all(part in message for part in parts)
    assert [path.name for path in recipe.parent.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("command", ["run", "data", "train"])
def test_a_missing_recipe_is_one_message(recipe, capsys, command):
    assert "no such file" in fails(capsys, command, "--config", "missing.yaml")


def test_a_recipe_is_required(capsys):
    with pytest.raises(SystemExit) as error:
        main(["run"])
    assert error.value.code == 2
    assert "--config" in capsys.readouterr().err


def test_all_problems_of_recipe_and_folder_are_reported_at_once(recipe, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1))
    monkeypatch.setattr(os, "access", lambda *_: False)
    message = fails(capsys, "run", "--config=mine.yaml", "--seed=x", "--windows=y", "--nonsense=1")
    for part in (
        "5 problems",
        "unknown key 'nonsense'",
        "seed: got 'x'",
        "windows='y'",
        "cannot be written",
        "MB free",
    ):
        assert part in message


def test_a_folder_of_another_recipe_is_kept(recipe, capsys):
    assert main(["data", "--config", "mine.yaml"]) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    for command in ("run", "data", "train"):
        assert "num_people is 60 there and 61 here" in fails(capsys, command, "--config=mine.yaml", "--num_people=61")
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_data_is_made_once_and_made_again_when_asked_to(recipe, capsys):
    made = Path("runs/mine/knowledge/knowledge.json")
    assert main(["data", "--config", "mine.yaml"]) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("[knowledge] 60 people, ")
    assert line.endswith(" s)")
    first = made.stat().st_mtime_ns
    assert main(["data", "--config", "mine.yaml"]) == 0
    assert "(finished before, kept)" in capsys.readouterr().err
    assert made.stat().st_mtime_ns == first
    assert main(["data", "--config", "mine.yaml", "--overwrite_output_dir", "--num_people=61"]) == 0
    assert "[knowledge] 61 people, " in capsys.readouterr().err


@pytest.mark.parametrize("keys", [{}, {"corpus": "bioD", "num_templates": None}], ids=["bioS", "bioD"])
def test_data_written_by_several_processes_are_the_same_files(recipe, monkeypatch, keys):
    lines = [line for line in RECIPE.splitlines() if line.split(":")[0] not in keys]
    lines += [f"{key}: {value}" for key, value in keys.items() if value]
    recipe.write_text("\n".join(lines))
    monkeypatch.setattr("knowcap.dataset.folder.ENTITIES_PER_FILE", 25)
    for count in ("1", "4"):
        assert main(["data", "--config", "mine.yaml", "--output_dir", count, "--num_proc", count]) == 0
    one, four = (
        {str(f.relative_to(n)): f.read_bytes() for f in sorted(Path(n, "mine", "knowledge").rglob("*")) if f.is_file()}
        for n in ("1", "4")
    )
    assert one == four
    assert len([name for name in one if "people" in name]) == 3


def test_fewer_than_one_process_is_an_error(recipe, capsys):
    with pytest.raises(SystemExit):
        main(["data", "--config", "mine.yaml", "--num_proc", "0"])
    assert "got 0, expected 1 or more" in capsys.readouterr().err


def test_a_dry_run_tells_everything_and_makes_nothing(recipe, capsys):
    assert main(["run", "--config=mine.yaml", "--dry_run", "--run_name=dry"]) == 0
    out, _ = capsys.readouterr()
    reported = {line[:28].strip(): line[28:] for line in out.splitlines()}
    assert reported["run folder"] == "runs/dry"
    assert reported["people"] == "60"
    assert float(reported["max bits per parameter"]) == pytest.approx(
        int(reported["bits in total"].replace(",", "")) / int(reported["parameters"].replace(",", "")), rel=1e-3
    )
    assert {"bits per person", "tokens per biography", "tokens in total, about", "steps, about"} <= reported.keys()
    assert reported["training"] == "not measured; --measure_speed times a few steps"
    assert not Path("runs").exists()


def test_a_dry_run_times_steps_only_when_asked_to_and_takes_a_finished_runs_time(recipe, capsys, monkeypatch):
    def training(*words: str) -> str:
        assert main(["run", "--config=mine.yaml", "--dry_run", *words]) == 0
        return capsys.readouterr().out.splitlines()[-1][28:]

    timed: list[int] = []
    monkeypatch.setattr(estimate, "seconds_per_step", lambda *shape: timed.append(1) or 1800.0)
    steps = int(estimate.estimate(load_recipe("mine.yaml")).num_steps)
    assert "not measured" in training() and not timed
    assert training("--measure_speed").startswith(f"{steps / 2:.1f} h, roughly") and timed == [1]
    stages.data(load_recipe("mine.yaml"), claim_run_dir(load_recipe("mine.yaml")))
    Path("runs/mine/model").mkdir()
    Path("runs/mine/model/training.json").write_text('{"train_seconds": 7200.0}')
    assert training("--measure_speed") == "2.0 h, as it took; the model is trained" and timed == [1]
    assert "not measured" in training("--seed=1", "--overwrite_output_dir")  # another run's time is not this one's
    assert "has no effect without --dry_run" in fails(capsys, "run", "--config=mine.yaml", "--measure_speed")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--train_batch_size=15", "--accelerate_config=cpu_2"), "give a multiple of 2"),
        (("--precision=fp16",), "fp16 needs a GPU"),
        (("--accelerate_config=fsdp2",), "asks for 8 GPUs on this machine, but it has 0"),
        (("--accelerate_config=nope",), "expected a file or one of"),
        (("--tokenizer_name=/nope",), "no such folder"),
        (("--num_people=1", "--control_people=0"), "null control"),
    ],
)
@pytest.mark.parametrize("command", [("run",), ("run", "--dry_run"), ("train",)], ids=" ".join)
def test_what_the_machine_or_launcher_cannot_do_is_reported_before_any_work(
    recipe, capsys, monkeypatch, command, words, part
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert part in fails(capsys, *command, "--config=mine.yaml", *words)
    assert not Path("runs").exists()


def test_a_dry_run_tells_problems_of_the_folder_too(recipe, capsys):
    main(["data", "--config", "mine.yaml"])
    assert main(["run", "--config=mine.yaml", "--dry_run", "--seed=1"]) == 2
    out, err = capsys.readouterr()
    assert "people" in out
    assert "seed is 0 there and 1 here" in err
    message = fails(capsys, "run", "--config=mine.yaml", "--dry_run", "--seed=1", "--vocab_size=3")
    assert "2 problems" in message


@pytest.mark.parametrize(
    ("error", "status", "reported"),
    [
        (KeyboardInterrupt(), 130, "run the same command again to continue"),
        (ValueError("a finished measurement of other facts"), 2, "knowcap: a finished measurement of other facts"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (LaunchError("ended with status 1"), 1, "ended with status 1"),
    ],
)
def test_what_stages_raise_becomes_a_message_and_a_status(recipe, capsys, monkeypatch, error, status, reported):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(stages, "train", fail)
    assert main(["train", "--config=mine.yaml"]) == status
    err = capsys.readouterr().err
    assert reported in err
    assert "Traceback" not in err
    if not isinstance(error, KeyboardInterrupt):
        assert main(["train", "--config=mine.yaml", "--traceback"]) == status
        assert "Traceback" in capsys.readouterr().err


def test_our_own_faults_keep_their_traceback(recipe, monkeypatch):
    monkeypatch.setattr(stages, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--config=mine.yaml"])


def test_a_stage_is_launched_by_accelerate_with_the_folders_recipe(recipe, monkeypatch):
    calls = []
    monkeypatch.setattr(Launcher, "launch", lambda self, module, words: calls.append((self, module, words)))
    monkeypatch.setattr(stages, "describe_training", lambda _: "")
    assert main(["train", "--config=mine.yaml", "--accelerate_config=cpu_2", "--seed=5"]) == 0
    ((launcher, module, words),) = calls
    assert launcher.config_file.name == "cpu_2.yaml"
    assert (module, words) == ("knowcap.train", ["--config", "runs/mine/recipe.yaml"])
    assert "seed: 5" in Path(words[1]).read_text()


def test_a_launch_that_fails_is_reported(tmp_path):
    launcher = Launcher.named("cpu")
    with pytest.raises(LaunchError, match=r"knowcap\.nonsense, started by accelerate .* ended with status 1"):
        launcher.launch("knowcap.nonsense", [])


def test_launched_processes_do_not_race_to_delete(recipe, capsys):
    assert train_main(["--config=mine.yaml", "--overwrite_output_dir"]) == 2
    assert "knowcap train --overwrite_output_dir" in capsys.readouterr().err


def test_only_the_first_process_tells_a_problem(recipe, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert train_main(["--config=mine.yaml", "--seed=x"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["measure", "./nowhere"], "no such folder"),
        (["measure", "."], "but it has mine.yaml"),
        (["quantize", "."], "expected a run folder with a recipe.yaml, but it has mine.yaml"),
        (["report", "."], "has no measured run"),
    ],
)
def test_a_folder_of_something_else_is_reported_with_what_it_holds(recipe, capsys, words, part):
    assert part in fails(capsys, *words)


@pytest.mark.parametrize(
    "words",
    [["measure", "x", "--limit=0"], ["quantize", "x", "--method=awq"], ["report", "x", "--y"], ["ls", "z"], []],
)
def test_wrong_options_end_with_status_2(words):
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2


def test_ls_lists_recipes_by_their_first_line_and_models(capsys, monkeypatch, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr("knowcap.recipe_file.RECIPES_DIR", tmp_path)
    assert main(["ls", "recipes"]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["tiny", "A recipe to try things with.\n"]
    assert main(["ls", "models"]) == 0
    out = capsys.readouterr().out
    assert "gpt2-L-H" in out
    assert "gpt2-rotary-L-H" in out


@pytest.mark.parametrize("command", ["run", "data", "train", "measure", "quantize", "report", "findings", "ls"])
def test_every_command_has_help_with_examples(capsys, command):
    with pytest.raises(SystemExit) as error:
        main([command, "--help"])
    assert error.value.code == 0
    out = capsys.readouterr().out
    assert f"knowcap {command} " in out.split("example", 1)[1]


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "knowcap", "ls", "models"], capture_output=True, text=True)
    assert done.returncode == 0 and "gpt2-rotary" in done.stdout
    assert subprocess.run([sys.executable, "-m", "knowcap", "nothing"], capture_output=True).returncode == 2


def test_a_reader_that_has_seen_enough_is_no_mistake():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "knowcap.cli", "plan", "size", "--bits", "1e9"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_missing_library_is_named_with_its_extra(capsys, monkeypatch, tmp_path):
    def needs(library):
        def do(*_, **__):
            raise ModuleNotFoundError(f"No module named '{library}'", name=library)

        monkeypatch.setattr("knowcap.report.stage.report_files", do)
        return main(["report", str(tmp_path)])

    assert needs("matplotlib.figure") == 2
    assert "pip install 'knowcap[plot]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        needs("something_else")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    core = {re.split("[^a-z-]", line)[0] for line in project["dependencies"]}
    for library, extra in EXTRAS.items():
        assert library not in core
        assert any(line.startswith(library) for line in project["optional-dependencies"][extra])
