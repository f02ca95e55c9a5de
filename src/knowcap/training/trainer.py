"""The transformers Trainer over a stream of windows, with a mixture's routing beside the loss."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from knowcap.training.routing import AUX_LOSS, SHARES, Routing
from knowcap.training.windows import From


class StreamTrainer(Trainer):
    """The Trainer over a stream that is shuffled already.

    `loss` in the log is nats a token for every architecture: a mixture's auxiliary loss stands beside it, in
    `router_aux_loss` (unweighted), with the smallest and the largest share of a layer's tokens that an expert gets;
    log_history holds all shares, (layers, experts), in `expert_shares`.
    """

    first_window = 0

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, **kwargs: Any) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.routing = Routing(model)
        if self.routing.layers:
            # The Trainer adds up what processes and micro-batches return, each a part of the tokens' mean, but each
            # with a whole auxiliary loss: without this its weight would grow with their number.
            model.router_aux_loss_coef /= self.accelerator.num_processes * args.gradient_accumulation_steps

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return From(self.first_window, len(self.train_dataset))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, with what a mixture's routers did since the last loss."""
        shares = None
        if self.routing.layers and "loss" in logs:
            aux, shares = self.routing.take(self.accelerator)
            logs["loss"] -= self.model.config.router_aux_loss_coef * aux
            every = [share for layer in shares for share in layer]
            logs |= {AUX_LOSS: aux, "expert_share_min": min(every), "expert_share_max": max(every)}
        super().log(logs, start_time)
        if shares is not None:
            self.state.log_history[-1][SHARES] = shares
