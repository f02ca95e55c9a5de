"""Damages to the files of a folder, for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path


def flip(data: bytes, rng: random.Random) -> bytes:
    """One bit changed."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """A beginning of it."""
    return data[: rng.randrange(len(data))]


def emptied(data: bytes, rng: random.Random) -> bytes:
    """Nothing."""
    return b""


def foreign(data: bytes, rng: random.Random) -> bytes:
    """Valid JSON that is not ours, or no JSON at all."""
    return rng.choice(
        [
            b"[]",
            b"null",
            b"{}",
            b'"text"',
            b"7",
            b"NaN",
            b'{"a": [1, {"b": null}]}',
            b"[" * 100_000,
            b"\xff\xfe",
            b"PK",
        ]
    )


def edited(data: bytes, rng: random.Random) -> bytes:
    """A JSON object with another value of one of its keys: typed in, of another type, or removed."""
    try:
        content = json.loads(data)
    except ValueError:
        return flip(data, rng)
    if not isinstance(content, dict) or not content:
        return foreign(data, rng)
    place = content
    while True:
        key = rng.choice(sorted(place))
        if not (isinstance(place[key], dict) and place[key] and rng.random() < 0.7):
            break
        place = place[key]
    if rng.random() < 0.2:
        del place[key]
    else:
        number = place[key] if isinstance(place[key], (int, float)) else 1
        place[key] = rng.choice([number + 1, number * 1.5, str(number), None, [], {}, float("nan"), -number, 1e308])
    return json.dumps(content).encode()


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip,
    "cut": cut,
    "emptied": emptied,
    "foreign": foreign,
    "edited": edited,
}


def damage(path: Path, kind: str, rng: random.Random) -> bool:
    """Damages a file, or deletes it if `kind` is `deleted`; returns whether its bytes have changed."""
    data = path.read_bytes()
    path.unlink()
    if kind == "deleted":
        return True
    made = DAMAGES[kind](data, rng) if data else b""
    path.write_bytes(made)
    return made != data
