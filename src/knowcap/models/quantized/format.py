"""The format of quantized model folders: the tensors that they store, and loading them.

A folder holds config.json of the original, `quanto.safetensors` or `gptq.safetensors`, and quantization.json with the
quantization's settings. transformers' from_pretrained finds no model.safetensors there and raises.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from knowcap.files import QUANTIZATION_FILE
from knowcap.models.configs import build_model
from knowcap.models.folders import check_model_folder
from knowcap.models.names import ModelError
from knowcap.models.quantized import gptq, quanto
from knowcap.models.quantized.layers import linearize, stored_tensors
from knowcap.models.quantized.settings import read_quantization, settings_of
from knowcap.models.registration import read_model_config
from knowcap.sealed import repair


# quanto's scales of quantized activations; if only weights are quantized they are 1, and are not stored.
_ACTIVATION_SCALES = (".input_scale", ".output_scale")


def weights_file(method: str) -> str:
    """The file of the weights. Not model.safetensors: from_pretrained would initialize the blocks at random."""
    return f"{method}.safetensors"


def stored_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a quantized model that are written to the file: tied ones once, without activation scales."""
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        pointer = tensor.data_ptr()
        if name.endswith(_ACTIVATION_SCALES) or (pointer in seen and tensor.numel() > 0):
            continue
        seen.add(pointer)
        state[name] = tensor
    return state


def stored_bits(model: nn.Module) -> int:
    """Bits of all tensors of a model: packed integers, scales, shifts and zeros, and what is not quantized."""
    return sum(8 * t.numel() * t.element_size() for kept in stored_state(model).values() for t in stored_tensors(kept))


def load_quantized(folder: str | Path) -> PreTrainedModel:
    """The quantized model of a folder made by `knowcap quantize`, on the CPU, in eval mode, without cache.

    Run it under torch.no_grad(): quanto's int4 weights raise in torch.inference_mode().

    Raises:
        ModelError: a file is missing, the method is unknown, or the file's tensors do not match the model's exactly.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = check_model_folder(folder, ("config.json", QUANTIZATION_FILE))
    settings = settings_of(read_quantization(folder))
    file = check_model_folder(folder, (weights_file(settings.method),)) / weights_file(settings.method)
    model = build_model(read_model_config(folder), seed=0)
    linearize(model)
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read as safetensors ({error}); {repair(file)}") from error
    names = set(state)
    (quanto if settings.method == "quanto" else gptq).load_layers(model, settings, state)
    # strict=False, since quanto's state has other names: a tensor missing from the file would stay random.
    wrong = sorted(set(stored_state(model)) ^ names)
    if wrong:
        raise ModelError(
            f"{file} does not match config.json and {QUANTIZATION_FILE}: {', '.join(wrong[:12])} in one but not "
            "in the other; expected a folder made by `knowcap quantize`: quantize the model again"
        )
    model.config.use_cache = False
    return model.eval()
