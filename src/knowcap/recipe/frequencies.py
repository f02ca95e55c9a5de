"""The keys of how often each person is seen; `knowcap.knowledge.frequencies` has the rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from knowcap.recipe.keys import GENERATED_HERE, NOT_NEGATIVE, WITH_WARMUP, Range, key_field


_key = partial(key_field, shapes="windows", amount=True, corpora=("bioS", "bioD", "morris"))


@dataclass(frozen=True, kw_only=True)
class FrequencySection:
    """Frequencies: how often each person is seen"""

    exposures_exponent: float = _key(
        0.0,
        "a, for a power law: the person of rank r is seen proportional to r^-a, exposures times on average",
        used_with=(GENERATED_HERE,),
        range=Range(lambda v: 0 <= v <= 4, "0 (all people equally often) to 4"),
    )
    warmup_exposures: int = _key(
        0,
        "how many of the exposures, the first ones, show only some of the people",
        used_with=(GENERATED_HERE,),
        range=NOT_NEGATIVE,
    )
    warmup_people_share: float = _key(
        0.5,
        "share of the people that warmup_exposures show, each the more often",
        used_with=(GENERATED_HERE, WITH_WARMUP),
        range=Range(lambda v: 0 < v < 1, "more than 0 and less than 1"),
    )
