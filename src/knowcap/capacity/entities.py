"""Best and least remembered entities: bits by entity, and the names of entities."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowcap.capacity.blocks import FactBlocks
from knowcap.capacity.tables import without_first_chunks
from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import NAME
from knowcap.files import KNOWLEDGE_FILE, NLL_FILE
from knowcap.scoring.measurement import read_measurement


@dataclass(frozen=True)
class EntityBits:
    """Bits by entity, the best remembered first; nothing is clipped, so the last may be below zero.

    Attributes:
        entities: (n,) ids; entities that state no fact are left out.
        bits: (n,) bits of all facts of each, means over renderings; without diversity terms.
        most: (n,) the bits of a perfect model: for a name log2 N bits less than its candidates.
        attributes: names of the columns of `by_attribute`; none if they were not asked for.
        by_attribute: (n, attributes) bits; NaN if an entity does not state it.
    """

    entities: np.ndarray
    bits: np.ndarray
    most: np.ndarray
    attributes: list[str]
    by_attribute: np.ndarray

    def ends(self, count: int) -> tuple[list[int], list[int]]:
        """The rows of the `count` best and of the `count` least remembered entities; no row is in both."""
        total = len(self.entities)
        best = min(count, total)
        return list(range(best)), list(range(max(best, total - count), total))


def bits_by_entity(model_dir: str | Path, attributes: bool = True) -> EntityBits:
    """Bits of every entity that was scored, the best remembered first.

    Args:
        model_dir: a folder with nll.parquet.
        attributes: also by attribute; without them memory does not grow with their number.

    Raises:
        ScoringError, CapacityError: the file is missing or broken.
    """
    path = Path(model_dir) / NLL_FILE
    measurement = read_measurement(path)
    source, terms = FactBlocks(path, measurement), measurement["knowledge"].get("diversity_terms") or []
    terms = [term for term in terms if term["fact"] in source.attributes]
    names: list[str] = []
    parts = []
    for everything in source:
        facts = without_first_chunks(everything, terms)
        names = facts.attributes if attributes else []
        most = facts.references.copy()
        if NAME in facts.attributes:
            most[:, facts.attributes.index(NAME)] -= math.log2(measurement["num_entities"])
        known = facts.bits
        kept = known if attributes else np.empty((len(known), 0))
        parts.append((facts.entities, np.nansum(known, axis=1), np.nansum(most, axis=1), kept))
    entities, bits, most, by_attribute = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    by_id = np.argsort(entities, kind="stable")
    order = by_id[np.argsort(-bits[by_id], kind="stable")]  # equal ones in the order of their ids
    return EntityBits(entities[order], bits[order], most[order], names, by_attribute[order])


def entity_names(dataset_dir: str | Path, entities: Collection[int | str]) -> dict[int | str, str]:
    """The names of entities: the span of the name in an entity's first text, or the id itself if it is a text.

    Entities without a name in their texts are left out.

    Args:
        dataset_dir: a data set folder.
        entities: ids.

    Raises:
        FactError, DatasetError: it is not a data set folder.
    """
    names: dict[int | str, str] = {entity: entity for entity in entities if isinstance(entity, str)}
    missing = set(entities) - set(names)
    if not missing:
        return names
    for row, _ in read_rows(dataset_dir):
        if row.entity in missing:
            missing.remove(row.entity)
            span = next((span for span in row.spans if span.attribute == NAME), None)
            if span is not None:
                names[row.entity] = row.text[span.start : span.end]
        if not missing:
            break
    return names


def dataset_of(results_dir: str | Path) -> Path | None:
    """The data set folder that a folder of results was measured on: `data` beside them, or a run folder's `knowledge`.

    None if no such folder has the knowledge.json that the results record.
    """
    results_dir = Path(results_dir).absolute()
    recorded = read_measurement(results_dir / NLL_FILE)["knowledge"]
    for parent in (results_dir, *results_dir.parents):
        for folder in (parent / "data", parent / "knowledge"):
            if (folder / KNOWLEDGE_FILE).is_file():
                content = read_knowledge(folder).content()
                if all(content[key] == recorded[key] for key in ("name", "version", "num_people")):
                    return folder
    return None
