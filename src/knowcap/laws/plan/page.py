"""The planner as a page (gradio): one tab per question, filled in at opening, the same answers as `knowcap plan`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from knowcap.laws.law import LawError
from knowcap.laws.plan.activations import ATTENTION, CHECKPOINTING, SHAPE, TRAINING_PRECISIONS
from knowcap.laws.plan.answer import Answer
from knowcap.laws.plan.html import answer_html
from knowcap.laws.plan.questions import ask
from knowcap.laws.plan.setting import GPUS
from knowcap.laws.published import ARCHITECTURES, JUNK, PRECISIONS
from knowcap.laws.quantity import quantity


if TYPE_CHECKING:
    import gradio  # pyright: ignore[reportMissingImports]

_TITLE = "knowcap plan"
_LEAD = (
    "How large a model, how much data, how long a training? Answers come from the laws of three papers, or from fits "
    "of your own (`knowcap fit … --json`). Numbers may be written 7e9, 7_000_000_000, 7B or 40%. A constant "
    "quoted from a paper has no interval. Which runs to do next is answered by the command alone, because a law is "
    "first fitted to your runs: `knowcap plan next runs.csv --flops 1e20`."
)
# An option's kind and label by its name; numbers come first with the value that they start with.
_NUMBERS = {
    "bits": "bits to store",
    "num_people": "or: people of bioS to store",
    "num_parameters": "parameters, all of them",
    "exposures": "exposures of each fact (empty: the law's)",
    "entity_space": "possible names",
    "tokens_per_exposure": "tokens that state all facts once",
    "num_gpus": "number of GPUs",
    "utilisation": "share of the GPU's peak, such as 40%",
    "price": "price of a GPU-hour",
    "flops": "budget, FLOPs",
    "unique_tokens": "different tokens available",
    "passes": "passes over them so far (empty: 1)",
    "num_layers": "layers",
    "hidden_size": "hidden size",
    "num_heads": "heads (empty: hidden size / 64)",
    "num_key_value_heads": "key and value heads (empty: the usual)",
    "intermediate_size": "width of the MLP (empty: the usual)",
    "vocab_size": "vocabulary (empty: GPT-2's 50,257)",
    "block_size": "tokens of a sequence (empty: 512)",
    "per_device_train_batch_size": "sequences on a GPU at once (empty: 1)",
    "dropout": "dropout (empty: 0)",
}
_LABELS = {  # where a tab means something else by a number
    ("memory", "num_parameters"): "parameters (empty: by the shape)",
    ("passes", "bits"): "bits of the data (empty: more than the model stores)",
}
_CHOICES = {
    "architecture": tuple(ARCHITECTURES),
    "precision": tuple(PRECISIONS),
    "junk": ("none", *JUNK),
    "gpu": tuple(GPUS),
    "attn_implementation": ATTENTION,
    "gradient_checkpointing": CHECKPOINTING,
    "training_precision": TRAINING_PRECISIONS,
}
_FILES = {
    "facts": "entity,attribute,value or attribute,entities,distinct_values",
    "facts_templates": "its YAML: candidates, determined_by",
}
_TABLE = ("facts", "facts_templates", "entity_space")
_SETTING = ("exposures", "architecture", "precision", "junk")
_CONTENT = ("bits", "num_people", *_TABLE)
_HARDWARE = ("gpu", "num_gpus", "utilisation", "price")
_GPUS = {"gpu": "h100-sxm", "num_gpus": "1", "utilisation": "0.4"}
TABS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "size": ("Size", (*_CONTENT, *_SETTING), {"bits": "1e9", "precision": "int8"}),
    "holds": ("Bits held", ("num_parameters", *_SETTING), {"num_parameters": "7e9"}),
    "train": (
        "Training",
        ("num_parameters", *_CONTENT, *_SETTING, "tokens_per_exposure", *_HARDWARE, *SHAPE),
        {"num_parameters": "100M", "num_people": "2M"} | _GPUS,
    ),
    "compute": (
        "Budget",
        ("flops", "num_parameters", "unique_tokens", *_HARDWARE),
        {"flops": "1e21"} | _GPUS,
    ),
    "memory": (
        "Memory",
        (*SHAPE, "num_parameters", "architecture", "precision", "gpu", "num_gpus"),
        {
            "num_layers": "24", "hidden_size": "2048", "block_size": "2048", "per_device_train_batch_size": "8",
            "gpu": "h100-sxm", "num_gpus": "1",
        },
    ),
    "passes": (
        "Passes",
        ("num_parameters", "unique_tokens", "passes", "bits"),
        {"num_parameters": "100M", "unique_tokens": "10M", "passes": "16"},
    ),
}  # fmt: skip
# What is folded away in a tab, under a heading.
_FOLDS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "size": ((_TABLE, "or: a table of facts to store (empty the two fields above)"),),
    "train": (
        (_TABLE, "or: a table of facts to store (empty the two fields above)"),
        (SHAPE, "shape of the model: its activations are counted too"),
    ),
}
_WITHOUT_LAWS = ("memory",)
_NARROW = 140  # pixels of a field
_STARTS = {"architecture": "gpt2", "precision": "bf16", "junk": "none"}
_STARTS |= {"attn_implementation": ATTENTION[0], "gradient_checkpointing": CHECKPOINTING[0]}
_STARTS |= {"training_precision": TRAINING_PRECISIONS[0]}


def answer(question: str, values: dict[str, Any], law: list[str] | None = None) -> Answer:
    """The answer to the fields of a tab; empty fields are left out.

    Raises:
        LawError: with every problem.
    """
    options, problems = {}, []
    names = TABS[question][1]
    for name, value in ((n, v) for n, v in values.items() if n in names):
        if value is not None and not isinstance(value, (str, int, float)):
            problems.append(f"{name}: got {str(value)[:80]!r}, expected text")
        elif name not in _NUMBERS:
            options[name] = value
        elif value is not None and str(value).strip():
            try:
                options[name] = quantity(str(value))
            except ValueError as error:
                problems.append(f"{name}: {str(error)[:200]}")
    if problems:
        raise LawError(problems)
    return ask(question, law or (), **options)


def build() -> gradio.Blocks:
    """The page. Raises LawError without gradio."""
    try:
        import gradio as gr  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise LawError("the page needs gradio; pip install 'knowcap[space]'") from error

    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {_TITLE}\n{_LEAD}")
        for question, (label, names, starts) in TABS.items():
            first = answer(question, _STARTS | starts)
            with gr.Tab(label, elem_id=f"tab-{question}"), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    fields = _fields(gr, question, names, _STARTS | starts)
                    with gr.Accordion("fits of your own", open=False, visible=question not in _WITHOUT_LAWS):
                        law = gr.File(label="JSON of knowcap fit", file_count="multiple", file_types=[".json"])
                    button = gr.Button("Answer", variant="primary", elem_id=f"{question}-ask")
                with gr.Column(scale=3, min_width=300):
                    shown = gr.HTML(answer_html(first), elem_id=f"{question}-answer")
                    with gr.Accordion("as JSON", open=False):
                        content = gr.JSON(first.content(), show_label=False)
            button.click(
                _asked(gr, question, names),
                [*(fields[name] for name in names), law],
                [shown, content],
                api_name=question,
            )
    return page


def _fields(gr: Any, question: str, names: tuple[str, ...], starts: dict[str, str]) -> dict[str, Any]:
    """The fields of a tab by name; those of `_FOLDS` are folded away."""
    folds = _FOLDS.get(question, ())
    folded = [name for fold, _ in folds for name in fold]
    with gr.Row():  # two beside each other on a phone
        fields = {name: _field(gr, question, name, starts) for name in names if name not in folded}
    for fold, heading in folds:
        # Names of files need the width. The row is made within the accordion, where gradio then puts it.
        with gr.Accordion(heading, open=False), nullcontext() if fold == _TABLE else gr.Row():
            fields |= {name: _field(gr, question, name, starts) for name in fold}
    return fields


def _field(gr: Any, question: str, name: str, starts: dict[str, str]) -> Any:
    elem_id = f"{question}-{name}"
    if name in _NUMBERS:
        label = _LABELS.get((question, name), _NUMBERS[name])
        return gr.Textbox(label=label, value=starts.get(name, ""), elem_id=elem_id, min_width=_NARROW)
    if name in _CHOICES:
        choices = list(_CHOICES[name])
        label = name.replace("_", " ")
        return gr.Dropdown(label=label, choices=choices, value=starts[name], elem_id=elem_id, min_width=_NARROW)
    return gr.File(label=_FILES[name], type="filepath", elem_id=elem_id)


def _asked(gr: Any, question: str, names: tuple[str, ...]) -> Callable[..., tuple[str, dict[str, Any]]]:
    """The callback of a tab's button."""

    def asked(*inputs: Any) -> tuple[str, dict[str, Any]]:
        *values, law = inputs
        try:
            found = answer(question, dict(zip(names, values, strict=True)), law)
        except (ValueError, OSError, RecursionError) as error:  # LawError, and files that cannot be read
            raise gr.Error(str(error), print_exception=False) from error
        return answer_html(found), found.content()

    return asked
