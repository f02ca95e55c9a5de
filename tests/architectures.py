"""Tiny configurations of every architecture."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, MistralConfig, MixtralConfig

from knowcap.models import model_config


V, GROUP = 61, 32


SIZES = {
    "vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 24, "initializer_range": 0.1,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


GPT = {"vocab_size": V, "block_size": 24, "head_dim": 32, "initializer_range": 0.1}


CONFIGS = {
    "gpt2": lambda: model_config("gpt2-2-2", **GPT),
    "gpt2-rotary": lambda: model_config("gpt2-rotary-2-2", **GPT),
    "llama": lambda: LlamaConfig(**SIZES),
    "llama-tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**SIZES),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4),
}


IDS = torch.arange(24).reshape(1, 24) % V


def rows_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Every matrix of a model as (outputs, inputs), fused experts one by one, by the name that it has in a copy."""
    found: dict[str, np.ndarray] = {}
    for name, p in model.named_parameters():
        weight = p.detach().numpy()
        if weight.ndim == 3:  # (experts, outputs, inputs)
            place, _, which = name.rpartition(".")
            found |= {f"{place}.{i}.{which}.weight": expert for i, expert in enumerate(weight)}
        elif weight.ndim == 2:
            is_conv = ".c_" in name
            found[name] = weight.T if is_conv else weight
    return found
