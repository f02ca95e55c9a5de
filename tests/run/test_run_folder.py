"""Run folders belong to one recipe, and to one command at a time."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import pytest
import yaml

from knowcap import provenance
from knowcap.files import SOFT_LOCK_FILE, FileError, locked
from knowcap.provenance import git_revision, versions
from knowcap.recipe import Recipe, RecipeError
from knowcap.run.folder import claim_run_dir, folder_problems, recipe_yaml
from knowcap.run.preflight import load_recipe


@pytest.fixture
def recipe(tmp_path):
    return Recipe(run_name="mine", output_dir=str(tmp_path / "runs"), num_people=1000, model_name="gpt2-2-2")


def test_a_claimed_folder_records_the_recipe_the_versions_and_the_revision(recipe):
    run_dir = claim_run_dir(recipe)
    assert load_recipe(run_dir / "recipe.yaml") == recipe
    content = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    assert content["git_revision"] == git_revision()
    assert content["versions"] == versions()
    assert {"knowcap", "python", "torch", "transformers"} <= versions().keys()


def test_no_half_written_recipe_is_left(recipe):
    assert [path.name for path in claim_run_dir(recipe).iterdir()] == ["recipe.yaml"]


def test_the_same_recipe_goes_on_in_its_folder_and_changes_nothing(recipe):
    run_dir = claim_run_dir(recipe)
    (run_dir / "model").mkdir()
    before = (run_dir / "recipe.yaml").stat().st_mtime_ns
    assert claim_run_dir(recipe) == run_dir
    assert (run_dir / "recipe.yaml").stat().st_mtime_ns == before
    assert (run_dir / "model").is_dir()


def test_free_keys_may_change_and_are_recorded(recipe):
    claim_run_dir(recipe)
    run_dir = claim_run_dir(replace(recipe, save_steps=7))
    assert load_recipe(run_dir / "recipe.yaml").save_steps == 7


def test_a_folder_of_another_recipe_is_reported_with_both_values_and_the_way_out(recipe):
    run_dir = claim_run_dir(recipe)
    with pytest.raises(RecipeError) as error:
        claim_run_dir(replace(recipe, seed=1, num_people=500))
    (problem,) = error.value.problems
    for part in (
        "seed is 0 there and 1 here", "num_people is 1000 there and 500 here", "run_name", "--overwrite_output_dir",
    ):  # fmt: skip
        assert part in problem
    assert load_recipe(run_dir / "recipe.yaml") == recipe


def test_a_folder_of_somebody_elses_is_not_touched_even_to_overwrite(recipe, tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RecipeError, match="thesis.tex but no recipe.yaml"):
            claim_run_dir(recipe, overwrite)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_taken(recipe, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert claim_run_dir(recipe).joinpath("recipe.yaml").is_file()


def test_a_claim_that_was_killed_is_made_again(recipe, tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / ".recipe.yaml.4711.partial").write_text("num_peo")
    (folder / ".lock").touch()
    assert load_recipe(claim_run_dir(recipe) / "recipe.yaml") == recipe


def test_overwriting_deletes_what_runs_make_and_nothing_else(recipe):
    run_dir = claim_run_dir(recipe)
    for name in ("knowledge", "model", "checkpoints", "quantized", "plots", ".model.partial"):
        (run_dir / name).mkdir()
        (run_dir / name / "file").touch()
    for name in ("capacity.json", "notes.txt"):
        (run_dir / name).touch()
    other = replace(recipe, seed=1)
    claim_run_dir(other, overwrite=True)
    assert {path.name for path in run_dir.iterdir()} == {"recipe.yaml", "notes.txt"}
    assert load_recipe(run_dir / "recipe.yaml") == other


def test_overwriting_does_not_follow_links_out_of_the_folder(recipe, tmp_path):
    run_dir = claim_run_dir(recipe)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (run_dir / "checkpoints").symlink_to(tmp_path / "elsewhere")
    claim_run_dir(recipe, overwrite=True)
    assert (tmp_path / "elsewhere" / "file").exists()


def test_a_recipe_there_that_cannot_be_read_is_reported(recipe):
    (claim_run_dir(recipe) / "recipe.yaml").write_text("num_people: many\nfuture_key: 1\n")
    (problem,) = folder_problems(recipe)
    assert "cannot be used" in problem
    assert "future_key" in problem


def test_an_output_dir_that_is_a_file_is_reported(recipe, tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    (problem,) = folder_problems(recipe)
    assert "is a file, expected a folder" in problem


def test_a_folder_without_permission_is_reported_before_any_work(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RecipeError, match="cannot be written"):
        claim_run_dir(recipe)
    assert not (tmp_path / "runs").exists()


def test_too_little_space_is_reported_before_any_work(recipe, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(RecipeError, match="MB free, the run needs about"):
        claim_run_dir(recipe)
    assert not (tmp_path / "runs").exists()


def test_what_a_run_has_written_already_needs_no_more_space(recipe, monkeypatch):
    run_dir = claim_run_dir(recipe)
    with (run_dir / "big").open("wb") as file:
        file.truncate(10**9)  # sparse
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    assert folder_problems(recipe) == []


def test_a_second_command_is_kept_out_while_the_first_one_lives(tmp_path):
    code = (
        "import sys, pathlib; from knowcap.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"in\n"
        with pytest.raises(FileError, match=rf"process {first.pid}, or one that it started, is at work"):
            with locked(tmp_path, patience=0):
                pass
        first.kill()
    with locked(tmp_path, patience=0):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_command_waits_for_another_one_to_end(tmp_path, caplog):
    code = "import sys, pathlib, time; from knowcap.files import locked\n" + (
        "with locked(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(0.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"in\n"
        with locked(tmp_path):
            assert first.wait() == 0
    assert caplog.text.count(f"process {first.pid}, or one that it started, is at work there (hard lock") == 1


def test_a_process_that_outlives_its_parent_keeps_the_lock(tmp_path):
    with locked(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with pytest.raises(FileError, match="is at work there"), locked(tmp_path, patience=0):
            pass
    finally:
        child.kill()
        child.communicate()


def test_a_file_system_without_locks_gets_a_soft_lock(tmp_path, monkeypatch, caplog):
    def without(fd, *, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("knowcap.files.lock_descriptor", without)
    with locked(tmp_path):
        assert (tmp_path / SOFT_LOCK_FILE).is_file()
        busy = rf"process {os.getpid()}, .* is at work there \(soft lock"
        with pytest.raises(FileError, match=busy), locked(tmp_path, patience=0):
            pass
    assert not (tmp_path / SOFT_LOCK_FILE).exists()
    assert "No locks available); using a soft lock" in caplog.text


def test_locks_work_without_fcntl(tmp_path):
    code = (
        "import sys, pathlib; sys.modules['fcntl'] = None; import knowcap; from knowcap.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print(sorted(p.name for p in pathlib.Path(sys.argv[1]).iterdir()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "['.lock', '.lock.soft']\n"


def test_the_revision_is_of_the_project_not_of_whatever_holds_it(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "site-packages" / "knowcap"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert git_revision() is None


def test_the_recipe_is_written_in_the_order_of_its_keys(recipe):
    lines = recipe_yaml(recipe, {"knowcap": "0"}, None).splitlines()
    assert lines[0] == "run_name: mine"
    assert "git_revision: null" in lines
