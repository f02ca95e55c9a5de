"""Counting parameters: from a name by closed forms, without torch, and of a model in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from knowcap.models.configs import text_config
from knowcap.models.names import ModelError, ModelName, inner_size, key_value_heads, parse_model_name


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


# Keys of configurations: how many experts a mixture has, and how many a token goes to.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k", "experts_per_token",
)  # fmt: skip


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
    """Counts the parameters that texts use (`used_parameters`). A quantized weight counts as many as its original.

    The non-embedding count leaves out token and position embeddings and an untied output head.

    Args:
        model: any causal language model, quantized or not.
        used_vocabulary: how many vocabulary rows the corpus can use; None for all of them.

    Raises:
        ModelError: used_vocabulary is not between 1 and the number of rows.
    """
    from torch import nn

    used = used_parameters(model)
    total = sum(p.numel() for p in used.values())
    total += sum(getattr(module, "packed_parameters", 0) for module in model.modules())  # GPTQ's integers
    tokens, head = cast(Any, model.get_input_embeddings()), cast(Any, model.get_output_embeddings())
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    rows = tokens.weight.shape[0]
    rows_used = rows if used_vocabulary is None else used_vocabulary
    if not 1 <= rows_used <= rows:
        raise ModelError(f"used_vocabulary={used_vocabulary}; expected 1 to {rows}, the vocabulary rows of the model")
    row_width = _count([tokens, head], used) // rows
    non_embedding = total - _count([*embeddings, tokens, head], used)
    return ParameterCounts(total, non_embedding, total - (rows - rows_used) * row_width)


def count_active_parameters(model: PreTrainedModel) -> int:
    """The parameters that one token passes through: all, but of a mixture only its share of every layer's experts.

    A mixture's experts are in modules 0, 1, … of a module `experts`, or stacked: (experts, …).

    Raises:
        ModelError: a mixture whose configuration does not say how many experts a token goes to.
    """
    config, used = text_config(model), used_parameters(model)
    total = sum(p.numel() for p in used.values())
    experts = next((n for key in EXPERTS if isinstance(n := getattr(config, key, None), int) and n > 1), None)
    if experts is None:
        return total
    names = {id(p): name for name, p in model.named_parameters()}
    stacked = {
        name.rpartition(".")[0] for key, name in names.items() if key in used and _is_stacked(used[key], experts)
    }
    of_experts = sum(
        p.numel()
        for key, p in used.items()
        if re.search(r"\bexperts\.\d+\.", names[key])
        or (names[key].rpartition(".")[0] in stacked and p.shape[0] == experts)
    )
    chosen = next((n for key in EXPERTS_PER_TOKEN if isinstance(n := getattr(config, key, None), int)), None)
    if of_experts and chosen is None:
        raise ModelError(
            f"{config.model_type} is a mixture of {experts} experts, but has none of {', '.join(EXPERTS_PER_TOKEN)}, "
            "so its active parameters are unknown"
        )
    return total - of_experts + of_experts * (chosen or 0) // experts


def _is_stacked(parameter: nn.Parameter, experts: int) -> bool:
    return parameter.dim() == 3 and parameter.shape[0] == experts


def used_parameters(model: PreTrainedModel) -> dict[int, nn.Parameter]:
    """The parameters that a text passes through, by id, so that tied ones occur once.

    All of them, except

    - of a composite model (text_config) those outside its text decoder, embeddings and head (vision, audio);
    - of an adapter the base's copies of modules that it replaces (modules_to_save), and the copies of single rows
      (trainable_token_indices), of which the base has as many.
    """
    parts: list[Any] = [model]
    if text_config(model) is not model.config:
        parts = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    inside = {id(p): p for part in parts if part is not None for p in part.parameters()}
    if getattr(model, "active_peft_config", None) is None:
        return inside
    replaced = tuple(_replaced(model))
    named = model.named_parameters(remove_duplicate=False)
    return {id(p): p for name, p in named if id(p) in inside and not name.startswith(replaced)}


def counted_parameters(model: PreTrainedModel) -> str:
    """What `count_parameters` counts, in words, such as `all` or `base and adapter (1,024)`."""
    used = used_parameters(model)
    every = {id(p): p for p in model.parameters()}
    left = sum(p.numel() for number, p in every.items() if number not in used)
    words = "all"
    if text_config(model) is not model.config:
        words = f"the language model, without {left:,} of other modalities"
    if getattr(model, "active_peft_config", None) is not None:
        added = sum(p.numel() for name, p in model.named_parameters() if id(p) in used and "lora_" in name)
        words = f"base and adapter, of which LoRA {added:,}; replaced ones of the base, {left:,}, are not counted"
    return words


def _replaced(model: PreTrainedModel) -> list[str]:
    """The beginnings of the names of parameters that an adapter replaces, or holds a second time."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.utils import ModulesToSaveWrapper

    names = []
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and module.active_adapters and not module.disable_adapters:
            names.append(f"{name}.original_module.")
        elif isinstance(module, TrainableTokensLayer):
            names.append(f"{name}.trainable_tokens_")
    return names


def _count(modules: list[nn.Module], used: dict[int, nn.Parameter]) -> int:
    """The used parameters of the modules, shared ones once."""
    found = {id(p): p.numel() for module in modules if module is not None for p in module.parameters()}
    return sum(size for number, size in found.items() if number in used)
