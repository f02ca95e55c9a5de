"""What cards and reports are written from: the JSON files of a run folder, and how their numbers are written out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.capacity.kept import read_capacity_file
from knowcap.capacity.seeds import recipe_of
from knowcap.files import CAPACITY_FILE, CARD_FILE, NLL_FILE, TRAINING_FILE, whole_file
from knowcap.models.names import MODEL_FAMILIES, family_of
from knowcap.report.table import half_width, number, percent, render
from knowcap.scoring.measurement import read_measurement
from knowcap.sealed import read_result


if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


SYNTHETIC_CORPORA = ("bioS", "bioR", "bioD", "morris")
RANDOM_STRINGS = "morris"


class ReportError(ValueError):
    """A card or a report cannot be written; the message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Sources:
    """The contents of a model folder's files; {} for a missing file.

    Attributes:
        capacity: of capacity.json.
        capacities: of all precisions of the run, the full one first.
        training: of training.json.
        recipe: of the run's recipe.yaml.
        measurement: in the schema of nll.parquet.
        others: the capacities of this model in the other scoring modes, by their folder.
    """

    capacity: dict[str, Any]
    capacities: list[dict[str, Any]]
    training: dict[str, Any]
    recipe: dict[str, Any]
    measurement: dict[str, Any]
    others: dict[str, dict[str, Any]]

    @property
    def dataset(self) -> str:
        """The data set's name, without its owner on the Hub."""
        return str(self.capacity["dataset"]).split("/")[-1]

    @property
    def invented(self) -> bool:
        """Whether the facts are known to be synthetic."""
        made_here = self.recipe.get("dataset_name") is None and self.recipe.get("corpus") in SYNTHETIC_CORPORA
        return self.dataset in SYNTHETIC_CORPORA or made_here

    @property
    def hub_dataset(self) -> str | None:
        """The Hub id of the training data, if it has one."""
        return self.training.get("dataset_name") if self.training.get("dataset_revision") else None

    @property
    def random_strings(self) -> bool:
        """Whether the entities are random strings, which have no facts but themselves."""
        return self.dataset == RANDOM_STRINGS or self.recipe.get("corpus") == RANDOM_STRINGS

    @property
    def quantized(self) -> bool:
        """Whether the model is a quantized copy."""
        return self.capacity["quantization"] is not None

    @property
    def original(self) -> dict[str, Any]:
        """The capacity of the run's model as trained; {} if it was not measured."""
        return next((c for c in self.capacities if c["quantization"] is None), {})

    @property
    def entities_scored(self) -> int:
        """How many entities the numbers are computed from."""
        return self.measurement.get("entities_scored", self.capacity["num_entities"])


def read_sources(model_dir: Path, recipe: dict[str, Any] | None = None) -> Sources:
    """Reads a model folder, its siblings in the run folder, and the run's recipe.yaml unless a recipe is given.

    Raises:
        ReportError: the folder has no capacity.json.
    """
    capacity = read_capacity(model_dir)
    if not capacity:
        raise ReportError(f"{model_dir} has no {CAPACITY_FILE}; measure the model first (`knowcap measure`)")
    run_dir = run_dir_of(model_dir)
    siblings = read_capacities(run_dir)
    belongs = model_dir.absolute() in siblings
    if recipe is None:
        recipe = recipe_of(run_dir) if belongs else {}
    return Sources(
        capacity=capacity,
        capacities=list(siblings.values()) if belongs else [capacity],
        training=read_if_there(model_dir / TRAINING_FILE),
        recipe=recipe,
        measurement=measurement_of(model_dir),
        others={
            path.parent.name: read_capacity_file(path.parent) for path in sorted(model_dir.glob(f"*/{CAPACITY_FILE}"))
        },
    )


def run_dir_of(model_dir: Path) -> Path:
    """The run folder that a model folder belongs to: the parent of model/, the grandparent of quantized/int8/."""
    parent = model_dir.absolute().parent
    return parent.parent if parent.name == "quantized" else parent


def read_capacities(run_dir: Path) -> dict[Path, dict[str, Any]]:
    """The measured model folders of a run, model/ and quantized/*/, with their capacities; most bits stored first."""
    quantized = [folder for folder in (run_dir / "quantized").glob("*") if not folder.name.startswith(".")]
    found = {folder: read_capacity(folder) for folder in [run_dir / "model", *sorted(quantized)]}
    measured = [(folder, capacity) for folder, capacity in found.items() if capacity]
    return dict(sorted(measured, key=lambda pair: -(pair[1]["stored_bits_per_parameter"] or 0)))


def read_capacity(model_dir: Path) -> dict[str, Any]:
    """A model folder's capacity.json; under `neutral` that of the neutral texts, if there is one."""
    folders = (model_dir, model_dir / "neutral")
    capacity, neutral = (read_capacity_file(f) if (f / CAPACITY_FILE).is_file() else {} for f in folders)
    return capacity | {"neutral": neutral} if capacity and neutral else capacity


def read_if_there(path: Path, needed: Sequence[str] = ("model_name",)) -> dict[str, Any]:
    """A result's content, which must have some keys; {} if there is no such file."""
    return read_result(path, needed) if path.is_file() else {}


def measurement_of(model_dir: Path) -> dict[str, Any]:
    """The measurement in the schema of a folder's nll.parquet; {} if the file was not kept."""
    path = model_dir / NLL_FILE
    return read_measurement(path) if path.is_file() else {}


def estimate(capacity: dict[str, Any]) -> str:
    """Bits per parameter with half of the confidence interval's width, such as `0.820 ± 0.021`."""
    return f"{number(capacity['bits_per_parameter'])}{half_width(capacity['confidence_interval'])}"


def seeds(capacity: dict[str, Any]) -> str:
    """How many training seeds a number and its interval are from: `one seed`, `3 seeds`."""
    count = capacity.get("num_seeds", 1)
    return "one seed" if count == 1 else f"{count} seeds"


def bound_reason(capacity: dict[str, Any]) -> str | None:
    """Why a number is no lower bound on what the weights hold; None if it is one."""
    if capacity.get("bound", True):
        return None
    # capacity.json before there was a reason in it: only free prose was no bound
    return capacity.get("bound_reason") or "the texts may hint at a fact before they state it"


def per_stored_bit(capacity: dict[str, Any]) -> str:
    """Bits of knowledge for each bit that the weights are stored in, such as `0.104`."""
    stored = capacity["stored_bits_per_parameter"]
    return number(None if stored is None else capacity["bits_per_parameter"] / stored, missing="unknown")


def precision(capacity: dict[str, Any]) -> str:
    """Such as `int4`, or `int4 gptq, with embeddings` if the method is not quanto or embeddings are quantized too."""
    quantization = capacity["quantization"] or {}
    gptq = " gptq" if quantization.get("method") == "gptq" else ""
    return f"{capacity['precision']}{gptq}{', with embeddings' if quantization.get('embeddings') else ''}"


def caveat(capacity: dict[str, Any]) -> str:
    """What follows a number that is no lower bound on what the weights hold, with a space before; else nothing."""
    if capacity.get("bound", True):
        return ""
    neutral = capacity.get("neutral")
    return " (not a bound)" if neutral is None else f" (not a bound; on neutral templates {estimate(neutral)})"


def control(capacity: dict[str, Any]) -> str:
    """The null control's value bits per entity with their standard error, such as `-0.412 ± 0.031`."""
    value, error = capacity["control_bits_per_entity"]
    return "none" if value is None else number(value) + ("" if error is None else f" ± {number(error)}")


def memorized(capacity: dict[str, Any]) -> str:
    """Memorizable accuracy, such as `83.2 %`."""
    return percent(capacity.get("memorizable_accuracy"), "unknown")


def architecture(model_name: str) -> str:
    """Such as `gpt2-rotary (rotary positions, standard MLP, tied embeddings)`; the name alone if it is not ours."""
    family = family_of(model_name)
    ours = family in MODEL_FAMILIES and family != model_name  # a model_type such as llama may be configured otherwise
    return f"{family} ({MODEL_FAMILIES[family].text})" if ours else family


def configured(content: dict[str, Any]) -> str:
    """Where a model's architecture comes from, from `architecture` of training.json; empty where its name says all."""
    changes = [f"{key} {value}" for key, value in content.get("overrides", {}).items()]
    said = f" Its configuration is {content['config']}" if "config" in content else ""
    said += f", with {', '.join(changes)}" if changes else ""
    picked = ", ".join(f"{key} {value}" for key, value in content.get("widths", {}).items())
    target = next((key for key in ("num_parameters", "num_active_parameters") if key in content), None)
    said += f"; {picked} were picked for {target} {content[target]:,}" if target else ""
    packages = ", ".join(content.get("imports", ()))
    said += f"; its classes are those of {packages}, which has to be imported first" if packages else ""
    return f" {said.lstrip(' ;,')}." if said else ""


def setting(value: Any) -> str:
    """A setting or count of training as text."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def versions(packages: dict[str, str]) -> str:
    """Such as `torch 2.13.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def optional(content: dict[str, Any]) -> dict[str, Any]:
    """The same, with None for every missing key, as templates read it."""
    return defaultdict(lambda: None, content)


def write_readme(folder: Path, data: ModelCardData, template: str, context: dict[str, Any]) -> Path:
    """Renders a template below the front matter and writes it to the folder's README.md."""
    from huggingface_hub import ModelCard

    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{render(template, **context)}")
    with whole_file(folder / CARD_FILE) as made:
        made.write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return folder / CARD_FILE
