"""Names such as gpt2-rotary-2-4 → stock transformers models; counting their parameters; building and loading them.

A name is family-L-H: L layers, H heads, hidden size d = H * head_dim. `gpt2-L-H` is stock GPT2 with learned positions.
`gpt2-rotary-L-H` is what the paper calls GPT2 (Part 3.3, 2.3): stock GPT-NeoX with sequential residuals, tied
embeddings and gelu_new: GPT2 in all but the positions. Dropout is 0; token 0 is bos, eos and pad.
torch and transformers are imported inside the functions that need them, so that checking a recipe costs no seconds.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


MODEL_FAMILIES = {
    "gpt2": "stock GPT2: learned positions, standard MLP, tied embeddings",
    "gpt2-rotary": "the paper's GPT2: rotary positions (stock GPT-NeoX), standard MLP, tied embeddings",
}
# The activations of transformers that have no parameters of their own (a test holds this list to theirs).
ACTIVATIONS = tuple(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh hardswish laplace "
    "leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus swish tanh".split()
)
QUANTIZATION_FILE = "quantization.json"
_MAKERS = "expected a folder made by `knowcap train` or save_pretrained"


class ModelError(ValueError):
    """A model name, setting or folder cannot be used; the message says what was got and expected, how to mend it."""


@dataclass(frozen=True)
class ModelName:
    """A parsed name: family (a key of MODEL_FAMILIES), number of layers L, number of heads H."""

    family: str
    num_layers: int
    num_heads: int


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters, tied ones once: all; without embeddings; without vocabulary rows that the corpus cannot use."""

    num_parameters: int
    num_parameters_non_embedding: int
    num_parameters_used_vocabulary: int


def parse_model_name(model_name: str) -> ModelName:
    """Reads family-L-H.

    Raises:
        ModelError: tells the known families and the nearest name.
    """
    text = model_name.strip().lower().replace("_", "-")
    match = re.fullmatch(r"(.+?)-(\d+)-(\d+)", text)
    family = match[1] if match else text.rstrip("-0123456789")
    numbers = (int(match[2]), int(match[3])) if match else (0, 0)
    if family in MODEL_FAMILIES and min(numbers) >= 1 and model_name == f"{family}-{numbers[0]}-{numbers[1]}":
        return ModelName(family, *numbers)
    nearest = difflib.get_close_matches(family, MODEL_FAMILIES, n=1, cutoff=0.0)[0]
    shape = "-".join(str(max(number, 1)) for number in numbers) if match else "L-H"
    known = "; ".join(f"{name}-L-H ({what})" for name, what in MODEL_FAMILIES.items())
    raise ModelError(
        f"model_name={model_name!r} is not known; did you mean {nearest}-{shape}? Known, with L layers and H heads, "
        f"each 1 or more: {known}"
    )


def model_problems(
    *, model_name: str, head_dim: int, rotary_fraction: float = 0.25, activation: str = "gelu_new"
) -> list[str]:
    """All that is wrong with a model's settings, one sentence each; empty when nothing is. Imports no torch.

    Args:
        model_name: family-L-H.
        head_dim: width of a head; the hidden size is H * head_dim.
        rotary_fraction: share of each head that rotates; looked at for rotary families only.
        activation: the MLP's activation, by transformers' name.
    """
    problems, rotary = [], False
    try:
        rotary = parse_model_name(model_name).family == "gpt2-rotary"
    except ModelError as error:
        problems.append(str(error))
    if head_dim < 1:
        problems.append(f"head_dim={head_dim}; expected 1 or more (the hidden size is heads x head_dim)")
    elif rotary:
        problems += _rotary_problems(head_dim, rotary_fraction)
    if activation not in ACTIVATIONS:
        nearest = difflib.get_close_matches(activation, ACTIVATIONS, n=1, cutoff=0.0)[0]
        problems.append(f"activation={activation!r}; did you mean {nearest}? Known: {', '.join(ACTIVATIONS)}")
    return problems


def _rotary_problems(head_dim: int, rotary_fraction: float) -> list[str]:
    if not 0 < rotary_fraction <= 1:
        return [f"rotary_fraction={rotary_fraction}; expected a share above 0 and up to 1, such as 0.25"]
    product = head_dim * rotary_fraction
    dims = int(product)  # cut off, as transformers does
    if product - dims < 1e-6 and dims % 2 == 0 and dims >= 2:
        return []
    nearest = min(max(2, 2 * round(product / 2)), head_dim - head_dim % 2)
    mend = f"rotary_fraction={nearest / head_dim:.6g} rotates {nearest}" if head_dim > 1 else "raise head_dim"
    return [
        f"rotary_fraction={rotary_fraction} of head_dim={head_dim} makes {product:g} rotating dimensions; expected an "
        f"even whole number from 2 to head_dim; {mend}"
    ]


def model_config(
    model_name: str,
    *,
    vocab_size: int,
    block_size: int,
    head_dim: int = 64,
    rotary_fraction: float = 0.25,
    activation: str = "gelu_new",
    initializer_range: float = 0.02,
) -> PreTrainedConfig:
    """The stock transformers configuration of a name; use_cache is off, as training wants it.

    Raises:
        ModelError: tells all problems at once.
    """
    problems = model_problems(
        model_name=model_name, head_dim=head_dim, rotary_fraction=rotary_fraction, activation=activation
    )
    sizes = {"vocab_size": vocab_size, "block_size": block_size}
    problems += [f"{key}={size}; expected 1 or more" for key, size in sizes.items() if size < 1]
    if not initializer_range > 0:
        problems.append(f"initializer_range={initializer_range}; expected a standard deviation above 0, such as 0.02")
    if problems:
        raise ModelError("; ".join(problems))
    name = parse_model_name(model_name)
    shared: dict[str, Any] = {
        "vocab_size": vocab_size,
        "initializer_range": initializer_range,
        "tie_word_embeddings": True,
        "use_cache": False,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    }
    if name.family == "gpt2":
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
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        max_position_embeddings=block_size,
        hidden_size=name.num_heads * head_dim,
        num_hidden_layers=name.num_layers,
        num_attention_heads=name.num_heads,
        intermediate_size=4 * name.num_heads * head_dim,
        hidden_act=activation,
        rotary_pct=rotary_fraction,
        use_parallel_residual=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        **shared,
    )


def closed_form_parameters(model_name: str, *, vocab_size: int, block_size: int, head_dim: int = 64) -> int:
    """All parameters of a name, tied ones once: L (12 d^2 + 13 d) + 2 d + V d, and block_size d for learned positions.

    d = H * head_dim; biases and layer norms are included (gpt2-rotary-12-12 with 3275 tokens: 87,571,200). No torch.
    Raises ModelError for an unknown name.
    """
    name = parse_model_name(model_name)
    d = name.num_heads * head_dim
    rows = vocab_size + (block_size if name.family == "gpt2" else 0)
    return name.num_layers * (12 * d * d + 13 * d) + 2 * d + rows * d


def count_parameters(model: PreTrainedModel, used_vocabulary: int | None = None) -> ParameterCounts:
    """Counts a model's parameters, tied ones once. Quantized weights count as in their original.

    Non-embedding leaves out token and position embeddings and an untied output head.

    Args:
        used_vocabulary: how many vocabulary rows the corpus can use; None for all of them.

    Raises:
        ModelError: used_vocabulary is not between 1 and the number of rows.
    """
    from torch import nn

    total = sum(p.numel() for p in model.parameters())
    total += sum(getattr(module, "packed_parameters", 0) for module in model.modules())
    tokens, head = model.get_input_embeddings(), model.get_output_embeddings()
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    rows = tokens.weight.shape[0]
    used = rows if used_vocabulary is None else used_vocabulary
    if not 1 <= used <= rows:
        raise ModelError(f"used_vocabulary={used_vocabulary}; expected 1 to {rows}, the vocabulary rows of the model")
    row_width = _count([tokens, head]) // rows
    return ParameterCounts(total, total - _count([*embeddings, head]), total - (rows - used) * row_width)


def _count(modules: list[nn.Module]) -> int:
    """Parameters of all these modules together, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A float32 model on the CPU with fresh weights, the same for the same config and seed.

    torch's global random state is left as it was. GPT-NeoX models get GPT2's residual-scaled initialisation, which
    stock GPT-NeoX lacks: the two projections of each block that write into the residual stream (attention.dense,
    mlp.dense_4h_to_h) are scaled by 1 / sqrt(2 L).
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # The CPU's generator alone: torch.manual_seed would seed the accelerators too.
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
    if config.model_type == "gpt_neox":
        scale = 1 / math.sqrt(2 * config.num_hidden_layers)
        with torch.no_grad():
            for layer in model.gpt_neox.layers:
                layer.attention.dense.weight.mul_(scale)
                layer.mlp.dense_4h_to_h.weight.mul_(scale)
    return model


def check_model_folder(folder: str | Path, needs: tuple[str, ...] = ("config.json", "*.safetensors")) -> Path:
    """Holds a folder to what loading needs, as file patterns; by default a model's. Returns it as a Path.

    Raises:
        ModelError: says what is missing and lists what is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; {_MAKERS}")
    missing = [name for name in needs if not any(folder.glob(name))]
    if missing:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise ModelError(f"{folder} has no {' and no '.join(missing)}; there is {there}; {_MAKERS}")
    return folder


def load_model(folder: str | Path) -> PreTrainedModel:
    """The model of a folder, in float32 and eval mode, cache off; one with quantization.json is loaded as quantized.

    Raises:
        ModelError: no model there, or weights that are not exactly what config.json asks for (no random fill-ins).
    """
    import torch
    from transformers import AutoModelForCausalLM

    from knowcap.progress import quiet_transformers

    folder = check_model_folder(folder)
    if (folder / QUANTIZATION_FILE).is_file():
        from knowcap.quantized.folder import load_quantized

        return load_quantized(folder)
    with quiet_transformers():
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: the weights do not fit config.json: {json.dumps(wrong)}; {_MAKERS}")
    model.config.use_cache = False
    return model.eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder: a fast one, since scoring needs its exact offsets.

    Raises:
        ModelError: the folder has no tokenizer.json.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(check_model_folder(folder, ("tokenizer.json",)), local_files_only=True)
