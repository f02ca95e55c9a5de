"""The keys of quantization, after training and in training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from knowcap.recipe.keys import Condition, Range, key_field


METHODS, BOTH = ("quanto", "gptq"), "both"
# Keys that training depends on if it has fake quantization.
FAKE_QUANTIZER = (
    "quantization_group_size", "quantization_symmetric", "quantization_exclude", "quantize_embeddings",
)  # fmt: skip
_key = partial(key_field, shapes="quantization", free=True)
_FAKE = Condition(
    lambda recipe: recipe.fake_quantization_bits is not None,
    "without fake_quantization_bits",
    ("fake_quantization_bits",),
)


@dataclass(frozen=True, kw_only=True)
class QuantizationSection:
    """Quantization"""

    quantize_bits: tuple[int, ...] = _key(
        (8, 4),
        "bits per weight of the quantized copies; [] for none",
        range=Range(lambda v: set(v) <= {8, 4} and len(set(v)) == len(v), "8, 4, both or none"),
    )
    quantization_method: str = _key(
        "quanto", "round to nearest (quanto), calibrated (gptq), or a copy of each (both)", choices=(*METHODS, BOTH)
    )
    quantization_group_size: int = _key(
        32,
        "weights of a row that share a scale; 0: the whole row. quanto: for int4 only",
        range=Range(lambda v: v >= 0, "a number of weights, or 0 for a whole row"),
    )
    quantization_symmetric: bool | None = _key(
        None, "symmetric quantization; default: true, but false for quanto's int4"
    )
    quantization_exclude: tuple[str, ...] = _key(
        (), "layers of the blocks that are not quantized, as patterns: *.mlp.*"
    )
    quantize_embeddings: bool = _key(False, "quantize embeddings and output head too (quanto)")
    fake_quantization_bits: int | None = key_field(
        None,
        "train with weights rounded to so many bits in each forward pass, as quanto's copy will be; null: unrounded",
        range=Range(lambda v: v in (None, 8, 4), "8, 4 or null"),
        shapes="training",
    )
    fake_quantization_start: float = key_field(
        0.0,
        "share of the steps before which weights are not rounded yet",
        range=Range(lambda v: 0 <= v < 1, "0 (from the first step) or more, and less than 1"),
        used_with=(_FAKE,),
        shapes="training",
    )
