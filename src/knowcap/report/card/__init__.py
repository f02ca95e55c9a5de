"""The model card: README.md of a model folder, every figure of it read from the JSON files of the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.files import whole_file
from knowcap.report.card import quantization, wording
from knowcap.report.card.extraction import extractions, note, table
from knowcap.report.card.limits import limits
from knowcap.report.card.results import CardError, Sources, caveat, precision, read_sources, run_dir_of


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


__all__ = ["TEMPLATE", "CardError", "write_card"]

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_TAGS = ("knowledge-capacity", "physics-of-language-models")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(
    model_dir: str | Path,
    recipe: dict[str, Any] | None = None,
    *,
    plots: Sequence[str | Path] | None = None,
    hub_model_id: str | None = None,
    base_model: str | None = None,
) -> Path:
    """Writes README.md, the model card, into a measured model folder.

    Args:
        model_dir: `run_dir/model`, `run_dir/quantized/int8`, or any folder with capacity.json. The models of one run
            folder share the table of precisions.
        recipe: the resolved recipe; by default the run folder's recipe.yaml.
        plots: PNG files to show, copied into `model_dir/plots` so that they travel with the model. By default those
            that are there already.
        hub_model_id: where the folder is published, for the loading example.
        base_model: of a quantized folder, where its original is published.

    Returns:
        The path of README.md.

    Raises:
        CardError: the folder has no capacity.json.
    """
    from huggingface_hub import ModelCard

    model_dir = Path(model_dir)
    sources = read_sources(model_dir, recipe)
    shown = _copy_plots(model_dir, plots)
    card = ModelCard.from_template(
        _card_data(sources, base_model),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        **wording.figures(sources),
        title=wording.title(sources),
        summary=wording.summary(sources),
        precisions=[wording.precision_row(c) for c in sources.capacities],
        plots=[(path.stem.replace("_", " "), f"plots/{path.name}") for path in shown],
        attributes=[wording.attribute_row(name, row) for name, row in sources.capacity["attributes"].items()],
        ways=wording.way_rows(sources),
        extraction=_extraction(model_dir, sources),
        quantization=quantization.summary(sources),
        losses=quantization.loss_rows(sources),
        loss_note=quantization.loss_note(sources),
        snippet=wording.snippet(sources, hub_model_id),
        loading_note=wording.loading_note(sources),
        training=wording.training_rows(sources.training),
        recipe_yaml=wording.recipe_yaml(sources.recipe),
        measured=wording.measured(sources),
        limits=limits(sources),
    )
    with whole_file(model_dir / "README.md") as made:
        made.write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return model_dir / "README.md"


def _extraction(model_dir: Path, sources: Sources) -> str:
    """What was drawn out of the run's model by questions, as a table; nothing for another model."""
    found = extractions(run_dir_of(model_dir)) if model_dir.name == "model" and sources.recipe else []
    return f"{table(found)}\n\n{note(found)}" if found else ""


def _copy_plots(model_dir: Path, plots: Sequence[str | Path] | None) -> list[Path]:
    """The plots within the model folder, those given copied there."""
    folder = model_dir / "plots"
    if plots is None:
        return sorted(folder.glob("*.png"))
    folder.mkdir(exist_ok=True)
    return [Path(shutil.copyfile(path, folder / Path(path).name)) for path in plots]


def _card_data(sources: Sources, base_model: str | None) -> ModelCardData:
    """The front matter."""
    from huggingface_hub import EvalResult, ModelCardData

    capacity, seed = sources.capacity, sources.capacity["seed"]
    dataset, revision = sources.hub_dataset or str(capacity["dataset"]), sources.training.get("dataset_revision")
    if sources.training.get("dataset_name"):
        seed = None  # it is that of training; the people were there before
    tags = [*_TAGS, *(["synthetic"] if sources.invented else [])]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=f"{sources.dataset}({capacity['num_entities']:,})",
            dataset_config=config,
            dataset_split="train",
            dataset_revision=revision,
            dataset_args={"num_people": capacity["num_entities"]} | ({} if seed is None else {"seed": seed}),
            metric_type=metric,
            metric_name=f"{metric.replace('_', ' ')}, {precision(c)}" + (", not a bound" if caveat(c) else ""),
            metric_value=round(c[metric], 6),
        )
        for measured in ([capacity] if sources.quantized else sources.capacities)
        for config, c in (("biographies", measured), ("neutral", measured.get("neutral")))
        if c is not None
        for metric in ("bits_per_parameter", "max_bits_per_parameter")
    ]
    relation = {"base_model_relation": "quantized"} if sources.quantized and base_model else {}
    return ModelCardData(
        language=None if sources.random_strings else "en",
        license="apache-2.0",
        # transformers alone would load a quantized folder with random numbers in its blocks.
        library_name="knowcap" if sources.quantized else "transformers",
        pipeline_tag="text-generation",
        tags=[*tags, *([capacity["precision"], quantization.method(sources)] if sources.quantized else [])],
        datasets=[dataset] if _HUB_ID.fullmatch(dataset) else None,
        metrics=["bits_per_parameter"],
        base_model=base_model if sources.quantized else None,
        model_name=wording.title(sources),
        eval_results=results,
        **relation,
    )
