"""The texts of a data set folder to score, and those of the null control."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from knowcap.dataset.folder import has_config, num_rows, read_rows
from knowcap.facts import NAME, FactError, Knowledge, Row, Span
from knowcap.scoring.measurement import OUTSIDERS, SHUFFLED


logger = logging.getLogger(__name__)

SHUFFLED_CONTROL_ENTITIES = 1000
MIN_CONTROL_ENTITIES = 100  # the control is not smaller than this where there are so many


def biographies(
    dataset_dir: Path, config: str, knowledge: Knowledge, entities: int
) -> tuple[Iterator[tuple[Row, int]], int]:
    """The rows of the first `entities` entities, and their number."""
    count = num_rows(dataset_dir, config)
    if entities == knowledge.num_people:
        return read_rows(dataset_dir, config), count
    rows = list(_first_entities(read_rows(dataset_dir, config), entities, _renderings(count, knowledge)))
    return iter(rows), len(rows)


def _renderings(count: int, knowledge: Knowledge) -> int | None:
    """The number of texts per entity, given `count` in all; None if some entities may lack texts."""
    return None if knowledge.missing_texts else count // knowledge.num_people


def _first_entities(
    rows: Iterable[tuple[Row, int]], entities: int, renderings: int | None = None
) -> Iterator[tuple[Row, int]]:
    """The rows of the first `entities` entities, in any order; stops when each has its renderings, if given."""
    seen: dict[int | str, int] = {}
    complete = 0
    for row, rendering in rows:
        if row.entity not in seen and len(seen) == entities:
            continue
        seen[row.entity] = seen.get(row.entity, 0) + 1
        complete += seen[row.entity] == renderings
        yield row, rendering
        if complete == entities:
            return


def control_entities(knowledge: Knowledge, limit: int | None) -> int:
    """How many entities of the control are scored, at most: as many as the measurement scores, and 100 or more.

    The standard error wanted of the control's bits per entity is that of the measurement itself. Both are a spread
    over entities divided by the root of their number, and the spreads are alike, so as many control entities give it;
    more would show only leaks that the measurement's own interval hides. With fewer than 100 a leak has to be large:
    4 standard errors of 100 entities are 0.4 of their spread.
    """
    return max(min(limit or knowledge.num_people, knowledge.num_people), MIN_CONTROL_ENTITIES)


def control_rows(
    dataset_dir: Path, configs: tuple[str, str], knowledge: Knowledge, limit: int | None
) -> tuple[list[tuple[Row, int]], str]:
    """The null control and its kind: people outside the sample, or else the first entities with shuffled values."""
    texts, control = configs
    most = control_entities(knowledge, limit)
    if has_config(dataset_dir, control):
        rows = list(_first_entities(read_rows(dataset_dir, control), most))
        there = len({row.entity for row, _ in rows})
        logger.info("null control: %d entities outside the sample, for a standard error like the measurement's", there)
        return rows, OUTSIDERS
    most = min(most, SHUFFLED_CONTROL_ENTITIES, knowledge.num_people)
    renderings = _renderings(num_rows(dataset_dir, texts), knowledge)
    pairs = list(_first_entities(read_rows(dataset_dir, texts), most, renderings))
    return shuffled(pairs), SHUFFLED


def shuffled(pairs: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """The texts with values exchanged among their entities."""
    rows = shuffled_values([row for row, _ in pairs], seed=0)
    return [(row, rendering) for row, (_, rendering) in zip(rows, pairs, strict=True)]


def shuffled_values(rows: Iterable[Row], seed: int) -> list[Row]:
    """The null control of any data set: every entity keeps its name and text form, with the values of another entity.

    Entities are put in a random cycle, so that none keeps its own values; a text ends before the first attribute that
    the other entity does not state. Rows of one entity (renderings) take their values from the same other entity.

    Raises:
        FactError: fewer than two entities.
    """
    rows = list(rows)
    entities = list(dict.fromkeys(row.entity for row in rows))
    if len(entities) < 2:
        raise FactError(f"got {len(entities)} entity; expected two or more, whose values can be exchanged")
    order = np.random.default_rng(seed).permutation(len(entities))
    other = {entities[order[i]]: entities[order[i - 1]] for i in range(len(entities))}
    values: dict[int | str, dict[str, str]] = {}
    for row in rows:
        own = values.setdefault(row.entity, {})
        for span in row.spans:
            own.setdefault(span.attribute, row.text[span.start : span.end])
    return [_with_values(row, values[other[row.entity]]) for row in rows]


def _with_values(row: Row, values: dict[str, str]) -> Row:
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
