"""The range of every recipe key that has one: what is valid, and how to say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


Rule = tuple[Callable[[Any], bool], str]
_AT_LEAST_ONE: Rule = (lambda v: v >= 1, "1 or more")
_NOT_NEGATIVE: Rule = (lambda v: v >= 0, "0 or more")
_POSITIVE: Rule = (lambda v: v > 0, "more than 0")
_SHARE: Rule = (lambda v: 0 < v <= 1, "more than 0 and at most 1")
_BETA: Rule = (lambda v: 0 <= v < 1, "at least 0 and less than 1")
RULES: dict[str, Rule] = {
    "run_name": (lambda v: not v.startswith(".") and not set(v) & set("/\\:"), "a plain folder name, without / \\ :"),
    "seed": (lambda v: 0 <= v < 2**32, "0 to 4,294,967,295"),
    "num_people": _AT_LEAST_ONE,
    "pools_fraction": _SHARE,
    "num_attributes": _AT_LEAST_ONE,
    "chunks_per_value": _AT_LEAST_ONE,
    "diversity": _AT_LEAST_ONE,
    "chunk_length": _AT_LEAST_ONE,
    "alphabet_size": _AT_LEAST_ONE,
    "string_length": _AT_LEAST_ONE,
    "num_templates": (lambda v: v is None or v >= 1, "1 or more, or null for all"),
    "fixed_renderings": (lambda v: v is None or v >= 1, "1 or more, or null for fresh ones"),
    "junk_people": _NOT_NEGATIVE,
    "useful_share": (lambda v: 0 < v < 1, "more than 0 and less than 1"),
    "junk_tokens": _NOT_NEGATIVE,
    "qa_share": (lambda v: 0 <= v < 1, "0 (none) or more, and less than 1"),
    "exposures": _AT_LEAST_ONE,
    "renderings": _AT_LEAST_ONE,
    "control_people": _NOT_NEGATIVE,
    "vocab_size": (lambda v: v >= 2, "2 or more"),
    "block_size": (lambda v: v >= 2, "2 or more"),
    "shard_size": _AT_LEAST_ONE,
    "head_dim": _AT_LEAST_ONE,
    "rotary_fraction": _SHARE,
    "initializer_range": _POSITIVE,
    "num_experts_per_tok": _AT_LEAST_ONE,
    "router_aux_loss_coef": _NOT_NEGATIVE,
    "train_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "learning_rate": _POSITIVE,
    "min_learning_rate_ratio": (lambda v: 0 <= v <= 1, "0 to 1"),
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "logging_steps": _AT_LEAST_ONE,
    "save_steps": _AT_LEAST_ONE,
    "save_total_limit": _AT_LEAST_ONE,
    "measure_every": _NOT_NEGATIVE,
    "measure_limit": _AT_LEAST_ONE,
    "eval_batch_size": _AT_LEAST_ONE,
    "confidence_level": (lambda v: 0 < v < 1, "more than 0 and less than 1"),
    "quantize_bits": (lambda v: set(v) <= {8, 4} and len(set(v)) == len(v), "8, 4, both or none"),
    "quantization_group_size": (lambda v: v >= 0, "so many weights, or 0 for a whole row"),
    "extract_rank": _AT_LEAST_ONE,
    "extract_embedding_rank": _AT_LEAST_ONE,
    "extract_steps": _AT_LEAST_ONE,
    "extract_batch_size": _AT_LEAST_ONE,
    "extract_learning_rate": _POSITIVE,
    "extract_weight_decay": _NOT_NEGATIVE,
}
