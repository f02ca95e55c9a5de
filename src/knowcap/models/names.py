"""Model names such as gpt2-rotary-2-4: the families, parsing a name, and the problems of a model's settings.

A family's entry defines its shape: the MLP's inner size is `inner` times the hidden size d, rounded.
Imports neither torch nor transformers, so that checking a recipe takes no seconds.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from fractions import Fraction


EXPERT_MULTIPLE = 8  # torch's grouped matrix product needs rows of a multiple of 16 bytes, in bf16 too
# The activations of transformers that have no parameters of their own (a test compares this list with theirs).
ACTIVATIONS = tuple(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh hardswish laplace "
    "leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus swish tanh".split()
)


class ModelError(ValueError):
    """A model name, setting or folder that cannot be used, or a model that cannot be quantized."""


@dataclass(frozen=True)
class Family:
    """One architecture. Sections are those of Part 3.3 (arXiv 2404.05405).

    Attributes:
        stock: the transformers configuration, such as Llama for LlamaConfig.
        inner: the MLP's inner size over the hidden size d; an expert's where there are experts.
        text: a short description.
        paper: the model of the paper that it matches, and the differences.
        activation: of the MLP, unless a recipe gives another.
        tied: whether the output head is the token embedding.
        grouped: whether query heads share key and value heads by the paper's rule (`key_value_heads`).
        experts: whether its name ends with a number of experts.
    """

    stock: str
    inner: Fraction
    text: str
    paper: str
    activation: str = "gelu_new"
    tied: bool = True
    grouped: bool = False
    experts: bool = False


MODEL_FAMILIES = {
    "gpt2": Family(
        "GPT2", Fraction(4), "learned positions, standard MLP, tied embeddings",
        "none: its GPT2 is gpt2-rotary",
    ),
    "gpt2-rotary": Family(
        "GPTNeoX", Fraction(4), "rotary positions, standard MLP, tied embeddings",
        "GPT2 (section 2.3), to the parameter",
    ),
    "gpt2-rotary-quarter-mlp": Family(
        "GPTNeoX", Fraction(1), "gpt2-rotary with an MLP d → d → d", "GPT2 with a quarter MLP (section 7)",
    ),
    "gpt2-rotary-no-mlp": Family(
        "GPTNeoX", Fraction(0), "gpt2-rotary without MLPs",
        "GPT2 without MLPs (section 7), but for what the stock layer keeps: a bias that has an effect and a norm "
        "that has none, 3 d parameters a layer",
    ),
    "llama": Family(
        "Llama", Fraction(8, 3), "rotary positions, RMSNorm, gated MLP, untied",
        "LLaMA (section 7); the MLP is 8 d / 3 wide, rounded", activation="silu", tied=False,
    ),
    "llama-tied": Family(
        "Llama", Fraction(8, 3), "llama with tied embeddings", "LLaMA with tied weights (Figure 5 a, c)",
        activation="silu",
    ),
    "llama-plain-mlp": Family(
        "Arcee", Fraction(4), "llama-tied with a standard MLP",
        "LLaMA with tied weights and a standard MLP (Figure 5 b, d)", activation="silu",
    ),
    "mistral": Family(
        "Mistral", Fraction(7, 2), "llama with a wider MLP and grouped queries",
        "Mistral (section 7), with its rule for grouped queries", activation="silu", tied=False, grouped=True,
    ),
    "mixtral": Family(
        "Mixtral", Fraction(7, 2), "mistral with a mixture of E experts in place of the MLP",
        "none: its mixture is gpt2-moe",
        activation="silu", tied=False, grouped=True, experts=True,
    ),
    "gpt2-moe": Family(
        "Mixtral", Fraction(2, 3), "a mixture of E experts of 2 d² weights each, tied embeddings",
        "GPT2 with 32 experts d → d → d (section 9), as near as stock Mixtral comes: experts are gated and "
        "2 d / 3 wide to the nearest multiple of 8, there is no capacity factor, norms are RMSNorm, nothing has a "
        "bias, whole heads rotate",
        experts=True,
    ),
}  # fmt: skip


def key_value_heads(num_heads: int) -> int:
    """How many key and value heads a Mistral of the paper has (Part 3.3, App. B).

    Each serves 4 query heads where 4 divides H, one where H is odd, 2 otherwise.
    """
    return num_heads // (4 if num_heads % 4 == 0 else 1 if num_heads % 2 else 2)


def inner_size(family: Family, hidden_size: int) -> int:
    """The MLP's inner size: `inner` times d to the nearest whole number; an expert's to the nearest multiple of 8."""
    if family.experts:
        return max(EXPERT_MULTIPLE, EXPERT_MULTIPLE * round(family.inner * hidden_size / EXPERT_MULTIPLE))
    return round(family.inner * hidden_size)


@dataclass(frozen=True)
class ModelName:
    """A parsed name: family (a key of MODEL_FAMILIES), L layers, H heads, E experts (0 where there are none)."""

    family: str
    num_layers: int
    num_heads: int
    num_experts: int = 0

    @property
    def of(self) -> Family:
        """The family's entry."""
        return MODEL_FAMILIES[self.family]


def pattern(family: str) -> str:
    """The pattern of a family's names: family-L-H, or family-L-H-E."""
    return f"{family}-L-H-E" if MODEL_FAMILIES[family].experts else f"{family}-L-H"


def family_of(model_name: str) -> str:
    """The family of a name; the name itself, such as transformers' model_type, if it is not one of ours."""
    try:
        return parse_model_name(model_name).family
    except ModelError:
        return model_name


def parse_model_name(model_name: str) -> ModelName:
    """Parses family-L-H, or family-L-H-E of a mixture.

    Raises:
        ModelError: the name is unknown; the message lists the families and the nearest name.
    """
    text = model_name.strip().lower().replace("_", "-")
    match = re.fullmatch(r"(.+?)((?:-\d+){2,3})", text)
    family = match[1] if match else text.rstrip("-0123456789")
    numbers = [int(number) for number in match[2][1:].split("-")] if match else []
    wanted = 3 if family in MODEL_FAMILIES and MODEL_FAMILIES[family].experts else 2
    if family in MODEL_FAMILIES and len(numbers) == wanted and min(numbers) >= 1:
        if model_name == "-".join([family, *map(str, numbers)]):
            return ModelName(family, *numbers)
    nearest = difflib.get_close_matches(family, MODEL_FAMILIES, n=1, cutoff=0.0)[0]
    shape = pattern(nearest)
    if numbers:
        wanted = 3 if MODEL_FAMILIES[nearest].experts else 2
        given = [str(max(number, 1)) for number in numbers[:wanted]]
        shape = "-".join([nearest, *given, *["E"] * (wanted - len(given))])
    known = "; ".join(f"{pattern(name)} ({family.text})" for name, family in MODEL_FAMILIES.items())
    raise ModelError(
        f"model_name={model_name!r} is not known; did you mean {shape}? Known, with L layers, H heads and E experts, "
        f"each 1 or more: {known}"
    )


def model_problems(
    *,
    model_name: str,
    head_dim: int,
    rotary_fraction: float = 0.25,
    activation: str | None = None,
    num_experts_per_tok: int = 2,
    router_aux_loss_coef: float = 0.01,
) -> list[str]:
    """The problems of a model's settings, one sentence each; empty when there are none. Imports no torch.

    Args:
        model_name: family-L-H, or family-L-H-E.
        head_dim: width of a head; the hidden size is H * head_dim.
        rotary_fraction: share of each head that rotates; for gpt2-rotary families only, in others whole heads rotate.
        activation: the MLP's activation, by transformers' name; None for the family's.
        num_experts_per_tok: experts that a token goes to; for mixtures only.
        router_aux_loss_coef: weight of a mixture's auxiliary loss.
    """
    problems, name = [], None
    try:
        name = parse_model_name(model_name)
    except ModelError as error:
        problems.append(str(error))
    if head_dim < 1:
        problems.append(f"head_dim={head_dim}; expected 1 or more (the hidden size is heads x head_dim)")
    elif name and name.of.stock == "GPTNeoX":
        problems += _rotary_problems(head_dim, rotary_fraction)
    elif name and name.of.stock != "GPT2" and head_dim % 2:
        problems.append(f"head_dim={head_dim}; expected an even number, as whole heads of {name.family} rotate")
    if name and name.num_experts and not 1 <= num_experts_per_tok <= name.num_experts:
        problems.append(
            f"num_experts_per_tok={num_experts_per_tok}; expected 1 to {name.num_experts}, the experts of {model_name}"
        )
    if name and name.num_experts and head_dim >= 1 and (width := name.num_heads * head_dim) % EXPERT_MULTIPLE:
        problems.append(
            f"head_dim={head_dim} makes a hidden size of {width}; expected a multiple of {EXPERT_MULTIPLE}, as torch "
            "multiplies experts in groups"
        )
    if not router_aux_loss_coef >= 0:
        problems.append(f"router_aux_loss_coef={router_aux_loss_coef}; expected 0 or more, such as 0.01")
    if activation is not None and activation not in ACTIVATIONS:
        nearest = difflib.get_close_matches(activation, ACTIVATIONS, n=1, cutoff=0.0)[0]
        problems.append(f"activation={activation!r}; did you mean {nearest}? Known: {', '.join(ACTIVATIONS)}")
    return problems


def _rotary_problems(head_dim: int, rotary_fraction: float) -> list[str]:
    if not 0 < rotary_fraction <= 1:
        return [f"rotary_fraction={rotary_fraction}; expected a share above 0 and up to 1, such as 0.25"]
    product = head_dim * rotary_fraction
    dims = int(product)  # truncated, as in transformers
    if product - dims < 1e-3 and dims % 2 == 0 and dims >= 2:
        return []
    nearest = min(max(2, 2 * round(product / 2)), head_dim - head_dim % 2)
    share = math.ceil(1e6 * nearest / head_dim - 1e-3) / 1e6  # rounded up, as the product is truncated
    fix = f"rotary_fraction={share:g} rotates {nearest}" if head_dim > 1 else "raise head_dim"
    return [
        f"rotary_fraction={rotary_fraction} of head_dim={head_dim} makes {product:g} rotating dimensions; expected an "
        f"even whole number from 2 to head_dim; {fix}"
    ]
