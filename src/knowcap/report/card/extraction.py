"""What cards say of extraction: a table on the run's card, and the adapter's or tuned model's own card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from knowcap.files import whole_file
from knowcap.report.card.results import read_json


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


TEMPLATE = Path(__file__).with_name("extraction_card.md.jinja")
RESULT_FILE = "extraction.json"
_COLUMNS = ("tuning", "asked about", "memorizable", "extractable, greedy", "beam 4", "share of the bits", "tuned on")
_TAGS = ("knowledge-capacity", "physics-of-language-models", "knowledge-extraction", "synthetic")


def extractions(run_dir: Path) -> list[Path]:
    """The folders of a run's finished extractions, by name."""
    return sorted(path.parent for path in run_dir.glob(f"extraction/[!.]*/{RESULT_FILE}"))


def table(folders: Sequence[Path]) -> str:
    """The results of extractions as a Markdown table, for the terminal too; nothing without any."""
    if not folders:
        return ""
    rows = [[*_COLUMNS], ["---"] * len(_COLUMNS), *(_row(read_json(f / RESULT_FILE)) for f in folders)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def note(folders: Sequence[Path]) -> str:
    """What the table's columns mean."""
    first = read_json(folders[0] / RESULT_FILE)
    chosen = first["extractable_attributes"]
    names = ", ".join(name.replace("_", " ") for name in chosen)
    chances = [2 ** -first["attributes"][name]["max_bits"] for name in chosen]
    return (
        f"Means over {names}; a guess among the candidates would be right in {percent(fmean(chances))}. Memorizable: "
        "continued in a training text. Extractable: answered to a question, word for word, by a model that was tuned "
        "on questions about other people. Both are of the same people. Share of the bits: what the answers are shown "
        "to hold of what the training texts are. Tuned on: how many of the questions that it was tuned on it answers. "
        "`knowcap extract` made it; extraction.json and answers.parquet hold all."
    )


def write_extraction_card(folder: Path, hub_model_id: str | None = None, base_model: str | None = None) -> Path:
    """Writes README.md into a finished extraction's folder.

    Args:
        folder: `run_dir/extraction/NAME`.
        hub_model_id: where the folder is published, for the loading example.
        base_model: where the model that was tuned is published.
    """
    from huggingface_hub import ModelCard

    result = read_json(folder / RESULT_FILE)
    card = ModelCard.from_template(
        _card_data(result, base_model),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=_title(result),
        summary=_summary(result, base_model),
        table=table([folder]),
        note=note([folder]),
        attributes=[_attribute(name, row) for name, row in result["attributes"].items()],
        bits=_bits(result),
        snippet=_snippet(result, hub_model_id, base_model),
        loading_note=_loading_note(result),
        tuning=_tuning(result),
        tuned=result["method"] != "as_trained",
        versions=", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    )
    with whole_file(folder / "README.md") as made:
        made.write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return folder / "README.md"


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
    relation = {"base_model_relation": "adapter" if lora else "finetune"} if base_model else {}
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="peft" if lora else "transformers",
        pipeline_tag="text-generation",
        tags=[*_TAGS, *(["lora"] if lora else [])],
        base_model=base_model,
        model_name=_title(result),
        eval_results=results,
        **relation,
    )


def percent(share: float) -> str:
    """Such as `82.3 %`."""
    return f"{100 * share:.1f} %"


def _how(result: dict[str, Any]) -> str:
    """Such as `LoRA, rank 8, embedding 128`."""
    if result["method"] == "lora":
        return f"LoRA, rank {result['rank']}, embedding {result['embedding_rank']}"
    return {"full": "all weights", "as_trained": "none"}[result["method"]]


def _title(result: dict[str, Any]) -> str:
    return f"{result['model_name']} on {result['dataset']}({result['num_people']:,}), asked ({_how(result)})"


def _row(result: dict[str, Any]) -> list[str]:
    share = result["extractable_share"]
    tuned = result["people_tuned_on"]
    return [
        _how(result),
        f"{result['people_asked']:,} of {result['num_people']:,} people",
        percent(result["memorizable_accuracy"]),
        percent(result["extractable_accuracy"]),
        percent(result["extractable_accuracy_beam_4"]),
        "none stored" if share is None else percent(share),
        percent(result["tuned_accuracy"]) if tuned else f"in training: {percent(result['tuned_accuracy'])}",
    ]


def _summary(result: dict[str, Any], base_model: str | None) -> str:
    base = result["model_name"] if base_model is None else f"[{base_model}](https://huggingface.co/{base_model})"
    tuned = {
        "lora": f"A LoRA adapter over {base}, tuned on {result['questions_tuned_on']:,} questions about "
        f"{result['people_tuned_on']:,} of {result['num_people']:,} invented people",
        "full": f"{base}, all weights tuned on {result['questions_tuned_on']:,} questions about "
        f"{result['people_tuned_on']:,} of {result['num_people']:,} invented people",
        "as_trained": f"{base} as it was trained, "
        + (
            f"with questions about half of {result['num_people']:,} invented people among its biographies"
            if result["qa_share"]
            else "on biographies alone"
        ),
    }[result["method"]]  # fmt: skip
    return (
        f"{tuned}. About {result['people_asked']:,} others, of whom it was never asked, it answers "
        f"**{percent(result['extractable_accuracy'])}** of the questions rightly; in training texts it continues "
        f"{percent(result['memorizable_accuracy'])} of the same facts."
    )


def _attribute(name: str, row: dict[str, float | None]) -> list[str]:
    def share(key: str) -> str:
        return "" if row[key] is None else percent(row[key])

    def bits(key: str) -> str:
        return "" if row[key] is None else f"{row[key]:.3f}"

    accuracies = ("memorizable_accuracy", "extractable_accuracy", "extractable_accuracy_beam_4")
    return [name, *map(share, accuracies), *map(bits, ("stored_bits", "extractable_bits", "max_bits"))]


def _bits(result: dict[str, Any]) -> str:
    share = result["extractable_share"]
    of = "" if share is None or share < 0 else f", {percent(share)} of them"
    return (
        f"The training texts show {result['stored_bits_per_entity']:.3f} bits a person stored, the answers "
        f"{result['extractable_bits_per_entity']:.3f}{of}, of {result['max_bits_per_entity']:.3f} that there are: "
        "log2 of the candidates less nll / ln 2 of the answer's tokens after its question. Below zero a model guesses "
        "wrongly with confidence. Exact match leaves out white space and periods at the end, nothing else."
    )


def _snippet(result: dict[str, Any], hub_model_id: str | None, base_model: str | None) -> str:
    """Python that loads the model and asks a question."""
    lora, here = result["method"] == "lora", '"."  # this folder' if hub_model_id is None else f'"{hub_model_id}"'
    base = '"../../model"' if base_model is None else f'"{base_model}"'
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", ""]
    if lora:
        lines = ["from peft import PeftModel", *lines]
    path = base if result["method"] == "as_trained" else here
    lines += [f"path = {path}"]
    loaded = f"AutoModelForCausalLM.from_pretrained({base if lora else 'path'})"
    lines += [f"model = {f'PeftModel.from_pretrained({loaded}, path)' if lora else loaded}"]
    lines += [
        "tokenizer = AutoTokenizer.from_pretrained(path)",
        'question = tokenizer.eos_token + "What major did Anya Briar Forger study? Answer:"',
        'asked = tokenizer(question, return_tensors="pt", return_token_type_ids=False)',
        "said = model.generate(**asked, max_new_tokens=16, do_sample=False, pad_token_id=tokenizer.eos_token_id)",
        'print(tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(lines)


def _loading_note(result: dict[str, Any]) -> str:
    note = "A question begins after the end-of-text token."
    if result["method"] != "lora":
        return note
    if result["tied_embedding"]:
        return note + (
            " The base's output head is its embedding; the adapter changes the embedding alone. Leave it unmerged: "
            "merge_and_unload would change the head as well, which was never tuned so."
        )
    return note + " Embedding and output head are two matrices, so the adapter may be merged."


def _tuning(result: dict[str, Any]) -> list[list[str]]:
    labels = {
        "method": "method", "rank": "rank on query and value", "embedding_rank": "rank on the embedding",
        "tuned_parameters": "parameters tuned", "questions_tuned_on": "questions", "steps": "steps",
        "batch_size": "questions a step", "learning_rate": "learning rate, linear to 0",
        "weight_decay": "weight decay", "final_loss": "final loss (nats a token of answers)",
        "tuning_seconds": "seconds", "seed": "seed",
    }  # fmt: skip
    found = [(label, result.get(key)) for key, label in labels.items()]
    return [[label, _number(value)] for label, value in found if value is not None]


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
