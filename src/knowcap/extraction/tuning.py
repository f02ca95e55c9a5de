"""Tuning a model on questions about half of the people, whole or by LoRA; resumed automatically.

LoRA adapts query, value and embedding, with a rank of its own for the embedding (Part 3.3, Parameter 3).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.extraction.questions import IGNORED, ExtractionError, Question, padded
from knowcap.extraction.settings import Tuning
from knowcap.extraction.stored import StoredQuestions
from knowcap.files import CARD_FILE
from knowcap.knowledge.philox import KeyedPermutation
from knowcap.models import shown_name
from knowcap.models.devices import device_name, world_size
from knowcap.models.quiet import quiet_peft, quiet_transformers
from knowcap.recipe import Recipe
from knowcap.training.arguments import training_arguments
from knowcap.training.checkpoints import newest_checkpoint, settings_of
from knowcap.training.kernels import faster_training
from knowcap.training.precision import unprepared
from knowcap.training.trainer import ResumableTrainer, TrainingProgress


if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

_CHECKPOINTS = 10  # per tuning
# The layers of query and value by architecture; the first two hold query, key and value in one matrix.
FUSED = ("c_attn", "query_key_value")
SEPARATE = ("q_proj", "v_proj")


class QuestionDataset(Dataset):
    """Questions for a DataLoader, a whole batch at a time, shuffled differently in each pass."""

    def __init__(self, questions: Sequence[Question], steps: int, batch_size: int, seed: int) -> None:
        self.questions, self._size, self._seed = questions, steps * batch_size, seed

    def __len__(self) -> int:
        """The number of questions of all steps."""
        return self._size

    def __getitems__(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels, (batch, length) int64; labels are -100 outside answers."""
        passes, places = np.divmod(np.array(numbers), len(self.questions))
        chosen = np.empty(len(numbers), dtype=np.int64)
        for number in np.unique(passes):
            order = KeyedPermutation(len(self.questions), self._seed, "lessons", int(number))
            chosen[passes == number] = order(places[passes == number])
        return batch_of([self.questions[cast(int, n)] for n in chosen])


def batch_of(questions: Sequence[Question]) -> dict[str, torch.Tensor]:
    """Questions with their answers, padded on the right; labels are -100 outside answers and their ends of text."""
    ids = padded([[*q.prompt, *q.tokens] for q in questions], EOS_ID)
    labels = padded([q.labels() for q in questions], IGNORED)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def attention_targets(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the layers that compute queries and values, or of the fused one, which also computes keys.

    Raises:
        ExtractionError: the architecture has no layers of these names.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for targets in (*((name,) for name in FUSED), SEPARATE):
        if names.issuperset(targets):
            return targets
    raise ExtractionError(
        f"{type(model).__name__} has neither {', '.join(FUSED)} nor {' and '.join(SEPARATE)} to adapt; "
        "use --method full"
    )


def embedding_target(model: PreTrainedModel) -> str:
    """The name of the token embedding."""
    embedding = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embedding).rsplit(".", 1)[-1]


def lora_config(model: PreTrainedModel, rank: int, embedding_rank: int) -> LoraConfig:
    """LoRA of rank `rank` on query and value, and of `embedding_rank` on the token embedding, both with scale 1.

    A matrix of i inputs and o outputs gets rank x (i + o) parameters, a fused one as one matrix; the embedding
    embedding_rank x (vocabulary rows + hidden size). A tied output head does not change: the adapter is on the
    embedding only, so it cannot be merged without changing the head as well.

    Raises:
        ExtractionError: the architecture's query and value are unknown, or a rank exceeds the hidden size.
    """
    from peft import LoraConfig

    attention, embedding = attention_targets(model), embedding_target(model)
    width = cast(Any, model.get_input_embeddings()).weight.shape[1]
    for name, value in (("rank", rank), ("embedding_rank", embedding_rank)):
        if value > width:
            raise ExtractionError(f"{name}={value} exceeds the hidden size {width}; give {width} or less")
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
    """Whether embedding and output head share one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Saves the adapter, unmerged and without its base, with `base` as the base's path."""
    model.peft_config["default"].base_model_name_or_path = base
    with quiet_peft():
        model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / CARD_FILE).unlink(missing_ok=True)  # PEFT's; knowcap writes another


def tune(
    model: PreTrainedModel, questions: StoredQuestions, tuning: Tuning, recipe: Recipe, checkpoints: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Tunes a model, or an adapter on it; resumes from the newest complete checkpoint.

    Args:
        model: the trained model; its own weights change only with method `full`.
        questions: about the people of the split `train`.
        tuning: the settings.
        recipe: of the run, for AdamW's other settings.
        checkpoints: a folder for this tuning only.

    Returns:
        the model in evaluation mode, and the entries of tuning.json: tuned_parameters, tuning_seconds, final_loss.

    Raises:
        ExtractionError: LoRA does not support the architecture, a rank exceeds the hidden size, or several processes
            were launched.
    """
    base = model
    if tuning.method == "lora":
        from peft import get_peft_model

        torch.manual_seed(recipe.seed)  # LoRA's A matrices are random
        with quiet_peft():
            model = cast(Any, get_peft_model)(model, lora_config(model, tuning.rank, tuning.embedding_rank))
    dataset = QuestionDataset(questions, tuning.steps, tuning.batch_size, recipe.seed)
    tokens = questions.num_tokens / len(questions)
    progress = TrainingProgress(round(tokens * len(dataset)))
    args = _arguments(tuning, recipe, checkpoints)
    settings = {"model": settings_of(recipe), "tuning": json.loads(json.dumps(tuning.settings()))}
    trainer = ResumableTrainer(
        model=model, args=args, train_dataset=dataset, data_collator=dict, callbacks=[progress], settings=settings
    )
    checkpoint, step = newest_checkpoint(checkpoints, settings)
    trainer.first_index = step * tuning.batch_size
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "tuning %s (%s): %d parameters, %d steps of %d of %d questions, on %s%s",
        shown_name(recipe), tuning.name, trainable, tuning.steps, tuning.batch_size, len(questions),
        device_name(args.device), f", resuming from step {step}" if step else "",
    )  # fmt: skip
    with quiet_transformers(), faster_training(base):
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    results = {
        "tuned_parameters": trainable,
        "tuning_seconds": round(progress.seconds, 1),
        "final_loss": losses[-1]["loss"] if losses else None,
        "device": device_name(args.device),
    }
    return unprepared(model).eval(), results


def _arguments(tuning: Tuning, recipe: Recipe, output_dir: Path) -> TrainingArguments:
    if (processes := world_size()) > 1:
        raise ExtractionError(
            f"tuning runs in one process, but {processes} were launched, which would multiply its batch of questions; "
            "start `knowcap extract` without a launcher"
        )
    interval = -(-tuning.steps // _CHECKPOINTS)
    return training_arguments(
        recipe,
        output_dir,
        per_device_train_batch_size=tuning.batch_size,
        max_steps=tuning.steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=tuning.weight_decay,
        logging_steps=interval,  # as often as checkpoints, so that no logged mean spans an interruption
        save_steps=interval,
        report_to="none",
    )
