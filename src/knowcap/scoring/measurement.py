"""The measurement: the JSON object in the schema of nll.parquet that records model, data set and scoring."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.facts import Knowledge
from knowcap.files import ADAPTER_FILE, QUANTIZATION_FILE, TRAINING_FILE
from knowcap.knowledge.frequencies import FREQUENCIES
from knowcap.models.counts import count_parameters, counted_parameters, used_parameters
from knowcap.models.folders import is_old_buffer, tensors_of, training_of, weight_files
from knowcap.provenance import versions
from knowcap.scoring.mode import ScoringError
from knowcap.sealed import QUANTIZATION_NEEDS, read_result, repair
from knowcap.sealed import digest_of as file_digest
from knowcap.sealed.parquet import read_schema


if TYPE_CHECKING:
    from transformers import PreTrainedModel


CONTROL_KINDS = OUTSIDERS, SHUFFLED = "outsiders", "shuffled"
SWAPPED = "control_swapped"  # whether there is a table of outsiders with exchanged values

MEASUREMENT_KEY = b"knowcap"
# Keys of a measurement that capacity.json repeats, in its order.
COUNTS = ("num_parameters", "num_parameters_non_embedding", "num_parameters_used_vocabulary")
SETTINGS = (
    "trained_here",
    "parameters_counted",
    "scoring",
    "context",
    "window",
    "start_token",
    "dtype",
    "float32_difference",
    "renderings",
    "precision",
    "quantization",
    "quantized_fraction",
    "quantized_fraction_all",
    "stored_bits_per_parameter",
    "exposures",
    "model_name",
    "dataset",
    "seed",
    "versions",
)
MIXTURES = ("useful_share", "qa_share")  # shares of the training tokens: all but junk; questions
ROUNDED = ("fake_quantization_bits", "fake_quantization_start")  # of training, which had weights of so many bits
# Of measurements by versions that did not record them: null in capacity.json.
_LATER = ("trained_here", "parameters_counted", "window", "start_token", "dtype", "float32_difference")
_INPUTS = ("num_entities", "entities_scored", "name_is_prefix_free", "knowledge", "control_kind")
_PRECISIONS = {"F32": ("fp32", 32), "BF16": ("bf16", 16), "F16": ("fp16", 16), "F64": ("fp64", 64)}
_TORCH_TYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float64": "F64"}
_FRACTIONS = ("quantized_fraction", "quantized_fraction_all", "stored_bits_per_parameter")


def knowledge_content(knowledge: Knowledge) -> dict[str, Any]:
    """knowledge.json's content after a round trip through JSON."""
    return json.loads(json.dumps(knowledge.content()))


def describe(model_dir: Path | None, model: PreTrainedModel, knowledge: Knowledge) -> dict[str, Any]:
    """What a measurement records of model and data set, with training.json and quantization.json if present.

    A model without a folder is counted as it is in memory. `trained_here` says whether knowcap trained the model, or
    an adapter's base, on these facts: if not, its bits are what it knew of them beforehand.

    Raises:
        ScoringError: weights of an unsupported type.
    """
    training = {} if model_dir is None else _read_if_there(model_dir / TRAINING_FILE) or {}
    trained_here = model_dir is not None and is_trained_on(model_dir, knowledge)
    quantization = None if model_dir is None else _read_if_there(model_dir / QUANTIZATION_FILE)
    if quantization is not None:
        check_counts(cast(Path, model_dir), model, quantization, training.get("used_token_ids"))
    return {
        **(_stored(model_dir, model, training) if quantization is None else _quantized(quantization)),
        "trained_here": trained_here,
        "parameters_counted": counted_parameters(model),
        "dtype": str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch."),
        "num_entities": knowledge.num_people,
        "exposures": training.get("exposures") if trained_here else None,
        "model_name": training.get("model_name", model.config.model_type),
        "dataset": training.get("dataset", knowledge.name) if trained_here else knowledge.name,
        "seed": training.get("seed"),
        "versions": versions(),
        "name_column": "name",
        "knowledge": knowledge_content(knowledge),
        **{key: training[key] for key in (*MIXTURES, FREQUENCIES) if key in training and trained_here},
        **{key: training[key] for key in ROUNDED if key in training},
    }


def facts_key(knowledge: Mapping[str, Any]) -> dict[str, Any]:
    """What training.json records of the knowledge.json of its facts, to recognize them."""
    return {key: knowledge[key] for key in ("name", "version", "num_people", "seed")}


def is_trained_on(model_dir: Path, knowledge: Knowledge) -> bool:
    """Whether knowcap trained the model on these facts; training.json of earlier versions does not say on which."""
    training = training_of(model_dir)
    key = facts_key(knowledge_content(knowledge))
    return training is not None and training.get("knowledge", key) == key


def digest_of(model_dir: Path | None, dataset_dir: Path, configs: tuple[str, str] = ("biographies", "control")) -> str:
    """A digest of what a measurement depends on: weights, tokenizer and the texts of two configs."""
    digest = hashlib.sha256()
    files = [] if model_dir is None else [*weight_files(model_dir), model_dir / "tokenizer.json"]
    files += [path for config in configs for path in sorted((dataset_dir / config).glob("*.parquet"))]
    for path in files:
        if path.is_file():
            digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def read_measurement(path: str | Path) -> dict[str, Any]:
    """The measurement of an nll.parquet or control.parquet.

    Raises:
        ScoringError: the file, its measurement or a key is missing, or a value is impossible.
    """
    path = Path(path)
    again = f"score the model again: {repair(path)}"
    if not path.is_file():
        raise ScoringError(f"{path} is missing; score the model first (`knowcap measure`)")
    metadata = read_schema(path).metadata or {}
    if MEASUREMENT_KEY not in metadata:
        raise ScoringError(f"{path} has no measurement in its schema's metadata; {again}")
    try:
        measurement = dict.fromkeys(_LATER) | json.loads(metadata[MEASUREMENT_KEY])
    except (ValueError, TypeError) as error:
        raise ScoringError(f"{path}: the measurement in its schema's metadata is broken ({error}); {again}") from error
    missing = [key for key in (*COUNTS, *SETTINGS, *_INPUTS) if key not in measurement]
    if missing:
        raise ScoringError(f"{path}: the measurement in its schema's metadata lacks {missing}; {again}")
    if (kind := measurement["control_kind"]) not in CONTROL_KINDS:
        raise ScoringError(f"{path}: control_kind is {kind!r}, expected {' or '.join(CONTROL_KINDS)}; {again}")
    return measurement


def _read_if_there(path: Path) -> dict[str, Any] | None:
    needed = ("model_name",) if path.name == TRAINING_FILE else QUANTIZATION_NEEDS
    return read_result(path, needed) if path.is_file() else None


def check_counts(
    folder: Path, model: PreTrainedModel, quantization: Mapping[str, Any], used_token_ids: int | None
) -> None:
    """Counts a quantized copy's parameters and stored bits again, from the loaded weights.

    Raises:
        ScoringError: quantization.json has other numbers.
    """
    from knowcap.models.quantized.format import stored_bits

    counted: dict[str, float] = asdict(count_parameters(model, used_token_ids))
    counted["stored_bits_per_parameter"] = stored_bits(model) / counted["num_parameters"]
    other = [f"{key} is {quantization[key]}, counted {n}" for key, n in counted.items() if quantization[key] != n]
    if other:
        path = folder / QUANTIZATION_FILE
        raise ScoringError(f"{path}: {'; '.join(other)}, in the weights; {repair(path)}")


def _quantized(quantization: dict[str, Any]) -> dict[str, Any]:
    """The counts of a quantized model, which has the parameters of its original."""
    separate = {*COUNTS, *_FRACTIONS, "files"}
    return {
        **{key: quantization[key] for key in (*COUNTS, *_FRACTIONS)},
        "precision": f"int{quantization['bits']}",
        "quantization": {key: value for key, value in quantization.items() if key not in separate},
    }


def _stored(model_dir: Path | None, model: PreTrainedModel, training: dict[str, Any]) -> dict[str, Any]:
    """Counts of the loaded model; precision and bits are those of the folder's files, not of the computation."""
    numbers = _numbers_in_memory(model) if model_dir is None else _numbers_by_dtype(model_dir, model)
    unknown = sorted(set(numbers) - set(_PRECISIONS))
    if unknown:
        raise ScoringError(
            f"{model_dir} holds weights of type {unknown}; expected {sorted(_PRECISIONS)}, or a quantization.json"
        )
    bits = sum(count * _PRECISIONS[dtype][1] for dtype, count in numbers.items())
    counts = count_parameters(model, training.get("used_token_ids"))
    if model_dir is not None and training.get("num_parameters", counts.num_parameters) != counts.num_parameters:
        path = model_dir / TRAINING_FILE
        raise ScoringError(
            f"{path}: num_parameters is {training['num_parameters']}, but the weights beside it have "
            f"{counts.num_parameters}; {repair(path)}"
        )
    return {
        **asdict(counts),
        "quantized_fraction": None,
        "quantized_fraction_all": None,
        "stored_bits_per_parameter": bits / sum(numbers.values()),
        "precision": _PRECISIONS[max(numbers, key=numbers.__getitem__)][0],
        "quantization": None,
    }


def _numbers_in_memory(model: PreTrainedModel) -> dict[str, int]:
    """The number of counted parameters of each type, tied ones once."""
    numbers: dict[str, int] = {}
    for parameter in used_parameters(model).values():
        kind = _TORCH_TYPES.get(str(parameter.dtype), str(parameter.dtype))
        numbers[kind] = numbers.get(kind, 0) + parameter.numel()
    return numbers


def _numbers_by_dtype(model_dir: Path, model: PreTrainedModel) -> dict[str, int]:
    """The number of values of each type in the folder's safetensors files: of the parameters that are counted.

    Buffers are left out (causal masks of old files, in float32 beside float16 weights), and so is what a model has but
    does not count: other modalities, and modules of a base that its adapter replaces.
    """
    used = used_parameters(model)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    unused = {_as_in_file(name) for name, tensor in named if id(tensor) not in used}
    unused -= {_as_in_file(name) for name, tensor in named if id(tensor) in used}
    # Old files have names without their first parts.
    endings = {".".join(parts[i:]) for parts in (name.split(".") for name in unused) for i in range(len(parts))}
    own = model_dir if (model_dir / ADAPTER_FILE).is_file() else None  # an adapter's file has only what it uses
    numbers: dict[str, int] = {}
    for path in weight_files(model_dir):
        for name, dtype, shape in tensors_of([path]):
            if not is_old_buffer(name, dtype, shape) and (path.parent == own or name not in endings):
                numbers[dtype] = numbers.get(dtype, 0) + math.prod(shape)
    if not numbers:
        raise ScoringError(f"{model_dir} holds no *.safetensors; expected a folder written by save_pretrained")
    return numbers


def _as_in_file(name: str) -> str:
    """A tensor's name in its model, as the files of a base have it: without the names of peft's modules."""
    for part in ("base_model.model.", "original_module.", "base_layer.", "token_adapter."):
        name = name.replace(part, "")
    return name
