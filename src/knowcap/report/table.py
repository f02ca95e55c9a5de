"""Numbers, tables and templates as text; the tables of one measurement and of one comparison for the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.capacity.blocks import FactBlocks, Moments
from knowcap.capacity.kept import read_capacity_file
from knowcap.dataset.markdown import in_markdown
from knowcap.files import NLL_FILE
from knowcap.report.duration import duration
from knowcap.report.text_table import text_table
from knowcap.scoring.measurement import read_measurement


if TYPE_CHECKING:
    from jinja2 import Environment


_CAPACITY_COLUMNS = ("Dataset", "Version", "N", "Attribute", "Metric", "", "Value", "", "Stderr", "Max", "Accuracy")
_CAPACITY_LEFT = (0, 1, 3, 4, 5, 7)


@dataclass(frozen=True)
class Table:
    """A table with a title and a note, for the terminal and for a page.

    Attributes:
        title: one line.
        rows: of equally many cells; the first row is the header.
        left: indices of the columns that are aligned left.
        note: one line; "" for none.
    """

    title: str
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    note: str = ""

    def text(self) -> str:
        """The table for a terminal."""
        return "\n".join([self.title, text_table(self.rows, self.left), *([self.note] if self.note else [])])


def number(value: float | None, form: str = ".3f", missing: str = "") -> str:
    """A number as text; `missing` for None and NaN."""
    return missing if value is None or math.isnan(value) else f"{value:{form}}"


def short_number(value: float) -> str:
    """Such as 10k, 2.5M or 0.5."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{letter}"
    return f"{value:.6g}"


def percent(share: float | None, missing: str = "") -> str:
    """Such as `82.3 %`; `missing` for None and NaN."""
    return missing if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def half_width(interval: Sequence[float | None], form: str = ".3f", sign: str = " ± ") -> str:
    """Half the width of a confidence interval, such as ` ± 0.021`; nothing if an end is missing."""
    low, high = interval
    return "" if low is None or high is None else f"{sign}{(high - low) / 2:{form}}"


def render(template: str, **context: Any) -> str:
    """A Jinja template of this folder; HTML is escaped in .html files. Filters: `number`, `percent`, `duration`, and
    `markdown` for names and texts of others.

    Args:
        template: its path within this folder.
        context: what the template names.
    """
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    """The templates of this folder; each is compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "markdown": in_markdown}
    return environment


def capacity_table(
    result: Path, model: str, dataset_name: str | None, limit: int | None, batch_size: int | None
) -> str:
    """A measurement for the terminal, laid out as lm-evaluation-harness does; standard errors are over entities.

    Args:
        result: a folder with nll.parquet and capacity.json.
        model, dataset_name, limit, batch_size: the command's arguments, for the line above the table.
    """
    capacity = read_capacity_file(result)
    measurement = read_measurement(result / NLL_FILE)
    source, knowledge = FactBlocks(result / NLL_FILE, measurement), measurement["knowledge"]
    moments = [[Moments.of(column) for column in facts.bits.T] for facts in source]
    spread = {a: Moments.over(blocks) for a, blocks in zip(source.attributes, zip(*moments, strict=True), strict=True)}
    head = (
        f"knowcap ({model}), architecture: {capacity['model_name']}, dataset: {dataset_name or knowledge['name']}, "
        f"scoring: {capacity['scoring']}, context: {capacity['context']}, "
        f"start token: {capacity['start_token'] or 'none'}, limit: {limit}, batch_size: {batch_size or 'auto'}"
    )
    rows = []
    for attribute, found in capacity["attributes"].items():
        if found["bits_per_entity"] is None:
            continue
        error = spread[attribute].deviation / math.sqrt(spread[attribute].count)
        numbers = ["↑", number(found["bits_per_entity"], ".4f"), "±", number(error, ".4f")]
        most = number(found["max_bits_per_entity"], ".4f")
        rows.append([attribute, "bits per entity", *numbers, most, percent(found["accuracy"])])
    ratio, most = (number(capacity[key], ".4f") for key in ("bits_per_parameter", "max_bits_per_parameter"))
    metric = f"bits per parameter ({100 * capacity['confidence_level']:g} %, one seed)"
    rows.append(["all", metric, "↑", ratio, "±", half_width(capacity["confidence_interval"], ".4f", ""), most, ""])
    dataset = [knowledge["name"], str(knowledge["version"]), f"{capacity['num_entities']:,}"]
    cells = [[*(dataset if i == 0 else [""] * 3), *row] for i, row in enumerate(rows)]
    foot = "" if capacity.get("bound", True) else f"\nnot a bound: {capacity.get('bound_reason')}"
    foot += _beforehand(capacity)
    return f"{head}\n{text_table([_CAPACITY_COLUMNS, *cells], _CAPACITY_LEFT, markdown=True, padding='')}{foot}"


def _beforehand(capacity: dict[str, Any]) -> str:
    """A line about a model that was not trained on the facts here."""
    if capacity.get("trained_here") is not False:
        return ""
    counted = capacity["parameters_counted"]
    which = "" if counted == "all" else f" ({counted})"
    return f"\nnot trained here: the bits are what the model knew beforehand, per each of its parameters{which}"


def comparison_text(result: dict[str, Any]) -> str:
    """A comparison for the terminal: both models, the difference in one line, and a table by attribute.

    Args:
        result: from `knowcap.capacity.comparison.compare`.
    """
    lines = []
    for side in ("a", "b"):
        model = result[side]
        lines.append(
            f"{side.upper()}: {model['model']} ({model['model_name']}, {model['precision']}, "
            f"{model['num_parameters']:,} parameters), {model['bits_per_parameter']:.4f} bits per parameter"
        )
    row = result["bits_per_parameter"]
    low, high = row["confidence_interval"]
    interval = "" if low is None else f" [{_signed(low, row)}, {_signed(high, row)}]"
    caveat = "" if result["bound"] else " (not bounds)"
    lines.append(f"A minus B = {_difference(row)} bits per parameter{interval}{caveat}")
    lines.append(
        f"{100 * result['confidence_level']:g} % interval, paired over {result['entities_scored']:,} entities; "
        "without the variation over training seeds"
    )
    cells = [["attribute", "A, bits/entity", "B, bits/entity", "A - B, bits/entity", "A - B, bits/param"]]
    for name, found in result["attributes"].items():
        bits = found["bits_per_entity"]
        both = [number(bits[side], missing="not stated") for side in ("a", "b")]
        cells.append([name, *both, _difference(bits), _difference(found["bits_per_parameter"])])
    return "\n".join([*lines, text_table(cells)])


def _signed(value: float, row: dict[str, Any]) -> str:
    """With a sign, and as many digits as show two of the interval's half width, 3 at least and 6 at most."""
    low, high = row["confidence_interval"]
    half = 0.0 if low is None else (high - low) / 2
    digits = min(6, max(3, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{value:+.{digits}f}"


def _difference(row: dict[str, Any]) -> str:
    """Such as `+0.123 ± 0.004`."""
    low, high = row["confidence_interval"]
    if row["difference"] is None:
        return "not stated"
    width = "" if low is None else f" ± {_signed((high - low) / 2, row)[1:]}"
    return f"{_signed(row['difference'], row)}{width}"
