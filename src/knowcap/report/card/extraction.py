"""The results of extractions as a table, and the card of an extraction: README.md beside its extraction.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from knowcap.files import EXTRACTION_FILE
from knowcap.report.card.results import optional, setting, versions, write_readme
from knowcap.report.table import percent
from knowcap.report.text_table import text_table
from knowcap.sealed import EXTRACTION_NEEDS, read_result


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


_COLUMNS = (
    "tuning", "people asked about", "memorizable", "extractable, greedy", "extractable, beam 4", "share of the bits",
    "accuracy on tuning questions",
)  # fmt: skip
_TAGS = ("knowledge-capacity", "physics-of-language-models", "knowledge-extraction", "synthetic")


def extractions(run_dir: Path) -> list[Path]:
    """The folders of a run's finished extractions, by name."""
    return sorted(path.parent for path in run_dir.glob(f"extraction/[!.]*/{EXTRACTION_FILE}"))


def extraction_table(folders: Sequence[Path]) -> str:
    """The results of extractions as a Markdown table, for cards and the terminal; empty without any."""
    rows = [_row(read_result(folder / EXTRACTION_FILE, EXTRACTION_NEEDS)) for folder in folders]
    return text_table([_COLUMNS, *rows], (0, 1), markdown=True) if rows else ""


def results_context(folders: Sequence[Path]) -> dict[str, Any]:
    """What the template of the table and its explanation names."""
    first = read_result(folders[0] / EXTRACTION_FILE, EXTRACTION_NEEDS)
    chosen = first["extractable_attributes"]
    return {
        "table": extraction_table(folders),
        "names": ", ".join(name.replace("_", " ") for name in chosen),
        "chance": fmean(2 ** -first["attributes"][name]["max_bits"] for name in chosen),
    }


def write_extraction_card(folder: Path, hub_model_id: str | None = None, base_model: str | None = None) -> Path:
    """Writes README.md into a finished extraction's folder.

    Args:
        folder: `run_dir/extraction/NAME`.
        hub_model_id: where the folder is published, for the loading example.
        base_model: where the tuned model's original is published.
    """
    result = read_result(folder / EXTRACTION_FILE, EXTRACTION_NEEDS)
    context = {
        "r": optional(result),
        "title": _title(result),
        "hub_model_id": hub_model_id,
        "base_model": base_model,
        "setting": setting,
        "versions": versions,
        **results_context([folder]),
    }
    return write_readme(folder, _card_data(result, base_model), "card/extraction_card.md.jinja", context)


def _card_data(result: dict[str, Any], base_model: str | None) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = f"{result['dataset']}({result['num_people']:,})"
    metrics = {
        "extractable_accuracy": "extractable accuracy, greedy",
        "extractable_accuracy_beam_4": "extractable accuracy, beam 4",
        "memorizable_accuracy": "memorizable accuracy",
    }
    results = [
        EvalResult(
            task_type="question-answering",
            dataset_type=result["dataset"],
            dataset_name=dataset,
            dataset_config="qa",
            dataset_split="test",
            dataset_args={"num_people": result["num_people"], "seed": result["seed"]},
            metric_type=metric,
            metric_name=name,
            metric_value=round(result[metric], 6),
        )
        for metric, name in metrics.items()
    ]
    lora = result["method"] == "lora"
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="peft" if lora else "transformers",
        pipeline_tag="text-generation",
        tags=[*_TAGS, *(["lora"] if lora else [])],
        base_model=base_model,
        model_name=_title(result),
        eval_results=results,
        base_model_relation=("adapter" if lora else "finetune") if base_model else None,
    )


def _method(result: dict[str, Any]) -> str:
    """Such as `LoRA, rank 8, embedding 128`."""
    if result["method"] == "lora":
        return f"LoRA, rank {result['rank']}, embedding {result['embedding_rank']}"
    return {"full": "all weights", "as_trained": "none"}[result["method"]]


def _title(result: dict[str, Any]) -> str:
    return f"{result['model_name']} on {result['dataset']}({result['num_people']:,}), extraction ({_method(result)})"


def _row(result: dict[str, Any]) -> list[str]:
    return [
        _method(result),
        f"{result['people_asked']:,} of {result['num_people']:,} people",
        percent(result["memorizable_accuracy"]),
        percent(result["extractable_accuracy"]),
        percent(result["extractable_accuracy_beam_4"]),
        percent(result["extractable_share"], "none stored"),
        f"{'' if result['people_tuned_on'] else 'in training: '}{percent(result['tuned_accuracy'])}",
    ]
