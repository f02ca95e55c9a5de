"""The forms that a birth date takes in prose, and what tells part of it too early."""

from __future__ import annotations

import re

from knowcap.knowledge.pools import MONTHS


_VALUE = re.compile(rf"({'|'.join(MONTHS)}) (\d{{1,2}}), (\d{{4}})")
_SUFFIXES = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}
_FIRST_UNAMBIGUOUS_DAY = 13  # 2/10/1996 could be February 10, 15/10/1996 could not


def date_pattern(value: str) -> re.Pattern[str]:
    """Matches a date, given as in the people's table (`October 2, 1996`), in the forms that English prose gives it.

    With the month as a word, whole or short, before or after the day, the day as a number with or without its ending;
    and as numbers: 1996-10-02, 10/2/1996, and 15/10/1996 where the first number can be no month.
    """
    month, day, year, number = _parts(value)
    gap = r"(?:,? (?:of|in)(?: the year)? |,? )"
    padded_day = rf"0?{number[1]}"
    forms = [
        rf"{month} (?:the )?{day}{gap}{year}",
        rf"{day} (?:day of |of )?{month}{gap}{year}",
        rf"{year}(?P<a>[-/])0?{number[0]}(?P=a){padded_day}",
        rf"0?{number[0]}(?P<b>[-/]){padded_day}(?P=b){year}",
    ]
    if number[1] >= _FIRST_UNAMBIGUOUS_DAY:
        forms.append(rf"{number[1]}(?P<c>[-/.])0?{number[0]}(?P=c){year}")
    return re.compile(rf"(?<![\w/])(?<!\d[-.])(?:{'|'.join(forms)})(?![\w/])(?![-.]\d)")


def hint_pattern(value: str) -> re.Pattern[str]:
    """Matches the year of a date, or its month and day, which tell part of it where they stand before it."""
    month, day, year, _ = _parts(value)
    return re.compile(rf"(?<!\w)(?:{year}|{month} (?:the )?{day}|{day} (?:day of |of )?{month})(?!\w)")


def _parts(value: str) -> tuple[str, str, str, tuple[int, int]]:
    """Patterns of month and day, the year's digits, and the numbers of month and day."""
    found = _VALUE.fullmatch(value)
    if found is None:
        raise ValueError(f"birth date {value!r}: expected a form such as 'October 2, 1996'")
    name, day, year = found[1], int(found[2]), found[3]
    short = rf"{name[:3]}\.?" if name != "September" else r"Sept?\.?"
    return rf"(?:{name}|{short})", rf"0?{day}(?:{_SUFFIXES.get(day, 'th')})?", year, (MONTHS.index(name) + 1, day)
