"""The routing of a mixture of experts during training: its auxiliary loss, and each expert's share of the tokens."""

from __future__ import annotations

from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn


AUX_LOSS, SHARES = "router_aux_loss", "expert_shares"


class Routing:
    """Accumulates the routing of a mixture, by forward hooks, between two calls of `take`.

    The auxiliary loss is transformers' (Switch Transformer's, summed over a micro-batch, padding included): with k
    experts per token, k if routing is even, up to E if one expert gets every token; some mixtures have none. Shares
    count only tokens whose label is not -100. Routers are modules of a class …TopKRouter or …TopkRouter with
    num_experts, whose outputs have the chosen experts, (tokens, k) integers; others are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        """Registers the hooks; none on a model without routers."""
        routers: list[Any] = [m for m in model.modules() if _is_router(m)]
        self.layers, self.experts = len(routers), routers[0].num_experts if routers else 0
        self._real: torch.Tensor | None = None
        self._has_aux = False
        self._reset()
        if routers:
            model.register_forward_pre_hook(self._begin, with_kwargs=True)
            model.register_forward_hook(self._end)
        for layer, router in enumerate(routers):
            router.register_forward_hook(lambda _, __, found, layer=layer: self._count(layer, found))

    def take(self, accelerator: Accelerator) -> tuple[float | None, list[list[float]]]:
        """The mean auxiliary loss and each layer's shares since the last call, over all processes; resets them.

        Returns:
            auxiliary loss, None for a model without one; shares (layers, experts): each layer's sum to 1.
        """
        found = torch.tensor(self.sums(accelerator), dtype=torch.float64)
        tokens = found[2:].reshape(self.layers, self.experts)
        self._reset()
        shares = tokens / tokens.sum(dim=1, keepdim=True).clamp(min=1)
        return float(found[0] / found[1].clamp(min=1)) if self._has_aux else None, shares.tolist()

    def sums(self, accelerator: Accelerator) -> list[float]:
        """The auxiliary losses, passes, and tokens by layer and expert since the last `take`, over all processes."""
        passes = torch.tensor([float(self._passes)], device=self._aux.device, dtype=torch.float64)
        together = torch.cat([self._aux.reshape(1), passes, self._tokens.flatten()])
        return cast(torch.Tensor, accelerator.reduce(together, "sum")).cpu().tolist()

    def restore(self, sums: list[float]) -> None:
        """Goes on from `sums` that a checkpoint has."""
        found = torch.tensor(sums, dtype=torch.float64)
        self._aux, self._passes = found[0], int(found[1])
        self._tokens, self._has_aux = found[2:].reshape(self.layers, self.experts), self._passes > 0

    def _reset(self) -> None:
        self._aux, self._passes = torch.zeros((), dtype=torch.float64), 0
        self._tokens = torch.zeros((self.layers, self.experts), dtype=torch.float64)

    def _begin(self, model: nn.Module, _: Any, kwargs: dict[str, Any]) -> None:
        """Before a forward pass: marks the tokens that count; none outside training."""
        labels = kwargs.get("labels")
        self._real = (labels != -100).flatten() if model.training and labels is not None else None

    def _count(self, layer: int, found: Any) -> None:
        """Adds the chosen experts (tokens, k) among a router's outputs."""
        experts = next((t for t in found if not t.is_floating_point() and t.dim() == 2), None)
        if self._real is not None and experts is not None:
            chosen = torch.zeros(self.experts, dtype=torch.float64, device=experts.device)
            weights = self._real.to(chosen.dtype).repeat_interleave(experts.shape[-1])
            self._tokens = self._tokens.to(experts.device)
            self._tokens[layer] += chosen.scatter_add_(0, experts.flatten(), weights)

    def _end(self, _: nn.Module, __: Any, outputs: Any) -> None:
        """After a forward pass: adds its auxiliary loss."""
        if self._real is not None:
            if (aux := getattr(outputs, "aux_loss", None)) is not None:
                self._aux = self._aux.to(aux.device) + aux.detach()
                self._passes, self._has_aux = self._passes + 1, True
            self._real = None


def _is_router(module: nn.Module) -> bool:
    named = type(module).__name__.lower().endswith("topkrouter")
    return named and isinstance(getattr(module, "num_experts", None), int)
