"""Bytes of activations in training, of the logits, and of the cache in use, for a model of a given shape.

What a layer keeps for its backward pass is counted tensor by tensor, after Korthikanti et al. 2022 (Reducing
Activation Recomputation in Large Transformer Models, arXiv 2205.05198, section 4.1). At 16 bits, with dropout and
with attention scores kept, a layer of GPT2's kind comes to their s b h (34 + 5 a s / h) bytes: s tokens, b sequences,
h the hidden size, a heads. Models of Llama's kind are counted by the same rules, as transformers writes them. The
tests hold these bytes to what autograd keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from knowcap.laws.law import LawError
from knowcap.laws.plan.setting import positive
from knowcap.laws.quantity import figure


ATTENTION = ("sdpa", "eager")
CHECKPOINTING = ("none", "full")
TRAINING_PRECISIONS = ("bf16-mixed", "bf16-true", "fp32")
_INNER = {"gpt2": Fraction(4), "gpt2-quarter-mlp": Fraction(1), "gpt2-no-mlp": Fraction(0)}
_INNER |= {"llama": Fraction(8, 3), "mistral": Fraction(7, 2)}  # the MLP's width over the hidden size (Part 3.3)
_GATED = ("llama", "mistral")
_HEAD_SIZE = 64  # Part 3.3; GPT-2
_GPT2_VOCABULARY = 50_257
_BLOCK_SIZE = 512  # Part 3.3, and of a recipe
_SIZES = (
    "num_layers", "hidden_size", "num_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "block_size",
    "per_device_train_batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model's shape, and what a GPU holds of a batch at once. Made by `shape_of`.

    Attributes:
        num_layers, hidden_size, num_heads, num_key_value_heads: of the model.
        intermediate_size: the MLP's width.
        vocab_size: tokens that the output head tells apart.
        block_size: tokens of a sequence; in use, of the context that is cached.
        per_device_train_batch_size: sequences that a GPU holds at once; in use, contexts.
        architecture: gpt2, gpt2-quarter-mlp, gpt2-no-mlp, llama or mistral.
        attn_implementation: eager keeps the scores of all pairs of tokens; sdpa, as every memory-efficient kernel,
            keeps one float32 a head and token, and computes them again.
        gradient_checkpointing: none; or full: a layer's input is kept and the layer is computed again.
        training_precision: fp32; bf16-true, all activations in 16 bits, as in the paper; bf16-mixed, by autocast.
        dropout: its probability; above 0, masks of a byte an element are kept.
        assumed: what was not given, in words.
    """

    num_layers: float
    hidden_size: float
    num_heads: float
    num_key_value_heads: float
    intermediate_size: float
    vocab_size: float
    block_size: float
    per_device_train_batch_size: float
    architecture: str = "gpt2"
    attn_implementation: str = "sdpa"
    gradient_checkpointing: str = "none"
    training_precision: str = "bf16-mixed"
    dropout: float = 0.0
    assumed: tuple[str, ...] = ()

    @property
    def gated(self) -> bool:
        """Whether it is of Llama's kind: a gated MLP, RMSNorm, separate projections, no dropout but attention's."""
        return self.architecture in _GATED

    @property
    def tokens(self) -> float:
        """That a GPU holds at once, s b."""
        return self.block_size * self.per_device_train_batch_size

    @property
    def key_value_share(self) -> float:
        """Key and value heads over query heads."""
        return self.num_key_value_heads / self.num_heads

    @property
    def layer_weights(self) -> float:
        """Weights of a layer's linear maps."""
        h, f = self.hidden_size, self.intermediate_size
        return 2 * (1 + self.key_value_share) * h * h + (3 if self.gated else 2) * f * h

    @property
    def head_weights(self) -> float:
        """Weights of the output head."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> float:
        """Without biases and norms; the head is tied to the embedding except in Llama's kind."""
        positions = 0.0 if self.gated else self.block_size * self.hidden_size
        return self.num_layers * self.layer_weights + (2 if self.gated else 1) * self.head_weights + positions

    @property
    def _element(self) -> int:
        """Bytes of an element that a matrix product takes."""
        return 4 if self.training_precision == "fp32" else 2

    @property
    def _residual(self) -> int:
        """Bytes of an element of the sum that runs through the layers: float32 by autocast."""
        return 2 if self.training_precision == "bf16-true" else 4

    @property
    def _norm(self) -> float:
        """Bytes a token that one norm keeps: its input; an RMSNorm in float32, and the normalized input."""
        return (4 + self._residual if self.gated else self._residual) * self.hidden_size

    def layer_bytes(self) -> dict[str, float]:
        """What one layer keeps for its backward pass, by part."""
        h, f, e = self.hidden_size, self.intermediate_size, self._element
        casts = self.gated and self.training_precision == "bf16-mixed"  # each projection makes a copy of its input
        share = 1.0 if self.attn_implementation == "eager" else self.key_value_share
        attention = e * h * ((3 if casts else 1) + 1 + 2 * share + 1)  # input; queries, keys, values; output
        mlp = e * h * (2 if casts else 1) + e * f * (4 if self.gated else 2)
        masks = 2 * h if self.dropout and not self.gated else 0
        parts = {"norms": 2 * self._norm, "attention": attention, "scores": self._scores(), "mlp": mlp}
        return {name: self.tokens * each for name, each in (parts | {"dropout masks": masks}).items()}

    def _scores(self) -> float:
        """Bytes a token of attention's probabilities, or of what a kernel keeps to compute them again."""
        if self.attn_implementation == "sdpa":
            return 4 * self.num_heads
        e = self._element
        softmax = 2 if self.training_precision == "bf16-true" and not self.gated else 4
        kept = 1 + e if self.dropout else 0 if softmax == e else e  # a mask and what it leaves; or a copy in 16 bits
        return self.num_heads * self.block_size * (softmax + kept)

    @property
    def _layer(self) -> float:
        return sum(self.layer_bytes().values())

    @property
    def _inputs(self) -> float:
        """Of all layers, as checkpointing keeps them: 2 s b h L bytes at 16 bits."""
        return self.num_layers * self.tokens * self._residual * self.hidden_size

    @property
    def _outside(self) -> float:
        """Of the norm and the head after the layers, and the embedding's mask."""
        mask = self.hidden_size if self.dropout and not self.gated else 0.0
        return self.tokens * (self._norm + self._element * self.hidden_size + mask)

    @property
    def activation_bytes(self) -> float:
        """Kept for the backward pass, without the logits; with checkpointing, the layer that is computed again too."""
        if self.gradient_checkpointing == "none":
            return self.num_layers * self._layer + self._outside
        return self._inputs + self._layer + self._outside

    @property
    def logits_bytes(self) -> float:
        """12 for each token and each of the vocabulary, while the loss is derived.

        4 of the log probability, kept since the forward pass (section 4.3); 8 of the logit and its gradient: 4 and 4
        in fp32, else 2 and 4 + 2, the gradient in float32 and in 16 bits.
        """
        return 12.0 * self.tokens * self.vocab_size

    @property
    def copy_bytes(self) -> float:
        """Of the weights in 16 bits that autocast keeps beside those in float32, through the forward pass."""
        return self._copies(self.num_layers) + self._copies(0, head=True)

    def _copies(self, layers: float, head: bool = False) -> float:
        weights = layers * self.layer_weights + head * self.head_weights
        return 2.0 * weights if self.training_precision == "bf16-mixed" else 0.0

    @property
    def peak_bytes(self) -> float:
        """The most that a step takes beside weights, gradients and optimizer states.

        When the loss is derived, the logits are there. When the last layer is derived, they are gone, but gradients of
        its MLP and one of a weight are there, and with checkpointing the layer itself, computed again. The larger
        counts. Gradients of a large vocabulary's weights before they are added are not counted.
        """
        derived = self.activation_bytes + self.copy_bytes + self.logits_bytes
        if self.gradient_checkpointing == "none":
            return max(derived, self.num_layers * self._layer + self.copy_bytes + self._gradients)
        return max(derived - self._layer, self._inputs + self._layer + self._copies(1) + self._gradients)

    @property
    def _gradients(self) -> float:
        """Of a layer's input and of its MLP's inner activations, what is free by then taken off; and of one weight."""
        h, f, e = self.hidden_size, self.intermediate_size, self._element
        return self.tokens * (e * f * (2 if self.gated else 1) + self._residual * h) + e * f * h

    def cache_bytes(self, precision: str) -> float:
        """Keys and values of the contexts in use: 4 bytes an element in fp32, 2 at every other precision."""
        each = 4 if precision == "fp32" else 2
        return 2.0 * self.num_layers * self.hidden_size * self.key_value_share * self.tokens * each

    def notes(self, num_parameters: float | None = None) -> list[str]:
        """What was assumed, what is not counted, and whether the shape is that of a model of so many parameters."""
        notes = [f"assumed: {', '.join(self.assumed)}; give what differs"] if self.assumed else []
        once = self.tokens * self._element * (1 if self.gradient_checkpointing == "full" else self.num_layers)
        if not self.gated and self.intermediate_size:
            notes.append(
                "GELU is counted as one kernel (gelu_pytorch_tanh, and gelu_new in `knowcap train`); gelu_new as "
                f"transformers writes it keeps {figure(3 * once * self.intermediate_size)} bytes more"
            )
        if not self.gated and self.attn_implementation == "sdpa":
            notes.append(
                f"rotary positions as in transformers' GPT-NeoX (gpt2-rotary): {figure(3 * once * self.hidden_size)} "
                "bytes more, for queries, keys and attention's output are kept twice"
            )
        if num_parameters and not 2 / 3 < self.num_parameters / num_parameters < 1.5:
            notes.append(
                f"a model of this shape has {figure(self.num_parameters)} parameters, not {figure(num_parameters)}: "
                "the activations are of the shape, the weights of the number; correct one"
            )
        return notes


SHAPE = tuple(f.name for f in fields(Shape) if f.name not in ("architecture", "assumed"))


def shape_of(architecture: str = "gpt2", **given: Any) -> Shape | None:
    """The shape, with the usual value for what is not given; None if nothing of the model's shape is.

    Args:
        architecture: see `Shape`.
        given: options named as Shape's attributes; num_layers and hidden_size are needed.

    Raises:
        LawError: with every problem: numbers out of range, heads that do not divide the hidden size or each other, a
            word that is not a choice, options without a shape, or a mixture of experts, which is not counted.
    """
    given = {name: value for name, value in given.items() if value is not None}
    problems = [*_number_problems(given), *_choice_problems(given)]
    if "num_layers" not in given or "hidden_size" not in given:
        sizes = [name for name in given if name in _SIZES]
        if sizes:
            missing = " and ".join(name for name in ("num_layers", "hidden_size") if name not in given)
            problems.append(f"{', '.join(sizes)} without {missing}: the shape is not known; give {missing} too")
        if problems:
            raise LawError(problems)
        return None
    if architecture not in _INNER:
        problems.append(
            f"architecture={architecture}: activations are counted for {', '.join(_INNER)}; leave the shape out, or "
            "choose one"
        )
    if problems:
        raise LawError(problems)
    shape, assumed = _completed(architecture, given)
    _check_heads(shape)
    return Shape(**shape, architecture=architecture, assumed=tuple(assumed))


def _completed(architecture: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All of a shape's fields, and in words those that were not given."""
    shape, assumed = dict(given), []

    def usual(name: str, value: float, text: str) -> None:
        if name not in shape:
            shape[name] = value
            assumed.append(text)

    heads = max(1, round(given["hidden_size"] / _HEAD_SIZE))
    usual("num_heads", heads, f"{heads:,} heads")
    if architecture == "mistral":  # Part 3.3, App. B
        a = int(shape["num_heads"])
        groups = a // (4 if a % 4 == 0 else 1 if a % 2 else 2)
        usual("num_key_value_heads", groups, f"{groups:,} key and value heads")
    shape.setdefault("num_key_value_heads", shape["num_heads"])
    width = round(_INNER[architecture] * int(given["hidden_size"])) if architecture in _INNER else 0
    usual("intermediate_size", width, f"an MLP {width:,} wide")
    usual("vocab_size", _GPT2_VOCABULARY, f"GPT-2's {_GPT2_VOCABULARY:,} tokens")
    usual("block_size", _BLOCK_SIZE, f"sequences of {_BLOCK_SIZE} tokens")
    usual("per_device_train_batch_size", 1, "one sequence at a time on a GPU")
    return shape, assumed


def _number_problems(given: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in _SIZES:
        try:
            positive(name, given.get(name, 1.0))
        except LawError as error:
            problems += error.problems
    dropout = given.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        problems.append(f"dropout={dropout:g}, expected 0 or more and less than 1; correct it")
    return problems


def _choice_problems(given: Mapping[str, Any]) -> list[str]:
    choices = {
        "attn_implementation": ATTENTION,
        "gradient_checkpointing": CHECKPOINTING,
        "training_precision": TRAINING_PRECISIONS,
    }
    return [
        f"{name}={given[name]!r}, expected {' or '.join(known)}; choose one"
        for name, known in choices.items()
        if name in given and given[name] not in known
    ]


def _check_heads(shape: Mapping[str, Any]) -> None:
    hidden, heads, groups = (int(shape[name]) for name in ("hidden_size", "num_heads", "num_key_value_heads"))
    if hidden % heads:
        raise LawError(f"num_heads={heads}: does not divide hidden_size={hidden}; give num_heads that does")
    if heads % groups:
        raise LawError(f"num_key_value_heads={groups}: does not divide num_heads={heads}; give one that does")
