"""The quantization stage: a copy of a trained model with int8 or int4 weights, by optimum-quanto or Optimum's GPTQ.

The weights of all transformer blocks are quantized, and optionally the embeddings and the output head; biases, layer
norms and a mixture's router stay in float32. quanto rounds to nearest, without calibration: int8 with one scale per
row (one output's weights), absmax / 127; int4 with 16 levels from the minimum to the maximum of a group, and a float32
scale and shift per group. GPTQ, the paper's method (Part 3.3, Result 5), chooses roundings that preserve each layer's
outputs on 1000 biographies of training. All layers share one group size.

A quantized folder is loaded, in any process that has knowcap and optimum-quanto, by

    from knowcap.models.loading import load_model, load_tokenizer

    model = load_model("runs/quickstart/quantized/int8")
    tokenizer = load_tokenizer("runs/quickstart/quantized/int8")

transformers' from_pretrained cannot load it. Loading a folder made by GPTQ does not need gptqmodel.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from knowcap.dataset.folder import has_config, num_rows, read_rows
from knowcap.files import QUANTIZATION_FILE, TRAINING_FILE, whole_folder
from knowcap.models.configs import meta_model, text_config
from knowcap.models.counts import count_parameters
from knowcap.models.folders import check_model_folder
from knowcap.models.loading import load_model, load_tokenizer
from knowcap.models.names import ModelError
from knowcap.models.quantized import gptq, quanto
from knowcap.models.quantized.format import (
    load_quantized,
    stored_bits,
    stored_state,
    weights_file,
)
from knowcap.models.quantized.layers import (
    block_weights,
    coverage,
    embedding_layers,
    layers_to_quantize,
    linearize,
)
from knowcap.models.quantized.settings import Settings, check_kept, is_quantized
from knowcap.models.registration import read_model_config
from knowcap.models.reload import close_logits, reload_problem
from knowcap.models.separators import Separators
from knowcap.sealed import files_of, read_result, write_result


logger = logging.getLogger(__name__)

NUM_TEXTS = 1000  # of calibration, as in Part 3.3
_BATCH = 64
COPIED_FILES = (
    "config.json",
    "generation_config.json",
    TRAINING_FILE,
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
    start_token: str = "auto",
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Writes a quantized copy of a model folder, reloads it, and compares the reloaded model with the one in memory.

    The folder gets config.json, the weights, quantization.json, the tokenizer's files and training.json. It is renamed
    to `output_dir` only when it is complete and its reloaded tensors are equal bit for bit.

    Args:
        model_dir: a folder with a trained model, unquantized.
        output_dir: the folder to make; a complete one with the same settings is kept.
        bits: of a weight, 8 or 4.
        dataset_dir: the data set folder with gptq's calibration texts; quanto needs none.
        start_token: what stands before each text of calibration, as in scoring.
        overwrite: replace an existing folder, with everything that was measured of it.
        options: those of `Settings`: method, group_size, symmetric, embeddings, exclude.

    Returns:
        output_dir.

    Raises:
        ModelError: model_dir has no model; settings, architecture or output_dir cannot be used; a package or the texts
            are missing; weights are not finite; or the reloaded model differs. Nothing is left behind.
    """
    model_dir, output_dir = Path(model_dir), Path(output_dir)
    settings = Settings(bits=bits, **options)
    if problems := settings.problems():
        raise ModelError("; ".join(problems))
    check_model_folder(model_dir)
    if (model_dir / QUANTIZATION_FILE).exists():
        raise ModelError(f"{model_dir} is already quantized; expected the folder of the trained model")
    if is_quantized(output_dir) and not overwrite:
        check_kept(model_dir, output_dir, settings)
        logger.info("kept %s, already quantized", output_dir)
        return output_dir
    _check_architecture(model_dir, settings)
    calibration = _calibration(model_dir, settings, dataset_dir, start_token)
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


def _check_architecture(model_dir: Path, settings: Settings) -> None:
    """Raises ModelError if block weights cannot be quantized with these settings, before any weight is loaded."""
    config = read_model_config(model_dir)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"{model_dir}: unsupported architecture, model_type={config.model_type!r}; expected a causal language "
            "model of transformers, such as gpt2 or gpt_neox"
        )
    check_layers(config, settings)


def check_layers(config: PreTrainedConfig, settings: Settings) -> None:
    """Raises ModelError if the block weights of a configuration's model cannot be quantized with these settings."""
    _check_packages(settings)
    model = meta_model(config)
    linearize(model)
    done = [f"{name}.weight" for name in layers_to_quantize(model, settings.exclude)]
    coverage(_sizes(model), done, settings.exclude, type(model).__name__)
    (quanto if settings.method == "quanto" else gptq).check_layers(model, settings)


def _check_packages(settings: Settings) -> None:
    """Raises ModelError, with the pip command, if the method's packages cannot be imported."""
    if settings.method == "quanto":
        quanto.import_quanto()
    else:
        gptq.import_gptq()


@dataclass(frozen=True)
class Calibration:
    """The texts that GPTQ is calibrated on.

    Attributes:
        batches: token ids, (texts, length) int64, unpadded, of one length per batch.
        texts, tokens: their numbers in all batches.
    """

    batches: tuple[torch.Tensor, ...]
    texts: int
    tokens: int


def read_calibration(
    dataset_dir: Path,
    tokenizer: PreTrainedTokenizerFast,
    longest: int | None = None,
    count: int = NUM_TEXTS,
    separators: Separators | None = None,
) -> Calibration:
    """Evenly spaced biographies of a data set, each after the start token, as in scoring.

    Args:
        dataset_dir: a data set folder; its config `biographies` holds texts of training.
        tokenizer: the model's.
        longest: the model's number of positions; longer texts are truncated.
        count: number of texts; all of them if there are fewer.
        separators: the tokens before each text are its `before`; by default those of start_token auto.

    Raises:
        ModelError: the folder or its config `biographies` does not exist.
    """
    if not has_config(dataset_dir, "biographies"):
        raise ModelError(
            f"gptq is calibrated on biographies of training, but {dataset_dir} has none; make them with "
            "`knowcap data`, or use method quanto"
        )
    rows = num_rows(dataset_dir)
    count = min(count, rows)
    places = np.array([i * rows // count for i in range(count)], dtype=np.int64)
    texts = [row.text for row, _ in read_rows(dataset_dir, places=places)]
    before = (separators or Separators.of(tokenizer)).before
    by_length = defaultdict(list)
    for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]:
        ids = [*before, *ids]
        by_length[min(len(ids), longest or len(ids))].append(ids[:longest])
    batches = [
        torch.tensor(of_one[first : first + _BATCH])
        for _, of_one in sorted(by_length.items())
        for first in range(0, len(of_one), _BATCH)
    ]
    return Calibration(tuple(batches), len(texts), sum(batch.numel() for batch in batches))


def _calibration(
    model_dir: Path, settings: Settings, dataset_dir: str | Path | None, start_token: str
) -> Calibration | None:
    """GPTQ's calibration texts, tokenized; raises ModelError if there are none."""
    if settings.method != "gptq":
        return None
    if dataset_dir is None:
        raise ModelError(f"gptq needs texts of training; give {model_dir}'s data set folder as dataset_dir")
    config = read_model_config(model_dir).get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    tokenizer = load_tokenizer(model_dir)
    separators = Separators.of_model(model_dir, tokenizer, start_token)
    return read_calibration(Path(dataset_dir), tokenizer, longest, separators=separators)


def _sizes(model: PreTrainedModel) -> dict[str, int]:
    return {name: p.numel() for name, p in block_weights(model).items()}


def _write(model_dir: Path, folder: Path, settings: Settings, calibration: Calibration | None) -> dict[str, Any]:
    """Writes and checks all files of a quantized folder; returns the content of quantization.json."""
    model = load_model(model_dir)
    check_finite(model_dir, model.state_dict())
    training = model_dir / TRAINING_FILE
    used = read_result(training).get("used_token_ids") if training.is_file() else None
    counts = count_parameters(model, used)
    check_rewritten(model, lambda: linearize(model))
    sizes, once = _sizes(model), dict(model.named_parameters())
    all_sizes = sizes | {f"{name}.weight": cast(Any, m).weight.numel() for name, m in embedding_layers(model).items()}
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
        "stored_bits_per_parameter": stored_bits(model) / counts.num_parameters,
        **asdict(counts),
    }
    if calibration is not None:
        record |= {"calibration": {"texts": calibration.texts, "tokens": calibration.tokens}, "damping": gptq.DAMPING}
    state = stored_state(model)
    check_finite(model_dir, state)
    file = folder / weights_file(settings.method)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, {"format": "pt"})
    for name in COPIED_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, folder / name)
    write_result(folder / QUANTIZATION_FILE, record | {"files": files_of(folder)})
    check_same(model, load_quantized(folder))
    return record


def check_finite(model_dir: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Raises ModelError, listing the tensors, if a number is NaN or infinite."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(f"{model_dir}: weights are not finite: {', '.join(bad[:12])}; expected a trained model")


def check_rewritten(model: PreTrainedModel, rewrite: Callable[[], object]) -> None:
    """Rewrites a model's layers in place; raises ModelError if its logits change by more than rounding."""
    expected = _logits(model)
    if not torch.isfinite(expected).all():
        raise ModelError("the model's logits are not finite before quantizing; expected a trained model")
    rewrite()
    found = _logits(model)
    if not close_logits(expected, found):
        raise ModelError(
            f"unsupported architecture {type(model).__name__}: its layers give other outputs as nn.Linear, "
            f"logits differ by {(expected - found).abs().max().item():.3g} of {expected.abs().max().item():.3g}"
        )


def check_same(model: PreTrainedModel, reloaded: PreTrainedModel) -> None:
    """Raises ModelError unless a reloaded model has the tensors of the one in memory, and close logits."""
    expected, found = _logits(model), _logits(reloaded)
    if not torch.isfinite(found).all():
        raise ModelError("the quantized model's logits are not finite; nothing was kept")
    if problem := reload_problem(stored_state(model), stored_state(reloaded), expected, found):
        raise ModelError(problem)


def _logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits (4, up to 32, vocabulary) of fixed random token ids."""
    generator = torch.Generator().manual_seed(0)
    config = text_config(model)
    length = min(32, getattr(config, "max_position_embeddings", 32))  # state-space models have none
    ids = torch.randint(config.vocab_size, (4, length), generator=generator)
    with torch.no_grad():  # int4 weights of quanto cannot be used in inference mode
        return model(ids, use_cache=False).logits
