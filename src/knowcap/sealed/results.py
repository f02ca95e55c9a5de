"""JSON results with a digest of their own content: an edited number, or a file of others, is found when it is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowcap.files import FileError, read_json, write_json
from knowcap.sealed.kinds import ANY_NUMBER, COUNT, FLAG, KINDS, NEEDED, TEXT, WHOLE
from knowcap.sealed.repair import repair


CONTENT_DIGEST = "content_digest"  # SHA-256 of all other keys, see `content_digest`

_SHOWN = 60  # characters of a value in a message


def content_digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object without its key `content_digest`, keys sorted, in hexadecimal."""
    read_again = json.loads(json.dumps(unsealed(content)))  # keys that are numbers have become texts
    text = json.dumps(read_again, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without its digest."""
    return {key: value for key, value in content.items() if key != CONTENT_DIGEST}


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest, as the last key."""
    return unsealed(content) | {CONTENT_DIGEST: content_digest(content)}


def write_result(path: Path, content: Mapping[str, Any], allow_nan: bool = False) -> None:
    """Writes a result with its digest, completely or not at all. Raises ValueError as `write_json` does."""
    write_json(path, with_digest(content), allow_nan)


def read_result(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A result without its digest. Results of earlier versions have none: of them only the keys are checked.

    Args:
        path: the JSON file; its name says what its keys hold (`knowcap.sealed.kinds`).
        needed: keys that must be there, besides those that every such file has.

    Raises:
        FileError: it is no JSON object, was changed after it was written, or a key is missing or holds something else.
    """
    content = read_json(path)
    check_content(path, content)
    check_keys(path, content, needed)
    return unsealed(content)


def check_keys(path: Path, content: Mapping[str, Any], needed: Sequence[str] = ()) -> None:
    """Raises FileError if a key is missing or holds something else; the arguments are those of `read_result`."""
    missing = [key for key in dict.fromkeys((*NEEDED.get(path.name, ()), *needed)) if key not in content]
    if missing:
        raise FileError(f"{path} lacks {', '.join(missing)}; expected a file that knowcap wrote: {repair(path)}")
    for key, kind in KINDS.get(path.name, {}).items():
        if key in content:
            _check(path, key, content[key], kind)


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Raises FileError if a result has a digest, and its content another."""
    recorded = content.get(CONTENT_DIGEST)
    if CONTENT_DIGEST in content and recorded != (found := content_digest(content)):
        raise FileError(
            f"{path} was changed after it was written: the SHA-256 of its content is {found[:16]}…, expected "
            f"{str(recorded)[:16]!r}…, its {CONTENT_DIGEST}; {repair(path)}"
        )


def _check(path: Path, name: str, value: Any, kind: Any) -> None:
    """Raises FileError unless a value is of a kind of `kinds`; `name` is its place in the file."""
    if isinstance(kind, tuple):
        kind = None if value is None else kind[0]
    if isinstance(kind, Mapping) and isinstance(value, dict):
        for key, item in value.items():
            _check(path, f"{name}.{key}", item, kind.get(key, kind.get("*")))
    elif isinstance(kind, list) and isinstance(value, list):
        for number, item in enumerate(value):
            _check(path, f"{name}.{number}", item, kind[0])
    elif kind is not None and (isinstance(kind, Mapping | list) or not _is(value, kind)):
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        expected = "an object" if isinstance(kind, Mapping) else "a list" if isinstance(kind, list) else kind
        raise FileError(f"{path}: {name} is {shown}, expected {expected}; {repair(path)}")


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind == FLAG or isinstance(value, bool):
        return kind == FLAG and isinstance(value, bool)
    if kind in (WHOLE, COUNT):
        return isinstance(value, int) and (kind == WHOLE or value >= 0)
    return isinstance(value, int | float) and (kind == ANY_NUMBER or math.isfinite(value))
