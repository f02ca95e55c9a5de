"""Text files with a comment as their last line that has the SHA-256 of the lines above: a run folder's recipe.yaml."""

from __future__ import annotations

import hashlib
from pathlib import Path

from knowcap.files import FileError
from knowcap.sealed.repair import repair


_COMMENT = "# SHA-256 of the lines above: "


def sealed_text(text: str) -> str:
    """A text of whole lines with its digest."""
    return f"{text}{_COMMENT}{_digest(text)}\n"


def check_text(path: Path) -> None:
    """Checks that a text is as it was written; one without a digest is that of an earlier version, or of a user.

    Raises:
        FileError: it was changed or emptied, or cannot be read.
    """
    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read ({error}); {repair(path)}") from error
    if not whole.strip():
        raise FileError(f"{path} is empty; {repair(path)}")
    text, found, digest = whole.rpartition(_COMMENT)
    if found and digest.strip() != _digest(text):
        raise FileError(
            f"{path} was changed after it was written: the SHA-256 of its lines is {_digest(text)[:16]}…, expected "
            f"{digest.strip()[:16]!r}… as in its last line; {repair(path)}, or remove the last line if the change is "
            "meant"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
