"""The knowledge stage of a recipe with a `dataset_name`: a checked copy of the data set in the run folder, and checks
that it is still the same data set when the run is resumed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.dataset.contract import check_contract
from knowcap.dataset.folder import DatasetError, check_manifest, has_config
from knowcap.dataset.head import Head
from knowcap.dataset.holdout import hold_out
from knowcap.dataset.source import DATA, HEAD, WHOLE, Source, find_source
from knowcap.facts import FactError
from knowcap.files import read_json, whole_folder, write_json
from knowcap.progress import progress_bar
from knowcap.recipe import RENDERING_KEYS, Recipe


logger = logging.getLogger(__name__)

RECORD = ".source.json"  # hidden, so it is not published with the folder: it may have a local path
_PIECE = 1 << 24  # bytes copied at a time
_FIX = "choose another run_name or pass --overwrite_output_dir"


def import_dataset(recipe: Recipe, folder: Path) -> Path:
    """Copies the recipe's data set to `folder`, whole or not at all, unless the folder exists.

    Raises:
        DatasetError: the data set cannot be fetched, breaks the contract, or is not the one in `folder`.
    """
    record = read_record(folder)
    if folder.exists():
        _check_same(recipe, folder, record)
        return folder
    source = find_source(recipe.dataset_name or "", recipe.dataset_revision)
    made_from = source.fetch(*WHOLE)
    with whole_folder(folder) as made:
        _copy(made_from, made, source)
        check_folder(made, source.name)
        record = {key: getattr(recipe, key) for key in ("dataset_name", "dataset_revision")}
        record |= {"commit": source.commit, "holdout_entities": recipe.holdout_entities, "held_out": {}}
        for path in hold_out(made, recipe):
            original = made_from / path
            record["held_out"][path] = _digest(original).hex() if original.is_file() else None
        write_json(made / RECORD, record)
    _warn_of_differences(recipe, folder)
    return folder


def read_record(folder: Path) -> dict[str, Any] | None:
    """The data set that a run's folder is a copy of; None if it is no copy.

    Keys: dataset_name, dataset_revision, commit, holdout_entities; `held_out`, the files that differ from the data
    set's since entities were held out, with the SHA-256 of the original, None for a file that it does not have.
    """
    file = folder / RECORD
    return read_json(file) if file.is_file() else None


def published_source(folder: Path) -> dict[str, str | None]:
    """The source of `folder` for a model's files; of an absolute path only the last part."""
    record = read_record(folder) or {}
    name = record.get("dataset_name") or ""
    if Path(name).expanduser().is_absolute():
        name = Path(name).name
    return {"dataset_name": name, "dataset_revision": record.get("commit")}


def has_held_out(folder: Path) -> bool:
    """Whether entities were held out of a run's copy of a data set."""
    return bool((read_record(folder) or {}).get("held_out"))


def source_of(recipe: Recipe) -> Source:
    """Where the recipe's data set can be read: the run's own copy if it exists, otherwise its source.

    Raises:
        DatasetError: it cannot be fetched.
    """
    folder = recipe.run_dir / "knowledge"
    record = read_record(folder)
    if record is not None and _asks_for(recipe, record):
        here = find_source(str(folder))
        return Source(str(recipe.dataset_name), None, folder, here.files)
    return find_source(recipe.dataset_name or "", recipe.dataset_revision)


def sample_folder(recipe: Recipe, source: Source) -> Path:
    """The folder with the head of the data set and a sample of it: one file, or a whole table."""
    config = "biographies" if recipe.dataset_texts == "published" else "people"
    wanted = source.paths(f"{config}/train-*.parquet")[:1]
    whole = ["people/*.parquet"] if Head.of(source.fetch(*HEAD, quiet=True)).kind == "table" else []
    return source.fetch(*HEAD, *wanted, *whole, quiet=True)


def check_folder(folder: Path, name: str) -> None:
    """Checks that a data set folder has all its files, and that they meet the contract.

    Raises:
        DatasetError: names the file and the problem.
    """
    try:
        knowledge = Head.of(folder).knowledge
        for config in sorted(path.parent for path in folder.glob("*/*-of-*.parquet")):
            _check_all_there(config)
        files = sorted((folder / "biographies").glob("train-*.parquet"))
        if not files:
            raise FactError("it has no biographies/train-*.parquet")
        check_manifest(folder)
        check_contract(folder, knowledge)
        if has_config(folder, "neutral"):
            neutral = replace(knowledge, bound=True, missing_texts=0)
            check_contract(folder, neutral, ("neutral", "neutral_control"))
    except (ValueError, OSError, TypeError) as error:
        raise DatasetError(f"dataset_name={name!r} does not meet the contract of data sets: {error}") from error


def _check_all_there(config: Path) -> None:
    """Checks that no file of a split is missing; the file names have the number of files."""
    counts: Counter[tuple[str, int]] = Counter()
    for path in config.glob("*.parquet"):
        found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.parquet", path.name)
        if found:
            counts[found[1], int(found[2])] += 1
    for (split, expected), count in counts.items():
        if count != expected:
            raise FactError(f"{config.name} has {count} of the {expected} files of its split {split!r}")


def _asks_for(recipe: Recipe, record: dict[str, Any]) -> bool:
    return all(record.get(key) == getattr(recipe, key) for key in ("dataset_name", "dataset_revision"))


def _check_same(recipe: Recipe, folder: Path, record: dict[str, Any] | None) -> None:
    """Raises DatasetError if the folder is no copy of the recipe's data set as it is now.

    A repo of the Hub is used at the commit at which it was fetched, also if its branch has changed since.
    """
    if record is None or not _asks_for(recipe, record):
        made = "by knowcap itself" if record is None else f"of {record['dataset_name']} {record['dataset_revision']}"
        raise DatasetError(f"{folder} was made {made}, not of dataset_name={recipe.dataset_name!r}; {_FIX}")
    if record.get("holdout_entities", recipe.holdout_entities) != recipe.holdout_entities:
        raise DatasetError(
            f"{folder} was made with holdout_entities={record['holdout_entities']}, the recipe has "
            f"{recipe.holdout_entities}; {_FIX}"
        )
    original, held_out = Path(recipe.dataset_name or "").expanduser(), record.get("held_out", {})
    if record["commit"] is not None:
        logger.info("%s is %s at commit %s", folder, recipe.dataset_name, record["commit"])
    elif original.is_dir():
        source = find_source(str(original))
        for path in sorted({*source.paths(*DATA), *find_source(str(folder)).paths(*DATA)}):
            if path in held_out:
                same = held_out[path] is None or _digest(original / path).hex() == held_out[path]
            else:
                same = _same(original / path, folder / path)
            if not same:
                raise DatasetError(f"{original / path} has changed since {folder} was copied from it; {_FIX}")


def _same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()) or one.stat().st_size != other.stat().st_size:
        return False
    if one.stat().st_mtime_ns == other.stat().st_mtime_ns:  # the copy has the time of its original
        return True
    return _digest(one) == _digest(other)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _copy(folder: Path, made: Path, source: Source) -> None:
    """Copies a folder; files of the Hub's cache, which never change, are hard-linked if possible."""
    files = [(folder / path, made / path) for path in source.paths(*WHOLE)]
    total = sum(original.stat().st_size for original, _ in files)
    with progress_bar(total=total, desc="copying", unit="B", unit_scale=True, leave=False, delay=2) as bar:
        for original, copy in files:
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.commit is None or not _linked(original.resolve(), copy):
                with original.open("rb") as read, copy.open("wb") as written:
                    while piece := read.read(_PIECE):
                        written.write(piece)
                        bar.update(len(piece))
                shutil.copystat(original, copy)


def _linked(original: Path, copy: Path) -> bool:
    try:
        os.link(original, copy)
    except OSError:  # another file system
        return False
    return True


def _warn_of_differences(recipe: Recipe, folder: Path) -> None:
    """Logs where the recipe renders its people differently from the data set's texts, which are scored."""
    original = Head.of(folder).recipe
    if original is None or recipe.dataset_texts == "published":
        return
    for key in RENDERING_KEYS:
        trained, scored = getattr(recipe, key), getattr(original, key)
        if trained != scored:
            logger.warning(
                "the training texts have %s: %s, but the texts of the data set, which are scored, have %s",
                key, trained, scored,
            )  # fmt: skip
