"""The lists that values were drawn from, as texts: what a closed set of answers is made of.

A value is put together from one or more parts (a name from first, middle and last name), each drawn from a list; a
part has its separator in front (` Briar`). A determined attribute (work_city) says which values of its determiner
(employer) go with each of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from knowcap.facts import CorpusError


@dataclass(frozen=True)
class Candidates:
    """The lists of one attribute.

    Attributes:
        parts: per part the different texts that it can be.
        of: for a determined attribute, with one part: per text the values of its determiner that go with it.
    """

    parts: tuple[tuple[str, ...], ...]
    of: dict[str, frozenset[str]] = field(default_factory=dict)

    def split(self, value: str) -> tuple[str, ...]:
        """A value's parts.

        Raises:
            CorpusError: it is none of the candidates, or can be put together in two ways.
        """
        found = list(self._ways(value, 0))
        if len(found) != 1:
            how = "is none of the candidates" if not found else "can be put together from its parts in several ways"
            raise CorpusError(f"{value!r} {how}; expected one way, of {[len(p) for p in self.parts]} texts a part")
        return found[0]

    def _ways(self, rest: str, part: int) -> Iterator[tuple[str, ...]]:
        if part == len(self.parts):
            if not rest:
                yield ()
            return
        if part == len(self.parts) - 1:
            if rest in self._sets[part]:
                yield (rest,)
            return
        for length in self._lengths[part]:
            if length <= len(rest) and rest[:length] in self._sets[part]:
                for others in self._ways(rest[length:], part + 1):
                    yield (rest[:length], *others)

    def __post_init__(self) -> None:
        sets = tuple(frozenset(part) for part in self.parts)
        object.__setattr__(self, "_sets", sets)
        object.__setattr__(self, "_lengths", tuple(sorted({len(text) for text in part}) for part in sets))


class Listed(NamedTuple):
    """One text of a list, a row of a data set's config `candidates`.

    Attributes:
        attribute: whose.
        part, last_part: the parts of a value that it can be, counted from 0; both included.
        text: with the separator in front, if it has one.
        of: for a determined attribute, the value of its determiner that it goes with.
    """

    attribute: str
    part: int
    last_part: int
    text: str
    of: str | None = None


def gathered(rows: Iterable[Listed]) -> dict[str, Candidates]:
    """Candidates by attribute, from rows in any order.

    Raises:
        CorpusError: a part is missing.
    """
    parts: dict[str, dict[int, dict[str, None]]] = {}
    of: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for part in range(row.part, row.last_part + 1):
            parts.setdefault(row.attribute, {}).setdefault(part, {})[row.text] = None
        if row.of is not None:
            of.setdefault(row.attribute, {}).setdefault(row.text, set()).add(row.of)
    made = {}
    for attribute, found in parts.items():
        if sorted(found) != list(range(len(found))):
            raise CorpusError(f"{attribute} has parts {sorted(found)}, expected 0 to {max(found)}")
        goes_with = {text: frozenset(values) for text, values in of.get(attribute, {}).items()}
        made[attribute] = Candidates(tuple(tuple(found[part]) for part in range(len(found))), goes_with)
    return made
