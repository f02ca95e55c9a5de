"""The Space of the metric: type the tables as JSON, read the bits per parameter.

Run it in this folder, as the Hub does: `pip install gradio==6.31.0 numpy && python app.py`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bits import bits_per_parameter


if TYPE_CHECKING:
    import gradio

EXAMPLE = [
    "[[0.693147, 0.0], [0.693147, 6.931472]]",
    "[[20.0, 10.0], [20.0, 10.0]]",
    24,
    '["name", "birth_date"]',
    "name",
]


def parse(argument: str, text: str) -> Any:
    """What the text says as JSON; a ValueError names the argument if it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{argument}: not JSON ({error}); write lists like [[1.5, 0.2], [0.7, null]]") from error


def measure(
    predictions: str, references: str, num_parameters: float, attribute_names: str = "", name_attribute: str = ""
) -> dict[str, Any]:
    """The metric of two JSON tables, in which null or NaN says that a fact is not stated.

    Args:
        predictions: JSON rows of negative log likelihoods, nats, one row per entity.
        references: JSON rows of log2 of the number of candidates, bits.
        num_parameters: Parameters of the model: the number field gives a float.
        attribute_names: JSON list of the columns' names, or nothing.
        name_attribute: The column that names the entity, or nothing.

    Returns:
        What [`bits_per_parameter`] returns.

    Raises:
        ValueError: If a text is not JSON, or as [`bits_per_parameter`] raises.
    """
    whole = num_parameters is not None and float(num_parameters).is_integer()
    return bits_per_parameter(
        parse("predictions", predictions),
        parse("references", references),
        int(num_parameters) if whole else num_parameters,
        attribute_names=parse("attribute_names", attribute_names) if attribute_names.strip() else None,
        name_attribute=name_attribute.strip() or None,
    )


def build() -> "gradio.Interface":
    """The page: two tables, the model's size and the names on the left, the results on the right, the card below."""
    import gradio as gr

    def shown(*inputs: Any) -> dict[str, Any]:
        try:
            return measure(*inputs)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    card = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return gr.Interface(
        fn=shown,
        inputs=[
            gr.Textbox(label="predictions: nats, a row per entity (JSON)", lines=4),
            gr.Textbox(label="references: log2 of candidates, null where not stated (JSON)", lines=4),
            gr.Number(label="num_parameters", precision=0),
            gr.Textbox(label="attribute_names (JSON, optional)"),
            gr.Textbox(label="name_attribute (optional)"),
        ],
        outputs=gr.JSON(label="results"),
        examples=[EXAMPLE],
        title="Bits per parameter",
        article=card.split("---\n", 2)[2],
        flagging_mode="never",
    )


if __name__ == "__main__":
    build().launch()
