"""What a quantized copy is held to: finite numbers, an exact rewrite, a reload the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from knowcap.models.quantized.settings import QuantizationError


def check_finite(model_dir: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Raises QuantizationError, naming the tensors, where a number is NaN or infinite."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise QuantizationError(f"{model_dir}: not finite: {', '.join(bad[:12])}; expected a trained model")


def check_rewritten(model: PreTrainedModel, rewrite: Callable[[], object]) -> None:
    """Rewrites a model's layers in place; raises QuantizationError where its logits move beyond rounding."""
    expected = _logits(model)
    if not torch.isfinite(expected).all():
        raise QuantizationError("the model's logits are not finite before quantizing; expected a trained model")
    rewrite()
    found = _logits(model)
    if not torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=0):
        raise QuantizationError(
            f"unsupported architecture {type(model).__name__}: as nn.Linear its layers compute something else, "
            f"logits differ by {(expected - found).abs().max().item():.3g} of {expected.abs().max().item():.3g}"
        )


def check_same(model: PreTrainedModel, reloaded: PreTrainedModel) -> None:
    """Raises QuantizationError unless a reloaded model has the tensors and the finite logits of the one in memory."""
    from knowcap.models.quantized.folder import stored_state

    other = stored_state(reloaded)
    changed = [name for name, tensor in stored_state(model).items() if not torch.equal(tensor, other[name])]
    expected, found = _logits(model), _logits(reloaded)
    if not torch.isfinite(found).all():
        raise QuantizationError("the quantized model's logits are not finite; nothing was kept")
    if changed or not torch.equal(expected, found):
        raise QuantizationError(
            "the reloaded model differs from the one that was saved: largest difference of a logit "
            f"{(expected - found).abs().max().item()}, changed tensors {changed[:12]}; nothing was kept"
        )


def _logits(model: PreTrainedModel) -> torch.Tensor:
    """(4, up to 32, vocabulary) logits of random token ids, always the same."""
    generator = torch.Generator().manual_seed(0)
    length = min(32, model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (4, length), generator=generator)
    with torch.no_grad():  # int4 weights of quanto cannot be used in inference mode
        return model(ids, use_cache=False).logits
