"""From a text that a language model wrote to the exact spans of its facts, or to the reasons for its rejection.

A text must begin with the full name and state every fact of the person, spelled as in the lists; otherwise it is
rejected.
"""

from __future__ import annotations

import re

from knowcap.facts import NAME, Row, Span
from knowcap.knowledge.people import full_name
from knowcap.knowledge.pools import MONTHS, Pools


_HIS, _HER = ("he", "him", "his", "himself"), ("she", "her", "hers", "herself")
GENDERED = dict.fromkeys(_HIS, "He") | dict.fromkeys(_HER, "She")
_PRONOUN = re.compile(rf"(?<!\w)(?:{'|'.join(GENDERED)})(?!\w)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?] ")
_DATE, _PRONOUN_FACT = "birth_date", "pronoun"
_LISTS = {
    "birth_city": "birth_cities",
    "university": "universities",
    "major": "majors",
    "employer": "employers",
    "work_city": "work_cities",
}
_MASK = "\0"  # not printable, so no text has it
# In the order in which they are reported.
REASONS = (
    "empty",
    "unprintable",
    "name_not_first",
    *(f"missing_{a}" for a in (_DATE, *_LISTS, _PRONOUN_FACT)),
    "wrong_pronoun",
    *(f"hinted_{a}" for a in (_DATE, *_LISTS)),
)


class Locator:
    """Finds the facts of people whose values are drawn from `pools`."""

    def __init__(self, pools: Pools) -> None:
        self._lists = {attribute: getattr(pools, name) for attribute, name in _LISTS.items()}
        self._longer: dict[tuple[str, str], list[re.Pattern[str]]] = {}

    def locate(self, text: str, person: dict[str, str], entity: int) -> Row | tuple[str, ...]:
        """The text as a row with the spans of its facts, or the reasons for its rejection (see `REASONS`).

        Spans are first mentions, disjoint, in the order of the text. White space is first replaced by single spaces. A
        value is found as whole words, outside longer facts ("Technology" is not found in "Massachusetts
        Institute of Technology") and outside longer values of its list ("Disney" is not found in "Disney+"). A text
        with a hint at a fact before its span (its year, the value in another case) is rejected too.

        Args:
            text: the reply of the language model.
            person: the columns of the people's table.
            entity: the person's number.
        """
        text, name = " ".join(text.split()), full_name(person)
        if not text:
            return ("empty",)
        if not text.isprintable():
            return ("unprintable",)
        if not re.match(re.escape(name) + r"(?!\w)", text):
            return ("name_not_first",)
        masked = _masked(text, _bounded(name))
        spans, missing = {NAME: Span(NAME, 0, len(name))}, set()
        date = date_pattern(person[_DATE])
        if found := date.search(masked):
            spans[_DATE] = Span(_DATE, *found.span())
            masked = _masked(masked, date)
        else:
            missing.add(_DATE)
        for value, attributes in self._by_value(person):
            starts = self._places(masked, value, attributes)
            placed = _assign_mentions(masked, starts, attributes, spans.get("employer"))
            spans |= {a: Span(a, start, start + len(value)) for a, start in placed.items()}
            missing |= set(attributes) - placed.keys()
            masked = _masked(masked, _bounded(value))
        reasons = [f"missing_{a}" for a in missing]
        pronoun = _PRONOUN.search(masked)
        if pronoun is None:
            reasons.append("missing_pronoun")
        elif GENDERED[pronoun[0].lower()] != person[_PRONOUN_FACT]:
            reasons.append("wrong_pronoun")
        else:
            spans[_PRONOUN_FACT] = Span(_PRONOUN_FACT, *pronoun.span())
        reasons += _hints(masked, person, spans)
        if reasons:
            return tuple(sorted(reasons, key=REASONS.index))
        return Row(text, tuple(sorted(spans.values(), key=lambda span: span.start)), entity)

    def _by_value(self, person: dict[str, str]) -> list[tuple[str, list[str]]]:
        """The person's values with their attributes, the longest first; the employer before values of equal length."""
        values: dict[str, list[str]] = {}
        for attribute in _LISTS:
            values.setdefault(person[attribute], []).append(attribute)
        # An equal work city and birth city are distinguished by the employer's place, so it is searched first.
        return sorted(values.items(), key=lambda item: (len(item[1]) > 1, -len(item[0])))

    def _places(self, masked: str, value: str, attributes: list[str]) -> list[int]:
        """Where a value is mentioned, outside longer values of its lists."""
        patterns = [pattern for attribute in attributes for pattern in self._longer_than(attribute, value)]
        longer = [match.span() for pattern in patterns for match in pattern.finditer(masked)]
        found = [match.span() for match in _bounded(value).finditer(masked)]
        return [start for start, end in found if not any(s <= start and end <= e for s, e in longer)]

    def _longer_than(self, attribute: str, value: str) -> list[re.Pattern[str]]:
        """The values of an attribute's list that contain `value`."""
        key = (attribute, value)
        if key not in self._longer:
            within = _bounded(value)
            others = {other for other in self._lists[attribute] if value in other and other != value}
            self._longer[key] = [_bounded(other) for other in sorted(others) if within.search(other)]
        return self._longer[key]


def _bounded(value: str) -> re.Pattern[str]:
    """Matches a value as whole words, whatever its first and last characters."""
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")


def _masked(text: str, pattern: re.Pattern[str]) -> str:
    """The text with all matches masked, of the same length."""
    return pattern.sub(lambda match: _MASK * len(match[0]), text)


def _assign_mentions(masked: str, starts: list[int], attributes: list[str], employer: Span | None) -> dict[str, int]:
    """The mention of each attribute, where attributes share a value: in their order, but the work city is the one of
    the first two mentions that is nearer to the employer, in sentences, then in characters.
    """
    placed = dict(zip(attributes, starts, strict=False))
    if len(attributes) == 2 and "work_city" in placed and employer is not None:

        def far_from_employer(start: int) -> tuple[int, int]:
            between = masked[employer.end : start] or masked[start : employer.start]
            return len(_SENTENCE_END.findall(between)), len(between)

        near, far = sorted(starts[:2], key=far_from_employer)
        (other,) = (a for a in attributes if a != "work_city")
        placed = {other: far, "work_city": near}
    return placed


def _hints(masked: str, person: dict[str, str], spans: dict[str, Span]) -> list[str]:
    """The attributes that the text hints at before their spans."""
    hints = []
    for attribute in (_DATE, *_LISTS):
        if (span := spans.get(attribute)) is None:
            continue
        value = person[attribute]
        pattern = hint_pattern(value) if attribute == _DATE else re.compile(_bounded(value).pattern, re.IGNORECASE)
        if pattern.search(masked, 0, span.start):
            hints.append(f"hinted_{attribute}")
    return hints


_VALUE = re.compile(rf"({'|'.join(MONTHS)}) (\d{{1,2}}), (\d{{4}})")
_SUFFIXES = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}
_FIRST_UNAMBIGUOUS_DAY = 13  # 2/10/1996 could be February 10, 15/10/1996 could not


def date_pattern(value: str) -> re.Pattern[str]:
    """Matches a date, given as in the people's table (`October 2, 1996`), in the forms of English prose.

    With the month as a word, full or abbreviated, before or after the day, and the day with or without its ending; and
    as numbers: 1996-10-02, 10/2/1996, and 15/10/1996 where the first number cannot be a month.
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
    """Matches the year of a date, or its month and day, which are hints if they stand before it."""
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
