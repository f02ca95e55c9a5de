"""The texts of a data set folder to score, and those of the null control."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from knowcap.dataset.folder import entities_in, has_config, num_rows, read_candidates, read_rows
from knowcap.facts import NAME, FactError, Knowledge, Row, Span
from knowcap.scoring.measurement import OUTSIDERS, SHUFFLED


logger = logging.getLogger(__name__)

SHUFFLED_CONTROL_ENTITIES = 1000
MIN_CONTROL_ENTITIES = 100  # the control is not smaller than this where there are so many


@dataclass(frozen=True)
class Texts:
    """Rows of a config of a data set folder, which are read when they are needed.

    Attributes:
        dataset_dir, config: where they are.
        places: their numbers in the config, ascending.
    """

    dataset_dir: Path
    config: str
    places: range | np.ndarray

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.places)

    def read(self, first: int, end: int) -> Iterator[tuple[Row, int]]:
        """Rows first … end - 1, each with its rendering; others are not read."""
        return read_rows(self.dataset_dir, self.config, self.places[first:end])


def biographies(dataset_dir: Path, config: str, knowledge: Knowledge, entities: int) -> Texts:
    """The rows of the first `entities` entities."""
    if entities == knowledge.num_people:
        return Texts(dataset_dir, config, range(num_rows(dataset_dir, config)))
    ids = chain.from_iterable(entities_in(dataset_dir, config))
    numbered = ((Row("", (), entity), place) for place, entity in enumerate(ids))
    chosen = _first_entities(numbered, entities, _renderings(dataset_dir, config, knowledge))
    return Texts(dataset_dir, config, np.fromiter((place for _, place in chosen), dtype=np.int64))


def _renderings(dataset_dir: Path, config: str, knowledge: Knowledge) -> int | None:
    """The number of texts that every entity has; None where it may differ, as in a table of prompts."""
    uneven = knowledge.missing_texts or not has_config(dataset_dir, "people")
    return None if uneven else num_rows(dataset_dir, config) // knowledge.num_people


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
    if all(attribute.stated is None for attribute in knowledge.attributes):
        renderings = _renderings(dataset_dir, texts, knowledge)
        pairs = list(_first_entities(read_rows(dataset_dir, texts), most, renderings))
    else:
        chosen = _covering((row for row, _ in read_rows(dataset_dir, texts)), most)
        pairs = [pair for pair in read_rows(dataset_dir, texts) if pair[0].entity in chosen]
    there = len({row.entity for row, _ in pairs})
    logger.info("null control: %d entities with exchanged values, as the data set has none outside the sample", there)
    lists = read_candidates(dataset_dir) if has_config(dataset_dir, "candidates") else {}
    options = {key: candidates.parts[0] for key, candidates in lists.items() if isinstance(key, tuple)}
    return shuffled(pairs, options), SHUFFLED


def _covering(rows: Iterable[Row], most: int) -> set[int | str]:
    """Entities, the first ones of every attribute that not all state: `most` in all, but 100 of each attribute."""
    attributes: dict[str, int] = {}  # with the bit of each
    states: dict[int | str, int] = {}  # the attributes of each entity, as bits
    masks: dict[int, int] = {}  # one object for equal ones
    for row in rows:
        mask = states.get(row.entity, 0)
        for span in row.spans:
            if span.attribute != NAME:
                mask |= attributes.setdefault(span.attribute, 1 << len(attributes))
        states[row.entity] = masks.setdefault(mask, mask)
    enough, counts = max(MIN_CONTROL_ENTITIES, most // max(1, len(attributes))), dict.fromkeys(attributes, 0)
    chosen: set[int | str] = set()
    for entity, mask in states.items():
        own = [attribute for attribute, bit in attributes.items() if mask & bit]
        if any(counts[attribute] < enough for attribute in own):
            chosen.add(entity)
            for attribute in own:
                counts[attribute] += 1
    return chosen


def shuffled(
    pairs: list[tuple[Row, int]], options: Mapping[tuple[str, str], Sequence[str]] | None = None
) -> list[tuple[Row, int]]:
    """The texts with values exchanged among their entities; `options` are those of `shuffled_values`."""
    rows = shuffled_values([row for row, _ in pairs], seed=0, options=options)
    return [(row, rendering) for row, (_, rendering) in zip(rows, pairs, strict=True)]


def shuffled_values(
    rows: Iterable[Row], seed: int, options: Mapping[tuple[str, str], Sequence[str]] | None = None
) -> list[Row]:
    """The null control of any data set: every entity keeps its name and text form, with the values of another entity.

    Entities that state the same attributes are put in a random cycle, so that none keeps its own values and values
    that depend on each other stay together. An entity that is alone with its attributes takes the values of those that
    share most of them. A text ends before the first attribute that no other entity states. Rows of one entity
    (renderings) take the same values.

    Args:
        rows: the texts.
        seed: of the exchange.
        options: a list of its own for an attribute of an entity: its value is drawn from that list, since the values
            of others are not in it.

    Raises:
        FactError: fewer than two entities.
    """
    rows, options = list(rows), options or {}
    own = _values(rows)
    if len(own) < 2 and not options:
        raise FactError(f"got {len(own)} entity; expected two or more, whose values can be exchanged")
    random = np.random.default_rng(seed)
    groups: dict[frozenset[str], list[int | str]] = {}
    for entity, values in own.items():
        groups.setdefault(frozenset(values), []).append(entity)
    new: dict[int | str, dict[str, str]] = {}
    for members in groups.values():
        order = random.permutation(len(members)) if len(members) > 1 else []
        new |= {members[order[i]]: dict(own[members[order[i - 1]]]) for i in range(len(order))}
    for entity in [entity for entity in own if entity not in new]:
        new[entity] = _values_of_others(entity, own, random)
    for (attribute, entity), texts in options.items():
        if entity in new:
            new[entity][attribute] = texts[int(random.integers(len(texts)))]
    return [_with_values(row, new[row.entity]) for row in rows]


def _values(rows: Iterable[Row]) -> dict[int | str, dict[str, str]]:
    """The values of each entity by attribute, names excluded."""
    values: dict[int | str, dict[str, str]] = {}
    for row in rows:
        own = values.setdefault(row.entity, {})
        for span in row.spans:
            if span.attribute != NAME:
                own.setdefault(span.attribute, row.text[span.start : span.end])
    return values


def _values_of_others(
    entity: int | str, own: Mapping[int | str, dict[str, str]], random: np.random.Generator
) -> dict[str, str]:
    """Values of an entity's attributes from others, as few as have all of them."""
    names = list(own)
    others = [names[i] for i in random.permutation(len(names)) if names[i] != entity]
    found: dict[str, str] = {}
    while missing := own[entity].keys() - found.keys():
        best = max(others, key=lambda other: len(missing & own[other].keys()), default=None)
        if best is None or not missing & own[best].keys():
            break
        found |= {attribute: own[best][attribute] for attribute in missing & own[best].keys()}
    return found


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
