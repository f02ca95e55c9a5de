"""What a sweep shows of its results: a table for the terminal, and the content of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowcap.capacity.seeds import recipe_of, seed_groups
from knowcap.files import CAPACITY_FILE, PAGE_FILE, RESULTS_FILE, TRAINING_FILE
from knowcap.report import page
from knowcap.report.card.results import estimate, measurement_of, read_if_there
from knowcap.report.table import Table, number
from knowcap.report.text_table import text_table
from knowcap.sweep.cells import Cell, Sweep, describe_winners, varied_keys
from knowcap.sweep.compare import architecture_table, comparison_tables
from knowcap.sweep.file import packaged_sweeps
from knowcap.sweep.workers import failure_file


def write_page(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes report.html into the sweep's folder.

    Args:
        sweep: the sweep.
        rows: from `knowcap.sweep.table.rows_of`; cells without a row are listed as failed or not finished.
    """
    cells = {cell.name: cell for cell in sweep.cells}
    finished = [cells[row["run"]] for row in rows]
    failures = {name: failure_file(sweep.folder, name) for name in cells.keys() - {cell.name for cell in finished}}
    content = page.Page(
        title=f"Sweep {sweep.name}",
        base=str(sweep.base),
        config=sweep.name if packaged_sweeps().get(sweep.name) == sweep.file else str(sweep.file),
        file=sweep.file.read_text(encoding="utf-8-sig").strip(),
        num_cells=len(cells),
        varied=varied_keys(sweep),
        rows=[capacity_of(row) for row in rows],
        trainings={cell.name: read_if_there(cell.run_dir / "model" / TRAINING_FILE) for cell in finished},
        failed={
            name: failures[name].read_text(encoding="utf-8").split("\n", 1)[0]
            for name in cells
            if name in failures and failures[name].is_file()
        },
        winners=describe_winners(sweep, rows),
        best_of=sweep.best_of,
        seeds=seed_groups([_measured(cell) for cell in finished], [recipe_of(cell.run_dir) for cell in finished]),
        tables=result_tables(sweep, rows),
        results_file=RESULTS_FILE,
    )
    return page.write_page(content, sweep.folder / PAGE_FILE)


def results_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """The runs as a table for the terminal."""
    head = ("run", "model", "parameters", "N", "exposures", "bits/param", "max", *(["won"] if sweep.best_of else []))
    won = {True: "won", False: "", None: "?"}
    lines = [
        [
            row["run"],
            row["model_name"],
            *(number(row[key], ",") for key in ("num_parameters", "num_entities", "exposures")),
            f"{estimate(capacity_of(row))}, one seed",
            number(row["max_bits_per_parameter"]),
            *([won[row["won"]]] if sweep.best_of else []),
        ]
        for row in rows
    ]
    return text_table([head, *lines], left=(0, 1))


def result_tables(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The tables that compare cells, and that of the architectures where there are several."""
    architectures = architecture_table(sweep, rows)
    return [*comparison_tables(sweep, rows), *([architectures] if architectures else [])]


def capacity_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its confidence interval as capacity.json has it."""
    return {**row, "confidence_interval": [row["bits_per_parameter_low"], row["bits_per_parameter_high"]]}


def _measured(cell: Cell) -> dict[str, Any]:
    """A finished cell's capacity, as `seed_groups` takes it."""
    capacity = read_if_there(cell.run_dir / "model" / CAPACITY_FILE)
    scored = measurement_of(cell.run_dir / "model").get("entities_scored", capacity["num_entities"])
    return {"run": cell.name, "folder": "model", "entities_scored": scored} | capacity
