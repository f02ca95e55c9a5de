"""LoRA on query, value and embedding, with a rank of its own for the embedding (Part 3.3, Parameter 3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.extraction.errors import ExtractError
from knowcap.models.quiet import quiet_peft


if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

# Query and value as the architectures name them; the first two hold query, key and value in one matrix.
FUSED = ("c_attn", "query_key_value")
SEPARATE = ("q_proj", "v_proj")


def attention_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the layers that make queries and values; a fused one, which makes keys too.

    Raises:
        ExtractError: the architecture has none of these names.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for targets in (*((name,) for name in FUSED), SEPARATE):
        if names.issuperset(targets):
            return targets
    raise ExtractError(
        f"{type(model).__name__} has neither {', '.join(FUSED)} nor {' and '.join(SEPARATE)} to adapt; "
        "use --method full"
    )


def embedding_target(model: PreTrainedModel) -> str:
    """The name of the layer that embeds tokens."""
    embedding = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embedding).rsplit(".", 1)[-1]


def lora_config(model: PreTrainedModel, rank: int, embedding_rank: int) -> LoraConfig:
    """LoRA of that rank on query and value, and of `embedding_rank` on the embedding of tokens, both scaled by 1.

    A matrix of i inputs and o outputs gets rank x (i + o) parameters, a fused one as one matrix; the embedding
    embedding_rank x (vocabulary rows + hidden size). A tied output head stays as it was: the adapter is in the
    embedding alone, so that it cannot be merged without changing the head as well.

    Raises:
        ExtractError: an architecture whose query and value aren't known, or a rank above the hidden size.
    """
    from peft import LoraConfig

    attention, embedding = attention_targets(model), embedding_target(model)
    width = model.get_input_embeddings().weight.shape[1]
    for name, value in (("rank", rank), ("embedding_rank", embedding_rank)):
        if value > width:
            raise ExtractError(f"{name}={value} exceeds the hidden size {width}; give {width} or less")
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=[*attention, embedding],
        rank_pattern={embedding: embedding_rank},
        alpha_pattern={embedding: embedding_rank},
        lora_dropout=0.0,
        fan_in_fan_out="c_attn" in attention,  # GPT2's Conv1D
        task_type="CAUSAL_LM",
    )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether embedding and output head are one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Writes the adapter, unmerged and without its base, which it names as `base`."""
    model.peft_config["default"].base_model_name_or_path = base
    with quiet_peft():
        model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's; knowcap writes its own
