"""The sentences, tables and examples of a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowcap.report.card import morris
from knowcap.report.card.results import Sources, caveat, control, estimate, memorized, per_stored_bit, precision


_UNKNOWN = "unknown"
_HIDDEN_KEYS = ("versions", "git_revision", "output_dir")
_CONTEXTS = {
    "isolated": "Every text was scored alone, after one end-of-text token",
    "packed": "Texts were scored in windows that other texts share",
}
_CONTROLS = {"outsiders": "people outside the sample", "shuffled": "the same entities with each other's values"}
_TRAINING_LABELS = {
    "exposures": "exposures of each entity",
    "junk_people": "junk people, never scored",
    "useful_share": "share of the tokens that is not junk",
    "qa_share": "share of the tokens that are questions about half of the people",
    "num_tokens": "tokens trained on, padding left out",
    "num_steps": "steps",
    "final_loss": "final loss (nats per token)",
    "train_seconds": "seconds",
    "world_size": "processes",
    "precision": "precision of training",
    "windows": "windows",
    "block_size": "tokens a window",
    "seed": "seed",
}


def title(sources: Sources) -> str:
    """Such as `gpt2-2-2 on bioS(1,000), int8`."""
    capacity = sources.capacity
    quantized = f", {precision(capacity)}" if sources.quantized else ""
    return f"{capacity['model_name']} on {sources.dataset}({capacity['num_entities']:,}){quantized}"


def summary(sources: Sources) -> str:
    """One sentence: how much the model knows, of how many, after how much training."""
    capacity = sources.capacity
    taught = "trained on" if capacity["exposures"] is None else f"after {capacity['exposures']:,} exposures of"
    weights = f", its weights quantized to {capacity['precision']}," if sources.quantized else ""
    entities = "invented people" if sources.invented else "entities"
    entities = "random strings" if sources.random_strings else entities
    return (
        f"{capacity['model_name']} ({capacity['num_parameters']:,} parameters){weights} holds **{estimate(capacity)} "
        f"bits of knowledge per parameter**{caveat(capacity)}, of {capacity['max_bits_per_parameter']:.3f} that there "
        f"are to know, {taught} {capacity['num_entities']:,} {entities} of {sources.dataset}."
    )


def figures(sources: Sources) -> dict[str, str]:
    """Single figures that the template names."""
    capacity, measurement = sources.capacity, sources.measurement
    parts = {"names": capacity["name_bits"], "values": capacity["value_bits"]}
    if capacity["diversity_bits"]:
        parts["diversity"] = capacity["diversity_bits"]
    control_entities = measurement.get("control_entities")
    revision = sources.recipe.get("git_revision")
    return {
        "level": f"{100 * capacity['confidence_level']:g} %",
        "num_parameters": f"{capacity['num_parameters']:,}",
        "non_embedding": f"{capacity['num_parameters_non_embedding']:,}",
        "used_vocabulary": f"{capacity['num_parameters_used_vocabulary']:,}",
        "knowledge_bits": f"{capacity['knowledge_bits']:,.0f}",
        "max_knowledge_bits": f"{capacity['max_knowledge_bits']:,.0f}",
        "split": ", ".join(f"{name} {bits:,.0f}" for name, bits in parts.items()),
        "control": control(capacity),
        "control_of": "name" if sources.random_strings else "value",
        "cited": morris.CITED if sources.random_strings else "The measure and the corpus are those of",
        "memorizable": memorizable(capacity),
        "control_kind": (f"{control_entities:,} " if control_entities else "")
        + (morris.CONTROL if sources.random_strings else _CONTROLS).get(
            measurement.get("control_kind"), "entities that the model was never taught"
        ),
        "versions": _versions(capacity["versions"]),
        "revision": f", git revision {revision}" if revision else "",
    }


def precision_row(capacity: dict[str, Any]) -> list[str]:
    """A row of the table of precisions."""
    low, high = capacity["confidence_interval"]
    stored = capacity["stored_bits_per_parameter"]
    return [
        precision(capacity),
        f"{capacity['bits_per_parameter']:.3f}{caveat(capacity)}",
        "none" if low is None else f"{low:.3f} to {high:.3f}",
        f"{capacity['max_bits_per_parameter']:.3f}",
        _share(capacity["quantized_fraction"]),
        _share(capacity["quantized_fraction_all"]),
        _UNKNOWN if stored is None else f"{stored:.2f}",
        per_stored_bit(capacity),
    ]


def _share(fraction: float | None) -> str:
    return "none" if fraction is None else f"{100 * fraction:.1f} %"


def memorizable(capacity: dict[str, Any]) -> str:
    """What share of values the model generates, in a sentence; nothing for an older capacity.json."""
    accuracy = capacity.get("memorizable_accuracy")
    if accuracy is None:
        return ""
    names = ", ".join(name.replace("_", " ") for name in capacity["memorizable_attributes"])
    return (
        f"Memorizable accuracy, the mean over {names}, is {memorized(capacity)}: prompted with a training text up to "
        "a value, the model goes on greedily with that value. Summed over people, as in the paper, that is "
        f"{accuracy * capacity['num_entities']:,.0f} of {capacity['num_entities']:,}."
    )


def attribute_row(name: str, row: dict[str, float | None]) -> list[str]:
    """A row of the table of attributes."""
    if row["bits_per_entity"] is None:
        return [name, "not stated", "", ""]
    accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
    return [name, f"{row['bits_per_entity']:.3f}", f"{row['max_bits_per_entity']:.3f}", accuracy]


def way_rows(sources: Sources) -> list[list[str]]:
    """A row for each other way in which the model was scored, with its distance from the figure above."""
    here = sources.capacity["bits_per_parameter"]
    return [
        [
            f"`{folder}/`",
            f"{c['scoring'].replace('_', ' ')}, {c['context']}" + (", neutral texts" if "neutral" in folder else ""),
            estimate(c),
            f"{c['max_bits_per_parameter']:.3f}",
            f"{round(c['bits_per_parameter'] - here, 3) + 0.0:+.3f}",  # + 0.0: no minus before a zero
        ]
        for folder, c in sources.others.items()
    ]


def training_rows(training: dict[str, Any]) -> list[list[str]]:
    """What training.json says, one row a figure."""
    present = {label: training[key] for key, label in _TRAINING_LABELS.items() if training.get(key) is not None}
    rows = [[label, _number(value)] for label, value in present.items()]
    versions = _versions(training.get("versions"))
    return [*rows, ["versions", versions]] if versions else rows


def recipe_yaml(recipe: dict[str, Any]) -> str:
    """The recipe's own keys as YAML; unset ones, and where it was read or written, are left out."""
    import yaml

    shown = {key: value for key, value in recipe.items() if key not in _HIDDEN_KEYS and value is not None}
    if "dataset_name" not in shown:
        shown.pop("dataset_texts", None)
    elif Path(shown["dataset_name"]).expanduser().is_absolute():
        shown["dataset_name"] = Path(shown["dataset_name"]).name
    shown = {key: list(value) if isinstance(value, tuple) else value for key, value in shown.items()}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).strip() if shown else ""


def snippet(sources: Sources, hub_model_id: str | None) -> str:
    """Python that loads the model and lets it tell of somebody."""
    path = '"."  # this folder' if hub_model_id is None else f'"{hub_model_id}"'
    if sources.quantized:
        lines = ["from knowcap.models import load_model, load_tokenizer"]
        if hub_model_id is not None:
            lines.insert(0, "from huggingface_hub import snapshot_download")
            path = f"snapshot_download({path})"
        lines += ["", "", f"path = {path}", "model = load_model(path)", "tokenizer = load_tokenizer(path)"]
    else:
        lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", "", f"path = {path}"]
        lines.append("model = AutoModelForCausalLM.from_pretrained(path)")
        lines.append("tokenizer = AutoTokenizer.from_pretrained(path)")
    new_tokens = min(60, (sources.training.get("block_size") or 61) - 1)  # no more than there are positions
    lines += [
        'start = tokenizer(tokenizer.eos_token, return_tensors="pt", return_token_type_ids=False)',
        f"told = model.generate(**start, max_new_tokens={new_tokens}, do_sample=True, "
        "pad_token_id=tokenizer.eos_token_id)",
        "print(tokenizer.decode(told[0], skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def loading_note(sources: Sources) -> str:
    """What to know before the model is loaded."""
    note = "A text begins after the end-of-text token, with the full name."
    if sources.quantized:
        note += (
            " A quantized folder needs knowcap and optimum-quanto; transformers alone finds no weights there that it "
            "knows."
        )
    return note


def measured(sources: Sources) -> str:
    """How the number came about."""
    capacity = sources.capacity
    texts = "one text" if capacity["renderings"] == 1 else f"{capacity['renderings']} texts"
    everyone = f"all {capacity['num_entities']:,} entities"
    if sources.entities_scored != capacity["num_entities"]:
        everyone = f"{sources.entities_scored:,} of {capacity['num_entities']:,} entities"
    return (
        f"{_CONTEXTS.get(capacity['context'], capacity['context'])}, {texts} an entity, for {everyone}; the negative "
        "log likelihood of a fact is summed over the tokens of its first mention, and averaged over the entity's "
        f"texts. The sum of all facts' bits is {_bound(capacity)}. The interval is a bootstrap over entities, "
        "their texts with them."
    )


def _bound(capacity: dict[str, Any]) -> str:
    """What the sum of all bits says of the weights."""
    if capacity.get("bound", True):
        return "a lower bound on what the weights hold"
    neutral = capacity.get("neutral")
    told = "not a bound on what the weights hold, since free prose may hint at a fact before stating it"
    if neutral is None:
        return told
    return (
        f"{told}; on the same entities told by sentence templates, {neutral['renderings']} texts each, it is one: "
        f"{estimate(neutral)} bits per parameter (`neutral/`), with {control(neutral)} bits in the null control"
    )


def _versions(versions: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
