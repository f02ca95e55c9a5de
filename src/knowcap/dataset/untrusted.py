"""Data set folders that others made: only files of the folder itself, and sizes checked before they are read."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from knowcap.dataset.folder import DatasetError


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

MOST_TEXT_BYTES = 64 << 20  # of knowledge.json, and of one value list
MOST_BYTES = 2 << 30  # of a row group, decompressed; and of a small file with every repeated value written out
MOST_RATIO = 200  # of a whole file's decompressed bytes to its own; zstd makes ordinary texts 3 to 20 times smaller
MOST_REPEATED_ROWS = 1_000_000  # of a row group with less than one byte a row
_SMALL_FILE = 4 << 20  # bytes, up to which a file's repeated values are counted
_FIX = "write it again in smaller row groups, or leave it out"


def files_within(folder: Path) -> tuple[str, ...]:
    """The paths within a folder of its files, sorted, without hidden ones.

    A link to a file may lead to another place of the folder, or, in a snapshot of huggingface_hub's cache, to the
    cache's own files.

    Raises:
        DatasetError: a link leaves the folder, leads to a folder or nowhere; or something is no file, such as a pipe.
    """
    root = folder.resolve()
    places = [root]
    if root.parent.name == "snapshots":
        places.append(root.parents[1] / "blobs")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (name for name in folders if (Path(place) / name).is_symlink()):
            raise DatasetError(f"{Path(place) / name} is a link to a folder; copy the folder there instead")
        for name in files:
            if not name.startswith("."):
                _check_file(Path(place) / name, places)
                found.append((Path(place).relative_to(folder) / name).as_posix())
    return tuple(sorted(found))


def _check_file(path: Path, places: list[Path]) -> None:
    """Raises DatasetError unless the path is a regular file within one of the places."""
    try:
        target = path.resolve(strict=True)
        kind = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise DatasetError(f"{path} is a link that leads nowhere; remove it") from error
    if path.is_symlink() and not any(target.is_relative_to(place) for place in places):
        raise DatasetError(f"{path} is a link that leaves the folder; copy the file there instead, or remove the link")
    if not stat.S_ISREG(kind):
        raise DatasetError(f"{path} is no regular file; remove it")


def check_text_size(path: Path) -> None:
    """Raises DatasetError if a file that is read whole is larger than MOST_TEXT_BYTES."""
    size = path.stat().st_size
    if size > MOST_TEXT_BYTES:
        raise DatasetError(f"{path} has {size / 1e6:,.0f} MB, expected at most {MOST_TEXT_BYTES / 1e6:,.0f} MB")


def check_parquet(path: Path) -> None:
    """Checks, from its metadata, that a Parquet file takes ordinary memory when it is read.

    Of files of up to 4 MB the repeated values, which take no space in the file, are counted as well; larger ones are
    trusted to hold what they declare.

    Raises:
        DatasetError: it is no Parquet file, or unfolds to more than a row group, or a file, may.
    """
    status = path.stat()
    _check_parquet(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _check_parquet(path: Path, size: int, _: int) -> None:
    try:
        metadata = pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        total += group.total_byte_size
        if group.total_byte_size > MOST_BYTES:
            raise DatasetError(_unfolds(path, number, group.total_byte_size, MOST_BYTES))
        if group.num_rows > max(MOST_REPEATED_ROWS, group.total_byte_size):
            raise DatasetError(
                f"{path}: row group {number} has {group.num_rows:,} rows in {group.total_byte_size:,} bytes, so its "
                f"rows are the same; expected different ones: {_FIX}"
            )
    if total > max(MOST_BYTES, MOST_RATIO * size):
        raise DatasetError(_unfolds(path, None, total, max(MOST_BYTES, MOST_RATIO * size)))
    if size <= _SMALL_FILE:
        try:
            _check_repeated(path, metadata)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def _check_repeated(path: Path, metadata: Any) -> None:
    """Raises DatasetError if the texts of a file, with every repetition, have more than MOST_BYTES."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    texts = [
        (number, column)
        for number, group in enumerate(groups)
        for column in map(group.column, range(group.num_columns))
        if column.physical_type == "BYTE_ARRAY"
    ]
    # If all values were as long as all distinct ones together.
    if sum(column.num_values * column.total_uncompressed_size for _, column in texts) <= MOST_BYTES:
        return
    total = 0
    for number, column in texts:
        name = column.path_in_schema
        with pq.ParquetFile(path, read_dictionary=[name]) as file:
            read = file.read_row_group(number, columns=[name])
        total += sum(_length(chunk) for chunk in read.column(0).chunks)
        if total > MOST_BYTES:
            raise DatasetError(_unfolds(path, number, total, MOST_BYTES))


def _length(values: Any) -> int:
    """The bytes of all texts of an array, within lists and structs, without writing repeated ones out."""
    if isinstance(values, pa.DictionaryArray):
        lengths = pc.binary_length(values.dictionary)
        return pc.sum(pc.cast(pc.take(lengths, values.indices), pa.int64())).as_py() or 0
    if isinstance(values, pa.StructArray):
        return sum(_length(field) for field in values.flatten())
    if isinstance(values, (pa.ListArray, pa.LargeListArray)):
        return _length(values.flatten())
    return values.nbytes


def _unfolds(path: Path, group: int | None, found: int, most: int) -> str:
    where = "it" if group is None else f"row group {group}"
    return (
        f"{path}: {where} unfolds to {found / 1e9:,.1f} GB from {path.stat().st_size / 1e6:,.2f} MB, expected at most "
        f"{most / 1e9:,.1f} GB: {_FIX}"
    )
