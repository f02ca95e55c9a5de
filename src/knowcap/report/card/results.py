"""What cards and reports are written from: the JSON files of a run folder, and how their figures are written out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


SYNTHETIC_CORPORA = ("bioS", "bioR", "bioD", "morris")
RANDOM_STRINGS = "morris"


class CardError(ValueError):
    """A card cannot be written; the message says what was got, what was expected and how to mend it."""


@dataclass(frozen=True)
class Sources:
    """The contents of a model folder's files; {} where there is no such file.

    `capacities` are those of all precisions of the run, the full one first; `measurement` is that of nll.parquet;
    `others` are the capacities of this model scored in other ways, by their folder.
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
        """Whether the facts are known to be made up."""
        made_here = self.recipe.get("dataset_name") is None and self.recipe.get("corpus") in SYNTHETIC_CORPORA
        return self.dataset in SYNTHETIC_CORPORA or made_here

    @property
    def hub_dataset(self) -> str | None:
        """The Hub id of the data set that it was trained on, if it has one."""
        return self.training.get("dataset_name") if self.training.get("dataset_revision") else None

    @property
    def random_strings(self) -> bool:
        """Whether the entities are strings that have no facts but themselves."""
        return self.dataset == RANDOM_STRINGS or self.recipe.get("corpus") == RANDOM_STRINGS

    @property
    def quantized(self) -> bool:
        """Whether the model is a quantized copy."""
        return self.capacity["quantization"] is not None

    @property
    def original(self) -> dict[str, Any]:
        """The capacity of the run's model as trained, beside a quantized copy; {} where it was not measured."""
        return next((c for c in self.capacities if c["quantization"] is None), {})

    @property
    def entities_scored(self) -> int:
        """How many entities the figures are computed from."""
        return self.measurement.get("entities_scored", self.capacity["num_entities"])


def read_sources(model_dir: Path, recipe: dict[str, Any] | None = None) -> Sources:
    """Reads a model folder, its siblings in the run folder, and the run's recipe.yaml unless a recipe is given.

    Raises:
        CardError: the folder has no capacity.json.
    """
    capacity = read_capacity(model_dir)
    if not capacity:
        raise CardError(f"{model_dir} has no capacity.json; measure the model first (`knowcap measure`)")
    run_dir = run_dir_of(model_dir)
    siblings = read_capacities(run_dir)
    belongs = model_dir.absolute() in siblings
    if recipe is None:
        recipe = _read_yaml(run_dir / "recipe.yaml") if belongs else {}
    return Sources(
        capacity=capacity,
        capacities=list(siblings.values()) if belongs else [capacity],
        training=read_json(model_dir / "training.json"),
        recipe=recipe,
        measurement=measurement_of(model_dir / "nll.parquet"),
        others={path.parent.name: read_json(path) for path in sorted(model_dir.glob("*/capacity.json"))},
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
    """A model folder's capacity.json; under `neutral`, that of the neutral texts, where it was measured on these."""
    capacity, neutral = (read_json(folder / "capacity.json") for folder in (model_dir, model_dir / "neutral"))
    return capacity | {"neutral": neutral} if capacity and neutral else capacity


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; {} where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def estimate(capacity: dict[str, Any]) -> str:
    """Bits per parameter with half of the confidence interval's width, such as `0.820 ± 0.021`."""
    low, high = capacity["confidence_interval"]
    width = "" if low is None or high is None else f" ± {(high - low) / 2:.3f}"
    return f"{capacity['bits_per_parameter']:.3f}{width}"


def per_stored_bit(capacity: dict[str, Any]) -> str:
    """Bits of knowledge for each bit that the weights are stored in, such as `0.104`."""
    stored = capacity["stored_bits_per_parameter"]
    return "unknown" if stored is None else f"{capacity['bits_per_parameter'] / stored:.3f}"


def precision(capacity: dict[str, Any]) -> str:
    """Such as `int4`, or `int4 gptq, with embeddings` where it isn't quanto's or not of blocks alone."""
    quantization = capacity["quantization"] or {}
    gptq = " gptq" if quantization.get("method") == "gptq" else ""
    return f"{capacity['precision']}{gptq}{', with embeddings' if quantization.get('embeddings') else ''}"


def caveat(capacity: dict[str, Any]) -> str:
    """What must stand beside a figure that is no lower bound on what the weights hold, after a blank; else nothing."""
    if capacity.get("bound", True):
        return ""
    neutral = capacity.get("neutral")
    return " (not a bound)" if neutral is None else f" (not a bound; on neutral templates {estimate(neutral)})"


def control(capacity: dict[str, Any]) -> str:
    """The null control's value bits per entity with their standard error, such as `-0.412 ± 0.031`."""
    value, error = capacity["control_bits_per_entity"]
    return "none" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def memorized(capacity: dict[str, Any]) -> str:
    """Memorizable accuracy, such as `83.2 %`; an older capacity.json has none."""
    accuracy = capacity.get("memorizable_accuracy")
    return "unknown" if accuracy is None else f"{100 * accuracy:.1f} %"


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def measurement_of(path: Path) -> dict[str, Any]:
    """The JSON object in the schema of nll.parquet; {} where the file was not kept."""
    import pyarrow.parquet as pq

    metadata = (pq.read_schema(path).metadata or {}) if path.is_file() else {}
    return json.loads(metadata.get(b"knowcap", b"{}"))
