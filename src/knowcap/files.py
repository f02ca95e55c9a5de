"""Stage outputs appear whole or not at all: they are made under another name and renamed at the end."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from knowcap.recipe import RecipeError


logger = logging.getLogger(__name__)

RECIPE_FILE, LOCK_FILE = "recipe.yaml", ".lock"
_MAKE_AGAIN = "delete it and run the command that makes it again"


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `final` when the block ends without an error; what a killed run left under the
    temporary name is removed first."""
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    replace_folder(partial, final)


def replace_folder(made: Path, final: Path) -> None:
    """Puts a finished folder in its place; one that is there already goes only once the new one is whole."""
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        made.rename(final)
        shutil.rmtree(old)
    else:
        made.rename(final)


@contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """A file to write, renamed to `final` when the block ends without an error."""
    partial = final.with_name(f".{final.name}.partial")
    partial.unlink(missing_ok=True)
    yield partial
    partial.replace(final)


class FileError(ValueError):
    """A file that is not what knowcap writes there; the message names the file and what was expected."""


def write_json(path: Path, content: Mapping[str, Any], allow_nan: bool = False) -> None:
    """Writes a JSON object, whole or not at all.

    Raises:
        ValueError: a number is NaN or infinite, unless `allow_nan`.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=allow_nan) + "\n"
    with whole_file(path) as made:
        made.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        OSError: the file cannot be read.
        FileError: it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"{path} is not valid JSON ({error}); {_MAKE_AGAIN}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path}: expected a JSON object, got {type(content).__name__}; {_MAKE_AGAIN}")
    return content


@contextmanager
def locked(run_dir: Path, patience: float = math.inf) -> Iterator[None]:
    """Keeps other commands waiting for a run folder, for as long as this process or one that it launched is alive.

    So a command that was killed can be given again at once: what it launched ends its stage first.

    Args:
        run_dir: the run folder, made if need be.
        patience: seconds to wait for another command.

    Raises:
        RecipeError: another command still works there after that time.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / LOCK_FILE).open("a+")
    except OSError as error:
        raise RecipeError([not_writable(run_dir, error)], run_dir) from error
    with lock as file:
        os.set_inheritable(file.fileno(), True)
        began, told = time.monotonic(), False
        while not _flock(file):
            file.seek(0)
            busy = f"process {file.read().strip() or 'unknown'}, or one that it started, is at work there"
            if time.monotonic() - began >= patience:
                raise RecipeError([f"{busy}; wait for it or end it (`fuser {file.name}` finds it)"], run_dir)
            if not told:
                logger.warning("%s: %s; waiting for it (`fuser %s` finds it)", run_dir, busy, file.name)
            told = True
            time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _flock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def not_writable(path: Path, why: object) -> str:
    """The message for a folder that cannot be written."""
    return f"output_dir: {path} can't be written ({why}); choose another output_dir or change its permissions"
