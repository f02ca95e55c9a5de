"""The page of a sweep: one HTML file with charts and tables; its script only sorts the table of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from knowcap.files import whole_file
from knowcap.provenance import __version__
from knowcap.report.card.results import estimate, optional
from knowcap.report.plots import frontier_svg, loss_svg
from knowcap.report.stamp import make_stamped
from knowcap.report.table import Table, half_width, render


# Header, key of the row, format; None: text; "duration": of seconds, by which the column is sorted.
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
    ("bits/FLOP", "bits_per_flop", ".2e"),
    ("int8", "int8_bits_per_parameter", ".3f"),
    ("int4", "int4_bits_per_parameter", ".3f"),
    ("int8 GPTQ", "int8_gptq_bits_per_parameter", ".3f"),
    ("int4 GPTQ", "int4_gptq_bits_per_parameter", ".3f"),
    ("bits/stored bit", "bits_per_stored_bit", ".4f"),
    ("int8 bits/stored bit", "int8_bits_per_stored_bit", ".4f"),
    ("int4 bits/stored bit", "int4_bits_per_stored_bit", ".4f"),
    ("memorized", "memorizable_accuracy", ".1%"),
    ("training", "train_seconds", "duration"),
)


@dataclass(frozen=True)
class Page:
    """What the page of a sweep shows.

    Attributes:
        title: the heading.
        base: the recipe that all cells change.
        config: the sweep's name or file, as `knowcap sweep` takes it.
        file: the text of the sweep file.
        num_cells: how many cells the sweep has.
        varied: the keys in which cells differ.
        rows: of finished cells: their columns in the results file, `confidence_interval` and `won`.
        trainings: the content of training.json by run.
        failed: the errors of failed cells by name.
        winners: a line for each comparison over `best_of`.
        best_of: the key whose values are compared, if any.
        seeds: the groups of `knowcap.capacity.seeds.seed_groups`.
        tables: further tables, below the winners.
        results_file: the name of the file with all results.
    """

    title: str
    base: str
    config: str
    file: str
    num_cells: int
    varied: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    trainings: Mapping[str, dict[str, Any]]
    failed: Mapping[str, str]
    winners: Sequence[str]
    best_of: str | None
    seeds: Sequence[dict[str, Any]]
    tables: Sequence[Table]
    results_file: str


def write_page(page: Page, path: Path) -> Path:
    """Writes the HTML file, unless it is there, and returns its path; the same page gives the same bytes."""
    make_stamped([path], vars(page), partial(_write, page, path))
    return path


def _write(page: Page, path: Path) -> None:
    rows = [_shown(row, page.trainings.get(row["run"], {}), f"loss-{i}") for i, row in enumerate(page.rows)]
    columns = [c for c in _COLUMNS if c[1] == "train_seconds" or any(row.get(c[1]) is not None for row in rows)]
    known = {key for _, key, _ in _COLUMNS} | {"num_people", "run_name"}
    columns += [(key, key, None) for key in page.varied if key not in known]
    text = render(
        "page.html",
        **vars(page) | {"rows": rows},
        columns=columns,
        waiting=page.num_cells - len(rows) - len(page.failed),
        frontier=frontier_svg(rows) if rows else "",
        estimate=estimate,
        version=__version__,
    )
    with whole_file(path) as made:
        made.write_text(text, encoding="utf-8")


def _shown(row: Mapping[str, Any], training: dict[str, Any], name: str) -> dict[str, Any]:
    """A row with what the page adds to it: seconds and curve of training, and the interval as text."""
    return optional(
        {
            **row,
            "train_seconds": training.get("train_seconds"),
            "curve": loss_svg(training, name),
            "half_width": half_width(row["confidence_interval"]),
        }
    )
