"""What bioD's diversity terms are measured by: how surely a model says the first chunk of each value."""

from __future__ import annotations

import math
import re

from knowcap.facts import FactError, Knowledge, Row, ScoredFact, Span


def first_chunks(row: Row, knowledge: Knowledge) -> list[ScoredFact]:
    """The first chunks of bioD's values, for p3 (Part 3.3, 3.1): measured beside the values, never added to them.

    Raises:
        FactError: a value that does not begin as its diversity term says.
    """
    first = {span.attribute: span for span in reversed(row.spans)}
    facts = []
    for term in knowledge.diversity_terms:
        if (span := first.get(term["attribute"])) is not None:
            found = re.match(term["first_chunk"], value := row.text[span.start : span.end])
            if not found or not found.end():
                raise FactError(f"entity {row.entity!r}: {span} is {value!r}, expected {term['first_chunk']!r}")
            chunk = Span(term["fact"], span.start, span.start + found.end())
            facts.append(ScoredFact(term["fact"], math.log2(term["diversity"]), (chunk,)))
    return facts
