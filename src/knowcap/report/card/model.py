"""The model card: README.md of a model folder, with the numbers of the run's JSON files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.dataset.markdown import in_markdown
from knowcap.recipe_file import METADATA_KEYS
from knowcap.report.card.extraction import extractions, results_context
from knowcap.report.card.results import (
    Sources,
    architecture,
    bound_reason,
    caveat,
    configured,
    control,
    estimate,
    optional,
    per_stored_bit,
    precision,
    read_sources,
    run_dir_of,
    seeds,
    setting,
    versions,
    write_readme,
)


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


_TAGS = ("knowledge-capacity", "physics-of-language-models")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HIDDEN_KEYS = (*METADATA_KEYS, "output_dir")


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
        recipe: the resolved recipe; defaults to the run folder's recipe.yaml.
        plots: PNG files to show, copied into `model_dir/plots` so that they are published with the model; defaults
            to those already there.
        hub_model_id: where the folder is published, for the loading example.
        base_model: of a quantized folder, where its original is published.

    Returns:
        The path of README.md.

    Raises:
        ReportError: the folder has no capacity.json.
    """
    model_dir = Path(model_dir)
    sources = read_sources(model_dir, recipe)
    shown = _copy_plots(model_dir, plots)
    found = extractions(run_dir_of(model_dir)) if model_dir.name == "model" and sources.recipe else []
    context = {
        "title": _title(sources),
        "plots": [(path.stem.replace("_", " "), f"plots/{path.name}") for path in shown],
        "extraction": bool(found),
        "hub_model_id": hub_model_id,
        **_context(sources),
        **(results_context(found) if found else {}),
    }
    return write_readme(model_dir, _card_data(sources, base_model), "card/model_card.md.jinja", context)


def _context(sources: Sources) -> dict[str, Any]:
    """What the template names, as numbers, flags and functions that write numbers out.

    `c`, `training`, `recipe` and `quantization` are contents of JSON files, a missing key being None.
    """
    capacity, training, recipe = sources.capacity, sources.training, sources.recipe
    quantization = optional(capacity["quantization"] or {})
    block_size = training.get("block_size") or 61
    return {
        "c": optional(capacity),
        "capacities": sources.capacities,
        "original": sources.original,
        "training": optional(training),
        "recipe": optional(recipe),
        "quantization": quantization,
        "dataset": sources.dataset,
        "quantized": sources.quantized,
        "invented": sources.invented,
        "random_strings": sources.random_strings,
        "level": f"{100 * capacity['confidence_level']:g} %",
        "embedding_share": 1 - capacity["num_parameters_non_embedding"] / capacity["num_parameters"],
        "full_precision_layers": quantization["excluded"] or [],
        "entities_scored": sources.entities_scored,
        "control_kind": sources.measurement.get("control_kind"),
        "control_entities": sources.measurement.get("control_entities"),
        "priors": [] if sources.invented or sources.random_strings else _priors(sources.measurement),
        "windows": training.get("windows", recipe.get("windows")),
        "losses": _losses(sources),
        "modes": _modes(sources),
        "new_tokens": min(60, block_size - 1),  # no more than the model has positions
        "recipe_yaml": _recipe_yaml(recipe),
        "revision": recipe.get("git_revision"),
        **{function.__name__: function for function in _FUNCTIONS},
    }


_FUNCTIONS = (
    architecture,
    configured,
    estimate,
    seeds,
    precision,
    per_stored_bit,
    caveat,
    bound_reason,
    control,
    setting,
    versions,
)


def _priors(measurement: dict[str, Any]) -> list[str]:
    """What the values of each attribute were drawn from, such as `capital from 195 candidates`."""
    drawn = []
    for attribute in (measurement.get("knowledge") or {}).get("attributes", []):
        count, bits = attribute["candidates"], attribute["log2_candidates"]
        if attribute["determined_by"] is None:
            source = f"by frequency ({bits:.2f} bits)" if count is None else f"from {count:,} candidates"
            drawn.append(f"{in_markdown(attribute['name'])} {source}")
    return drawn


def _title(sources: Sources) -> str:
    """Such as `gpt2-2-2 on bioS(1,000), int8`."""
    capacity = sources.capacity
    quantized = f", {precision(capacity)}" if sources.quantized else ""
    return f"{capacity['model_name']} on {in_markdown(sources.dataset)}({capacity['num_entities']:,}){quantized}"


def _losses(sources: Sources) -> dict[str, Any]:
    """Bits per entity of each attribute in the original and in its quantized copy; {} if they are not comparable."""
    original, copy = sources.original, sources.capacity
    alike = ("num_entities", "scoring", "context", "renderings", "dataset")
    if not sources.quantized or not original or any(original.get(key) != copy.get(key) for key in alike):
        return {}
    pairs = [
        (name, original["attributes"].get(name, {}).get("bits_per_entity"), row["bits_per_entity"])
        for name, row in copy["attributes"].items()
    ]
    rows = [pair for pair in pairs if None not in pair]
    if not rows:
        return {}
    largest, before, after = max(rows, key=lambda row: row[1] - row[2])
    return {
        "rows": rows,
        "before": sum(before for _, before, _ in rows),
        "total": sum(before - after for _, before, after in rows),
        "largest": largest,
        "largest_bits": before - after,
    }


def _modes(sources: Sources) -> list[tuple[str, dict[str, Any], float]]:
    """The other scoring modes: folder, capacity, and its difference from the bits per parameter above."""
    here = sources.capacity["bits_per_parameter"]
    return [
        (folder, capacity, round(capacity["bits_per_parameter"] - here, 3) + 0.0)  # + 0.0: no minus before a zero
        for folder, capacity in sources.others.items()
    ]


def _recipe_yaml(recipe: dict[str, Any]) -> str:
    """The recipe's own keys as YAML, without unset keys and without paths of this machine."""
    import yaml

    shown = {key: value for key, value in recipe.items() if key not in _HIDDEN_KEYS and value is not None}
    if "dataset_name" not in shown:
        shown.pop("dataset_texts", None)
    elif Path(shown["dataset_name"]).expanduser().is_absolute():
        shown["dataset_name"] = Path(shown["dataset_name"]).name
    shown = {key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).strip() if shown else ""


def _copy_plots(model_dir: Path, plots: Sequence[str | Path] | None) -> list[Path]:
    """The plots within the model folder, those given copied there."""
    folder = model_dir / "plots"
    if plots is None:
        return sorted(folder.glob("*.png"))
    folder.mkdir(exist_ok=True)
    return [Path(shutil.copyfile(path, folder / Path(path).name)) for path in plots]


def _quantized_tags(sources: Sources) -> list[str]:
    """Precision and method of a quantized model."""
    quantization = sources.capacity["quantization"]
    return [sources.capacity["precision"], quantization.get("method", "quanto")] if quantization is not None else []


def _card_data(sources: Sources, base_model: str | None) -> ModelCardData:
    """The front matter."""
    from huggingface_hub import EvalResult, ModelCardData

    capacity, seed = sources.capacity, sources.capacity["seed"]
    dataset, revision = sources.hub_dataset or str(capacity["dataset"]), sources.training.get("dataset_revision")
    if sources.training.get("dataset_name"):
        seed = None  # it is the seed of training, not of the people
    tags = [*_TAGS, *(["synthetic"] if sources.invented else [])]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=f"{in_markdown(sources.dataset)}({capacity['num_entities']:,})",
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
    return ModelCardData(
        language=None if sources.random_strings else "en",
        license="apache-2.0",
        # transformers alone would load a quantized folder with random weights in its blocks.
        library_name="knowcap" if sources.quantized else "transformers",
        pipeline_tag="text-generation",
        tags=[*tags, *_quantized_tags(sources)],
        datasets=[dataset] if _HUB_ID.fullmatch(dataset) else None,
        metrics=["bits_per_parameter"],
        base_model=base_model if sources.quantized else None,
        model_name=_title(sources),
        eval_results=results,
        base_model_relation="quantized" if sources.quantized and base_model else None,
    )
