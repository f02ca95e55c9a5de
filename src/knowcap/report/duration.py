"""Durations as text, the same everywhere."""

from __future__ import annotations

import math


_UNITS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float | None, missing: str = "?") -> str:
    """Such as `0.4 s`, `75 s`, `12.5 min`, `7.3 h` or `1,041.7 days`; of minutes, hours and days two or more.

    Args:
        seconds: of a stage, a run or a sweep.
        missing: the text for None and NaN.
    """
    if seconds is None or math.isnan(seconds):
        return missing
    for unit, name in _UNITS:
        if round(seconds / unit, 1) >= 2:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{seconds:.0f} s"
