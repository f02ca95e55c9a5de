"""Large numbers as people write and read them. Standard library alone."""

from __future__ import annotations

import math
import re
from typing import Any

from knowcap import recipe_file


_NAMES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_LETTERS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_SUFFIXED = re.compile(r"\s*([\d.,_]+)\s*([kmbgt])\s*", re.IGNORECASE)


def quantity(text: str) -> float:
    """The number of 7e9, 7_000_000_000, 7,000,000,000 or 7B (K, M, B or G, T).

    Raises:
        ValueError: anything else, infinity included.
    """
    value = parse_number(text)
    if math.isnan(value):
        raise ValueError(f"got {text!r}, expected a number such as 7e9, 7_000_000_000 or 7B (K, M, B, T)")
    return value


def parse_number(value: Any) -> float:
    """A finite number, or NaN. Text may have thousands separators (1,000) or a suffix (70B)."""
    if isinstance(value, str):
        found = _SUFFIXED.fullmatch(value)
        number = recipe_file.parse_number(found[1] if found else value)
        return math.nan if number is None else number * (_LETTERS[found[2].lower()] if found else 1.0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def figure(value: float, unit: str = "") -> str:
    """A number with 4 digits, in millions, billions (1e9), trillions; beyond 1e15 in powers of ten."""
    tail = f" {unit}" if unit else ""
    size = abs(value)
    if size and (size >= 1e15 or size < 1e-3):
        return f"{value:.3e}{tail}"
    for least, name in _NAMES:
        if size >= least:
            return f"{value / least:.4g} {name}{tail}"
    return f"{value:,.0f}{tail}" if size >= 1000 else f"{value:.4g}{tail}"
