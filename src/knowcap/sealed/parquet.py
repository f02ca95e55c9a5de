"""Parquet files with a seal: in the footer stands the SHA-256 of the whole file, with the seal's own characters blank.

Pages have checksums too, which any reader of Parquet can verify. Both are checked before a row is used. A file without
a seal, written by others or by an earlier version, is read as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from knowcap.files import FileError
from knowcap.sealed.digests import BLANK, SEAL, blank_seal_at, digest_of, seal_of
from knowcap.sealed.repair import repair


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

_VERIFIED: dict[str, Any] = {"page_checksum_verification": True}


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Writes a Parquet file with page checksums, and seals it when the block ends without an error.

    Args:
        path: of the file.
        schema: of its rows.
        options: those of pyarrow's ParquetWriter.
    """
    with pq.ParquetWriter(path, schema, write_page_checksum=True, **options) as writer:
        yield writer
        writer.add_key_value_metadata({SEAL: BLANK})
    _seal(path)


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """Writes a table into a sealed Parquet file; `options` are those of pyarrow's ParquetWriter."""
    with parquet_writer(path, table.schema, **options) as writer:
        writer.write_table(table)


@contextmanager
def open_parquet(path: Path, **options: Any) -> Iterator[pq.ParquetFile]:
    """An open Parquet file whose seal is that of its content; errors in the block name it.

    Args:
        path: of the file.
        options: those of pyarrow's ParquetFile.

    Raises:
        FileError: it is no Parquet file, or was changed after it was written.
    """
    with _named(path):
        check_seal(path)
        with pq.ParquetFile(path, **_VERIFIED, **options) as file:
            yield file


def check_seal(path: Path) -> None:
    """Raises FileError if a Parquet file has a seal, and its content is another."""
    found, seal = seal_of(path)
    if seal is not None and seal != found:
        raise FileError(
            f"{path} is damaged or was changed after it was written: its SHA-256 is {found[:16]}…, expected "
            f"{seal[:16]!r}… as in its footer; {repair(path)}"
        )


def read_table(path: Path, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """The rows of a Parquet file, or some columns of them. Raises FileError as `open_parquet` does."""
    with open_parquet(path, **options) as file:
        table = file.read(columns=None if columns is None else list(columns))
        return table if columns is None else table.select([name for name in columns if name in table.column_names])


def batches(path: Path, columns: Sequence[str] | None = None, **options: Any) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in batches. Raises FileError as `open_parquet` does.

    Args:
        path: of the file.
        columns: only these.
        options: `batch_size`, as of pyarrow's iter_batches.
    """
    with open_parquet(path) as file:
        yield from file.iter_batches(columns=None if columns is None else list(columns), **options)


def read_schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file with its metadata. Raises FileError as `open_parquet` does."""
    with open_parquet(path) as file:
        return file.schema_arrow


def rows_in(path: Path) -> int:
    """The number of rows, by the file's footer alone. Raises FileError if there is none."""
    with _named(path):
        return pq.read_metadata(path).num_rows


def num_distinct(paths: Sequence[Path], column: str) -> int:
    """How many different values a column of several files has, nulls as one. Raises FileError as `open_parquet` does.

    Whole numbers in order, as most data sets have their entities, take no table of all values.
    """
    found = pa.chunked_array(
        [pc.unique(batch.column(0)) for path in paths for batch in batches(path, [column])] or [[]]
    )
    if pa.types.is_integer(found.type) and not found.null_count:
        numbers = found.to_numpy()
        if (numbers[1:] >= numbers[:-1]).all():
            return int(np.count_nonzero(numbers[1:] > numbers[:-1])) + bool(len(numbers))
    return len(pc.unique(found))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of pyarrow and of the system name the file, and what makes it again."""
    try:
        yield
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"{path} is missing; {repair(path)}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise FileError(
            f"{path} cannot be read ({why}), expected an undamaged Parquet file; {repair(path)}"
        ) from error


def _seal(path: Path) -> None:
    """Writes the digest of a file with a blank seal into its seal."""
    digest = digest_of(path).encode()
    with path.open("r+b") as file:
        at = blank_seal_at(file, path.stat().st_size)
        if at is None:
            raise FileError(f"{path} was written without a place for its seal; report this with pyarrow's version")
        file.seek(at)
        file.write(digest)
