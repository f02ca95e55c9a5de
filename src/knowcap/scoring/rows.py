"""Which texts of a data set folder are scored, and which make up their null control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from knowcap.dataset.folder import has_config, num_rows, read_rows
from knowcap.facts import Knowledge, Row
from knowcap.scoring.shuffle import shuffled_values


SHUFFLED_CONTROL_ENTITIES = 1000
OUTSIDERS = "outsiders"
FEWEST_CONTROL_ENTITIES = 100  # a limit makes no control smaller than this


def biographies(
    dataset_dir: Path, config: str, knowledge: Knowledge, entities: int
) -> tuple[Iterator[tuple[Row, int]], int]:
    """The rows of the first so many entities, and how many there are."""
    count = num_rows(dataset_dir, config)
    if entities == knowledge.num_people:
        return read_rows(dataset_dir, config), count
    rows = list(_first_entities(read_rows(dataset_dir, config), entities, _renderings(count, knowledge)))
    return iter(rows), len(rows)


def _renderings(count: int, knowledge: Knowledge) -> int | None:
    """How many of `count` texts each entity has; None where some may lack some."""
    return None if knowledge.missing_texts else count // knowledge.num_people


def _first_entities(
    rows: Iterable[tuple[Row, int]], entities: int, renderings: int | None = None
) -> Iterator[tuple[Row, int]]:
    """The rows of the first so many entities, wherever they stand; ends once each has its renderings, if given."""
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


def control_rows(
    dataset_dir: Path, configs: tuple[str, str], knowledge: Knowledge, limit: int | None
) -> tuple[list[tuple[Row, int]], str]:
    """The null control (rule 8): people outside the sample, or else the first entities with their values shuffled."""
    texts, control = configs
    outsiders = has_config(dataset_dir, control)
    most = max(limit, FEWEST_CONTROL_ENTITIES) if limit is not None else None
    if outsiders:
        rows = read_rows(dataset_dir, control)
        return list(rows if most is None else _first_entities(rows, most)), OUTSIDERS
    most = min(most or SHUFFLED_CONTROL_ENTITIES, SHUFFLED_CONTROL_ENTITIES, knowledge.num_people)
    renderings = _renderings(num_rows(dataset_dir, texts), knowledge)
    pairs = list(_first_entities(read_rows(dataset_dir, texts), most, renderings))
    return shuffled(pairs), "shuffled"


def shuffled(pairs: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """The texts with their values exchanged among their entities."""
    rows = shuffled_values([row for row, _ in pairs], seed=0)
    return [(row, rendering) for row, (_, rendering) in zip(rows, pairs, strict=True)]
