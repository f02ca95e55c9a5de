"""Large numbers as people write and read them."""

from __future__ import annotations

import math


_NAMES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_LETTERS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def figure(value: float, unit: str = "") -> str:
    """A number in 4 digits, in millions, billions (1e9), trillions; beyond 1e15 in powers of ten."""
    tail = f" {unit}" if unit else ""
    size = abs(value)
    if size and (size >= 1e15 or size < 1e-3):
        return f"{value:.3e}{tail}"
    for least, name in _NAMES:
        if size >= least:
            return f"{value / least:.4g} {name}{tail}"
    return f"{value:,.0f}{tail}" if size >= 1000 else f"{value:.4g}{tail}"


def quantity(text: str) -> float:
    """A number from 7e9, 7_000_000_000, 7,000,000,000 or 7B (K, M, B or G, T).

    Raises:
        ValueError: for anything else, infinity among it.
    """
    plain = text.strip().replace("_", "").replace(",", "")
    factor = _LETTERS.get(plain[-1:].upper(), 1.0)
    try:
        value = float(plain[:-1] if factor != 1 else plain) * factor
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"got {text!r}, expected a number such as 7e9, 7_000_000_000 or 7B (K, M, B, T)")
    return value
