"""Fake quantization (Jacob et al. 2018, section 3): training with the weights that quanto's quantized copy will have.

In each forward pass the weights that the quantization stage would quantize are replaced by their rounded values, equal
to those of quanto's copy. Gradients pass the rounding unchanged (straight-through, Bengio et al. 2013), so that the
optimizer updates the unrounded weights, which are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowcap.models.configs import meta_model
from knowcap.models.quantized.layers import embedding_layers, layers_to_quantize, linearize
from knowcap.models.quantized.settings import Settings
from knowcap.models.quantized.stage import check_layers


def rounded(weight: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The values that quanto's quantized copy of a weight has, bit for bit.

    Args:
        weight: float32 (…, outputs, inputs).
        settings: with method quanto; gives bits, group size and symmetry.
    """
    groups = weight.reshape(-1, settings.row_group or weight.shape[-1])
    tiny = torch.finfo(weight.dtype).tiny  # of a group of equal weights, which keeps its value
    if settings.bits == 8:
        scale = (groups.abs().amax(1, keepdim=True) / 127).clamp_(min=tiny)
        return (groups / scale).round_().clamp_(-128, 127).mul_(scale).reshape(weight.shape)
    if settings.is_symmetric:
        scale = (groups.abs().amax(1, keepdim=True) / 7).clamp_(min=tiny)
        shift = scale * 8
    else:
        least, most = groups.aminmax(dim=1, keepdim=True)
        scale, shift = ((most - least) / 15).clamp_(min=tiny), -least
    return (groups + shift).div_(scale).round_().clamp_(0, 15).mul_(scale).sub_(shift).reshape(weight.shape)


class StraightThrough(torch.autograd.Function):
    """`rounded`, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, settings: Settings) -> torch.Tensor:
        """The rounded weight."""
        return rounded(weight, settings)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient unchanged."""
        return grads[0], None


@dataclass
class _Weight:
    """A parameter to round: the modules that have it, whether it is transposed (Conv1D), which of fused experts."""

    parameter: nn.Parameter
    places: list[tuple[nn.Module, str]]
    transposed: bool = False
    experts: list[int] | None = None

    def fake(self, settings: Settings) -> torch.Tensor:
        """The parameter with rounded values, in its own layout."""
        if self.transposed:
            return cast(torch.Tensor, StraightThrough.apply(self.parameter.t(), settings)).t()
        made = cast(torch.Tensor, StraightThrough.apply(self.parameter, settings))
        if self.experts is None:
            return made
        chosen = torch.zeros(len(self.parameter), 1, 1, dtype=torch.bool, device=made.device)
        chosen[self.experts] = True
        return torch.where(chosen, made, self.parameter)


class FakeQuantization:
    """Rounds a model's weights in each forward pass in training mode, while `active`; within `applied`.

    Args:
        model: whose weights are float32.
        settings: of the copy that will be made of it, with method quanto.

    Raises:
        ModelError: the architecture cannot be quantized with these settings.
    """

    def __init__(self, model: PreTrainedModel, settings: Settings) -> None:
        check_layers(model.config, settings)
        self.settings, self.active = settings, True
        self._model, self._weights = model, _weights_of(model, settings)

    @property
    def num_weights(self) -> int:
        """The number of weights that are rounded."""
        return sum(w.parameter[w.experts or slice(None)].numel() for w in self._weights)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, forward passes have rounded weights; parameters and state_dict are the unrounded ones."""
        hooks = [
            self._model.register_forward_pre_hook(lambda module, _: self._insert(module)),
            self._model.register_forward_hook(lambda *_: self._remove(), always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _insert(self, model: nn.Module) -> None:
        if not (self.active and model.training):
            return
        for weight in self._weights:
            made = weight.fake(self.settings)
            for module, name in weight.places:
                cast(dict[str, Any], module._parameters)[name] = made  # as torch.func.functional_call does

    def _remove(self) -> None:
        for weight in self._weights:
            for module, name in weight.places:
                module._parameters[name] = weight.parameter


def _weights_of(model: PreTrainedModel, settings: Settings) -> list[_Weight]:
    """The parameters of the layers that the quantization stage would quantize, each once.

    They are selected from a linearized copy without weights, in which Conv1D and fused experts are Linears.
    """
    linear = meta_model(model.config)
    linearize(linear)
    names = [*layers_to_quantize(linear, settings.exclude), *(embedding_layers(linear) if settings.embeddings else ())]
    modules, found = dict(model.named_modules(remove_duplicate=False)), dict[int, _Weight]()
    for name in names:
        if name in modules:
            module, key = modules[name], "weight"
            weight = _Weight(cast(nn.Parameter, module.weight), [], isinstance(module, Conv1D))
        else:  # mlp.experts.3.down_proj
            parent, number, key = name.rsplit(".", 2)
            module = modules[parent]
            weight = _Weight(getattr(module, key), [], experts=[])
        weight = found.setdefault(id(weight.parameter), weight)
        if weight.experts is not None:
            weight.experts.append(int(number))
        if (module, key) not in weight.places:
            weight.places.append((module, key))
    return list(found.values())
