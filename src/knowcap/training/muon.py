"""Muon for the matrices of a model's blocks, AdamW for its other parameters: one optimizer for the Trainer.

Muon is torch.optim's (Jordan et al. 2024), with updates scaled to the size of AdamW's (Liu et al. 2025, arXiv
2502.16982, section 2.2), so that one learning rate and one weight decay serve both.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel, Trainer


def muon_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters that Muon updates, by name: the weights of the blocks' linear maps, as they are stored.

    Two dimensions are one matrix (fused query, key and value too), three are a stack of matrices, each updated by
    itself: the experts of a mixture, the heads of a gate. Not among them are embeddings, the output head,
    convolutions, biases, norms, and what is no linear map, such as a state space's A_log.
    """
    apart = [module for module in model.modules() if isinstance(module, (nn.Embedding, _ConvNd))]
    head = cast("nn.Module | None", model.get_output_embeddings())
    others = {id(p) for module in (*apart, head) if module is not None for p in module.parameters()}
    decayed = _decayed(model)
    return {
        name: p
        for name, p in model.named_parameters()
        if name in decayed
        and id(p) not in others
        and p.ndim in (2, 3)
        and min(p.shape[-2:]) > 1
        and any(word in name.rsplit(".", 1)[-1] for word in ("weight", "proj"))
    }


def muon_with_adamw(
    model: PreTrainedModel,
    *,
    learning_rate: float,
    muon_learning_rate: float,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> MuonWithAdamW:
    """The optimizer of a model. AdamW decays the weights that the Trainer's own does: no biases and norms.

    Raises:
        ValueError: the model has no matrix for Muon.
    """
    matrices, decayed = muon_parameters(model), _decayed(model)
    if not matrices:
        raise ValueError(f"{type(model).__name__} has no matrices for Muon; use optimizer: adamw_torch_fused")
    rest = {name: p for name, p in model.named_parameters() if name not in matrices and p.requires_grad}
    groups = [
        {"params": [p for name, p in rest.items() if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in rest.items() if name not in decayed], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
    muon = StackedMuon(
        list(matrices.values()),
        lr=muon_learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonWithAdamW(adamw, muon)


def _decayed(model: PreTrainedModel) -> set[str]:
    """The names of the parameters that the Trainer decays; its method reads the model alone."""
    return set(Trainer.get_decay_parameter_names(cast(Any, None), model))


class StackedMuon(torch.optim.Muon):
    """torch's Muon; a parameter of three dimensions is a stack of matrices, each updated by itself."""

    def __init__(self, params: list[nn.Parameter], **settings: Any) -> None:
        # torch checks the dimensions of the first groups only.
        super().__init__([p for p in params if p.ndim == 2], **settings)
        if stacks := [p for p in params if p.ndim == 3]:
            self.add_param_group({"params": stacks})

    def _init_group(
        self,
        group: MutableMapping,
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        is_complex = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        for tensors in (params_with_grad, grads, muon_momentum_bufs):
            tensors[:] = [m for t in tensors for m in (t.detach().unbind() if t.ndim == 3 else (t,))]
        return is_complex


class MuonWithAdamW(torch.optim.Optimizer):
    """Both optimizers as one. Its groups are theirs, AdamW's first, so that schedules change each one's rate."""

    def __init__(self, adamw: torch.optim.AdamW, muon: StackedMuon) -> None:
        self.parts = {"adamw": adamw, "muon": muon}
        super().__init__([*adamw.param_groups, *muon.param_groups], {"lr": adamw.defaults["lr"]})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates all parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the states of both; their groups are then new."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]
