"""Large numbers as people write and read them. Standard library alone."""

from __future__ import annotations

import math
import re
from typing import Any

from knowcap.laws.law import PF_DAY


_NAMES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "thousand": 1e3, "mn": 1e6, "mio": 1e6}
SCALES |= {"million": 1e6, "millions": 1e6, "bn": 1e9, "billion": 1e9, "billions": 1e9, "tn": 1e12}
SCALES |= {"trillion": 1e12, "trillions": 1e12, "thousands": 1e3}
# Prefixes of FLOPs alone: 5 M is five million of anything, 5 P is nothing.
FLOP_SCALES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
FLOP_SCALES |= {"kilo": 1e3, "mega": 1e6, "giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21}
_UNITS = (
    r"(?:param(?:eter)?s?\.?|tok(?:en)?s?|flops?|nats?|bits?|steps?|people|persons?|names?|gpus?|exposures?|epochs?|"
    r"(?:nats?|bits?)\s*(?:/|per)\s*(?:token|param(?:eter)?))"
)
_FLOPS = re.compile(rf"({'|'.join(sorted(FLOP_SCALES, key=len, reverse=True))})[- ]?flops?\b")
_PF_DAYS = re.compile(r"(?:pf|pflops?|pflop/s|petaflop/?s?)[- ]?days?")
_GROUPED = {  # groups of three digits, and a fraction after the decimal sign
    ".": re.compile(r"([1-9]\d{0,2})((?:,\d{3})+|(?:_\d{3})+|(?:'\d{3})+|(?: \d{3})+)(\.\d*)?"),
    ",": re.compile(r"([1-9]\d{0,2})((?:\.\d{3})+|(?:_\d{3})+|(?:'\d{3})+|(?: \d{3})+)(,\d*)?"),
}
_PLAIN = {".": re.compile(r"\d+\.?\d*|\.\d+"), ",": re.compile(r"\d+,?\d*|,\d+")}
_NUMBER = re.compile(
    r"([+-]?)\s*([\d.,_' ]*\d[.,]?)"  # sign, digits
    r"(?:e([+-]?\d+)|\s*[x×*·]\s*10\s*(?:\^|\*\*)\s*([+-]?\d+))?"  # 1.5e21, 1.5 x 10^21
    r"\s*([^\d]*)"
)
_POWER = re.compile(r"([+-]?)10\s*(?:\^|\*\*)\s*([+-]?\d+)\s*([^\d]*)")
_ABOUT = re.compile(r"^(?:~|≈|≃|ca\.?|circa|about|approx\.?|approximately)\s*")
_SPACES = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2212": "-", "\u2019": "'"})
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def quantity(text: str) -> float:
    """The number of 7e9, 7_000_000_000, 7 000 000 000, 7,000,000,000, 7B (K, M, B or G, T), ~7B params, 1,5B or 40 %.

    Raises:
        ValueError: anything else, infinity included.
    """
    value = parse_number(text)
    if math.isnan(value):
        raise ValueError(f"got {text!r}, expected a number such as 7e9, 7_000_000_000, 7B (K, M, B, T) or 40%")
    return value


def parse_number(value: Any) -> float:
    """A finite number, or NaN. Of text, the decimal sign is the point, or else the comma: 1,500 is 1500, 1,5 is 1.5.

    A column of a table has one decimal sign, see `columns`.
    """
    if isinstance(value, str):
        found = read_number(value, ".")
        return read_number(value, ",") if math.isnan(found) else found
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def read_number(text: str, decimal: str) -> float:
    """A finite number that text has under a decimal sign, `.` or `,`; NaN for other text.

    Read are groups of three digits (1 000, 1_000, 1'000, and 1,000 or 1.000 by the decimal sign), powers of ten
    (1e21, 1.5 x 10^21, 10^21), scales (7B, 1.4 billion), units (params, tokens, GFLOPs, PF-days), %, and ~.
    """
    plain = _ABOUT.sub("", text.strip().translate(_SPACES).lower())
    if "10" in plain and any(sign in plain for sign in "⁰¹²³⁴⁵⁶⁷⁸⁹"):
        plain = re.sub(r"10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", lambda found: f"10^{found[1].translate(_SUPERSCRIPT)}", plain)
    if found := _POWER.fullmatch(plain):
        sign, digits, power, tail = found[1], "1", found[2], found[3]
    elif found := _NUMBER.fullmatch(plain):
        sign, digits, power, tail = found[1], found[2].strip(), found[3] or found[4], found[5]
    else:
        return math.nan
    mantissa, factor = _digits(digits, decimal, power is not None), _factor(tail)
    if mantissa is None or factor is None:
        return math.nan
    try:
        number = float(f"{sign}{mantissa}e{power or 0}") * factor
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _digits(text: str, decimal: str, powered: bool) -> str | None:
    """Digits as Python reads them; groups of three are none where a power of ten follows."""
    if found := _GROUPED[decimal].fullmatch(text):
        if powered and found[2][0] in ".,":
            return None
        text = found[1] + re.sub(r"\D", "", found[2]) + (found[3] or "")
    elif not _PLAIN[decimal].fullmatch(text):
        return None
    return text.replace(",", ".")


def _factor(tail: str) -> float | None:
    """What a scale and a unit multiply by; None for other words."""
    tail = tail.strip()
    if tail in SCALES:
        return SCALES[tail]
    if re.fullmatch(r"%|per ?cent", tail):
        return 0.01
    if _PF_DAYS.fullmatch(tail):
        return PF_DAY
    if found := _FLOPS.fullmatch(tail):
        return FLOP_SCALES[found[1]]
    if found := re.fullmatch(rf"(.*?)\s*{_UNITS}", tail):
        return SCALES.get(found[1].strip())
    return None


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
