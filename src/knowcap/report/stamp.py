"""Stamps of plots and pages: a file is made again only when what it shows, the code or the file itself has changed.

A stamp has two digests: of what the file shows together with this package's code, and of the file without its stamp.
It is a comment at the end of a PDF, SVG or HTML file, and a text chunk of a PNG file.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from knowcap.files import whole_file
from knowcap.provenance import __version__


_DIGEST = 64  # characters
_COMMENTS = {".pdf": ("%knowcap ", "\n"), ".svg": ("<!--knowcap ", "-->\n"), ".html": ("<!--knowcap ", "-->\n")}
PNG_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_PNG_KEY = b"knowcap\0"


def make_stamped(files: Sequence[Path], shows: Any, make: Callable[[], Any]) -> bool:
    """Calls `make`, which writes the files, unless each of them is whole and was made of the same by the same code.

    Args:
        files: PNG, PDF, SVG or HTML files.
        shows: all that the files depend on, as JSON; numbers may be NaN.
        make: writes all of them, without stamps.

    Returns:
        whether they were made.
    """
    text = json.dumps(shows, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{_code()} {text}".encode()).hexdigest()
    if all(_is_whole(file, digest) for file in files):
        return False
    make()
    for file in files:
        content = file.read_bytes()
        with whole_file(file) as stamped:
            stamped.write_bytes(_with_stamp(file.suffix, content, digest + hashlib.sha256(content).hexdigest()))
    return True


def _is_whole(path: Path, digest: str) -> bool:
    """Whether a file has the stamp of `digest`, and is otherwise as it was made."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    size = len(_with_stamp(path.suffix, b"", "0" * 2 * _DIGEST))
    end = PNG_END if path.suffix == ".png" else b""
    plain = content[: -size - len(end)] + end if path.suffix == ".png" else content[:-size]
    return content == _with_stamp(path.suffix, plain, digest + hashlib.sha256(plain).hexdigest())


def _with_stamp(suffix: str, content: bytes, stamp: str) -> bytes:
    if suffix != ".png":
        before, after = _COMMENTS[suffix]
        return content + f"{before}{stamp}{after}".encode()
    data = _PNG_KEY + stamp.encode()
    chunk = struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
    return content.removesuffix(PNG_END) + chunk + (PNG_END if content else b"")


@cache
def _code() -> str:
    """A digest of what draws: this folder's modules and templates, and the versions of knowcap and matplotlib."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".html", ".jinja"):
            digest.update(path.read_bytes())
    try:
        digest.update(metadata.version("matplotlib").encode())
    except metadata.PackageNotFoundError:
        pass  # without it, nothing is drawn
    return digest.hexdigest()
