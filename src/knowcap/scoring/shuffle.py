"""The null control of any data set: entities keep their names and say one another's values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from knowcap.facts import NAME, FactError, Row, Span


def shuffled_values(rows: Iterable[Row], seed: int) -> list[Row]:
    """The null control for any table: every entity keeps its name and text form, but says another entity's values.

    Entities are put in a random cycle, so that none keeps its own values; an attribute that the other entity does not
    state ends that row at its span. Rows of one entity (renderings) take their values from the same other entity.

    Raises:
        FactError: fewer than two entities.
    """
    rows = list(rows)
    entities = list(dict.fromkeys(row.entity for row in rows))
    if len(entities) < 2:
        raise FactError(f"a shuffled control needs two entities or more; got {len(entities)}")
    order = np.random.default_rng(seed).permutation(len(entities))
    other = {entities[order[i]]: entities[order[i - 1]] for i in range(len(entities))}
    values: dict[int | str, dict[str, str]] = {}
    for row in rows:
        said = values.setdefault(row.entity, {})
        for span in row.spans:
            said.setdefault(span.attribute, row.text[span.start : span.end])
    return [_say(row, values[other[row.entity]]) for row in rows]


def _say(row: Row, values: dict[str, str]) -> Row:
    """The row's text with its values (not its name) replaced."""
    text, spans, start = "", [], 0
    for span in row.spans:
        text += row.text[start : span.start]
        value = row.text[span.start : span.end] if span.attribute == NAME else values.get(span.attribute)
        if value is None:
            return Row(text, tuple(spans), row.entity)
        spans.append(Span(span.attribute, len(text), len(text) + len(value)))
        text, start = text + value, span.end
    return Row(text + row.text[start:], tuple(spans), row.entity)
