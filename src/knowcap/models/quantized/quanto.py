"""Rounding to nearest by optimum-quanto: int8 with a scale per row, int4 with a scale and a shift per group."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from knowcap.models.names import ModelError
from knowcap.models.quantized.layers import check_groups, embedding_layers, layers_to_quantize
from knowcap.models.quantized.settings import Settings


_libraries: list[torch.library.Library] = []  # an override holds only as long as its Library lives


@functools.cache
def import_quanto() -> ModuleType:
    """optimum.quanto, with int4 weights unpacked by torch.

    Otherwise quanto compiles a C++ (or CUDA) extension at the first int4 product, which takes a minute and needs a
    compiler and ninja in every run.

    Raises:
        ModelError: optimum-quanto is not installed.
    """
    try:
        import optimum.quanto
    except ImportError as error:
        raise ModelError(
            f'optimum-quanto is missing ({error}); install it: pip install "optimum>=2.3,<2.4" "optimum-quanto==0.2.7"'
        ) from error
    library = torch.library.Library("quanto", "IMPL")
    with warnings.catch_warnings():
        # torch warns of every override; this one is intended.
        warnings.filterwarnings("ignore", message="Warning only once for all operators", category=UserWarning)
        for device in ("CPU", "CUDA"):
            library.impl("unpack", _unpack, device, allow_override=True)
    _libraries.append(library)
    return optimum.quanto


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 (rows, …) holding 8 / bits values each → uint8 (rows * 8 / bits, …): all low values, then the next."""
    return torch.cat([(packed >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)])


@functools.cache
def _classes() -> dict[str, Any]:
    """Subclasses that quanto lacks: quantized embeddings, and symmetric int4."""
    quanto = import_quanto()

    class QEmbedding(quanto.QModuleMixin, nn.Embedding):
        """An embedding whose rows are quantized like those of a QLinear."""

        bias = None

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            """Rows of the table, in float32."""
            return functional.embedding(ids, self.qweight.dequantize())

    class SymmetricMaxOptimizer(quanto.AffineOptimizer):
        """Symmetric quantization with scale absmax / (2^(bits - 1) - 1): with 4 bits levels -8 … 7."""

        def optimize(self, base: torch.Tensor, qtype: Any, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
            """Scale and shift of each group (a row of `base`)."""
            most = base.abs().amax(dim=list(range(1, base.ndim)), keepdim=True)
            scale = most / (2 ** (qtype.bits - 1) - 1)
            return scale, scale * 2 ** (qtype.bits - 1)

    return {"embedding": QEmbedding, "symmetric": SymmetricMaxOptimizer}


def quantize_layers(model: PreTrainedModel, settings: Settings) -> None:
    """Quantizes a linearized model's block Linears in place, and its embeddings if the settings include them.

    Raises:
        ModelError: the group size does not divide a layer's rows, or a pattern of `exclude` matches nothing.
    """
    _replace(model, settings)
    import_quanto().freeze(model)
    _tie(model, settings)


def load_layers(model: PreTrainedModel, settings: Settings, state: dict[str, torch.Tensor]) -> None:
    """Loads a file's quantized weights and other tensors into a linearized model, in place."""
    _replace(model, settings)
    # Copies, since quanto keeps the tensors themselves, which are unaligned in the mapped file.
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=False)
    if settings.embeddings:
        _tie(model, settings)
    else:
        model.tie_weights()


def is_quantized(parameter: torch.Tensor) -> bool:
    """Whether a parameter is one of quanto's quantized tensors."""
    return isinstance(parameter, import_quanto().QTensor)


def check_layers(model: PreTrainedModel, settings: Settings) -> None:
    """Raises ModelError if the settings do not fit the layers of a linearized model; needs no weights."""
    rows = dict(layers_to_quantize(model, settings.exclude))
    if settings.embeddings:
        rows |= {name: _row(module) for name, module in embedding_layers(model).items()}
    check_groups(rows, settings.row_group)


def _row(module: nn.Module) -> nn.Linear:
    rows, width = cast(torch.Tensor, module.weight).shape
    return nn.Linear(width, rows, bias=False, device="meta")


def _replace(model: PreTrainedModel, settings: Settings) -> None:
    """Replaces Linears and embeddings by quanto's modules, with unquantized weights and the group size."""
    quanto = import_quanto()
    check_layers(model, settings)
    kind = {"weights": quanto.qint8 if settings.bits == 8 else quanto.qint4, "optimizer": _optimizer(settings)}
    names = list(layers_to_quantize(model, settings.exclude))
    if settings.embeddings:
        names += [name for name, m in embedding_layers(model).items() if isinstance(m, nn.Linear)]
    quanto.quantize(model, include=names, **kind)
    if settings.embeddings:
        tables = {name: m for name, m in embedding_layers(model).items() if type(m) is nn.Embedding}
        for name, table in tables.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _quantizable(table, kind))
    for module in cast(Iterable[Any], model.modules()):
        if isinstance(module, quanto.QModuleMixin):
            module.weight_group_size = settings.row_group  # quanto chooses one by the layer's width


def _optimizer(settings: Settings) -> Any:
    """What chooses the scales: None for quanto's default; symmetric int4 needs its own."""
    return _classes()["symmetric"]() if settings.bits == 4 and settings.is_symmetric else None


def _quantizable(table: nn.Embedding, kind: dict[str, Any]) -> nn.Module:
    made = _classes()["embedding"](table.num_embeddings, table.embedding_dim, device="meta", **kind)
    made.weight = table.weight
    made.input_scale, made.output_scale = torch.ones(()), torch.ones(())
    return made


def _tie(model: PreTrainedModel, settings: Settings) -> None:
    """Makes a tied head share the quantized table of the token embedding."""
    if settings.embeddings and model.config.tie_word_embeddings:
        cast(Any, model.get_output_embeddings()).weight = model.get_input_embeddings().weight
