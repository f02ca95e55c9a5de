"""The diversity term of bioD: what a model holds of which strings there are (Part 3.3, Definition 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from knowcap.capacity.tables import NLL_FILE, CapacityError, Facts, mean


def diversity(facts: Facts, terms: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Bits of the diversity terms, and at most.

    A term is S x (log2(T^L / D) - p3 / ln 2): S strings that are credited, D in theory; p3 in nats is the mean over
    the entities of the first chunk's nll. As p3 may exceed its share, a term may be negative.

    Args:
        facts: as read, first chunks included.
        terms: knowledge.json's; empty for a corpus without.

    Raises:
        CapacityError: a term whose first chunks were not measured.
    """
    missing = [term["fact"] for term in terms if term["fact"] not in facts.attributes]
    if missing:
        raise CapacityError(
            f"{NLL_FILE} lacks {missing}, so the diversity terms cannot be told; score the model again, with a "
            "knowcap that measures first chunks"
        )
    most = math.fsum(term["log2_candidates"] for term in terms)
    p3 = [mean(facts.nll[:, facts.attributes.index(term["fact"])]) for term in terms]
    unknown = math.fsum(term["credited"] * nll / math.log(2) for term, nll in zip(terms, p3, strict=True))
    return most - unknown, most


def without_first_chunks(facts: Facts, terms: Sequence[Mapping[str, Any]]) -> Facts:
    """The facts that are summed: a first chunk is a part of its value and must not count twice."""
    apart = {term["fact"] for term in terms}
    kept = [column for column, name in enumerate(facts.attributes) if name not in apart]
    tables = (table[:, kept] for table in (facts.nll, facts.references, facts.accuracy))
    return Facts([facts.attributes[column] for column in kept], *tables, facts.entities)
