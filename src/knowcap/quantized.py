"""Models with int8 or int4 weights: making every block weight one that can be quantized, loading, counting bits.

optimum-quanto quantizes nn.Linear alone and passes over everything else without a word: over all of GPT2's blocks,
which are made of Conv1D. So `linearize` rewrites those, and `quantized_fraction` raises where a weight is left out.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowcap.models import QUANTIZATION_FILE, build_model, check_model_folder


METHOD = "quanto"
MAP_FILE = "quanto_qmap.json"
WEIGHTS_FILE = "quanto.safetensors"  # not model.safetensors: from_pretrained would fill the blocks at random
# quanto's scales of quantized activations; with weights alone quantized they are 1, and are not stored.
_ACTIVATION_SCALES = (".input_scale", ".output_scale")
_libraries: list[torch.library.Library] = []  # an override holds only as long as its Library lives


class QuantizationError(ValueError):
    """A model cannot be quantized, or its copy is wrong; the message says what was got, expected, and how to mend."""


@functools.cache
def import_quanto() -> ModuleType:
    """optimum.quanto, with its unpacking of int4 weights done by torch alone.

    quanto would compile a C++ (or CUDA) extension at the first int4 product, which takes a minute and needs a compiler
    and ninja at every run.

    Raises:
        QuantizationError: optimum-quanto is not installed.
    """
    try:
        import optimum.quanto
    except ImportError as error:
        raise QuantizationError(
            f'optimum-quanto is missing ({error}); install it: pip install "optimum>=2.3,<2.4" "optimum-quanto==0.2.7"'
        ) from error
    library = torch.library.Library("quanto", "IMPL")
    with warnings.catch_warnings():
        # torch warns of every override, and this one is meant.
        warnings.filterwarnings("ignore", message="Warning only once for all operators", category=UserWarning)
        for device in ("CPU", "CUDA"):
            library.impl("unpack", _unpack, device, allow_override=True)
    _libraries.append(library)
    return optimum.quanto


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 (rows, …) holding 8 / bits values each → uint8 (rows * 8 / bits, …): all low values, then the next."""
    return torch.cat([(packed >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)])


def linearize(model: nn.Module) -> list[str]:
    """Replaces every Conv1D by the Linear that computes the same, in place; returns their names."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name, conv in found:
        linear = nn.Linear(conv.nx, conv.nf, device="meta")
        linear.weight = nn.Parameter(conv.weight.detach().t().contiguous())
        linear.bias = nn.Parameter(conv.bias.detach())
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    return [name for name, _ in found]


def block_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weights of the transformer blocks by name: their parameters of two dimensions or more, empty ones left out.

    Raises:
        QuantizationError: the model has no list of num_hidden_layers blocks.
    """
    layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            inside = module.named_parameters(prefix=name)
            return {key: p for key, p in inside if p.dim() >= 2 and p.numel() > 0}
    raise QuantizationError(
        f"unsupported architecture {type(model).__name__}: no ModuleList of {layers} transformer blocks; expected a "
        "decoder such as GPT2, GPT-NeoX or Llama"
    )


def quantized_fraction(model: PreTrainedModel, covered: Callable[[nn.Parameter], bool]) -> float:
    """The share of block weights, in parameters, for which `covered` is true.

    Raises:
        QuantizationError: it is below 0.99; the message names what is left out.
    """
    weights = block_weights(model)
    left = {name: p for name, p in weights.items() if not covered(p)}
    total = sum(p.numel() for p in weights.values())
    fraction = 1 - sum(p.numel() for p in left.values()) / total
    if fraction < 0.99:
        names = ", ".join(f"{name} {tuple(p.shape)}" for name, p in list(left.items())[:12])
        raise QuantizationError(
            f"unsupported architecture {type(model).__name__}: only {fraction:.1%} of the block weights can be "
            f"quantized, expected 99% or more; quanto would leave {len(left)} of {len(weights)} as they are: {names}"
            f"{', …' if len(left) > 12 else ''}; linearize() has to rewrite them as nn.Linear"
        )
    return fraction


def _stored_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a parameter is stored as: itself, or a quantized one's integers, scales and shifts."""
    flatten = getattr(tensor, "__tensor_flatten__", None)  # torch's protocol for tensors made of tensors
    if flatten is None:
        yield tensor
    else:
        for name in flatten()[0]:
            yield from _stored_tensors(getattr(tensor, name))


def stored_bits_per_parameter(model: nn.Module) -> float:
    """Bits that the parameters take, over the number of parameters of the original (tied ones once both times).

    Counts all that is kept: packed integers, their scales and shifts, and what is not quantized (embeddings, biases,
    layer norms) in its own dtype. 32 for a float32 model. Quantized weights have the shapes of the original's.
    """
    parameters = list(model.parameters())
    bits = sum(8 * t.numel() * t.element_size() for p in parameters for t in _stored_tensors(p))
    return bits / sum(p.numel() for p in parameters)


def stored_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a quantized model as they are written to the file: tied ones once, activation scales left out."""
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        pointer = tensor.data_ptr()
        if name.endswith(_ACTIVATION_SCALES) or (pointer in seen and tensor.numel() > 0):
            continue
        seen.add(pointer)
        state[name] = tensor
    return state


def read_quantization(folder: Path) -> dict[str, Any]:
    """The content of quantization.json.

    Raises:
        QuantizationError: it was made by another method.
    """
    record = json.loads((folder / QUANTIZATION_FILE).read_text(encoding="utf-8"))
    if record.get("method") != METHOD:
        raise QuantizationError(f"{folder / QUANTIZATION_FILE}: method={record.get('method')!r}; expected {METHOD!r}")
    return record


def load_quantized(folder: str | Path) -> PreTrainedModel:
    """The quantized model of a folder made by `knowcap quantize`, on the CPU, in eval mode, its cache off.

    Run it under torch.no_grad(): quanto's int4 weights raise in torch.inference_mode().

    Raises:
        ModelError: a file is missing.
        QuantizationError: made by another method, or the tensors in the file are not exactly the model's.
    """
    from safetensors.torch import load_file

    folder = check_model_folder(folder, ("config.json", WEIGHTS_FILE, MAP_FILE, QUANTIZATION_FILE))
    quanto = import_quanto()
    read_quantization(folder)
    model = build_model(AutoConfig.from_pretrained(folder, local_files_only=True), seed=0)
    linearize(model)
    # Copies, since quanto keeps the very tensors, which would lie unaligned in the mapped file.
    state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    quanto.requantize(model, dict(state), json.loads((folder / MAP_FILE).read_text(encoding="utf-8")))
    model.tie_weights()
    # requantize loads with strict=False: what the file lacks would stay random.
    wrong = sorted(set(stored_state(model)) ^ set(state))
    if wrong:
        raise QuantizationError(
            f"{folder / WEIGHTS_FILE} does not fit config.json and {MAP_FILE}: {', '.join(wrong[:12])} in one but not "
            "in the other; expected a folder made by `knowcap quantize`: quantize the model again"
        )
    model.config.use_cache = False
    return model.eval()
