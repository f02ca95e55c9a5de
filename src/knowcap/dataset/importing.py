"""The knowledge stage of a recipe with a `dataset_name`: the data set in the run folder, whole, checked, and the same
when the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.head import Head
from knowcap.dataset.source import DATA, HEAD, WHOLE, Source, find_source
from knowcap.facts import FactError, Knowledge, Row, Span, check_row
from knowcap.files import whole_folder
from knowcap.recipe import Recipe


logger = logging.getLogger(__name__)

RECORD = ".source.json"  # hidden, so that it is not published with the folder: it may hold a path of this machine
_SAMPLED_FILES, _SAMPLED_ROWS = 8, 200
_PIECE = 1 << 24  # bytes copied at a time
_MEND = "choose another run_name or pass --overwrite_output_dir"
_TEXT_KEYS = ("num_templates", "fixed_renderings", "permute")


def import_dataset(recipe: Recipe, folder: Path) -> Path:
    """Makes `folder` of the recipe's data set, whole or not at all, unless it is there.

    Raises:
        DatasetError: the data set can't be had, breaks the contract, or is another one than `folder` was made of.
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
        record = {key: getattr(recipe, key) for key in ("dataset_name", "dataset_revision")} | {
            "commit": source.commit
        }
        (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _tell_differences(recipe, folder)
    return folder


def read_record(folder: Path) -> dict[str, str | None] | None:
    """Which data set a run's folder was made of: dataset_name, dataset_revision, commit; None where it wasn't."""
    file = folder / RECORD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def published_source(folder: Path) -> dict[str, str | None]:
    """What a model's files may say of where `folder` came from; of a path from the root, its last part."""
    record = read_record(folder) or {}
    name = record.get("dataset_name") or ""
    if Path(name).expanduser().is_absolute():
        name = Path(name).name
    return {"dataset_name": name, "dataset_revision": record.get("commit")}


def source_of(recipe: Recipe) -> Source:
    """Where the recipe's data set can be read: the run's own copy if it is there, or else its source.

    Raises:
        DatasetError: it can't be had.
    """
    folder = recipe.run_dir / "knowledge"
    record = read_record(folder)
    if record is not None and _asks_for(recipe, record):
        here = find_source(str(folder))
        return Source(str(recipe.dataset_name), None, folder, here.files)
    return find_source(recipe.dataset_name or "", recipe.dataset_revision)


def sample_folder(recipe: Recipe, source: Source) -> Path:
    """Where the head of the data set lies, with enough of it to look at a sample: a file, or a whole table."""
    config = "biographies" if recipe.dataset_texts == "published" else "people"
    wanted = source.paths(f"{config}/train-*.parquet")[:1]
    whole = ["people/*.parquet"] if Head.of(source.fetch(*HEAD, quiet=True)).kind == "table" else []
    return source.fetch(*HEAD, *wanted, *whole, quiet=True)


def check_folder(folder: Path, name: str) -> None:
    """Holds a data set folder to the contract: its files are all there, and a sample of its rows.

    Raises:
        DatasetError: says what is wrong with which file.
    """
    try:
        knowledge = Head.of(folder).knowledge
        for config in sorted(path.parent for path in folder.glob("*/*-of-*.parquet")):
            _check_all_there(config)
        files = sorted((folder / "biographies").glob("train-*.parquet"))
        if not files:
            raise FactError("it has no biographies/train-*.parquet")
        for number in np.unique(np.linspace(0, len(files) - 1, _SAMPLED_FILES).astype(int)):
            for row in _rows(files[number], knowledge):
                check_row(row, knowledge)
    except (ValueError, OSError, TypeError) as error:
        raise DatasetError(f"dataset_name={name!r} breaks the contract of data sets: {error}") from error


def _check_all_there(config: Path) -> None:
    """Every split's files are numbered, out of how many: none may be missing."""
    there: Counter[tuple[str, int]] = Counter()
    for path in config.glob("*.parquet"):
        found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.parquet", path.name)
        if found:
            there[found[1], int(found[2])] += 1
    for (split, expected), count in there.items():
        if count != expected:
            raise FactError(f"{config.name} has {count} of the {expected} files of its split {split!r}")


def _rows(file: Path, knowledge: Knowledge) -> Iterator[Row]:
    """The first rows of a file of biographies."""
    columns = (knowledge.entity_column, "exposure", "text", "spans")
    parquet = pq.ParquetFile(file)
    lacking = [name for name in columns if name not in parquet.schema_arrow.names]
    if lacking:
        raise FactError(f"biographies/{file.name} lacks the columns {', '.join(lacking)}")
    for batch in parquet.iter_batches(batch_size=_SAMPLED_ROWS, columns=list(columns)):
        for row in batch.to_pylist():
            spans = tuple(Span(s["attribute"], s["start"], s["end"]) for s in row["spans"])
            yield Row(row["text"], spans, row[knowledge.entity_column])
        return


def _asks_for(recipe: Recipe, record: dict[str, str | None]) -> bool:
    return all(record.get(key) == getattr(recipe, key) for key in ("dataset_name", "dataset_revision"))


def _check_same(recipe: Recipe, folder: Path, record: dict[str, str | None] | None) -> None:
    """Raises DatasetError where the folder was made of something else than the recipe's data set is now.

    A repo on the Hub is taken at the commit that it was fetched at, whatever its branch has become since.
    """
    if record is None or not _asks_for(recipe, record):
        was = "by knowcap itself" if record is None else f"of {record['dataset_name']} {record['dataset_revision']}"
        raise DatasetError(f"{folder} was made {was}, not of dataset_name={recipe.dataset_name!r}; {_MEND}")
    there = Path(recipe.dataset_name or "").expanduser()
    if record["commit"] is not None:
        logger.info("%s is %s at commit %s", folder, recipe.dataset_name, record["commit"])
    elif there.is_dir():
        source = find_source(str(there))
        for path in sorted({*source.paths(*DATA), *find_source(str(folder)).paths(*DATA)}):
            if not _same(there / path, folder / path):
                raise DatasetError(f"{there / path} has changed since {folder} was made of it; {_MEND}")


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
    """Copies a folder; of the Hub's cache, whose files never change, hard links are made where that can be."""
    files = [(folder / path, made / path) for path in source.paths(*WHOLE)]
    total = sum(original.stat().st_size for original, _ in files)
    with tqdm(total=total, desc="copying", unit="B", unit_scale=True, leave=False, delay=2) as bar:
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


def _tell_differences(recipe: Recipe, folder: Path) -> None:
    """The texts that are scored are the data set's; a recipe may tell its people otherwise."""
    shape = Head.of(folder).shape
    if shape is None or recipe.dataset_texts == "published":
        return
    for key in _TEXT_KEYS:
        told, scored = getattr(recipe, key), getattr(shape, key)
        if told != scored:
            logger.warning("trained texts have %s: %s, the data set's, which are scored, %s", key, told, scored)
