"""Every file of a finished run, damaged in every way, before every command: the undisturbed number, or one message."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from damages import DAMAGES, damage

from knowcap.cli import main
from knowcap.files import locked, read_json
from knowcap.run.places import MEASURING, RESULTS


RECIPE = """
num_people: 24
model_name: gpt2-2-2
head_dim: 8
quantization_group_size: 16
pools_fraction: 0.05
num_templates: 1
vocab_size: 300
exposures: 2
renderings: 1
control_people: 100
block_size: 160
windows: aligned
train_batch_size: 8
learning_rate: 3e-3
warmup_steps: 2
quantize_bits: [8]
extract: as_trained
questions: true
"""
KINDS = [*DAMAGES, "deleted"]
NUMBERS = (
    "bits_per_parameter", "max_bits_per_parameter", "knowledge_bits", "num_parameters", "num_entities",
    "confidence_interval", "control_bits_per_entity",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.yaml, its finished run, a second model beside it, and the cells collected from it."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "mine.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "--config", "mine.yaml", "--output_dir", "runs"]) == 0
        assert main(["findings", "--collect", "runs", "--results", "results"]) == 0
    shutil.rmtree(folder / "runs" / "mine" / "checkpoints")
    return folder


COMMANDS: dict[str, list[str]] = {
    "run": ["run", "--config", "mine.yaml", "--output_dir", "runs"],
    "measure": ["measure", "runs/mine"],
    "measure again": ["measure", "runs/mine", "--overwrite"],
    "measure a copy": ["measure", "runs/mine/quantized/int8"],
    "compare": ["measure", "runs/mine/quantized/int8", "--compare", "runs/mine"],
    "quantize": ["quantize", "runs/mine", "--bits", "8"],
    "extract": ["extract", "runs/mine", "--method", "as_trained"],
    "report": ["report", "runs/mine"],
    "report all": ["report", "runs"],
    "entities": ["entities", "runs/mine"],
    "collect": ["findings", "--collect", "runs", "--results", "results"],
    "push": ["push", "runs/mine", "--hub_model_id", "me/tiny", "--hub_dataset_id", "me/people"],
}


def numbers(folder: Path, without: str = "") -> dict[str, Any]:
    """The numbers of every capacity.json, and of the collected cells; `without` that of a file."""
    found = {}
    for path in sorted(folder.rglob("c*.json")):
        name = path.relative_to(folder).as_posix()
        if path.name == "capacity.json" and name != without:
            found[name] = {key: read_json(path).get(key) for key in NUMBERS}
        if path.name == "cells.json" and name != without:
            found[name] = {key: read_json(path)["cells"]["mine"]["row"][key] for key in NUMBERS[:5]}
    return found


@contextmanager
def copied(finished: Path, place: Path) -> Iterator[Path]:
    """A copy of the folder, where the process then stands."""
    shutil.copytree(finished, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("knowcap.run.push._publish", lambda artefacts, **_: ())
        yield place
    shutil.rmtree(place)


def printed(text: str) -> str:
    """What a command printed, without its times."""
    return re.sub(r"\([\d.]+ s\)", "", text)


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, dict[str, Any]]]:
    """What each command prints and leaves in an undamaged folder."""
    found = {}
    for name, words in COMMANDS.items():
        place = tmp_path_factory.mktemp("whole") / "copy"
        out = io.StringIO()
        with copied(finished, place), redirect_stdout(out):
            assert main(words) == 0, name
            found[name] = printed(out.getvalue()), numbers(place)
    return found


def files_of(finished: Path) -> list[str]:
    """The paths of all files of the run and of the collected cells, but locks."""
    found = [path for folder in ("runs", "results") for path in (finished / folder).rglob("*") if path.is_file()]
    return sorted(path.relative_to(finished).as_posix() for path in found if not path.name.startswith("."))


def check(finished: Path, place: Path, undisturbed: dict[str, Any], case: tuple[str, str, str, int]) -> bool:
    """Damages a file and runs a command: the undisturbed number, or one message; returns whether it was refused."""
    path, kind, command, seed = case
    out, err, code = io.StringIO(), io.StringIO(), 0
    with copied(finished, place):
        if not damage(place / path, kind, random.Random(seed)):
            return False
        damaged = (place / path).read_bytes() if kind != "deleted" else None
        with redirect_stdout(out), redirect_stderr(err):
            code = main(COMMANDS[command])
        if code == 0:
            text, expected = undisturbed[command]
            found = numbers(place, without=path if damaged in (None, _bytes(place / path)) else "")
            for name, values in found.items():
                assert values == expected[name], (case, name)
            if kind != "deleted":  # a table of a run that lacks a file may lack a line
                assert printed(out.getvalue()) == text, case
    assert code in (0, 2), case
    if code == 2:
        messages = [line for line in err.getvalue().splitlines() if line.startswith("knowcap: ")]
        assert len(messages) == 1, (case, err.getvalue())
        folders = Path(path).parents if kind == "deleted" else [Path(path).parent]  # of a stage that is to be done
        assert any(name in messages[0] for name in (Path(path).name, *map(str, folders))), (case, messages)
        assert "Traceback" not in err.getvalue()
    return code == 2


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def cases(finished: Path, seed: int) -> list[tuple[str, str, str, int]]:
    """Every file, damage and command, in a random order."""
    every = [(path, kind, name, seed) for path in files_of(finished) for kind in KINDS for name in COMMANDS]
    random.Random(seed).shuffle(every)
    return every


def test_a_damaged_file_gives_the_same_number_or_one_message(finished, undisturbed, tmp_path):
    drawn = [case for case in cases(finished, 1) if not case[0].endswith((".png", ".md"))][:40]
    refused = [check(finished, tmp_path / "copy", undisturbed, case) for case in drawn]
    assert sum(refused) > len(drawn) / 4  # most damages are seen, by some command


def without_digests(folder: Path) -> None:
    """Makes a run folder one of the version before: nothing in it has a digest."""
    for path in folder.rglob("*.parquet"):
        parquet = pq.read_table(path)
        path.unlink()
        pq.write_table(parquet, path)
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in content.items() if k not in ("content_digest", "files", "inputs")})
        )
    for path in folder.rglob("recipe.yaml"):
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("# SHA")))


@pytest.mark.parametrize("name", ["measure again", "compare", "report all", "collect", "extract"])
def test_a_run_of_the_version_before_is_read(finished, undisturbed, tmp_path, name):
    out = io.StringIO()
    with copied(finished, tmp_path / "copy") as place:
        without_digests(place)
        with redirect_stdout(out):
            assert main(COMMANDS[name]) == 0
        assert (printed(out.getvalue()), numbers(place)) == undisturbed[name]


def typed_in(path: Path, **values: Any) -> None:
    """Edits a result, digest and all, as somebody might who knows of it."""
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "content_digest"}
    path.write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("knowledge/knowledge.json", {"name_log2_candidates": 40.0}, "name_log2_candidates is 40.0, expected"),
        ("quantized/int8/quantization.json", {"num_parameters": 1000}, "num_parameters is 1000, counted 12448"),
        ("quantized/int8/quantization.json", {"stored_bits_per_parameter": 1.0}, "stored_bits_per_parameter is 1.0"),
        ("model/training.json", {"num_parameters": 1000}, "num_parameters is 1000, but the weights"),
    ],
)
def test_measuring_again_counts_again(finished, tmp_path, capsys, file, values, message):
    with copied(finished, tmp_path / "copy") as place:
        typed_in(place / "runs" / "mine" / file, **values)
        capsys.readouterr()
        assert main(COMMANDS["measure again"]) == 2
        err = capsys.readouterr().err
        assert message in err and Path(file).name in err and "Traceback" not in err


def test_a_capacity_that_was_typed_in_is_computed_again(finished, undisturbed, tmp_path):
    for values in ({"bits_per_parameter": 1.5}, {"bits_per_parameter": 1.5, "inputs": {}}):
        with copied(finished, tmp_path / "copy") as place:
            typed_in(place / "runs/mine/model/capacity.json", **values)
            with redirect_stdout(io.StringIO()):
                assert main(COMMANDS["measure"]) == 0
            assert numbers(place) == undisturbed["measure"][1]


@pytest.mark.parametrize("name", ["report", "compare", "collect", "push"])
def test_a_capacity_that_was_typed_in_is_not_believed(finished, tmp_path, capsys, name):
    with copied(finished, tmp_path / "copy") as place:
        for folder in ("model", "quantized/int8"):
            typed_in(place / "runs/mine" / folder / "capacity.json", bits_per_parameter=1.5)
        capsys.readouterr()
        assert main(COMMANDS[name]) == 2
        assert "capacity.json: bits_per_parameter is 1.5, but knowledge_bits is" in capsys.readouterr().err


def test_a_recipe_without_its_keys_is_not_pushed(finished, tmp_path, capsys):
    for text, message in (("", "recipe.yaml is empty"), ("seed: 0\n", "num_people is missing")):
        with copied(finished, tmp_path / "copy") as place:
            (place / "runs/mine/recipe.yaml").write_text(text)
            capsys.readouterr()
            assert main(COMMANDS["push"]) == 2
            assert message in capsys.readouterr().err


def test_a_second_measurement_of_a_model_waits_for_the_first(finished, tmp_path, monkeypatch):
    with copied(finished, tmp_path / "copy") as place, ExitStack() as first:
        waits = threading.Event()
        monkeypatch.setattr("knowcap.files.logger.warning", lambda text, *_: "waiting for it" in text and waits.set())
        first.enter_context(locked(place / "runs" / "mine"))
        codes: list[int] = []
        second = threading.Thread(target=lambda: codes.append(main(COMMANDS["measure a copy"])))
        second.start()
        assert waits.wait(60) and not codes
        first.close()
        second.join(60)
        assert codes == [0]


def test_part_files_that_a_kill_left_beside_a_finished_measurement_are_removed(finished, undisturbed, tmp_path):
    """It came between the last rename and the removal of the parts."""
    with copied(finished, tmp_path / "copy") as place:
        model = place / "runs" / "mine" / "model"
        for name in (".scoring.json", ".nll.shard000000.parquet", ".control_swapped.shard000000.parquet"):
            (model / name).touch()
        with redirect_stdout(io.StringIO()):
            assert main(COMMANDS["measure"]) == 0
        assert numbers(place) == undisturbed["measure"][1]
        assert not list(model.glob(".[nsc]*"))


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_replacement_that_was_killed_while_files_were_moved_ends_as_if_not(finished, undisturbed, tmp_path, moved):
    with copied(finished, tmp_path / "copy") as place:
        model = place / "runs" / "mine" / "model"
        (model / MEASURING).mkdir()
        for file in [file for file in RESULTS if (model / file).is_file()][moved:]:
            (model / file).rename(model / MEASURING / file)
        with redirect_stdout(io.StringIO()):
            assert main(COMMANDS["measure"]) == 0
        assert numbers(place) == undisturbed["measure"][1] and not (model / MEASURING).exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_damage_of_every_file_before_every_command(finished, undisturbed, tmp_path, seed):
    for case in cases(finished, seed):
        check(finished, tmp_path / "copy", undisturbed, case)
