"""Linears whose weights are kept as packed integers with a scale a group, unpacked at every product."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from knowcap.models.quantized.settings import QuantizationError


class PackedLinear(nn.Module):
    """y = x W^T + b with W = scale * (q - zero), q of 4 or 8 bits without sign; computed in float32.

    Buffers: `packed` uint8 (outputs, inputs * bits / 8), of two 4-bit weights the first in the low half; `scale`
    float32 (outputs, groups); `zero` uint8 (outputs, groups), which symmetric steps lack: it is 2^(bits - 1) then.

    Args:
        in_features, out_features: of the Linear that it stands for.
        bias: whether there is one.
        bits: 4 or 8.
        group_size: inputs that share a scale; None for all.
        symmetric: whether steps lie evenly around zero.
    """

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
        """How many weights it stands for."""
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
        """Takes weights that lie on the steps of their groups.

        Args:
            weight: (outputs, inputs).
            scale, zero: (outputs, groups); zeros are whole numbers.

        Raises:
            QuantizationError: weights, or zeros, that are none of their group's steps.
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
            raise QuantizationError(
                f"quantized weights lie up to {off:.3g} beside their steps, or outside 0 … {most} of them (from "
                f"{q.min().item():g} to {q.max().item():g}); expected scale x (q - zero): not the layout of this "
                "version's GPTQ"
            )
        if self.zero is None and zeros.ne(2 ** (self.bits - 1)).any():
            raise QuantizationError(f"symmetric steps were asked for; got zeros from {zeros.min()} to {zeros.max()}")
        q = q.reshape(self.out_features, self.in_features).to(torch.uint8)
        self.packed.copy_(q if self.bits == 8 else q[:, ::2] | (q[:, 1::2] << 4))
        self.scale.copy_(scale)
        if self.zero is not None:
            self.zero.copy_(zero.to(torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) → (…, outputs)."""
        return functional.linear(x, self.weight, self.bias)
