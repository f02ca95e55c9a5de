"""A sweep's page: one HTML file with everything in it; charts and tables need no script, which only sorts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from knowcap.capacity.seed_groups import recipe_of, seed_groups
from knowcap.files import whole_file
from knowcap.provenance import __version__
from knowcap.report.card.results import measurement_of, read_json
from knowcap.sweep.cells import Cell, Sweep, tell_winners
from knowcap.sweep.charts import frontier, training
from knowcap.sweep.file import packaged_sweeps
from knowcap.sweep.table import RESULTS_FILE
from knowcap.sweep.workers import failure_file


PAGE_FILE, PLOT_FILE = "report.html", "bits_vs_parameters.png"
# Heading, key of the row, how it is written; None: as text.
_COLUMNS = (
    ("run", "run", None),
    ("model", "model_name", None),
    ("parameters", "num_parameters", ",d"),
    ("N", "num_entities", ",d"),
    ("exposures", "exposures", ",d"),
    ("bits/param", "bits_per_parameter", ".3f"),
    ("R max", "max_bits_per_parameter", ".3f"),
    ("loss", "loss", ".4f"),
    ("learning rate", "learning_rate", "g"),
    ("seed", "seed", "d"),
    ("tokens", "num_tokens", ",d"),
    ("FLOP", "flops", ".2e"),
    ("int8", "int8_bits_per_parameter", ".3f"),
    ("int4", "int4_bits_per_parameter", ".3f"),
    ("memorized", "memorizable_accuracy", ".1%"),
    ("train s", "train_seconds", ",.0f"),
)


def write_page(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes report.html into the sweep's folder.

    Args:
        sweep: the sweep.
        rows: from `knowcap.sweep.table.rows_of`; cells without one are said to be missing.
    """
    trainings = {row["run"]: read_json(sweep.folder / row["run"] / "model" / "training.json") for row in rows}
    template = Template(resources.files("knowcap.sweep").joinpath("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        title=escape(f"Sweep {sweep.name}"),
        summary=escape(_summary(sweep, rows)),
        failures=_failures(sweep, {row["run"] for row in rows}),
        frontier=frontier(rows) if rows else "<p>No cell is finished yet.</p>",
        winners=_winners(sweep, rows),
        table=_table(sweep, rows, trainings),
        results=RESULTS_FILE,
        means=_means(sweep, rows),
        curves="\n".join(_curve(row, trainings[row["run"]]) for row in rows),
        file=escape(sweep.file.read_text(encoding="utf-8-sig").strip()),
        version=escape(__version__),
        config=escape(sweep.name if packaged_sweeps().get(sweep.name) == sweep.file else str(sweep.file)),
    )
    page = sweep.folder / PAGE_FILE
    with whole_file(page) as made:
        made.write_text(text, encoding="utf-8")
    return page


def results_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """The runs as lines for a terminal."""
    head = ("run", "parameters", "N", "exposures", "bits/param", "max", *(["won"] if sweep.best_of else []))
    won = {True: "won", False: "", None: "?"}
    lines = [
        [
            row["run"], f"{row['num_parameters']:,}", f"{row['num_entities']:,}", f"{row['exposures']:,}",
            f"{row['bits_per_parameter']:.3f}{_width(row)}", f"{row['max_bits_per_parameter']:.3f}",
            *([won[row["won"]]] if sweep.best_of else []),
        ]
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in [head, *lines]
    )


def _summary(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """How many cells, of what, and how many are finished."""
    keys = ", ".join(_varied(sweep)) or "nothing"
    finished = "all finished" if len(rows) == len(sweep.cells) else f"{len(rows):,} finished"
    return f"{len(sweep.cells):,} cells ({finished}) of the recipe {sweep.base}; what changes: {keys}."


def _failures(sweep: Sweep, finished: set[str]) -> str:
    """What failed, with its error, and what was not run."""
    missing = [cell.name for cell in sweep.cells if cell.name not in finished]
    told = {name: failure_file(sweep.folder, name) for name in missing}
    failed = {
        name: file.read_text(encoding="utf-8").split("\n", 1)[0] for name, file in told.items() if file.is_file()
    }
    if not missing:
        return ""
    items = "".join(f"<li>{escape(name)}: {escape(error)}</li>" for name, error in failed.items())
    waiting = len(missing) - len(failed)
    rest = f"<p>{waiting:,} cells are not finished.</p>" if waiting else ""
    heading = f"<p>{len(failed):,} cells failed; the same command tries them again:</p><ul>{items}</ul>"
    return f'<div class="failed">{heading if failed else ""}{rest}</div>'


def _winners(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """Which value of `best_of` won, and what the others reached."""
    lines = tell_winners(sweep, rows)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f"<h2>Best of {escape(str(sweep.best_of))}</h2><ul>{items}</ul>"
        '<p class="note">In bits per parameter; the best of several noisy runs is a little too good. Marks of those '
        "that lost are hollow.</p>"
    )


def _table(sweep: Sweep, rows: Sequence[Mapping[str, Any]], trainings: Mapping[str, Mapping[str, Any]]) -> str:
    """All runs, sortable."""
    shown = [
        column for column in _COLUMNS if column[1] == "train_seconds" or any(_has(row, column[1]) for row in rows)
    ]
    shown += [(key, key, None) for key in _other_keys(sweep)]
    heads = "".join(
        f'<th scope="col"{" class=text" if form is None else ""}><button type="button">{escape(head)}</button></th>'
        for head, _, form in shown
    )
    lines = []
    for row in rows:
        values = {**row, "train_seconds": trainings[row["run"]].get("train_seconds")}
        cells = "".join(_cell(values, key, form) for _, key, form in shown)
        state = (
            "" if sweep.best_of is None or row["won"] is None else " class=" + ('"won"' if row["won"] else '"lost"')
        )
        lines.append(f"<tr{state}>{cells}</tr>")
    return f'<table class="sortable" id="runs"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _cell(row: Mapping[str, Any], key: str, form: str | None) -> str:
    value = row.get(key)
    if form is None:
        return f'<td class="text">{escape("" if value is None else str(value))}</td>'
    if value is None:
        return '<td data-value=""></td>'
    width = _width(row) if key == "bits_per_parameter" else ""
    return f'<td data-value="{value!r}">{value:{form}}{width}</td>'


def _other_keys(sweep: Sweep) -> list[str]:
    """Keys in which cells differ and that have no column of their own."""
    known = {key for _, key, _ in _COLUMNS} | {"num_people", "run_name"}
    return [key for key in _varied(sweep) if key not in known]


def _varied(sweep: Sweep) -> list[str]:
    """Keys in which cells differ."""
    keys = dict.fromkeys(key for cell in sweep.cells for key in cell.overrides if key != "run_name")
    return [key for key in keys if len({getattr(cell.recipe, key) for cell in sweep.cells}) > 1]


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None


def _width(row: Mapping[str, Any]) -> str:
    low, high = row["bits_per_parameter_low"], row["bits_per_parameter_high"]
    return "" if low is None or high is None else f" ± {(high - low) / 2:.3f}"


def _means(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> str:
    """Means of runs that differ in their seed alone, with a t interval over them."""
    cells = {cell.name: cell for cell in sweep.cells}
    groups = seed_groups(*_measured([cells[row["run"]] for row in rows]))
    if not groups:
        return ""
    lines = []
    for group in groups:
        low, high = group["confidence_interval"]
        width = "" if low is None or high is None else f" ± {(high - low) / 2:.3f}"
        lines.append(
            f'<tr><td class="text">{escape(", ".join(group["runs"]))}</td>'
            f"<td>{group['bits_per_parameter']:.3f}{width}</td><td>{group['max_bits_per_parameter']:.3f}</td></tr>"
        )
    return (
        '<h2>Means over seeds</h2><p class="note">± half the width of a t interval over runs.</p>'
        '<div class="wide"><table id="means"><thead><tr><th class="text">runs</th><th>bits/param</th><th>R max</th>'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _measured(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Capacities and recipes, as `seed_groups` takes them."""
    models = []
    for cell in cells:
        capacity = read_json(cell.run_dir / "model" / "capacity.json")
        scored = measurement_of(cell.run_dir / "model" / "nll.parquet").get(
            "entities_scored", capacity["num_entities"]
        )
        models.append({"run": cell.name, "folder": "model", "entities_scored": scored} | capacity)
    return models, [recipe_of(cell.run_dir) for cell in cells]


def _curve(row: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    chart = training(history)
    caption = f"{row['run']}: {row['bits_per_parameter']:.3f} bits per parameter"
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>" if chart else ""
