"""GPTQ (Frantar et al. 2022) by Optimum's GPTQQuantizer: roundings that keep each layer's outputs on given texts.

Optimum and gptqmodel choose the roundings; what they choose is kept by `PackedLinear`, which needs neither. Their own
packing and files are not used: they would turn scales and biases into float16, compile an extension, and reload GPT2
not at all and others wrongly (their config.json names another format than the file has).
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

from knowcap.models.quantized.layers import KeptLinear, blocks_of, check_groups, layers_to_quantize
from knowcap.models.quantized.packed import PackedLinear
from knowcap.models.quantized.settings import GPTQ_INPUTS, QuantizationError, Settings


DAMPING = 0.05  # of the mean of the Hessian's diagonal, added to it


@functools.cache
def import_gptq() -> Any:
    """Optimum's GPTQQuantizer, made to leave packing to us.

    Raises:
        QuantizationError: gptqmodel is not installed.
    """
    try:
        with _quiet():
            import gptqmodel  # noqa: F401
            from optimum.gptq import GPTQQuantizer
    except ImportError as error:
        raise QuantizationError(
            f'gptqmodel is missing ({error}); install it: pip install "gptqmodel==7.6.0" "numpy==2.2.6"'
        ) from error

    class Chooser(GPTQQuantizer):
        """Finds quantized weights and leaves them in the model's float32 layers; `found` holds scales and zeros."""

        def pack_model(self, model: nn.Module, quantizers: Mapping[str, Any]) -> None:
            """Keeps what was found, by the layer's name."""
            self.found = dict(quantizers)

        def post_init_model(self, model: nn.Module) -> nn.Module:
            """Nothing: the layers are still Linears."""
            return model

    return Chooser


def quantize_layers(model: PreTrainedModel, settings: Settings, batches: Sequence[torch.Tensor]) -> None:
    """Quantizes a linearized model's block Linears in place, one after the other, each on what the ones before give.

    Args:
        model: in float32, in eval mode.
        settings: with method gptq.
        batches: token ids (texts, length) of the texts whose outputs are to be kept, unpadded.

    Raises:
        QuantizationError: the settings do not fit a layer, or texts never reach one (a mixture's expert).
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
    del model.config.quantization_config  # of a layout that is not used
    for name, layer in layers.items():
        _, scale, zero, _ = chooser.found[name]
        packed = _packed(layer, settings)
        packed.pack(layer.weight, scale, zero)
        if layer.bias is not None:
            packed.bias = layer.bias
        _put(model, name, packed)


def load_layers(model: PreTrainedModel, settings: Settings, state: dict[str, torch.Tensor]) -> None:
    """Gives a linearized model's layers the packed weights of a file, and all else the file's tensors, in place."""
    for name, layer in layers_to_quantize(model, settings.exclude).items():
        _put(model, name, _packed(layer, settings))
    model.load_state_dict(state, strict=False)
    model.tie_weights()


def check_layers(model: PreTrainedModel, settings: Settings) -> None:
    """Raises QuantizationError where the settings do not fit the layers of a linearized model; needs no weights."""
    check_groups(layers_to_quantize(model, settings.exclude), settings.row_group, multiple=GPTQ_INPUTS)


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
    """Raises where no text reaches a layer: GPTQ would set all of its weights to zero without a word."""
    tokens = dict.fromkeys(layers, 0)

    def count(name: str, inputs: torch.Tensor) -> None:
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
        raise QuantizationError(
            f"no token of {sum(len(ids) for ids in batches)} calibration texts reaches {', '.join(unreached[:12])}, "
            "so that GPTQ knows nothing of its inputs; leave it out (quantization_exclude), or use method quanto"
        )


@contextlib.contextmanager
def _kept_out(model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> Iterator[None]:
    """All other Linears of the blocks as KeptLinear meanwhile, so that Optimum passes them over."""
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
    """Without gptqmodel's banner and boxes on stdout, Optimum's line for every layer, and the handler that they give
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
