"""The people of bioS: each is a function of the seed and of its number, and can be drawn alone and in any order.

Names are drawn uniformly without replacement, values uniformly and independently (Part 3.3, 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from knowcap.facts import Attribute, CorpusError, Knowledge
from knowcap.knowledge.philox import KeyedPermutation, below, words
from knowcap.knowledge.pools import BIRTH_DATES, PRONOUNS, Pools, format_birth_date


# Of draws and questions; the first number becomes that of lists and templates (Pools.version). A change of any is a
# new version (tests/test_versions.py).
VERSION = "1.0.0"
ENTITY_COLUMN = "person_id"
NAME_PARTS = ("first_name", "middle_name", "last_name")
VALUES = ("birth_date", "birth_city", "university", "major", "employer")
CODES = (*NAME_PARTS, *VALUES, "pronoun")
COLUMNS = (ENTITY_COLUMN, *NAME_PARTS, *VALUES, "work_city", "pronoun")


@dataclass(frozen=True)
class People:
    """`num_people` people drawn from `pools`; those with numbers from `num_people` on are outsiders, whose
    names differ from all others.
    """

    pools: Pools
    num_people: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_people <= self.pools.num_names:
            raise CorpusError(
                f"num_people={self.num_people:_}, expected 1 to {self.pools.num_names:,}, the number of names in the "
                "value lists; lower it, or give larger lists"
            )

    @property
    def num_outsiders(self) -> int:
        """The number of possible people outside the sample."""
        return self.pools.num_names - self.num_people

    def codes(self, indices: np.ndarray) -> np.ndarray:
        """Which value each person has: (n,) person numbers → (9, n) int32, rows in the order of `CODES`."""
        p = self.pools
        names = KeyedPermutation(p.num_names, self.seed, "names")(indices)
        rest, last = np.divmod(names, len(p.last_names))
        first, middle = np.divmod(rest, len(p.middle_names))
        limits = [
            BIRTH_DATES,
            *(len(pool) for pool in (p.birth_cities, p.universities, p.majors, p.employers, PRONOUNS)),
        ]
        random = np.concatenate([words(self.seed, "values", indices, block=block) for block in (0, 1)])
        values = [below(word, limit) for word, limit in zip(random, limits, strict=False)]
        return np.stack([first, middle, last, *values]).astype(np.int32)

    def texts(self, codes: np.ndarray) -> Iterator[dict[str, str]]:
        """The persons' columns as text, work city included, from their codes (9, n)."""
        p = self.pools
        lists = (
            p.first_names,
            p.middle_names,
            p.last_names,
            None,
            p.birth_cities,
            p.universities,
            p.majors,
            p.employers,
        )
        for row in codes.T.tolist():
            person = {
                column: format_birth_date(code) if pool is None else pool[code]
                for column, pool, code in zip(CODES, lists, row, strict=False)
            }
            yield person | {"work_city": p.work_cities[row[7]], "pronoun": PRONOUNS[row[8]]}

    def knowledge(self, name: str = "bioS") -> Knowledge:
        """knowledge.json of these people: log2 N0 and log2 S0 as the lists have them."""
        attributes = [Attribute(column, count, math.log2(count)) for column, count in self.pools.candidates.items()]
        attributes.append(Attribute("work_city", 1, 0.0, determined_by="employer"))
        return Knowledge(
            name=name,
            version=self.pools.version(VERSION),
            num_people=self.num_people,
            seed=self.seed,
            entity_column=ENTITY_COLUMN,
            name_log2_candidates=self.pools.name_log2_candidates,
            attributes=tuple(attributes),
        )


def full_name(person: dict[str, str]) -> str:
    """First, middle and last name with spaces between."""
    return " ".join(person[part] for part in NAME_PARTS)
