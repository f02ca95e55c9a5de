"""Stage outputs appear whole or not at all: they are made under another name and renamed at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
