"""Checkpoints that are whole or do not exist: written beside their place, with a manifest of digests, then renamed.

checkpoint-40/
  model.safetensors, optimizer.pt, scheduler.pt, rng_state.pth, trainer_state.json, …    the Trainer's
  manifest.json                                     the step, the training's settings, size and SHA-256 of every file

Files are on the disk before the manifest is, and the manifest before the folder has its name. A checkpoint without a
manifest was written by an earlier version; it is read if all of its parts can be.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from knowcap.files import FileError, flush, read_json, replace_folder, write_json
from knowcap.models import is_config
from knowcap.models.architectures import snapshot_name
from knowcap.recipe import KEYS, Recipe


MANIFEST, STATE = "manifest.json", "trainer_state.json"
STAGING = ".partial"  # in the folder of checkpoints: where the Trainer writes one
_NAME = re.compile(r"checkpoint-([0-9]+)")
_SHAPING = ("draws", "texts", "tokens", "windows", "training")  # what the keys of a training shape
_PARTS = ("optimizer", "scheduler", "rng_state")  # of an earlier version's checkpoint
_READ = (".safetensors", ".json", ".pt", ".pth", ".bin")  # endings of files that resuming may read

logger = logging.getLogger(__name__)


class DamagedError(ValueError):
    """A checkpoint that training cannot resume from; the message has the file and what is wrong with it."""


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The settings that a training's checkpoints are for: the recipe's keys that may not change within a run.

    Keys with their default are left out, so that a key that a later version adds is no difference; so are paths, and a
    configuration is named by its content.
    """
    keys = [key for key in KEYS.values() if key.shapes in _SHAPING and not (key.free or key.path)]
    found = {k.name: v for k in keys if (v := getattr(recipe, k.name)) != k.default}
    if is_config(recipe.model_name):
        found["model_name"] = snapshot_name(recipe.model_name)
    return json.loads(json.dumps(found))


def newest_checkpoint(folder: Path, settings: Mapping[str, Any] | None = None) -> tuple[str | None, int]:
    """The newest whole checkpoint and its step; (None, 0) if there is none. Logs what is wrong with newer ones.

    With several processes the first one looks, and the others are given what it has found.

    Args:
        folder: of the checkpoints.
        settings: what the training is, as `finish` was given it; None: not compared.
    """
    found: list[tuple[str | None, int]] = [(None, 0)]
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not several or torch.distributed.get_rank() == 0:
        found = [_newest(folder, settings)]
    if several:
        torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def _newest(folder: Path, settings: Mapping[str, Any] | None) -> tuple[str | None, int]:
    for step, path in reversed(_steps(folder)):
        try:
            check(path, settings)
        except DamagedError as error:
            logger.warning("%s is not used: %s; training resumes before it", path, error)
            continue
        return str(path), step
    return None, 0


def check(path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Reads a whole checkpoint and compares it with its manifest.

    Raises:
        DamagedError: it is not as it was written, or of another training than `settings` are of.
    """
    try:
        if not (path / MANIFEST).is_file():
            _check_unlisted(path)
            logger.info("%s has no digests, as an earlier version wrote it; its files can be read", path)
            return
        manifest = read_json(path / MANIFEST)
        files, step = manifest.get("files"), int(path.name.rsplit("-", 1)[1])
        if not isinstance(files, dict) or manifest.get("step") != step:
            raise DamagedError(f"{MANIFEST} is not that of step {step}")
        for name, expected in files.items():
            _check_file(path, name, expected)
        unlisted = [name for name in _files(path) if name not in files and name.endswith(_READ)]
        if unlisted := [name for name in unlisted if name != MANIFEST]:
            raise DamagedError(f"{', '.join(unlisted)} was not saved with it; remove it")
    except FileError as error:
        raise DamagedError(str(error)) from error
    except OSError as error:
        raise DamagedError(f"it cannot be read ({error})") from error
    there = manifest.get("settings")
    if settings is not None and there != settings:
        raise DamagedError(f"it is of another training: {_difference(there, settings)}")


def _check_file(path: Path, name: str, expected: Any) -> None:
    """Raises DamagedError unless a file is the one of the manifest."""
    file = path / name
    if not file.is_file():
        raise DamagedError(f"{name} is missing")
    if not isinstance(expected, dict) or file.stat().st_size != expected.get("size"):
        size = expected.get("size") if isinstance(expected, dict) else expected
        raise DamagedError(f"{name} has {file.stat().st_size:,} bytes, but was saved with {size}")
    if _digest(file) != expected.get("sha256"):
        raise DamagedError(f"{name} has changed since it was saved (its SHA-256 differs)")


def _difference(there: Any, here: Mapping[str, Any]) -> str:
    if not isinstance(there, dict):
        return f"{MANIFEST} has no settings"
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return ", ".join(f"{n} is {there.get(n, 'default')!r} there and {here.get(n, 'default')!r} here" for n in names)


def _check_unlisted(path: Path) -> None:
    """Raises DamagedError unless the parts of a checkpoint without a manifest are there and can be read; one changed
    bit of the weights is not seen."""
    state, step = read_json(path / STATE), int(path.name.rsplit("-", 1)[1])
    try:
        found = TrainerState(**state).global_step
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{STATE} is not the Trainer's ({error})") from error
    if found != step or not isinstance(state.get("log_history"), list):
        raise DamagedError(f"{STATE} is not that of step {step}")
    names = _files(path)
    for part in _PARTS:
        if not any(name.startswith(part) for name in names):
            raise DamagedError(f"{part}.* is missing")
    if not any(name.endswith((".safetensors", ".distcp")) or "fsdp" in name for name in names):
        raise DamagedError("it has no *.safetensors")
    for name in names:
        try:
            if name.endswith(".safetensors"):
                with safe_open(path / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 (not a mapping)
                        file.get_slice(key).get_shape()
            elif name.endswith((".pt", ".pth")):
                _check_archive(path / name)
        except OSError:
            raise
        except Exception as error:  # each library has its own
            raise DamagedError(f"{name} cannot be read ({' '.join(str(error).split())[:200]})") from error


def _check_archive(file: Path) -> None:
    """Raises an error unless a file of torch.save is whole, by its checksums, and holds tensors and numbers alone."""
    with zipfile.ZipFile(file) as archive:
        if (bad := archive.testzip()) is not None:
            raise DamagedError(f"the checksum of {bad} differs")
    with safe_globals():
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def finish(made: Path, final: Path, settings: Mapping[str, Any]) -> None:
    """Gives a checkpoint that the Trainer has written its manifest, and its place.

    Args:
        made: the folder that was written.
        final: its place; a checkpoint there is replaced.
        settings: what the training is.
    """
    flush(made)
    files = {name: {"size": (made / name).stat().st_size, "sha256": _digest(made / name)} for name in _files(made)}
    step = int(final.name.rsplit("-", 1)[1])
    write_json(made / MANIFEST, {"schema_version": 1, "step": step, "settings": settings, "files": files})
    replace_folder(made, final)


def remove_old(folder: Path, step: int, limit: int | None, damaged: frozenset[int] = frozenset()) -> None:
    """Removes checkpoints before a step's, which has just been saved, but for the newest `limit` with its own.

    Their order is that of their steps: a clock that was set back makes no newer one older.

    Args:
        folder: of the checkpoints.
        step: of the newest one.
        limit: how many are kept; None: all.
        damaged: steps of checkpoints that training could not resume from; removed too.
    """
    earlier = [(number, path) for number, path in _steps(folder) if number < step and number not in damaged]
    kept = len(earlier) if limit is None else max(0, limit - 1)
    unwanted = [path for number, path in _steps(folder) if number in damaged and number != step]
    unwanted += [path for _, path in earlier[: len(earlier) - kept]]
    for path in unwanted:
        (path / MANIFEST).unlink(missing_ok=True)
        (path / STATE).unlink(missing_ok=True)  # half removed, it is no checkpoint of an earlier version
        shutil.rmtree(path, ignore_errors=True)


def steps_after(folder: Path, step: int) -> frozenset[int]:
    """The steps of checkpoints after the one that training resumes from: none of them is whole."""
    return frozenset(number for number, _ in _steps(folder) if number > step)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder, whole or not, in the order of their steps."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted((int(name[1]), path) for name, path in found if name)


def _files(folder: Path) -> list[str]:
    """The files below a folder, by their paths in it; hidden ones are not a checkpoint's."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if not name.startswith(".")]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
