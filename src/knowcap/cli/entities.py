"""`knowcap entities`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.cli.parsers import add_command, positive


if TYPE_CHECKING:
    from knowcap.capacity.entities import EntityBits


_EXAMPLES = (
    "knowcap entities runs/quickstart --count 10",
    "knowcap entities runs/quickstart/quantized/int4 --json",
    "knowcap entities measured/gpt2 --dataset_name you/your-facts",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _entities, _EXAMPLES)
    parser.add_argument(
        "folder", metavar="RUN_OR_MODEL_DIR", type=Path, help="a run folder, or a folder with nll.parquet"
    )
    data = "the data set that has the names: a folder or a Hub id; by default the one beside the results"
    parser.add_argument("--dataset_name", metavar="DATA", help=data)
    parser.add_argument("--count", type=positive, default=5, help="entities at each end of the list [5]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _entities(args: argparse.Namespace, _: list[str]) -> None:
    """Prints the best and the least remembered entities, by name."""
    from knowcap.capacity.entities import bits_by_entity, dataset_of, entity_names
    from knowcap.dataset.source import WHOLE, find_source
    from knowcap.report.text_table import text_table
    from knowcap.run.folder import is_run_dir

    results = args.folder / "model" if is_run_dir(args.folder) else args.folder
    found = bits_by_entity(results)
    best, least = found.ends(args.count)
    shown = found.entities[[*best, *least]].tolist()
    data = dataset_of(results) if args.dataset_name is None else find_source(args.dataset_name).fetch(*WHOLE)
    known = {} if data is None else entity_names(data, shown)
    names = [known.get(entity, entity if isinstance(entity, str) else None) for entity in shown]
    if args.json:
        records = [_record(found, row, name) for row, name in zip((*best, *least), names, strict=True)]
        content = {"best": records[: len(best)], "least": records[len(best) :]}
        print(json.dumps({"num_entities": len(found.entities), **content}, ensure_ascii=False))
        return
    lines = [_cells(found, row, name) for row, name in zip((*best, *least), names, strict=True)]
    if len(lines) < len(found.entities):
        lines.insert(len(best), ["…"] + [""] * (len(lines[0]) - 1))
    print(text_table([["entity", "bits", "of", *found.attributes], *lines]))
    if None in names:
        why = "there is no data set folder beside the results; give --dataset_name" if data is None else str(data)
        print(f"shown by number where the data set has no name: {why}")


def _cells(found: EntityBits, row: int, name: str | None) -> list[str]:
    """A line of the table; empty where an attribute is not stated."""
    from knowcap.report.table import number

    numbers = (found.bits[row], found.most[row], *found.by_attribute[row])
    return [str(found.entities[row]) if name is None else name, *(number(value, ".2f") for value in numbers)]


def _record(found: EntityBits, row: int, name: str | None) -> dict[str, Any]:
    """An entity for JSON; None for an attribute that is not stated, or for a name that is not known."""
    pairs = zip(found.attributes, found.by_attribute[row].tolist(), strict=True)
    return {
        "entity": found.entities[[row]].tolist()[0],
        "name": name,
        "bits": float(found.bits[row]),
        "max_bits": float(found.most[row]),
        "attributes": {attribute: None if math.isnan(bits) else bits for attribute, bits in pairs},
    }
