"""Models that a Trainer has prepared, in the precision of their own weights.

With bf16 or fp16, accelerate replaces a model's `forward` by one under autocast and leaves it so after training: the
model in memory then computes something else than the same weights loaded from a folder, which are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate.utils import extract_model_from_parallel


M = TypeVar("M", bound=torch.nn.Module)
_REPLACED = ("forward", "_original_forward")  # what accelerate sets in a model


def unprepared(model: M) -> M:
    """The model without what a Trainer wrapped around it, and with its own forward, as before training.

    accelerate's `unwrap_model(keep_fp32_wrapper=False)` is not used, since it also removes the decorators that
    transformers has on every model's forward.
    """
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    _give_back(model)
    return model


@contextmanager
def own_forward(model: torch.nn.Module) -> Iterator[None]:
    """Gives a model that is being trained its own forward, in its weights' precision, until the block ends."""
    replaced = {name: model.__dict__[name] for name in _REPLACED if name in model.__dict__}
    _give_back(model)
    try:
        yield
    finally:
        if "_original_forward" in replaced:
            model.__dict__.update(replaced)


def _give_back(model: torch.nn.Module) -> None:
    """Sets the forward that a model had before accelerate replaced it; without effect on one that has its own."""
    original = model.__dict__.pop("_original_forward", None)
    if original is None:
        return
    model.__dict__.pop("forward", None)
    if getattr(original, "__func__", None) is not type(model).forward:  # it was replaced before, too
        model.forward = original
