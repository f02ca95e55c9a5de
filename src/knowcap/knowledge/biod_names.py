"""What the names of bioD's people are put together from: bioS' lists, or symbols in the compact form."""

from __future__ import annotations

from knowcap.knowledge.pools import Pools


COMPACT_NAME_LENGTH, COMPACT_NAME_SYMBOLS = 4, 64  # N0 = 64^4


def english_names(pools: Pools) -> list[list[str]]:
    """First, middle and last names; all but the first with the blank before them."""
    middle, last = ([f" {name}" for name in names] for names in (pools.middle_names, pools.last_names))
    return [list(pools.first_names), middle, last]


def compact_names() -> list[list[str]]:
    """Symbols, one a part; all but the first with the blank before them."""
    symbols = [f"N{number}" for number in range(COMPACT_NAME_SYMBOLS)]
    return [symbols, *([f" {symbol}" for symbol in symbols] for _ in range(COMPACT_NAME_LENGTH - 1))]
