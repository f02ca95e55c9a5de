"""A trained model → the same with int8 or int4 weights, by optimum-quanto or by Optimum's GPTQ; weights only.

The weights of all transformer blocks are quantized, and if asked for the embeddings and the output head; biases and
layer norms stay in float32, as does a mixture's router. quanto rounds to the nearest step, without calibration: int8
by one scale a row (one output's weights), absmax / 127; int4 by 16 even steps from the least to the greatest weight of
a group, and a float32 scale and shift a group. GPTQ, the paper's method (Part 3.3, Result 5), rounds so that each
layer's outputs on 1000 biographies of training change little. One group size holds for all layers.

A quantized folder is loaded, in any process that has knowcap and optimum-quanto, by

    from knowcap.models.loading import load_model, load_tokenizer

    model = load_model("runs/quickstart/quantized/int8")
    tokenizer = load_tokenizer("runs/quickstart/quantized/int8")

and by nothing else: transformers' own from_pretrained finds no weights there that it knows. Loading a folder that GPTQ
made needs no gptqmodel.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from knowcap.files import whole_folder
from knowcap.models.counts import count_parameters
from knowcap.models.folders import QUANTIZATION_FILE, check_model_folder
from knowcap.models.loading import load_model, load_tokenizer
from knowcap.models.quantized import folder as folders
from knowcap.models.quantized import gptq, quanto
from knowcap.models.quantized.calibration import Calibration, read_calibration
from knowcap.models.quantized.checks import check_finite, check_rewritten, check_same
from knowcap.models.quantized.layers import (
    block_weights,
    coverage,
    embedding_layers,
    layers_to_quantize,
    linearize,
)
from knowcap.models.quantized.settings import QuantizationError, Settings


__all__ = ["QuantizationError", "Settings", "quantize"]

logger = logging.getLogger(__name__)

COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "training.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def quantize(
    model_dir: str | Path,
    output_dir: str | Path,
    bits: int,
    *,
    dataset_dir: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Writes a quantized copy of a model folder, reloads it, and holds the reloaded model to the one in memory.

    The folder gets config.json, the weights, quantization.json, the tokenizer's files and training.json. It gets its
    name only when it is whole and its reloaded logits are the same to the last bit.

    Args:
        model_dir: a folder with a trained model, unquantized.
        output_dir: the folder to make; one that is there already, whole, and made in the same way, is kept.
        bits: of a weight, 8 or 4.
        dataset_dir: the data set folder that gptq takes 1000 biographies of; quanto needs none.
        overwrite: make it anew, with all that was measured of the old one gone.
        options: those of `Settings`: method, group_size, symmetric, embeddings, exclude.

    Returns:
        output_dir.

    Raises:
        ModelError: model_dir holds no model.
        QuantizationError: settings, architecture or output_dir cannot be used, a package or the texts are missing,
            weights are not finite, or the reloaded model differs; nothing is left behind.
    """
    model_dir, output_dir = Path(model_dir), Path(output_dir)
    settings = Settings(bits=bits, **options)
    if problems := settings.problems():
        raise QuantizationError("; ".join(problems))
    check_model_folder(model_dir)
    if (model_dir / QUANTIZATION_FILE).exists():
        raise QuantizationError(f"{model_dir} is quantized already; expected the folder of the model as trained")
    if _is_quantized(output_dir) and not overwrite:
        _check_kept(model_dir, output_dir, settings)
        logger.info("kept %s, quantized before", output_dir)
        return output_dir
    _check_architecture(model_dir, settings)
    calibration = _calibration(model_dir, settings, dataset_dir)
    started = time.monotonic()
    with whole_folder(output_dir) as partial:
        try:
            record = _write(model_dir, partial, settings, calibration)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    logger.info(
        "quantized %.1f%% of the block weights to int%d, %.2f stored bits per parameter, in %s (%.1f s)",
        100 * record["quantized_fraction"],
        bits,
        record["stored_bits_per_parameter"],
        output_dir,
        time.monotonic() - started,
    )
    return output_dir


def _is_quantized(folder: Path) -> bool:
    """Whether a whole quantized model is there; raises where something else is, which nobody asked to lose."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / QUANTIZATION_FILE).is_file():
        raise QuantizationError(f"{folder} exists and is no quantized model; choose another output_dir, or remove it")
    return True


def _check_kept(model_dir: Path, output_dir: Path, settings: Settings) -> None:
    """Raises QuantizationError unless output_dir was made from this model's training run, with these settings."""
    found, asked = folders.read_quantization(output_dir), settings.content()
    other = [f"{key} {found[key]!r} there, {value!r} here" for key, value in asked.items() if found[key] != value]
    if other:
        raise QuantizationError(
            f"{output_dir} was quantized otherwise: {'; '.join(other)}; choose another output_dir, or make it anew "
            "with --overwrite (overwrite=True)"
        )
    ours, theirs = model_dir / "training.json", output_dir / "training.json"
    if ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise QuantizationError(
            f"{output_dir} was made from another training run than {model_dir}: their training.json differ; "
            "quantize again with --overwrite (overwrite=True)"
        )


def _check_architecture(model_dir: Path, settings: Settings) -> None:
    """Raises QuantizationError where block weights could not be quantized as asked, before any weight is loaded."""
    model_type = json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise QuantizationError(
            f"{model_dir}: unsupported architecture, model_type={model_type!r}; expected a causal language model of "
            "transformers, such as gpt2 or gpt_neox"
        )
    _importable(settings)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir, local_files_only=True))
        linearize(model)
    done = [f"{name}.weight" for name in layers_to_quantize(model, settings.exclude)]
    coverage(_sizes(model), done, settings.exclude, type(model).__name__)
    (quanto if settings.method == "quanto" else gptq).check_layers(model, settings)


def _importable(settings: Settings) -> None:
    """Raises QuantizationError, with the pip line, where the method's packages do not import."""
    if settings.method == "quanto":
        quanto.import_quanto()
    else:
        gptq.import_gptq()


def _calibration(model_dir: Path, settings: Settings, dataset_dir: str | Path | None) -> Calibration | None:
    """The texts that GPTQ needs, tokenized; raises QuantizationError where there are none."""
    if settings.method != "gptq":
        return None
    if dataset_dir is None:
        raise QuantizationError(f"gptq needs texts of training; give {model_dir}'s data set folder as dataset_dir")
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    return read_calibration(Path(dataset_dir), load_tokenizer(model_dir), longest)


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    return {name: p.numel() for name, p in block_weights(model).items()}


def _write(model_dir: Path, folder: Path, settings: Settings, calibration: Calibration | None) -> dict[str, Any]:
    """Makes all files of a quantized folder and checks them; returns the content of quantization.json."""
    model = load_model(model_dir)
    check_finite(model_dir, model.state_dict())
    training = model_dir / "training.json"
    used = json.loads(training.read_text(encoding="utf-8")).get("used_token_ids") if training.is_file() else None
    counts = count_parameters(model, used)
    check_rewritten(model, lambda: linearize(model))
    sizes, once = _sizes(model), dict(model.named_parameters())
    all_sizes = sizes | {f"{name}.weight": m.weight.numel() for name, m in embedding_layers(model).items()}
    if calibration is None:
        quanto.quantize_layers(model, settings)
        done = {name for name, p in model.named_parameters(remove_duplicate=False) if quanto.is_quantized(p)}
    else:
        gptq.quantize_layers(model, settings, calibration.batches)
        done = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, gptq.PackedLinear)}
    record = settings.content() | {
        "excluded": [name.removesuffix(".weight") for name in all_sizes if name not in done],
        "quantized_fraction": coverage(sizes, done, settings.exclude, type(model).__name__),
        "quantized_fraction_all": sum(all_sizes[k] for k in done if k in once) / counts.num_parameters,
        "stored_bits_per_parameter": folders.stored_bits(model) / counts.num_parameters,
        **asdict(counts),
    }
    if calibration is not None:
        record |= {"calibration": {"texts": calibration.texts, "tokens": calibration.tokens}, "damping": gptq.DAMPING}
    state = folders.stored_state(model)
    check_finite(model_dir, state)
    file = folder / folders.weights_file(settings.method)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, {"format": "pt"})
    for name in COPIED_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, folder / name)
    (folder / QUANTIZATION_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    check_same(model, folders.load_quantized(folder))
    return record
