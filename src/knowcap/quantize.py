"""A trained model → the same with int8 or int4 weights, by optimum-quanto: weights only, no calibration.

The weights of all transformer blocks are quantized; embeddings, the output head (tied or not), biases and layer norms
stay in float32. int8 is symmetric, one scale per output channel: absmax / 127. int4 is affine: 16 even steps from the
least to the greatest weight of a group, and a float32 scale and shift per group. A group is a whole row up to 128
inputs, beyond that what quanto picks (mostly 128); quantization.json says which: compare int4 across widths at one
group size only.

A quantized folder is loaded, in any process that has knowcap and optimum-quanto, by

    from knowcap.models import load_model, load_tokenizer

    model = load_model("runs/quickstart/quantized/int8")
    tokenizer = load_tokenizer("runs/quickstart/quantized/int8")

and by nothing else: transformers' own from_pretrained would fill the blocks with random numbers.
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
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from knowcap import quantized
from knowcap.folders import whole_folder
from knowcap.models import QUANTIZATION_FILE, check_model_folder, count_parameters, load_model
from knowcap.quantized import QuantizationError


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


def quantize(model_dir: str | Path, output_dir: str | Path, bits: int, *, overwrite: bool = False) -> Path:
    """Writes a quantized copy of a model folder, reloads it, and holds the reloaded model to the one in memory.

    The folder gets config.json, quanto.safetensors, quanto_qmap.json, quantization.json, the tokenizer's files and
    training.json. It gets its name only when it is whole and its reloaded logits are the same to the last bit.

    Args:
        model_dir: a folder with a trained model, unquantized.
        output_dir: the folder to make; one that is there already, and whole, is kept.
        bits: of a weight, 8 or 4.
        overwrite: make it anew, with all that was measured of the old one gone.

    Returns:
        output_dir.

    Raises:
        ModelError: model_dir holds no model.
        QuantizationError: bits, architecture or output_dir cannot be used, optimum-quanto is missing, weights are not
            finite, or the reloaded model differs; nothing is left behind.
    """
    model_dir, output_dir = Path(model_dir), Path(output_dir)
    if bits not in (8, 4):
        raise QuantizationError(f"bits={bits!r}; expected 8 or 4")
    check_model_folder(model_dir)
    if (model_dir / QUANTIZATION_FILE).exists():
        raise QuantizationError(f"{model_dir} is quantized already; expected the folder of the model as trained")
    if _is_quantized(output_dir) and not overwrite:
        _check_kept(model_dir, output_dir, bits)
        logger.info("kept %s, quantized before", output_dir)
        return output_dir
    _check_architecture(model_dir)
    started = time.monotonic()
    with whole_folder(output_dir) as partial:
        try:
            record = _write(model_dir, partial, bits)
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


def _check_kept(model_dir: Path, output_dir: Path, bits: int) -> None:
    """Raises QuantizationError unless output_dir was made from this model's training run, with these bits."""
    found = quantized.read_quantization(output_dir)["bits"]
    if found != bits:
        raise QuantizationError(f"{output_dir} holds {found}-bit weights, asked for {bits}; choose another output_dir")
    ours, theirs = model_dir / "training.json", output_dir / "training.json"
    if ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise QuantizationError(
            f"{output_dir} was made from another training run than {model_dir}: their training.json differ; "
            "quantize again with overwrite=True"
        )


def _check_architecture(model_dir: Path) -> None:
    """Raises QuantizationError where block weights could not be quantized, before any weight is loaded."""
    quantized.import_quanto()
    model_type = json.loads((model_dir / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise QuantizationError(
            f"{model_dir}: unsupported architecture, model_type={model_type!r}; expected a causal language model of "
            "transformers, such as gpt2 or gpt_neox"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir, local_files_only=True))
        quantized.linearize(model)
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    quantized.quantized_fraction(model, lambda p: id(p) in linear)


def _write(model_dir: Path, folder: Path, bits: int) -> dict[str, Any]:
    """Makes all files of a quantized folder and checks them; returns the content of quantization.json."""
    model = load_model(model_dir)
    training = model_dir / "training.json"
    used = json.loads(training.read_text(encoding="utf-8")).get("used_token_ids") if training.is_file() else None
    counts = count_parameters(model, used)
    excluded = _quantize_in_place(model, bits)
    quanto = quantized.import_quanto()
    fraction = quantized.quantized_fraction(model, lambda p: isinstance(p, quanto.QTensor))
    state = quantized.stored_state(model)
    _check_finite(model_dir, state)
    save_file({name: t.contiguous() for name, t in state.items()}, folder / quantized.WEIGHTS_FILE, {"format": "pt"})
    _write_json(folder / quantized.MAP_FILE, quanto.quantization_map(model))
    for name in COPIED_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, folder / name)
    groups = {name: m.weight_group_size for name, m in model.named_modules() if isinstance(m, quanto.QModuleMixin)}
    in_bits = sum(p.numel() for p in model.parameters() if isinstance(p, quanto.QTensor))
    record = {
        "method": quantized.METHOD,
        "bits": bits,
        "group_size": groups if len(set(groups.values())) > 1 else next(iter(groups.values())),
        "symmetric": bits == 8,
        "excluded": excluded,
        "quantized_fraction": fraction,
        "quantized_fraction_all": in_bits / counts.num_parameters,
        "stored_bits_per_parameter": quantized.stored_bits_per_parameter(model),
        **asdict(counts),
    }
    _write_json(folder / QUANTIZATION_FILE, record)
    _check_reload(model, folder)
    return record


def _quantize_in_place(model: PreTrainedModel, bits: int) -> list[str]:
    """Quantizes the Linears of the blocks; returns the names of the layers with weights that are left as they are."""
    quanto = quantized.import_quanto()
    quantized.linearize(model)
    inside = {id(p) for p in quantized.block_weights(model).values()}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))}
    # By exact names: quanto takes what is not excluded, and dies of a Linear without weights (a block without an MLP).
    excluded = [name for name, module in layers.items() if id(module.weight) not in inside]
    quanto.quantize(model, weights=quanto.qint8 if bits == 8 else quanto.qint4, exclude=excluded)
    quanto.freeze(model)
    return excluded


def _check_finite(model_dir: Path, state: dict[str, torch.Tensor]) -> None:
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise QuantizationError(f"{model_dir}: not finite: {', '.join(bad[:12])}; expected a trained model")


def _check_reload(model: PreTrainedModel, folder: Path) -> None:
    """Raises QuantizationError unless the folder gives back the model in memory: the same tensors, the same logits."""
    reloaded = quantized.load_quantized(folder)
    other = quantized.stored_state(reloaded)
    changed = [name for name, tensor in quantized.stored_state(model).items() if not torch.equal(tensor, other[name])]
    generator = torch.Generator().manual_seed(0)
    length = min(32, model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (4, length), generator=generator)
    with torch.no_grad():  # int4 weights of quanto cannot be used in inference mode
        expected, found = model(ids).logits, reloaded(ids).logits
    if changed or not torch.isfinite(found).all() or not torch.equal(expected, found):
        raise QuantizationError(
            "the reloaded model differs from the one that was saved: largest difference of a logit "
            f"{(expected - found).abs().max().item()}, changed tensors {changed[:12]}; nothing was kept"
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
