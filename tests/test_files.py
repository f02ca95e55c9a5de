"""Files and folders are whole and on the disk, or are not there, whatever fails while they are written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from knowcap import files
from knowcap.files import WriteError, flush, replace_folder, whole_file, whole_folder, write_json, writing


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The flushes and renames, in their order, by the names of files."""
    found: list[tuple[str, str]] = []

    def noted(what: str, path: Path) -> None:
        found.append((what, Path(path).name))

    monkeypatch.setattr(files, "_sync", lambda path: noted("sync", path))
    for name in ("rename", "replace"):
        original = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda self, to, do=original: noted("rename", self) or do(self, to))
    return found


def test_a_file_is_on_the_disk_before_and_its_folder_after_it_is_renamed(tmp_path, calls):
    write_json(tmp_path / "a.json", {"a": 1})
    assert calls == [("sync", ".a.json.partial"), ("rename", ".a.json.partial"), ("sync", tmp_path.name)]
    assert listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_is_on_the_disk_with_all_its_files_before_it_is_renamed(tmp_path, calls, replaced):
    if replaced:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "old").touch()
    with whole_folder(tmp_path / "made") as made:
        (made / "inner").mkdir()
        (made / "inner" / "x").touch()
        (made / "y").touch()
    first = calls.index(("rename", ".made.partial"))
    assert {name for what, name in calls[:first] if what == "sync"} == {"x", "inner", "y", ".made.partial"}
    assert calls[first + 1] == ("sync", tmp_path.name)
    assert listing(tmp_path) == ["made", "made/inner", "made/inner/x", "made/y"]


def test_a_folder_left_by_a_killed_replacement_is_removed(tmp_path):
    for name in (".final.old", "made"):
        (tmp_path / name).mkdir()
    replace_folder(tmp_path / "made", tmp_path / "final")
    assert listing(tmp_path) == ["final"]


def test_flushing_reaches_the_system(tmp_path):
    """The real fsync, by a process without the tests' stand-in."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("x")
    (tmp_path / "folder" / "link").symlink_to("nowhere")
    code = (
        "import os, sys; found = []; sync = os.fsync\n"
        "os.fsync = lambda n: found.append(os.readlink(f'/proc/self/fd/{n}')) or sync(n)\n"
        "from pathlib import Path; from knowcap.files import flush\n"
        "flush(Path(sys.argv[1])); print('\\n'.join(found))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "folder")], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(tmp_path / "folder" / "x"), str(tmp_path / "folder")], done.stderr


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True), (errno.ENOSPC, True)])
def test_only_a_file_system_without_fsync_is_passed_over(tmp_path, monkeypatch, code, raises):
    def failing(number: int) -> None:
        raise OSError(code, os.strerror(code))

    import importlib.util

    spec = importlib.util.find_spec("knowcap.files")
    assert spec is not None and spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)  # with the real `_sync`
    monkeypatch.setattr(os, "fsync", failing)
    if raises:
        with pytest.raises(OSError, match=os.strerror(code)):
            fresh.flush(tmp_path)
        with pytest.raises(fresh.WriteError, match="a.json cannot be written: .*run the same command again"):
            fresh.write_json(tmp_path / "a.json", {})
        assert listing(tmp_path) == []
    else:
        fresh.write_json(tmp_path / "a.json", {})
        assert listing(tmp_path) == ["a.json"]


def torch_save(path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(10_000)}, path)


def safetensors_save(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(10_000)}, path)


def tokenizer_save(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({str(i): i for i in range(2_000)}, [])).save(str(path))


def parquet_save(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": np.random.default_rng(0).random(10_000)}), path)


def npz_save(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(10_000))


def npy_save(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros(10_000))


WRITERS = {
    "torch": torch_save, "safetensors": safetensors_save, "tokenizers": tokenizer_save, "arrow": parquet_save,
    "npz": npz_save, "npy": npy_save, "text": lambda path: path.write_text("x" * 20_000),
}  # fmt: skip


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_kind_of_error_whichever_library_writes(tmp_path, library):
    """The system refuses bytes beyond a limit, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    final = tmp_path / "final.bin"
    final.write_text("as before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, before[1]))
    try:
        with pytest.raises(WriteError, match=r"final.bin cannot be written: .* run the same command again"):
            with whole_file(final) as made:
                WRITERS[library](made)
        with pytest.raises(WriteError, match=r"folder cannot be written: "):
            with whole_folder(tmp_path / "folder") as made:
                WRITERS[library](made / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert final.read_text() == "as before"
    assert [name for name in listing(tmp_path) if not name.endswith(".npy")] == ["final.bin"]


@pytest.mark.parametrize("library", [name for name in WRITERS if name != "npy"])
def test_a_folder_that_is_lost_is_reported(tmp_path, library):
    folder = tmp_path / "lost"
    folder.mkdir()
    with pytest.raises(WriteError, match=r"the folder .*lost no longer exists"):
        with whole_file(folder / "a") as made:
            folder.rmdir()
            WRITERS[library](made)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        with whole_file(tmp_path / "a"):
            (tmp_path / "missing").read_text()
    with pytest.raises(RuntimeError, match="of another kind"), writing(tmp_path / "a"):
        raise RuntimeError("of another kind")
    assert listing(tmp_path) == []


def test_processes_that_write_one_file_at_once_write_partial_files_of_their_own(tmp_path):
    with whole_file(tmp_path / "a", own=True) as made:
        assert str(os.getpid()) in made.name
        made.touch()
    flush(tmp_path)
    assert listing(tmp_path) == ["a"]
