"""The families of models by name: which stock transformers configuration each is, and what it matches in the paper.

A family's entry settles its shape: the MLP's inner size is `inner` times the hidden size d, rounded.
Imports neither torch nor transformers, so that checking a recipe costs no seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


EXPERT_MULTIPLE = 8  # torch's grouped product of experts wants rows of 16 bytes or a multiple, in bf16 too


class ModelError(ValueError):
    """A model name, setting or folder cannot be used; the message says what was got and expected, how to mend it."""


@dataclass(frozen=True)
class Family:
    """One architecture. Sections are those of Part 3.3 (arXiv 2404.05405).

    Attributes:
        stock: the transformers configuration, such as Llama for LlamaConfig.
        inner: the MLP's inner size over the hidden size d; an expert's where there are experts.
        text: what it is.
        paper: what it matches in the paper, and in what it differs.
        activation: the MLP's, unless a recipe says otherwise.
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
        "GPT2 without MLPs (section 7), but for what the stock layer keeps: a bias that does something and a norm "
        "that does nothing, 3 d parameters a layer",
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
