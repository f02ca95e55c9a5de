"""Best and least remembered entities: bits by entity.

python -m knowcap.capacity.entities runs/quickstart/model --count 5
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.capacity.tables import Facts, read_facts, without_first_chunks
from knowcap.facts import NAME
from knowcap.files import NLL_FILE
from knowcap.scoring.measurement import read_measurement


@dataclass(frozen=True)
class EntityBits:
    """Bits by entity, the best remembered first; nothing is clipped, so the last may be below zero.

    Attributes:
        entities: (n,) ids; entities that state no fact are left out.
        bits: (n,) bits of all facts of each, means over renderings; without diversity terms.
        most: (n,) the bits of a perfect model: for a name log2 N bits less than its candidates.
        attributes: names of the columns of `by_attribute`.
        by_attribute: (n, attributes) bits; NaN if an entity does not state it.
    """

    entities: np.ndarray
    bits: np.ndarray
    most: np.ndarray
    attributes: list[str]
    by_attribute: np.ndarray

    def table(self, count: int) -> str:
        """The `count` best and `count` least remembered entities, for the terminal."""
        total = len(self.entities)
        indices = range(total) if total <= 2 * count else [*range(count), *range(total - count, total)]
        rows = [["entity", "bits", "of", *self.attributes]]
        for index in indices:
            if index != 0 and index == total - count and total > 2 * count:
                rows.append(["…"] + [""] * (len(rows[0]) - 1))
            parts = ["" if math.isnan(x) else f"{x:.2f}" for x in self.by_attribute[index]]
            rows.append([str(self.entities[index]), f"{self.bits[index]:.2f}", f"{self.most[index]:.2f}", *parts])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def bits_by_entity(model_dir: str | Path) -> EntityBits:
    """Bits of every entity that was scored, the best remembered first.

    Args:
        model_dir: a folder with nll.parquet.

    Raises:
        ScoringError, CapacityError: the file is missing or broken.
    """
    path = Path(model_dir) / NLL_FILE
    measurement = read_measurement(path)
    terms = measurement["knowledge"].get("diversity_terms") or []
    facts = read_facts(path, measurement)
    return _sorted(without_first_chunks(facts, [t for t in terms if t["fact"] in facts.attributes]), measurement)


def _sorted(facts: Facts, measurement: dict[str, Any]) -> EntityBits:
    """Sums over the facts of each entity, in descending order; equal ones in the order of their ids."""
    most = facts.references.copy()
    if NAME in facts.attributes:
        most[:, facts.attributes.index(NAME)] -= math.log2(measurement["num_entities"])
    bits, most = np.nansum(facts.bits, axis=1), np.nansum(most, axis=1)
    by_id = np.argsort(facts.entities, kind="stable")
    order = by_id[np.argsort(-bits[by_id], kind="stable")]
    return EntityBits(facts.entities[order], bits[order], most[order], facts.attributes, facts.bits[order])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the best and least remembered entities of a measured model."""
    parser = argparse.ArgumentParser(prog="python -m knowcap.capacity.entities", description=main.__doc__)
    parser.add_argument("model_dir", type=Path, help="a folder with nll.parquet")
    parser.add_argument("--count", type=int, default=5, help="number of entities of each kind")
    args = parser.parse_args(arguments)
    if args.count < 1:
        parser.error(f"--count is {args.count}, expected 1 or more")
    try:
        sys.stdout.write(bits_by_entity(args.model_dir).table(args.count) + "\n")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
