"""The layers that are quantized: every weight of a transformer block as that of an nn.Linear; packed weights.

Quantizers skip all other modules silently: GPT2's blocks, which are made of Conv1D, and fused experts. `linearize`
rewrites both exactly; `coverage` raises if a weight is still left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowcap.models.configs import text_config
from knowcap.models.names import ModelError


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
    """A Linear that is not quantized: quantizers check the exact type."""


class PackedLinear(nn.Module):
    """y = x W^T + b with W = scale * (q - zero), q unsigned of 4 or 8 bits; computed in float32.

    Buffers: `packed` uint8 (outputs, inputs * bits / 8), of two 4-bit weights the first in the low half; `scale`
    float32 (outputs, groups); `zero` uint8 (outputs, groups), absent if symmetric, where it is 2^(bits - 1).

    Args:
        in_features, out_features: of the Linear that it replaces.
        bias: whether there is one.
        bits: 4 or 8.
        group_size: inputs that share a scale; None for all.
        symmetric: whether quantization is symmetric.
    """

    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, bits: int, group_size: int | None, symmetric: bool
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        groups = in_features // (group_size or in_features)
        self.register_buffer("packed", torch.zeros(out_features, in_features * bits // 8, dtype=torch.uint8))
        self.register_buffer("scale", torch.zeros(out_features, groups))
        self.register_buffer("zero", None if symmetric else torch.zeros(out_features, groups, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def packed_parameters(self) -> int:
        """The number of weights."""
        return self.in_features * self.out_features

    @property
    def weight(self) -> torch.Tensor:
        """The weights, float32 (outputs, inputs)."""
        q = self.packed
        if self.bits == 4:
            q = torch.stack([q & 15, q >> 4], dim=-1)
        zero = 2 ** (self.bits - 1) if self.zero is None else self.zero[:, :, None].float()
        grouped = q.reshape(*self.scale.shape, -1).float()
        return (self.scale[:, :, None] * (grouped - zero)).reshape(self.out_features, self.in_features)

    def pack(self, weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> None:
        """Packs weights that are on the quantization levels of their groups.

        Args:
            weight: (outputs, inputs).
            scale, zero: (outputs, groups); zeros are whole numbers.

        Raises:
            ModelError: weights or zeros that are not on their group's levels.
        """
        steps = scale[:, :, None].float()
        grouped = weight.detach().float().reshape(*scale.shape, -1)
        zeros = zero[:, :, None].float()
        q = torch.round(grouped / steps + zeros)
        off = (steps * (q - zeros) - grouped).abs().max().item()
        most = 2**self.bits - 1
        if (
            not off <= 1e-5 * grouped.abs().max().item()
            or q.min() < 0
            or q.max() > most
            or zeros.round().ne(zeros).any()
        ):
            raise ModelError(
                f"quantized weights are up to {off:.3g} off their quantization levels, or outside levels 0 … {most} "
                f"(from {q.min().item():g} to {q.max().item():g}); expected scale x (q - zero): the installed "
                "gptqmodel uses another layout"
            )
        if self.zero is None and zeros.ne(2 ** (self.bits - 1)).any():
            raise ModelError(
                f"symmetric quantization needs zeros of {2 ** (self.bits - 1)}; got {zeros.min()} to {zeros.max()}"
            )
        q = q.reshape(self.out_features, self.in_features).to(torch.uint8)
        self.packed.copy_(q if self.bits == 8 else q[:, ::2] | (q[:, 1::2] << 4))
        self.scale.copy_(scale)
        if self.zero is not None:
            self.zero.copy_(zero.to(torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs)."""
        return functional.linear(x, self.weight, self.bias)


def linearize(model: nn.Module) -> list[str]:
    """Replaces Conv1D and fused experts by Linears that compute the same, in place; returns the replaced names."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Conv1D) or _fused(module)]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _rewritten(module))
    return [name for name, _ in found]


def _fused(module: nn.Module) -> bool:
    """Whether a module holds experts in Mixtral's layout: gate above up, (outputs, inputs), no biases."""
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
    experts = cast(Any, module)
    pairs = zip(experts.gate_up_proj, experts.down_proj, strict=True)
    return Experts(Expert(gate_up, down, experts.act_fn) for gate_up, down in pairs)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    """A Linear with a copy of (outputs, inputs) weights."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def blocks_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The transformer blocks, and their name.

    Raises:
        ModelError: the model has no list of num_hidden_layers blocks.
    """
    layers = text_config(model).num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return name, module
    raise ModelError(
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
    """The Linears with weights in the blocks of a linearized model, without excluded ones, by name.

    Raises:
        ModelError: a pattern of `exclude` matches no layer's name.
    """
    name, blocks = blocks_of(model)
    linear = {k: m for k, m in blocks.named_modules(prefix=name) if isinstance(m, nn.Linear) and m.weight.numel()}
    names = {*linear, *(key.removesuffix(".weight") for key in block_weights(model))}
    idle = [pattern for pattern in exclude if not any(fnmatchcase(key, pattern) for key in names)]
    if idle:
        raise ModelError(
            f"exclude: no layer matches {', '.join(idle)}; {type(model).__name__} has {', '.join(_some(linear))}"
        )
    return {key: m for key, m in linear.items() if not is_excluded(key, exclude)}


def is_excluded(name: str, exclude: Collection[str]) -> bool:
    """Whether one of the patterns matches a layer's name."""
    return any(fnmatchcase(name, pattern) for pattern in exclude)


def check_groups(layers: Mapping[str, nn.Linear], group_size: int | None, multiple: int = 1) -> None:
    """Raises ModelError, listing the layers, if a layer's rows are not a whole number of groups.

    Args:
        layers: by name.
        group_size: weights that share a scale; None for whole rows.
        multiple: a row's weights must be a multiple of it, as the method needs.
    """
    unfit = {name: m.in_features for name, m in layers.items() if m.in_features % (group_size or 1)}
    odd = {name: m.in_features for name, m in layers.items() if m.in_features % multiple}
    if unfit:
        raise ModelError(
            f"group_size={group_size} does not divide the rows of {_listed(unfit)}; all layers share one group size: "
            "give one that divides all of them, or 0 for whole rows"
        )
    if odd:
        raise ModelError(
            f"gptq packs rows of a multiple of {multiple} weights, but got {_listed(odd)}; exclude these layers "
            "(quantization_exclude), or use method quanto"
        )


def coverage(weights: Mapping[str, int], done: Collection[str], exclude: Collection[str], model_name: str) -> float:
    """The share of block weights, in parameters, that are quantized.

    Args:
        weights: how many parameters each block weight has, by name.
        done: the names of those that are quantized.
        exclude: patterns of the layers that are not to be quantized.
        model_name: for the message.

    Raises:
        ModelError: more than 1 % is left out without being excluded; the message lists the weights.
    """
    total = sum(weights.values())
    left = {name: count for name, count in weights.items() if name not in done}
    missed = {k: n for k, n in left.items() if not is_excluded(k.removesuffix(".weight"), exclude)}
    fraction = 1 - sum(missed.values()) / total
    if fraction < LEAST_COVERAGE:
        raise ModelError(
            f"unsupported architecture {model_name}: only {fraction:.1%} of the block weights can be quantized, "
            f"expected {LEAST_COVERAGE:.0%} or more; {len(missed)} of {len(weights)} would not be quantized: "
            f"{_listed(missed)}; they are neither nn.Linear nor experts in Mixtral's layout: keep them in full "
            f"precision by their patterns (quantization_exclude: {_patterns(missed)}), or make no copies "
            "(quantize_bits: [])"
        )
    return 1 - sum(left.values()) / total


def _patterns(names: Collection[str]) -> list[str]:
    """Patterns of weights that are alike in all blocks: *.mixer.conv1d."""
    ends = (re.sub(r".*\.\d+\.", "", name.removesuffix(".weight")) for name in names)
    return [f"*.{end}" for end in dict.fromkeys(ends)]


def stored_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors of a parameter: itself, or a quantized tensor's integers, scales and shifts."""
    flatten = getattr(tensor, "__tensor_flatten__", None)  # torch's protocol of tensor subclasses
    if flatten is None:
        yield tensor
    else:
        for name in flatten()[0]:
            yield from stored_tensors(getattr(tensor, name))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({counts[name]:,})" for name in _some(counts)) + (", …" if len(counts) > 12 else "")


def _some(names: Collection[str]) -> list[str]:
    return list(names)[:12]
