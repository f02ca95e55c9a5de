"""Values of YAML and of the command line as the types of recipe keys."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any


def convert(value: Any, hint: Any) -> Any:
    """A YAML or command-line value as the type of its key, whether it comes as text (`1e-3`, `[8, 4]`, `null`) or not.

    Raises:
        ValueError: says what was expected.
    """
    for kind in (int, str):
        if hint == tuple[kind, ...]:
            return tuple(convert(item, kind) for item in _items(value))
    kind = next(k for k in (bool, int, float, str) if hint in (k, k | None))
    text = "" if value is None or isinstance(value, (list, dict)) else str(value).strip()
    if hint == kind | None and (value is None or text.lower() in ("null", "none", "~")):
        return None
    if kind is str and text:
        return text
    if kind is bool and text.lower() in ("true", "yes", "on", "false", "no", "off"):
        return text.lower() in ("true", "yes", "on")
    if kind is int and re.fullmatch(r"[+-]?\d[\d_]*", text):
        return int(text)
    number = _number(text)
    if kind is float and math.isfinite(number):
        return number
    if kind is int and number.is_integer():
        return int(number)
    expected = {str: "text", bool: "true or false", int: "a whole number such as 1000", float: "a number such as 1e-3"}
    raise ValueError(f"expected {expected[kind]}{'' if hint == kind else ' or null'}")


def _items(value: Any) -> Sequence[Any]:
    """`[8, 4]`, `8,4`, `8`, `[]` and `null` as the items that they list."""
    if isinstance(value, (list, tuple)):
        return value
    text = "" if value is None or str(value).lower() in ("null", "none") else str(value)
    return [item for item in re.split(r"[,\s]+", text.strip("[] ")) if item]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
