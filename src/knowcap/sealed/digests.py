"""SHA-256 of files, and the list of a folder's files that a result records beside them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from knowcap.files import FileError
from knowcap.sealed.repair import repair


FILES = "files"  # in a result: SHA-256 of each file of its folder, by name
SEAL = b"knowcap.sha256"  # the key of a Parquet file's own digest, in its footer
BLANK = b"0" * 64
_LENGTH = bytes([0x18, len(BLANK)])  # Thrift: a field of binary type, and the number of its bytes
_FOOTER_END = 8  # the footer's length and the magic number
_PIECE = 1 << 20
_SETTLED = 2_000_000_000  # nanoseconds: a file may change twice within one tick of the clock that dates it


def digest_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a sealed Parquet file, that of its bytes with a blank seal, which is
    its seal if it is undamaged. Hashed once as long as the file does not change.
    """
    return _hashed(path)[0]


def seal_of(path: Path) -> tuple[str, str | None]:
    """A file's `digest_of`, and the seal in a Parquet file's footer; None if it has none."""
    return _hashed(path)


def files_of(folder: Path, without: Collection[str] = ()) -> dict[str, str]:
    """The digest of every file directly in a folder, by name, hidden ones and those in `without` left out."""
    paths = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name not in without]
    return {path.name: digest_of(path) for path in sorted(paths)}


def check_files(folder: Path, recorded: Mapping[str, Any] | None, source: str) -> None:
    """Checks that a folder's files are those that a result recorded; nothing to check in results without a record.

    Args:
        folder: of the files.
        recorded: digests by file name.
        source: the name of the result, for the message.

    Raises:
        FileError: a file is missing or differs.
    """
    for name, digest in (recorded or {}).items():
        path = folder / name
        if not path.is_file():
            raise FileError(f"{path} is missing, but {source} lists it; {repair(path)}")
        if (found := digest_of(path)) != digest:
            raise FileError(
                f"{path} is not the file that {source} was written with: its SHA-256 is {found[:16]}…, expected "
                f"{str(digest)[:16]}…; {repair(path)}"
            )


def blank_seal_at(file: BinaryIO, size: int) -> int | None:
    """Where the 64 characters of a Parquet file's seal begin; None in a file without one."""
    if size < _FOOTER_END + len(BLANK):
        return None
    file.seek(size - _FOOTER_END)
    length = int.from_bytes(file.read(4), "little") + _FOOTER_END
    if file.read(4) != b"PAR1" or length > size:
        return None
    file.seek(size - length)
    at = file.read(length).rfind(SEAL + _LENGTH)
    return None if at < 0 else size - length + at + len(SEAL + _LENGTH)


def _hashed(path: str | Path) -> tuple[str, str | None]:
    status = os.stat(path)
    is_new = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED
    hashed = _hash.__wrapped__ if is_new else _hash
    return hashed(str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=8192)
def _hash(path: str, inode: int, size: int, changed: int, status_changed: int) -> tuple[str, str | None]:
    """The digest of a file in the state that the other arguments name, and its seal."""
    with Path(path).open("rb") as file:
        at = blank_seal_at(file, size) if path.endswith((".parquet", ".partial")) else None
        file.seek(0)
        if at is None:
            return hashlib.file_digest(file, "sha256").hexdigest(), None
        digest, left = hashlib.sha256(), at
        while left and (piece := file.read(min(_PIECE, left))):
            digest.update(piece)
            left -= len(piece)
        seal = file.read(len(BLANK)).decode("latin-1")
        digest.update(BLANK)
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest(), seal
