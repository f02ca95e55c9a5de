"""A name → the stock transformers configuration; a configuration → a model with fresh weights."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from knowcap.models.names import ModelError, ModelName, inner_size, key_value_heads, model_problems, parse_model_name
from knowcap.models.quiet import quiet_empty_weights, quiet_transformers


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_ROTARY_BASE = 10_000.0  # the same in every rotary family


def model_config(
    model_name: str,
    *,
    vocab_size: int,
    block_size: int,
    head_dim: int = 64,
    rotary_fraction: float = 0.25,
    activation: str | None = None,
    initializer_range: float = 0.02,
    num_experts_per_tok: int = 2,
    router_aux_loss_coef: float = 0.01,
) -> PreTrainedConfig:
    """The stock transformers configuration of a name, with use_cache off for training.

    Dropout is 0; token 0 begins and ends texts. A mixture has output_router_logits, so that its loss includes the
    auxiliary loss.

    Raises:
        ModelError: lists all problems at once.
    """
    problems = model_problems(
        model_name=model_name,
        head_dim=head_dim,
        rotary_fraction=rotary_fraction,
        activation=activation,
        num_experts_per_tok=num_experts_per_tok,
        router_aux_loss_coef=router_aux_loss_coef,
    )
    sizes = {"vocab_size": vocab_size, "block_size": block_size}
    problems += [f"{key}={size}; expected 1 or more" for key, size in sizes.items() if size < 1]
    if not initializer_range > 0:
        problems.append(f"initializer_range={initializer_range}; expected a standard deviation above 0, such as 0.02")
    if problems:
        raise ModelError("; ".join(problems))
    name = parse_model_name(model_name)
    shared = {
        "vocab_size": vocab_size,
        "initializer_range": initializer_range,
        "tie_word_embeddings": name.of.tied,
        "use_cache": False,
        **dict.fromkeys(("bos_token_id", "eos_token_id"), 0),
    }
    # Llama's family never trains the embedding of a padding token, so untied models would never learn token 0.
    shared["pad_token_id"] = 0 if name.of.stock in ("GPT2", "GPTNeoX") else None
    activation = activation or name.of.activation
    if name.of.stock == "GPT2":
        return _gpt2(name, head_dim, block_size, activation, shared)
    shared |= {"max_position_embeddings": block_size, "hidden_act": activation, "attention_dropout": 0.0}
    if name.num_experts:
        shared |= {
            "num_local_experts": name.num_experts,
            "num_experts_per_tok": num_experts_per_tok,
            "router_aux_loss_coef": router_aux_loss_coef,
            "output_router_logits": True,
        }
    return _rotary(name, head_dim, rotary_fraction, shared)


def _gpt2(
    name: ModelName, head_dim: int, block_size: int, activation: str, shared: dict[str, Any]
) -> PreTrainedConfig:
    from transformers import GPT2Config

    return GPT2Config(
        n_positions=block_size,
        n_embd=name.num_heads * head_dim,
        n_layer=name.num_layers,
        n_head=name.num_heads,
        activation_function=activation,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **shared,
    )


def _rotary(name: ModelName, head_dim: int, rotary_fraction: float, shared: dict[str, Any]) -> PreTrainedConfig:
    """GPT-NeoX with sequential residuals (GPT2 in all but the positions), or a model of Llama's family."""
    import transformers

    hidden_size = name.num_heads * head_dim
    shared |= {
        "hidden_size": hidden_size,
        "num_hidden_layers": name.num_layers,
        "num_attention_heads": name.num_heads,
        "intermediate_size": inner_size(name.of, hidden_size),
    }
    if name.of.stock == "GPTNeoX":
        shared |= {"rotary_pct": rotary_fraction, "use_parallel_residual": False, "hidden_dropout": 0.0}
    else:
        shared |= {
            "head_dim": head_dim,
            "num_key_value_heads": key_value_heads(name.num_heads) if name.of.grouped else name.num_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": _ROTARY_BASE},
        }
    if name.of.stock in ("Mistral", "Mixtral"):
        shared["sliding_window"] = None
    return getattr(transformers, f"{name.of.stock}Config")(**shared)


def text_config(model: Any) -> Any:
    """The configuration of a model's text decoder: its own, or its part of a composite one (Gemma 3, Llama 4)."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A float32 model on the CPU with fresh weights, the same for the same config and seed.

    torch's global random state does not change. GPT-NeoX models get GPT2's residual-scaled initialization, which
    stock GPT-NeoX lacks: the two projections of each block that write into the residual stream (attention.dense,
    mlp.dense_4h_to_h) are scaled by 1 / sqrt(2 L). Llama's family is initialized as in transformers.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("cpu"), quiet_empty_weights():
        # The CPU's generator alone: torch.manual_seed would seed the accelerators too.
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # else the token that begins and ends texts would not be trained
    if config.model_type == "gpt_neox":
        scale = 1 / math.sqrt(2 * config.num_hidden_layers)
        with torch.no_grad():
            for layer in model.gpt_neox.layers:
                layer.attention.dense.weight.mul_(scale)
                layer.mlp.dense_4h_to_h.weight.mul_(scale)
    return model


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("meta"), quiet_transformers(), quiet_empty_weights():
        try:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        except Exception as error:  # the model's own code raises errors of many classes
            raise ModelError(f"{config.model_type} cannot be built: {' '.join(str(error).split())}") from error


def check_causal(model: PreTrainedModel) -> None:
    """Raises ModelError if a token's logits depend on a later token: such a model would read what it has to recall.

    Compared are two texts of 8 random tokens that differ in the last one; the model may be untrained.
    """
    import torch

    training, vocabulary = model.training, text_config(model).vocab_size
    ids = torch.randint(vocabulary, (1, 8), generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    ids[1, -1] = (ids[0, -1] + 1) % vocabulary
    with torch.no_grad():
        found = model.eval()(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1].float()
    model.train(training)
    if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-5):
        raise ModelError(
            f"{model.config.model_type} is not causal: the logits of a token depend on the tokens after it; expected "
            "a causal language model (of an encoder's architecture, model_config_overrides: {is_decoder: true})"
        )
