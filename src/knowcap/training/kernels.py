"""Operations of stock models computed with less work while they train: the same functions, to rounding.

Loss, GELU and rotary positions; each is replaced only where it was shown to be the function that is replaced.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from knowcap.training.loss import fused_loss


_SCALE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _SCALE  # 0.5 (1 + tanh(u / 2)) is the sigmoid of u = x (_SCALE + _CUBIC x²)
_ROTARY = "apply_rotary_pos_emb"  # of every module of transformers that has a model with rotary positions

logger = logging.getLogger(__name__)


@contextmanager
def faster_training(model: PreTrainedModel, compiled: bool = False) -> Iterator[tuple[str, ...]]:
    """Within it, `model` trains with the operations of this module in place of its own; weights have the same names.

    Not if it is `compiled`, as torch's compiler replaces operations itself, nor if FSDP shards its weights.

    Yields:
        what is replaced, of loss, gelu and rotary.
    """
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    parts = {} if compiled or sharded else {"loss": fused_loss, "gelu": _faster_gelu, "rotary": _faster_rotary}
    with ExitStack() as stack:
        replaced = tuple(name for name, part in parts.items() if stack.enter_context(part(model)))
        logger.debug("operations replaced in training: %s", ", ".join(replaced) or "none")
        yield replaced


class TanhGelu(torch.autograd.Function):
    """GELU by its approximation with tanh (Hendrycks and Gimpel 2016, section 2), as x times a sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """x of any shape → the same shape."""
        share = (x * x).mul_(_CUBIC).add_(_SCALE).mul_(x).sigmoid_()
        ctx.save_for_backward(x, share)
        return x * share

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """share (1 + x (1 - share) u'(x)) times the gradient."""
        x, share = ctx.saved_tensors
        slope = (x * x).mul_(3 * _CUBIC).add_(_SCALE).mul_(x)
        return slope.addcmul_(slope, share, value=-1).add_(1).mul_(share).mul_(grads[0])


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """`TanhGelu` in full precision on a CPU, elsewhere torch's own kernel, which rounds only its result."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return cast(torch.Tensor, TanhGelu.apply(x))
    return nn.functional.gelu(x, approximate="tanh")


@contextmanager
def _faster_gelu(model: PreTrainedModel) -> Iterator[bool]:
    """Within it, activations that are GELU by tanh are `tanh_gelu`; yields whether there are any."""
    found = []
    try:
        for module in model.modules():
            if "gelu" in type(module).__name__.lower() and _is_tanh_gelu(module):
                module.forward = tanh_gelu
                found.append(module)
        yield bool(found)
    finally:
        for module in found:
            del module.forward


def _is_tanh_gelu(module: nn.Module) -> bool:
    x = torch.linspace(-6, 6, 241)
    return torch.allclose(module(x), tanh_gelu(x), rtol=1e-5, atol=1e-6)


class Rotary(torch.autograd.Function):
    """Rotary positions of the first dimensions of each head (Su et al. 2021, 3.4.2), in halves as in transformers.

    With the halves a and b of x: a cos - b sin, b cos + a sin.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x (…, width), cos and sin (…, rotating dimensions) → x rotated, contiguous."""
        ctx.save_for_backward(cos, sin)
        half = cos.shape[-1] // 2
        return _rotated(x, cos, sin[..., :half], sin[..., half:])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient, rotated back."""
        cos, sin = ctx.saved_tensors
        half = cos.shape[-1] // 2
        return _rotated(grads[0], cos, -sin[..., half:], -sin[..., :half]), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin_a: torch.Tensor, sin_b: torch.Tensor) -> torch.Tensor:
    """A copy of x whose halves a, b of the first dimensions are a cos - b sin_a, b cos + a sin_b."""
    kind = torch.promote_types(x.dtype, cos.dtype)
    x = x.to(kind)
    out = x.clone(memory_format=torch.contiguous_format)
    half = cos.shape[-1] // 2
    a, b = x[..., :half], x[..., half : 2 * half]
    torch.mul(a, cos[..., :half], out=out[..., :half]).addcmul_(b, sin_a, value=-1)
    torch.mul(b, cos[..., half:], out=out[..., half : 2 * half]).addcmul_(a, sin_b)
    return out


def rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys (batch, heads, length, width) rotated; the face of transformers' `apply_rotary_pos_emb`.

    cos and sin (batch, length, rotating dimensions) get a dimension for heads at `unsqueeze_dim`.
    """
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return cast(torch.Tensor, Rotary.apply(q, cos, sin)), cast(torch.Tensor, Rotary.apply(k, cos, sin))


@contextmanager
def _faster_rotary(model: PreTrainedModel) -> Iterator[bool]:
    """Within it, the model's module of transformers applies rotary positions by `rotary`; yields whether it does."""
    module = sys.modules[type(model).__module__]
    own: Callable[..., Any] | None = getattr(module, _ROTARY, None)
    if own is None or not module.__name__.startswith("transformers.") or not _same_rotary(own):
        yield False
        return
    with _attribute(module, _ROTARY, rotary):
        yield True


def _same_rotary(own: Callable[..., Any]) -> bool:
    """Whether a function rotates as `rotary` does; if it can rotate a part of each head, that too."""
    made = torch.Generator().manual_seed(0)
    q, k, cos, sin = (torch.randn(2, 2, 3, 8, generator=made) for _ in range(4))
    for size in (8, 4):
        tables = cos[:, 0, :, :size], sin[:, 0, :, :size]
        try:
            found = torch.cat(own(q, k, *tables))
        except (RuntimeError, TypeError):
            return size < 8  # whole heads only; or other arguments
        if not torch.allclose(found, torch.cat(rotary(q, k, *tables)), rtol=1e-5, atol=1e-6):
            return False
    return True


@contextmanager
def _attribute(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
