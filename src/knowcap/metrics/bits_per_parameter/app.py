"""The Space of the metric: bits per parameter of a table of scored facts, pasted or uploaded, or of JSON.

Run it in this folder, as the Hub does: `pip install gradio==6.31.0 numpy && python app.py`.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bits import bits_per_parameter  # pyright: ignore[reportMissingImports]
from table_text import decode, header_of, plain_name  # pyright: ignore[reportMissingImports]


if TYPE_CHECKING:
    import gradio  # pyright: ignore[reportMissingImports]

COLUMNS = ("entity", "attribute", "nll", "log2_candidates")  # those of knowcap's nll.parquet; others are ignored
MOST_CELLS = 5_000_000  # of a table with a row for each entity and a column for each attribute
MOST_BYTES = 64_000_000  # of an uploaded file
TABLE = """entity,attribute,nll,log2_candidates
Ada,name,0.693147,20
Ada,birth_date,0,10
Bo,name,0.693147,20
Bo,birth_date,6.931472,10
"""
EXAMPLE = [
    "[[0.693147, 0.0], [0.693147, 6.931472]]",
    "[[20.0, 10.0], [20.0, 10.0]]",
    24,
    '["name", "birth_date"]',
    "name",
]


def parse(argument: str, text: str) -> Any:
    """The text parsed as JSON; a ValueError names the argument if it is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{argument}: lists are too deep; write rows like [[1.5, 0.2], [0.7, null]]") from error
    except ValueError as error:  # a whole number of thousands of digits, too
        raise ValueError(f"{argument}: not JSON ({error}); write lists like [[1.5, 0.2], [0.7, null]]") from error


def integer(number: float | None) -> Any:
    """An integer if the number is whole, since number fields return floats; the metric rejects other numbers."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def measure(
    predictions: str,
    references: str,
    num_parameters: float,
    attribute_names: str = "",
    name_attribute: str = "",
    num_entities: float = 0,
) -> dict[str, Any]:
    """The metric of two JSON tables, in which null or NaN means that a fact is not stated.

    Args:
        predictions: JSON rows of negative log likelihoods, nats, one row per entity.
        references: JSON rows of log2 of the number of candidates, bits.
        num_parameters: Parameters of the model; the number field returns a float.
        attribute_names: JSON list of the columns' names, or nothing.
        name_attribute: The column that names the entity, or nothing.
        num_entities: How many entities the rows are a sample of; 0 if they are all entities.

    Returns:
        What [`bits_per_parameter`] returns.

    Raises:
        ValueError: If a text is not JSON, or as [`bits_per_parameter`] raises.
    """
    return bits_per_parameter(
        parse("predictions", predictions),
        parse("references", references),
        integer(num_parameters),
        attribute_names=parse("attribute_names", attribute_names) if attribute_names.strip() else None,
        name_attribute=name_attribute.strip() or None,
        num_entities=integer(num_entities) or None,
    )


def measure_table(
    table: str, num_parameters: float, name_attribute: str = "", num_entities: float = 0
) -> dict[str, Any]:
    """The metric of a CSV or TSV table, one scored fact a line; arguments, results and errors as in [`measure`]."""
    predictions, references, attributes = read_table(table)
    return bits_per_parameter(
        predictions,
        references,
        integer(num_parameters),
        attribute_names=attributes,
        name_attribute=name_attribute.strip() or None,
        num_entities=integer(num_entities) or None,
    )


def read_table(table: str) -> tuple[list[list[float]], list[list[float]], list[str]]:
    """Predictions, references and attributes of a table with the columns COLUMNS, in any order.

    Cells are separated by commas, semicolons or tabs; upper case and spaces in the header have no effect.

    A fact without a line, or without log2_candidates, is not stated. With a column `rendering`, a fact may have one
    line per rendering, and counts as their mean.

    Raises:
        ValueError: If a column is missing, a line has too few or too many cells or no number, or a fact occurs twice.
    """
    text = table.strip()
    delimiter, header = header_of(text, COLUMNS)
    lines = csv.DictReader(io.StringIO(text), fieldnames=[*map(plain_name, header)], delimiter=delimiter, strict=True)
    next(lines, None)  # the header
    found = list(lines.fieldnames or ())
    if missing := [column for column in COLUMNS if column not in found]:
        raise ValueError(f"table: got columns {found}, expected {list(COLUMNS)}; add {missing}")
    facts: dict[tuple[str, str], dict[str | None, tuple[float, float]]] = {}
    for line in lines:
        where = f"table, line {lines.line_num}"
        if None in line or None in line.values():
            raise ValueError(f"{where}: got more or fewer cells than {len(found)}; write one per column")
        renderings = facts.setdefault((line["entity"], line["attribute"]), {})
        if line.get("rendering") in renderings:
            raise ValueError(f"{where}: {line['attribute']} of {line['entity']} occurs twice; remove one of them")
        renderings[line.get("rendering")] = (_number(where, "nll", line), _number(where, "log2_candidates", line))
    rows = {entity: place for place, entity in enumerate(dict.fromkeys(entity for entity, _ in facts))}
    columns = {attribute: place for place, attribute in enumerate(dict.fromkeys(attribute for _, attribute in facts))}
    if len(rows) * len(columns) > MOST_CELLS:
        raise ValueError(
            f"table: {len(rows):,} entities times {len(columns):,} attributes are more than {MOST_CELLS:,} facts; use "
            "the metric in Python, or a table of fewer attributes"
        )
    tables = [[[math.nan] * len(columns) for _ in rows] for _ in range(2)]
    for (entity, attribute), renderings in facts.items():
        for filled, numbers in zip(tables, zip(*renderings.values(), strict=True), strict=True):
            filled[rows[entity]][columns[attribute]] = math.fsum(numbers) / len(numbers)
    return tables[0], tables[1], list(columns)


def _number(where: str, column: str, line: dict[str, str]) -> float:
    """A cell as a number; NaN if it is empty."""
    try:
        return float(line[column]) if line[column].strip() else math.nan
    except ValueError:
        message = f"{where}: {column} is {line[column]!r}, expected a number; write it like 6.93, or leave it empty"
        raise ValueError(message) from None


def headline(results: dict[str, Any]) -> str:
    """The results in two lines of Markdown."""
    low, high = results["confidence_interval"]
    interval = "one row has no interval" if math.isnan(low) else f"95 % interval {low:.4g} to {high:.4g}"
    return (
        f"## R = {results['bits_per_parameter']:.4g} bits per parameter\n"
        f"of at most R_max = {results['max_bits_per_parameter']:.4g}; {interval}. "
        f"{results['knowledge_bits']:,.6g} of {results['max_knowledge_bits']:,.6g} bits, "
        f"{results['num_entities']:,} entities."
    )


def by_attribute(results: dict[str, Any]) -> list[list[Any]]:
    """A row for each attribute: its name, mean nats, mean bits and their maximum."""
    return [[name, *(round(number, 4) for number in row.values())] for name, row in results["attributes"].items()]


def build() -> "gradio.Blocks":
    """The page: a table or JSON and the model's size on the left, the results on the right, the card below."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    def shown(function: Any) -> Any:
        def show(*inputs: Any) -> tuple[str, list[list[Any]], dict[str, Any]]:
            try:
                results = function(*inputs)
            except (ValueError, TypeError, ArithmeticError, csv.Error) as error:
                raise gr.Error(str(error), duration=None, print_exception=False) from error
            return headline(results), by_attribute(results), results

        return show

    def uploaded(path: str) -> str:
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise ValueError(f"the file is larger than {MOST_BYTES / 1e6:.0f} MB; use the metric in Python")
            return decode(Path(path).read_bytes())[0]
        except ValueError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error

    card = Path(__file__).with_name("README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    with gr.Blocks(title="Bits per parameter") as page:
        gr.Markdown("# Bits per parameter\nHow much does a language model know of the facts it was trained on?")
        with gr.Row():
            with gr.Column():
                size = gr.Number(EXAMPLE[2], label="num_parameters: all parameters, embeddings included", precision=0)
                name = gr.Textbox(EXAMPLE[4], label="name_attribute: the attribute that names the entity (optional)")
                entities = gr.Number(0, label="num_entities, if the rows are a sample; else 0", precision=0)
                with gr.Tab("Table"):
                    table = gr.Textbox(TABLE, label=f"CSV or TSV: {', '.join(COLUMNS)}", lines=8, max_lines=16)
                    file = gr.UploadButton("Upload a table", file_types=[".csv", ".tsv", ".txt"])
                    measure_the_table = gr.Button("Measure the table", variant="primary")
                with gr.Tab("JSON"):
                    predictions = gr.Textbox(EXAMPLE[0], label="predictions: nats, a row per entity", lines=4)
                    references = gr.Textbox(EXAMPLE[1], label="references: log2 of candidates, or null", lines=4)
                    attribute_names = gr.Textbox(EXAMPLE[3], label="attribute_names (optional)")
                    measure_the_json = gr.Button("Measure the JSON", variant="primary")
            with gr.Column():
                line = gr.Markdown()
                headers = ["attribute", "nll (nats)", "bits", "maximum bits"]
                attributes = gr.Dataframe(headers=headers, label="means by attribute", interactive=False)
                results = gr.JSON(label="results")
        gr.Markdown(card)
        outputs = [line, attributes, results]
        file.upload(uploaded, file, table, api_visibility="private")
        measure_the_table.click(shown(measure_table), [table, size, name, entities], outputs, api_name="table")
        inputs = [predictions, references, size, attribute_names, name, entities]
        measure_the_json.click(shown(measure), inputs, outputs, api_name="json")
    return page


if __name__ == "__main__":
    build().launch()
