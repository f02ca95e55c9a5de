"""The columns of a table of runs: one decimal sign a column, and the unit that a header states."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knowcap.laws.law import PF_DAY
from knowcap.laws.quantity import FLOP_SCALES, SCALES, figure, parse_number, read_number


# Columns of plain counts.
LARGE = (
    "num_parameters", "num_parameters_non_embedding", "num_tokens", "flops", "budget", "step", "batch_tokens",
    "exposures", "knowledge_bits", "max_knowledge_bits", "unique_tokens", "warmup_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Decimals:
    """The decimal sign of each column whose text has commas or points.

    Attributes:
        signs: `.` or `,` by column.
        notes: by column, where its numbers alone could be read in two ways.
        problems: by column, where no sign fits all of its numbers.
    """

    signs: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str]) -> Decimals:
        """The same under other names of columns, new by old."""
        found = ({names.get(k, k): v for k, v in part.items()} for part in (self.signs, self.notes, self.problems))
        return Decimals(*found)


@dataclass(frozen=True)
class _Read:
    """The cells of a column that can be read with one sign alone, and in two ways."""

    point: str = ""
    comma: str = ""
    either: str = ""


def decimals_of(table: Mapping[str, Iterable[Any]], semicolon: bool = False) -> Decimals:
    """The decimal sign of every column, which all of its numbers have.

    1.5 and 1,000,000 have the point, 1,5 and 1.000.000 the comma. A column of which every number could have either,
    such as 4,012, follows the other columns; without any, numbers with commas have decimal commas where they are
    losses or the file has semicolons between cells, and thousands separators elsewhere.

    Args:
        table: columns by name.
        semicolon: whether the file has semicolons between its cells.
    """
    read = {str(name): found for name, column in table.items() if (found := _read(column)) is not None}
    problems = {
        name: f"has numbers of two kinds, such as {found.point} and {found.comma}; write all with a decimal point"
        for name, found in read.items()
        if found.point and found.comma
    }
    signs = {
        name: "," if found.comma else "." for name, found in read.items() if bool(found.point) != bool(found.comma)
    }
    agreed = set(signs.values())
    notes, settled = {}, {}
    for name, found in read.items():
        if name in signs or name in problems:
            continue
        separator = re.sub(r"[^,.]", "", found.either)[0]
        if "loss" in name.lower() or (semicolon and not agreed and name not in LARGE):
            sign = separator
        else:
            sign = next(iter(agreed)) if len(agreed) == 1 else "."
        settled[name] = sign
        if separator == "," or sign == ",":
            kind = "decimal sign" if sign == separator else "thousands separator"
            notes[name] = (
                f"column {name}: the {'comma' if separator == ',' else 'point'} in {found.either} is read as a {kind}"
            )
    return Decimals(signs | settled, notes, problems)


def _read(column: Iterable[Any]) -> _Read | None:
    """None for a column without text that has a comma or a point in a number."""
    kinds = {"point": "", "comma": "", "either": ""}
    for cell in column:
        if not isinstance(cell, str) or not ("," in cell or "." in cell):
            continue
        point, comma = read_number(cell, "."), read_number(cell, ",")
        if math.isnan(point) and math.isnan(comma) or point == comma:
            continue
        kind = "comma" if math.isnan(point) else "point" if math.isnan(comma) else "either"
        kinds[kind] = kinds[kind] or cell.strip()
    if not any(kinds.values()):
        return None
    return _Read(**kinds)


def numbers(column: Sequence[Any], decimal: str | None = None) -> np.ndarray:
    """The numbers of a column, NaN for what is none, of shape (n,).

    Args:
        column: numbers, or text.
        decimal: the sign of its text; None where the text has none.
    """
    if decimal is None:
        return np.array([parse_number(cell) for cell in column], dtype=float)
    cells = (read_number(cell, decimal) if isinstance(cell, str) else parse_number(cell) for cell in column)
    return np.array(list(cells), dtype=float)


@dataclass(frozen=True)
class Unit:
    """How the numbers of a column become plain counts, FLOPs, or nats: factor x value, 10^value, or log(value).

    Attributes:
        text: as in "in billions".
        factor: 1 where `kind` is not scale.
        kind: scale, log10 or perplexity.
    """

    text: str
    factor: float = 1.0
    kind: str = "scale"

    def plain(self, values: np.ndarray) -> np.ndarray:
        """The values in plain units, of their shape; NaN where there is none."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.kind == "log10":
                found = 10.0**values
            else:
                found = np.log(values) if self.kind == "perplexity" else self.factor * values
        return np.where(np.isfinite(found), found, np.nan)


_BRACKET = re.compile(r"[(\[]\s*(?:in\s+)?([^()\[\]]+?)\s*[)\]]")
_IN = re.compile(r"[ _]in[ _](\w+)$")
_LAST = re.compile(r"_(b|bn|billions?|mn|millions?|trillions?|m|t|k|thousands?)$")
_LETTERS, _WORDS = ("".join(k for k in FLOP_SCALES if len(k) == 1), "|".join(k for k in FLOP_SCALES if len(k) > 1))
_PREFIX = re.compile(rf"(?<![a-z])(?:([{_LETTERS}])|({_WORDS})[-_ ]?)flops?(?![/a-z])")
_DAYS = re.compile(r"pf(?:lops?)?(?:/s)?[-_ ]*days?|petaflop")
_TEN = re.compile(r"(?:x|×)?\s*(?:1e\+?(\d+)|10\s*(?:\^|\*\*)\s*(\d+)|e(\d+))(?:\s*(?:flops?|tokens?|param\w*))?")


def unit_of(header: str, name: str) -> Unit | None:
    """The unit that a header states: params (B), tokens_in_millions, GFLOPs, FLOPs (1e18), log10_flops; None for none.

    Args:
        header: the column's name in the table.
        name: the column that it is, such as num_tokens.
    """
    plain = header.strip().lower()
    if name == "loss":
        if re.search(r"perplexity|\bppl\b|_ppl\b", plain):
            return Unit("as perplexity", kind="perplexity")
        bits = re.search(r"\bbits\b(?! per byte|/byte)|_bits\b", plain) and "byte" not in plain
        return Unit("in bits", math.log(2)) if bits else None
    if name not in LARGE:
        return None
    if re.search(r"\blog[-_ ]?_?10|(?<![a-z])log10|\blg\b", plain):
        return Unit("as log10", kind="log10")
    if name in ("flops", "budget"):
        if _DAYS.search(plain):
            return Unit("in PF-days", PF_DAY)
        if found := _PREFIX.search(plain):
            return _scaled(FLOP_SCALES[found[1] or found[2]])
    for pattern in (_BRACKET, _IN, _LAST):
        if found := pattern.search(plain):
            words = found[1].strip()
            if words in SCALES:
                return _scaled(SCALES[words])
            if ten := _TEN.fullmatch(words):
                return _scaled(10.0 ** int(ten[1] or ten[2] or ten[3]))
    return None


def _scaled(factor: float) -> Unit | None:
    return None if factor == 1 else Unit(f"in units of {figure(factor)}", factor)


# Short names that say the same as ours, without what they have in brackets and without their unit.
_SAME = {
    "num_parameters": ("parameters", "params", "nparams", "nparameters", "numparams", "modelparameters", "modelsize"),
    "num_tokens": ("tokens", "ntokens", "trainingtokens", "traintokens"),
    "flops": ("flop", "trainingflops", "trainingflop"),
    "loss": (),
}
# The largest value of a column lies between these, in plain units, whatever the runs.
LEAST = {"num_parameters": 1e4, "num_tokens": 1e6, "flops": 1e9, "budget": 1e9}
MOST = {"num_parameters": 1e15, "num_tokens": 1e17, "flops": 1e30, "budget": 1e30}


def same_columns(headers: Iterable[str]) -> dict[str, str]:
    """Our names by theirs: headers that are one of our names but for capitals, spaces, short forms or the unit.

    Headers that are ours already are not among them, nor where two headers would be the same column.
    """
    headers = [str(name) for name in headers]
    found: dict[str, list[str]] = {}
    for name, words in _SAME.items():
        if name in headers:
            continue
        ours = {re.sub(r"_", "", name), *words}
        found[name] = [header for header in headers if _bare(header, name) in ours]
    return {theirs[0]: ours for ours, theirs in found.items() if len(theirs) == 1}


def _bare(header: str, name: str) -> str:
    """A header without unit, capitals, spaces and underscores."""
    plain = _BRACKET.sub("", header.strip().lower())
    if unit_of(header, name) is not None:
        plain = re.sub(r"log[-_ ]?_?10[_ ]?(?:of)?|\blg\b", "", plain)
        plain = _LAST.sub("", _IN.sub("", plain))
        if name == "flops":
            plain = _PREFIX.sub("flops", _DAYS.sub("flops", plain))
    return re.sub(r"[\s_-]", "", plain)
