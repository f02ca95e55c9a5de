"""GPTQ (Frantar et al. 2022) by Optimum's GPTQQuantizer: roundings that preserve each layer's outputs on texts.

Optimum and gptqmodel choose the roundings; `PackedLinear` stores the weights and needs neither package. Their own
packing and files are not used: these convert scales and biases to float16, compile an extension, cannot reload GPT2,
and reload other models wrongly (their config.json names another format than the file has).
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from knowcap.models.names import ModelError
from knowcap.models.quantized.layers import KeptLinear, PackedLinear, blocks_of, check_groups, layers_to_quantize
from knowcap.models.quantized.settings import Settings


DAMPING = 0.05  # of the mean of the Hessian's diagonal, added to it


@functools.cache
def import_gptq() -> Any:
    """A subclass of Optimum's GPTQQuantizer that does not pack the weights.

    Raises:
        ModelError: gptqmodel is not installed.
    """
    try:
        with _quiet():
            import gptqmodel  # noqa: F401  # pyright: ignore[reportMissingImports]
            from optimum.gptq import GPTQQuantizer
    except ImportError as error:
        raise ModelError(
            f'gptqmodel is missing ({error}); install it: pip install "gptqmodel==7.6.0" "numpy==2.2.6"'
        ) from error

    class Chooser(GPTQQuantizer):
        """Rounds the weights of the model's float32 layers; `found` holds scales and zeros."""

        def pack_model(self, model: nn.Module, quantizers: Mapping[str, Any]) -> None:
            """Keeps scales and zeros by the layer's name."""
            self.found = dict(quantizers)

        def post_init_model(self, model: nn.Module) -> nn.Module:
            """Does nothing: the layers are still Linears."""
            return model

    return Chooser


def quantize_layers(model: PreTrainedModel, settings: Settings, batches: Sequence[torch.Tensor]) -> None:
    """Quantizes a linearized model's block Linears in place, in order, each on the outputs of those before it.

    Args:
        model: in float32, in eval mode.
        settings: with method gptq.
        batches: token ids (texts, length) of the calibration texts, unpadded.

    Raises:
        ModelError: the settings do not fit a layer, or no text reaches one (a mixture's expert).
    """
    chooser_class = import_gptq()
    check_layers(model, settings)
    layers = layers_to_quantize(model, settings.exclude)
    _check_reached(model, layers, batches)
    calibration = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in batches]
    with _quiet(), _kept_out(model, layers):
        chooser = chooser_class(
            bits=settings.bits,
            dataset=calibration,
            group_size=settings.row_group or -1,
            damp_percent=DAMPING,
            sym=settings.is_symmetric,
            act_group_aware=False,
            block_name_to_quantize=blocks_of(model)[0],
            backend="torch",
        )
        chooser.quantize_model(model)
    del model.config.quantization_config  # describes a layout that is not used  # pyright: ignore[reportAttributeAccessIssue]
    for name, layer in layers.items():
        _, scale, zero, _ = chooser.found[name]
        packed = _packed(layer, settings)
        packed.pack(layer.weight, scale, zero)
        if layer.bias is not None:
            packed.bias = layer.bias
        _put(model, name, packed)


def load_layers(model: PreTrainedModel, settings: Settings, state: dict[str, torch.Tensor]) -> None:
    """Loads a file's packed weights and other tensors into a linearized model, in place."""
    for name, layer in layers_to_quantize(model, settings.exclude).items():
        _put(model, name, _packed(layer, settings))
    model.load_state_dict(state, strict=False)
    model.tie_weights()


def check_layers(model: PreTrainedModel, settings: Settings) -> None:
    """Raises ModelError if the settings do not fit the layers of a linearized model; needs no weights."""
    check_groups(layers_to_quantize(model, settings.exclude), settings.row_group, multiple=settings.packed_together)


def _packed(layer: nn.Linear, settings: Settings) -> PackedLinear:
    return PackedLinear(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        settings.bits,
        settings.row_group,
        settings.is_symmetric,
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _check_reached(model: PreTrainedModel, layers: Mapping[str, nn.Linear], batches: Sequence[torch.Tensor]) -> None:
    """Raises ModelError if no text reaches a layer: GPTQ would silently set all of its weights to zero."""
    tokens = dict.fromkeys(layers, 0)

    def count(name: Any, inputs: torch.Tensor) -> None:
        tokens[name] += inputs[..., 0].numel()

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: count(name, inputs[0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for ids in batches:
            model(ids)
    for hook in hooks:
        hook.remove()
    unreached = [name for name, seen in tokens.items() if seen == 0]
    if unreached:
        raise ModelError(
            f"no token of {sum(len(ids) for ids in batches)} calibration texts reaches {', '.join(unreached[:12])}, "
            "so that GPTQ cannot be calibrated on its inputs; exclude it (quantization_exclude), or use method quanto"
        )


@contextlib.contextmanager
def _kept_out(model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> Iterator[None]:
    """Makes all other Linears of the blocks KeptLinear meanwhile, so that Optimum skips them."""
    others = [m for m in blocks_of(model)[1].modules() if type(m) is nn.Linear and m not in set(layers.values())]
    for module in others:
        module.__class__ = KeptLinear
    try:
        yield
    finally:
        for module in others:
            module.__class__ = nn.Linear


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides gptqmodel's output on stdout and Optimum's log line per layer, and removes the handler that they add to
    the root logger; progress bars stay."""
    logging.getLogger("optimum.gptq").setLevel(logging.WARNING)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
