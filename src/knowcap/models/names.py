"""Names such as gpt2-rotary-2-4: reading them, and what is wrong with a model's settings. Imports no torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from knowcap.models.families import EXPERT_MULTIPLE, MODEL_FAMILIES, Family, ModelError


# The activations of transformers that have no parameters of their own (a test holds this list to theirs).
ACTIVATIONS = tuple(
    "gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh hardswish laplace "
    "leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu sqrtsoftplus swish tanh".split()
)


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
    """How names of a family look: family-L-H, or family-L-H-E."""
    return f"{family}-L-H-E" if MODEL_FAMILIES[family].experts else f"{family}-L-H"


def parse_model_name(model_name: str) -> ModelName:
    """Reads family-L-H, or family-L-H-E of a mixture.

    Raises:
        ModelError: tells the known families and the nearest name.
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
    """All that is wrong with a model's settings, one sentence each; empty when nothing is. Imports no torch.

    Args:
        model_name: family-L-H, or family-L-H-E.
        head_dim: width of a head; the hidden size is H * head_dim.
        rotary_fraction: share of each head that rotates; looked at for gpt2-rotary families only, others rotate whole.
        activation: the MLP's activation, by transformers' name; None for the family's.
        num_experts_per_tok: experts that a token goes to; looked at for mixtures only.
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
    dims = int(product)  # cut off, as transformers does
    if product - dims < 1e-6 and dims % 2 == 0 and dims >= 2:
        return []
    nearest = min(max(2, 2 * round(product / 2)), head_dim - head_dim % 2)
    mend = f"rotary_fraction={nearest / head_dim:.6g} rotates {nearest}" if head_dim > 1 else "raise head_dim"
    return [
        f"rotary_fraction={rotary_fraction} of head_dim={head_dim} makes {product:g} rotating dimensions; expected an "
        f"even whole number from 2 to head_dim; {mend}"
    ]
