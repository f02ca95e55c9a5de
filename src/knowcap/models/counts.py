"""Counting parameters: from a name by closed forms, without torch, and of a model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from knowcap.models.names import ModelError, ModelName, inner_size, key_value_heads, parse_model_name


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters, tied ones once: all; without embeddings; without vocabulary rows that the corpus cannot use."""

    num_parameters: int
    num_parameters_non_embedding: int
    num_parameters_used_vocabulary: int


def closed_form_parameters(model_name: str, *, vocab_size: int, block_size: int, head_dim: int = 64) -> int:
    """All parameters of a name, tied ones once, every expert of a mixture included. No torch.

    With d = H * head_dim, m the MLP's inner size, V the vocabulary and biases and norms included:

        GPT2, GPT-NeoX   L (4 d² + 2 d m + m + 9 d) + 2 d + V d, and block_size d for learned positions;
                         for m = 4 d that is L (12 d² + 13 d) + 2 d + V d (gpt2-rotary-12-12, V = 3275: 87,571,200)
        Llama's family   L (2 d² + 2 d k + 3 d m + 2 d) + d + V d, twice V d where untied; k is the width of all key
                         heads together (d but for grouped queries); 2 d m for a plain MLP; a mixture has
                         E 3 d m for its experts and E d for their router

    Raises:
        ModelError: the name is not known.
    """
    name = parse_model_name(model_name)
    d = name.num_heads * head_dim
    rows = vocab_size * (1 if name.of.tied else 2) + (block_size if name.of.stock == "GPT2" else 0)
    layer = _attention(name, head_dim) + _mlp(name, d, name.num_experts or 1)
    return name.num_layers * layer + (d if _rms(name) else 2 * d) + rows * d


def closed_form_active_parameters(
    model_name: str, *, vocab_size: int, block_size: int, head_dim: int = 64, num_experts_per_tok: int = 2
) -> int:
    """Parameters that one token passes through: all, but for a mixture num_experts_per_tok experts of each layer.

    Raises:
        ModelError: the name is not known.
    """
    name = parse_model_name(model_name)
    total = closed_form_parameters(model_name, vocab_size=vocab_size, block_size=block_size, head_dim=head_dim)
    if not name.num_experts:
        return total
    d = name.num_heads * head_dim
    return total - name.num_layers * (_mlp(name, d, name.num_experts) - _mlp(name, d, num_experts_per_tok))


def _rms(name: ModelName) -> bool:
    """Whether norms are RMSNorm, with a weight only, and projections have no bias, as in Llama's family."""
    return name.of.stock not in ("GPT2", "GPTNeoX")


def _attention(name: ModelName, head_dim: int) -> int:
    """Parameters of a layer's attention, both norms and router."""
    d = name.num_heads * head_dim
    if not _rms(name):
        return 4 * d * d + 4 * d + 4 * d
    keys = head_dim * (key_value_heads(name.num_heads) if name.of.grouped else name.num_heads)
    return 2 * d * d + 2 * d * keys + 2 * d + name.num_experts * d


def _mlp(name: ModelName, d: int, experts: int) -> int:
    """Parameters of a layer's MLP, or of `experts` experts."""
    m = inner_size(name.of, d)
    if not _rms(name):
        return 2 * d * m + m + d
    return experts * (2 if name.of.stock == "Arcee" else 3) * d * m


def count_parameters(model: PreTrainedModel, used_vocabulary: int | None = None) -> ParameterCounts:
    """Counts parameters, tied ones once. A quantized weight counts as many as its original.

    The non-embedding count leaves out token and position embeddings and an untied output head.

    Args:
        model: any causal language model, quantized or not.
        used_vocabulary: how many vocabulary rows the corpus can use; None for all of them.

    Raises:
        ModelError: used_vocabulary is not between 1 and the number of rows.
    """
    from torch import nn

    total = sum(p.numel() for p in model.parameters())
    total += sum(getattr(module, "packed_parameters", 0) for module in model.modules())  # GPTQ's integers
    tokens, head = cast(Any, model.get_input_embeddings()), cast(Any, model.get_output_embeddings())
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    rows = tokens.weight.shape[0]
    used = rows if used_vocabulary is None else used_vocabulary
    if not 1 <= used <= rows:
        raise ModelError(f"used_vocabulary={used_vocabulary}; expected 1 to {rows}, the vocabulary rows of the model")
    row_width = _count([tokens, head]) // rows
    return ParameterCounts(total, total - _count([*embeddings, head]), total - (rows - used) * row_width)


def _count(modules: list[nn.Module]) -> int:
    """The parameters of the modules, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
