"""Every weight of a transformer block as one of an nn.Linear, which is all that quantizers see; which they are.

Quantizers pass over everything else without a word: over all of GPT2's blocks, which are made of Conv1D, and over
fused experts. `linearize` rewrites both, exactly; `coverage` raises where a weight is left out all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowcap.models.quantized.settings import QuantizationError


LEAST_COVERAGE = 0.99


class Expert(nn.Module):
    """A gated MLP: down(act(gate(x)) * up(x)), gate and up in one Linear."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj, self.act_fn = _linear(gate_up), _linear(down), act_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) to the same."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(self.act_fn(gate) * up)


class Experts(nn.ModuleList):
    """A mixture's experts, one module each, in place of transformers' two fused parameters."""

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Sums each token's experts by their shares.

        Args:
            x: (tokens, hidden).
            chosen: (tokens, k), the numbers of each token's experts.
            shares: (tokens, k), their weights in the sum.
        """
        total = torch.zeros_like(x)
        for number, expert in enumerate(self):
            tokens, places = torch.where(chosen == number)
            if len(tokens):
                total.index_add_(0, tokens, expert(x[tokens]) * shares[tokens, places, None])
        return total


class KeptLinear(nn.Linear):
    """A Linear that stays as it is: quantizers go by the exact type."""


def linearize(model: nn.Module) -> list[str]:
    """Replaces Conv1D and fused experts by Linears that compute the same, in place; returns the replaced names."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Conv1D) or _fused(module)]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _rewritten(module))
    return [name for name, _ in found]


def _fused(module: nn.Module) -> bool:
    """Whether a module holds experts as Mixtral does: gate above up, (outputs, inputs), no biases."""
    shapes = {name: p.dim() for name, p in module.named_parameters(recurse=False)}
    return (
        shapes == {"gate_up_proj": 3, "down_proj": 3}
        and getattr(module, "is_concatenated", False)
        and not getattr(module, "is_transposed", True)
        and isinstance(getattr(module, "act_fn", None), nn.Module)
    )


def _rewritten(module: nn.Module) -> nn.Module:
    if isinstance(module, Conv1D):
        return _linear(module.weight.t(), module.bias)
    pairs = zip(module.gate_up_proj, module.down_proj, strict=True)
    return Experts(Expert(gate_up, down, module.act_fn) for gate_up, down in pairs)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """A Linear of (outputs, inputs) weights, copied so that its memory is its own."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def blocks_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The transformer blocks, and their name.

    Raises:
        QuantizationError: the model has no list of num_hidden_layers blocks.
    """
    layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return name, module
    raise QuantizationError(
        f"unsupported architecture {type(model).__name__}: no ModuleList of {layers} transformer blocks; expected a "
        "decoder such as GPT2, GPT-NeoX or Llama"
    )


def block_weights(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weights of the transformer blocks by name: those of two dimensions or more, none empty."""
    name, blocks = blocks_of(model)
    return {key: p for key, p in blocks.named_parameters(prefix=name) if p.dim() >= 2 and p.numel() > 0}


def embedding_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Token and position embeddings and the output head, tied or not, by name."""
    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding) or m is head}


def layers_to_quantize(model: PreTrainedModel, exclude: Collection[str]) -> dict[str, nn.Linear]:
    """The Linears with weights in the blocks of a linearized model, but those left out, by name.

    Raises:
        QuantizationError: a pattern of `exclude` that no layer's name matches.
    """
    name, blocks = blocks_of(model)
    linear = {k: m for k, m in blocks.named_modules(prefix=name) if isinstance(m, nn.Linear) and m.weight.numel()}
    idle = [pattern for pattern in exclude if not any(fnmatchcase(key, pattern) for key in linear)]
    if idle:
        raise QuantizationError(
            f"exclude: no layer matches {', '.join(idle)}; there are {', '.join(_some(linear))}, of "
            f"{type(model).__name__}"
        )
    return {key: m for key, m in linear.items() if not is_excluded(key, exclude)}


def is_excluded(name: str, exclude: Collection[str]) -> bool:
    """Whether one of the patterns matches a layer's name."""
    return any(fnmatchcase(name, pattern) for pattern in exclude)


def check_groups(layers: Mapping[str, nn.Linear], group_size: int | None, multiple: int = 1) -> None:
    """Raises QuantizationError, naming all of them, where layers' rows are no whole number of groups.

    Args:
        layers: by name.
        group_size: weights that share a scale; None for whole rows.
        multiple: what a row's weights must be a multiple of in any case, for the method's sake.
    """
    unfit = {name: m.in_features for name, m in layers.items() if m.in_features % (group_size or 1)}
    odd = {name: m.in_features for name, m in layers.items() if m.in_features % multiple}
    if unfit:
        raise QuantizationError(
            f"group_size={group_size} does not divide the rows of {_listed(unfit)}; one group size holds for all "
            "layers, so that widths can be compared: give one that divides them, or 0 for whole rows"
        )
    if odd:
        raise QuantizationError(
            f"gptq packs rows of a multiple of {multiple} weights, but {_listed(odd)}; leave these layers out "
            "(quantization_exclude), or use method quanto"
        )


def coverage(weights: Mapping[str, int], done: Collection[str], exclude: Collection[str], model_name: str) -> float:
    """The share of block weights, in parameters, that are quantized.

    Args:
        weights: how many parameters each block weight has, by name.
        done: the names of those that are quantized.
        exclude: patterns of the layers that nobody wanted to quantize.
        model_name: for the message.

    Raises:
        QuantizationError: more than 1 % is left out unasked; the message names what.
    """
    total = sum(weights.values())
    left = {name: count for name, count in weights.items() if name not in done}
    unasked = {k: n for k, n in left.items() if not is_excluded(k.removesuffix(".weight"), exclude)}
    fraction = 1 - sum(unasked.values()) / total
    if fraction < LEAST_COVERAGE:
        raise QuantizationError(
            f"unsupported architecture {model_name}: only {fraction:.1%} of the block weights can be quantized, "
            f"expected {LEAST_COVERAGE:.0%} or more; {len(unasked)} of {len(weights)} would be left as they are: "
            f"{_listed(unasked)}; linearize() has to rewrite them as nn.Linear"
        )
    return 1 - sum(left.values()) / total


def stored_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that a parameter is stored as: itself, or a quantized one's integers, scales and shifts."""
    flatten = getattr(tensor, "__tensor_flatten__", None)  # torch's protocol for tensors made of tensors
    if flatten is None:
        yield tensor
    else:
        for name in flatten()[0]:
            yield from stored_tensors(getattr(tensor, name))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({counts[name]:,})" for name in _some(counts)) + (", …" if len(counts) > 12 else "")


def _some(names: Collection[str]) -> list[str]:
    return list(names)[:12]
