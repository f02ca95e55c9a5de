"""The loss of next tokens without logits of padding, its gradient computed with it, in place of a model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel


_CHUNK = 2**18  # logits at once: 1 MiB in float32, so that they stay in a core's cache
_IGNORED = -100


class LinearCrossEntropy(torch.autograd.Function):
    """The summed cross entropy (nats) of a linear output head; gradients are computed in the forward pass.

    Logits exist for a part of the tokens at a time, so that they are never written to memory and read again.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over tokens.

        Args:
            ctx: of autograd.
            hidden: (tokens, width).
            weight: of the head, (vocabulary, width).
            targets: token ids (tokens,).
        """
        kind = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        with torch.autocast(hidden.device.type, enabled=False):
            x, w = hidden.to(kind or hidden.dtype), weight.to(kind or weight.dtype)
            grad_hidden, grad_weight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
            total = torch.zeros((), dtype=torch.float32, device=x.device)
            size = max(1, _CHUNK // len(w))
            for start in range(0, len(x), size):
                part, wanted = x[start : start + size], targets[start : start + size, None]
                logits = (part @ w.t()).float()
                shares = logits.softmax(-1)
                # -log of the largest share is the log of the sum of exp(logit - largest logit).
                largest = logits.amax(-1, keepdim=True)
                total += (largest - logits.gather(1, wanted) - shares.amax(-1, keepdim=True).log()).sum()
                errors = shares.scatter_add_(1, wanted, shares.new_full((len(part), 1), -1.0)).to(w.dtype)
                torch.mm(errors, w, out=grad_hidden[start : start + size])
                grad_weight += errors.t() @ part
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Gradients of hidden and weight."""
        hidden, weight = ctx.saved_tensors
        return hidden * grads[0], weight * grads[0], None


@contextmanager
def fused_loss(model: PreTrainedModel) -> Iterator[bool]:
    """Within it, `model` in training mode computes its loss by `LinearCrossEntropy`, and no logits.

    Only where the model's loss is that of transformers' causal language models, taken from the output head's logits as
    they are: a model that scales or caps logits, or whose head has a bias, keeps its own. In evaluation mode nothing
    changes.

    Yields:
        whether the loss is replaced.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or not _loss_of_plain_logits(model, head):
        yield False
        return
    logits_of, loss_of = head.forward, model.loss_function

    def loss(logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **options: Any) -> torch.Tensor:
        if model.training:
            return _loss(logits, head.weight, labels, options.get("num_items_in_batch"))
        return loss_of(logits, labels, vocab_size, **options)

    with _replaced(model, head, lambda hidden: hidden if model.training else logits_of(hidden), loss):
        yield True


def _loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, count: Any) -> torch.Tensor:
    """The cross entropy (nats) of the next tokens: the sum over `count`, by default the mean over labels."""
    targets = labels[:, 1:].reshape(-1)
    kept = (targets != _IGNORED).nonzero().squeeze(1)
    hidden = hidden[:, :-1].reshape(len(targets), -1).index_select(0, kept)
    total = cast(torch.Tensor, LinearCrossEntropy.apply(hidden, weight, targets[kept]))
    return total / (len(kept) if count is None else count)


def _loss_of_plain_logits(model: PreTrainedModel, head: nn.Linear) -> bool:
    """Whether the model gives what its head returns, unchanged, to transformers' causal language model loss."""
    if getattr(model.loss_function, "__name__", None) != "ForCausalLMLoss":
        return False
    ids = torch.arange(6, device=head.weight.device).reshape(2, 3) % head.out_features
    probe = torch.linspace(-1e3, 1e3, ids.numel() * head.out_features, device=ids.device)
    probe, received, training = probe.reshape(*ids.shape, -1).to(head.weight.dtype), [], model.training

    def loss(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        received.append(logits)
        return logits.sum()

    try:
        with torch.no_grad(), _replaced(model.eval(), head, lambda _: probe, loss):
            model(input_ids=ids, labels=ids)
    finally:
        model.train(training)
    return len(received) == 1 and torch.equal(received[0].to(probe.dtype), probe)


@contextmanager
def _replaced(model: PreTrainedModel, head: nn.Linear, forward: Any, loss: Any) -> Iterator[None]:
    """Within it, the output head and the loss are other functions."""
    before = vars(model).get("_loss_function")
    head.forward, model.loss_function = forward, loss
    try:
        yield
    finally:
        del head.forward
        model.loss_function = before
        if before is None:
            del model._loss_function
