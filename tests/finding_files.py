"""Finding files, and results of their cells that nothing was trained for: for tests only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from knowcap.files import write_json
from knowcap.findings.selection import settings
from knowcap.sweep import Cell, Sweep


SWEEP = """
base: biod/compact-cpu
grid:
  num_people: [500, 1000]
  exposures: [100, 1000]
  seed: [10, 11, 12, 13]
"""
FINDING = """
finding:
  number: 4
  title: Half of it
  scale: small
  paper: "Result 4: half"
  statements:
"""
PARAMETERS = 65_280


def write_finding(
    folder: Path, statements: str, sweep: str = SWEEP, head: str = FINDING, name: str = "04-half"
) -> Path:
    """A finding file; `statements` are the items of its list, each a mapping in one line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"    - {line.strip()}\n" for line in statements.strip().splitlines())
    file = folder / f"{name}.yaml"
    file.write_text(f"{sweep}{head}{lines}")
    return file


def write_results(folder: Path, sweep: Sweep, numbers: Callable[[Cell], dict[str, float] | None]) -> Path:
    """Collected results of a sweep's cells.

    Args:
        folder: of the results of all sweeps.
        sweep: the sweep.
        numbers: columns of a cell's row, such as {"bits_per_parameter": 1.5}; None: the cell is not run.
    """
    cells: dict[str, Any] = {}
    for cell in sweep.cells:
        if (found := numbers(cell)) is None:
            continue
        row = {"run": cell.name, "model_name": cell.recipe.model_name, "num_parameters": PARAMETERS}
        row |= {"num_entities": cell.recipe.num_people, "exposures": cell.recipe.exposures, "seed": cell.recipe.seed}
        row |= {"max_bits_per_parameter": 2.0, "memorizable_accuracy": 0.5} | found
        row["knowledge_bits"] = row["bits_per_parameter"] * PARAMETERS
        row["max_knowledge_bits"] = row["max_bits_per_parameter"] * PARAMETERS
        made = folder / sweep.name / "cells" / cell.name
        for part in ("", "int8", "int4"):
            key = f"{part}_bits_per_parameter".strip("_")
            if row.get(key) is not None:
                (made / part).mkdir(parents=True, exist_ok=True)
                write_json(made / part / "capacity.json", row | {"bits_per_parameter": row[key]})
        cells[cell.name] = {"settings": settings(cell.recipe), "row": row, "train_seconds": 60.0}
    (folder / sweep.name).mkdir(parents=True, exist_ok=True)
    write_json(folder / sweep.name / "cells.json", {"schema_version": 1, "sweep": sweep.name, "cells": cells})
    return folder
