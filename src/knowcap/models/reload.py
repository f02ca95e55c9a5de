"""Whether a model loaded from its folder is the one that was saved: equal tensors, and equal logits up to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch

LOGIT_TOLERANCE = 1e-4  # of the largest logit: sums in float32 depend on the memory layout and on threads


def close_logits(expected: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether two models' logits differ by rounding at most; False where one is not finite."""
    import torch

    return torch.allclose(found, expected, atol=LOGIT_TOLERANCE * expected.abs().max().item(), rtol=0)


def reload_problem(
    saved: Mapping[str, torch.Tensor],
    reloaded: Mapping[str, torch.Tensor],
    expected: torch.Tensor,
    found: torch.Tensor,
) -> str:
    """What differs between a model in memory and the one loaded from its folder; "" if nothing does.

    Args:
        saved, reloaded: their tensors by name, on one device; compared bit for bit.
        expected, found: their logits on the same tokens, in the same precision.
    """
    import torch

    other = [name for name in sorted({*saved, *reloaded}) if name not in saved or name not in reloaded]
    changed = other or [name for name, tensor in saved.items() if not torch.equal(tensor, reloaded[name])]
    if not changed and close_logits(expected, found):
        return ""
    return (
        "the reloaded model differs from the one that was saved: largest difference of a logit "
        f"{(expected - found).abs().max().item()}, changed tensors {changed[:12]}; nothing was kept"
    )
