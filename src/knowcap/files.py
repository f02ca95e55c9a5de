"""Files and folders that appear complete or not at all, JSON files, and the locks of run folders."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import SoftFileLock, Timeout, lock_descriptor


logger = logging.getLogger(__name__)

# The files of run folders, model folders, data set folders and sweeps.
RECIPE_FILE, LOCK_FILE = "recipe.yaml", ".lock"
CORES_FILE = "cores.json"  # beside checkpoints
KNOWLEDGE_FILE, TRAINING_FILE, CAPACITY_FILE = "knowledge.json", "training.json", "capacity.json"
NLL_FILE, CONTROL_FILE, SWAPPED_FILE = "nll.parquet", "control.parquet", "control_swapped.parquet"
ADAPTER_FILE, QUANTIZATION_FILE = "adapter_config.json", "quantization.json"
TUNING_FILE, ANSWERS_FILE, EXTRACTION_FILE = "tuning.json", "answers.parquet", "extraction.json"
CONFIG_FILE = "config.json"  # of transformers
CARD_FILE, REPORT_FILE, REPORT_JSON_FILE, PAGE_FILE = "README.md", "report.md", "report.json", "report.html"
SWEEP_FILE, RESULTS_FILE, FRONTIER_FILE = "sweep.yaml", "results.parquet", "bits_vs_parameters.png"
CELLS_FILE = "cells.json"  # of a sweep's collected results
MEASURED = "measured"  # folder of results on other data sets than a run's own, and of models of others
SOFT_LOCK_FILE = ".lock.soft"  # where the file system has no locks of its own
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
# Of torch.save and of numpy, which do not give the system's reason.
_FAILED_WRITES = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error", "requested and")
_MAKE_AGAIN = "delete it and run the command that writes it again"


class WriteError(OSError):
    """A file or folder could not be written: a full disk, a lost folder; the message names it."""


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to fill, on the disk and renamed to `final` when the block ends without an error; what is left of an
    unfinished one is removed.

    Raises:
        WriteError: the disk is full, or the folder lost.
    """
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(final):
        partial.mkdir(parents=True)
        try:
            yield partial
            flush(partial)
            replace_folder(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def replace_folder(made: Path, final: Path) -> None:
    """Moves a finished folder, which is on the disk, to its final path; a folder already there is deleted only
    afterwards."""
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    made.rename(final)
    flush(final.parent, inside=False)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(final: Path, own: bool = False) -> Iterator[Path]:
    """A file to write, on the disk and renamed to `final` when the block ends without an error.

    Args:
        final: the file; one already there is replaced.
        own: whether several processes may write it at once; each then writes a partial file of its own.

    Raises:
        WriteError: the disk is full, or the folder lost.
    """
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial" if own else f".{final.name}.partial")
    with writing(final):
        partial.unlink(missing_ok=True)
        try:
            yield partial
            flush(partial)
            move(partial, final)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def move(made: Path, final: Path) -> None:
    """Renames a file that is on the disk, in place of one already there."""
    made.replace(final)
    flush(final.parent, inside=False)


def flush(path: Path, inside: bool = True) -> None:
    """Has the system write a file to the disk, or a folder with all that is in it: a rename after that survives a loss
    of power.

    Args:
        path: a file or a folder.
        inside: whether what is in the folder is written too, not only its list of names.
    """
    if path.is_dir() and inside:
        for folder, _, names in os.walk(path, topdown=False):
            for file in (Path(folder, name) for name in names):
                if not file.is_symlink():
                    _sync(file)
            _sync(Path(folder))
    else:
        _sync(path)


def _sync(path: Path) -> None:
    """fsync, where the file system has it."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)


@contextmanager
def writing(final: Path) -> Iterator[None]:
    """Errors of a full disk or a lost folder, which each library reports in its own way, become a WriteError."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if (problem := _write_problem(error, final)) is None:
            raise
        raise WriteError(
            f"{final} cannot be written: {problem}; correct this and run the same command again, it continues"
        ) from error


def _write_problem(error: Exception, final: Path) -> str | None:
    """Why something could not be written, if this is what the error is about."""
    code, text = error.errno if isinstance(error, OSError) else None, str(error)
    if code is None and (named := re.search(r"(?:os error|errno) (\d+)", text)):  # of tokenizers, safetensors, Arrow
        code = int(named[1])
    if code in _NOT_WRITTEN:
        return os.strerror(code)
    if not final.parent.is_dir():
        about = isinstance(error, OSError) or code is not None or "Parent directory" in text  # the last is torch's
        return f"the folder {final.parent} no longer exists" if about else None
    failed = any(words in text for words in _FAILED_WRITES)
    return "not all bytes were written, most often because the disk is full" if failed else None


class FileError(ValueError):
    """A file or folder that cannot be used; the message names it, and what was expected."""


def write_json(path: Path, content: Mapping[str, Any], allow_nan: bool = False) -> None:
    """Writes a JSON object, completely or not at all.

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
        FileError: it has no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of 5,000 digits; too deep
        raise FileError(f"{path} is not valid JSON ({error}); {_MAKE_AGAIN}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path}: expected a JSON object, got {type(content).__name__}; {_MAKE_AGAIN}")
    return content


@contextmanager
def locked(run_dir: Path, patience: float = math.inf) -> Iterator[None]:
    """Keeps other commands out of a run folder for as long as this process, or one that it launched, is alive.

    So a command that was killed can be repeated at once: the processes that it launched end their stage first. The
    lock is the operating system's, on a file that launched processes inherit. Where the file system has no such locks
    (some network disks), it is a file that exists while this process lives; launched processes do not inherit that.

    Args:
        run_dir: the run folder, made if it does not exist.
        patience: seconds to wait for another command.

    Raises:
        FileError: the folder cannot be written, or another command still works there after that time.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK_FILE).open("a+")
    except OSError as error:
        raise FileError(not_writable(run_dir, error)) from error
    with file:
        os.set_inheritable(file.fileno(), True)  # and closed, not unlocked, at the end: launched processes keep it
        soft = SoftFileLock(run_dir / SOFT_LOCK_FILE)
        acquire, kind = partial(lock_descriptor, file.fileno(), blocking=False), "hard lock"
        try:
            acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise FileError(not_writable(run_dir, error)) from error
            acquire, kind = partial(_acquire_soft, soft), "soft lock"
            logger.warning("%s: its file system has no locks (%s); using a soft lock", run_dir, error.strerror)
        _wait_for(acquire, run_dir, kind, patience)
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            soft.release()


def _wait_for(acquire: Callable[[], bool], run_dir: Path, kind: str, patience: float) -> None:
    """Tries a lock until it is acquired; names the process that holds it."""
    path, began, logged = run_dir / LOCK_FILE, time.monotonic(), False
    while not acquire():
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        busy = f"process {holder}, or one that it started, is at work there ({kind} {path})"
        if time.monotonic() - began >= patience:
            raise FileError(f"{run_dir}: {busy}; wait for it or end it (`fuser {path}` finds it)")
        if not logged:
            logger.warning("%s: %s; waiting for it (`fuser %s` finds it)", run_dir, busy, path)
        logged = True
        time.sleep(0.2)


def _acquire_soft(lock: SoftFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def not_writable(path: Path, why: object) -> str:
    """The message for a folder that cannot be written."""
    return f"output_dir: {path} cannot be written ({why}); choose another output_dir or change its permissions"
