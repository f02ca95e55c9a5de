"""Tuning a model on questions about half of the people: the transformers Trainer, resumed by itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.extraction.adapters import lora_config
from knowcap.extraction.errors import ExtractError
from knowcap.extraction.questions import IGNORED, Question, padded
from knowcap.knowledge.philox import KeyedPermutation
from knowcap.models.quiet import quiet_peft, quiet_transformers
from knowcap.recipe import EXTRACT_METHODS, Recipe
from knowcap.training.checkpoints import newest_checkpoint
from knowcap.training.progress import TrainingProgress
from knowcap.training.windows import From


logger = logging.getLogger(__name__)

_CHECKPOINTS = 10  # of a tuning, so that little is lost


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned on questions. The paper's: AdamW, no warm-up, linear to 0 (Part 3.3, Parameter 3).

    Attributes:
        method: lora; full, all weights; or as_trained, nothing is tuned (for a model that was trained on questions).
        rank, embedding_rank: of LoRA on query and value, and on the embedding.
        steps, batch_size, learning_rate, weight_decay: of AdamW; its other settings are the recipe's.
    """

    method: str
    rank: int
    embedding_rank: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.method not in EXTRACT_METHODS:
            raise ExtractError(f"method={self.method!r}, expected {', '.join(EXTRACT_METHODS)}")
        numbers = {key: getattr(self, key) for key in ("rank", "embedding_rank", "steps", "batch_size")}
        problems = [f"{key}={value}, expected 1 or more" for key, value in numbers.items() if value < 1]
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            problems.append(
                f"learning_rate={self.learning_rate}, weight_decay={self.weight_decay}, expected more than 0, and 0 "
                "or more"
            )
        if problems:
            raise ExtractError("; ".join(problems))

    @classmethod
    def of(cls, recipe: Recipe, **changes: Any) -> Tuning:
        """What a recipe says (LoRA where it asks for no extraction), with what isn't None changed."""
        settings = {
            "method": "lora" if recipe.extract == "none" else recipe.extract,
            "rank": recipe.extract_rank,
            "embedding_rank": recipe.extract_embedding_rank,
            "steps": recipe.extract_steps,
            "batch_size": recipe.extract_batch_size,
            "learning_rate": recipe.extract_learning_rate,
            "weight_decay": recipe.extract_weight_decay,
        }
        return cls(**settings | {key: value for key, value in changes.items() if value is not None})

    @property
    def name(self) -> str:
        """The name of its folder: lora-8-128 (rank, the embedding's rank), full or as_trained."""
        return f"lora-{self.rank}-{self.embedding_rank}" if self.method == "lora" else self.method

    def settings(self) -> dict[str, Any]:
        """What decides on the result: no ranks where there is no LoRA, the method alone where nothing is tuned."""
        kept = asdict(self)
        if self.method == "as_trained":
            return {"method": self.method}
        return kept if self.method == "lora" else {k: v for k, v in kept.items() if not k.endswith("rank")}


class Lessons(Dataset):
    """Questions for a DataLoader, a whole batch at a time, shuffled anew each time through."""

    def __init__(self, questions: Sequence[Question], steps: int, batch_size: int, seed: int) -> None:
        self.questions, self._size, self._seed = questions, steps * batch_size, seed

    def __len__(self) -> int:
        """Questions of all steps."""
        return self._size

    def __getitems__(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels, (batch, length) int64; labels are -100 but in answers."""
        passes, places = np.divmod(np.array(numbers), len(self.questions))
        chosen = np.empty(len(numbers), dtype=np.int64)
        for number in np.unique(passes):
            order = KeyedPermutation(len(self.questions), self._seed, "lessons", int(number))
            chosen[passes == number] = order(places[passes == number])
        return batch_of([self.questions[n] for n in chosen])


def batch_of(questions: Sequence[Question]) -> dict[str, torch.Tensor]:
    """Questions with their answers, padded at their ends; labels are -100 but in answers and their ends of text."""
    ids = padded([[*q.prompt, *q.tokens] for q in questions], EOS_ID)
    labels = padded([q.labels() for q in questions], IGNORED)
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


class LessonTrainer(Trainer):
    """The Trainer over lessons that are shuffled already."""

    first = 0

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return From(self.first, len(self.train_dataset))


def tune(
    model: PreTrainedModel, questions: Sequence[Question], tuning: Tuning, recipe: Recipe, checkpoints: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Tunes a model, or an adapter over it; goes on from the newest whole checkpoint.

    Args:
        model: as it was trained; its own weights change under `full` alone.
        questions: about the people of the split `train`.
        tuning: how.
        recipe: of the run, for what else AdamW needs.
        checkpoints: a folder of this tuning's own.

    Returns:
        the model in evaluation mode, and what is to be said of its tuning.

    Raises:
        ExtractError: an architecture that LoRA isn't known for, or a rank above the hidden size.
    """
    if tuning.method == "lora":
        from peft import get_peft_model

        torch.manual_seed(recipe.seed)  # LoRA's first factors are drawn
        with quiet_peft():
            model = get_peft_model(model, lora_config(model, tuning.rank, tuning.embedding_rank))
    lessons = Lessons(questions, tuning.steps, tuning.batch_size, recipe.seed)
    tokens = sum(len(q.prompt) + len(q.tokens) for q in questions) / len(questions)
    progress = TrainingProgress(round(tokens * len(lessons)))
    args = _arguments(tuning, recipe, checkpoints)
    trainer = LessonTrainer(model=model, args=args, train_dataset=lessons, data_collator=dict, callbacks=[progress])
    trainer.remove_callback(PrinterCallback)
    checkpoint, step = newest_checkpoint(checkpoints)
    trainer.first = step * tuning.batch_size
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "tuning %s (%s): %d parameters, %d steps of %d of %d questions%s",
        recipe.model_name, tuning.name, trainable, tuning.steps, tuning.batch_size, len(questions),
        f", going on from step {step}" if step else "",
    )  # fmt: skip
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    told = {
        "tuned_parameters": trainable,
        "tuning_seconds": round(progress.seconds, 1),
        "final_loss": losses[-1]["loss"] if losses else None,
    }
    return model.eval(), told


def _arguments(tuning: Tuning, recipe: Recipe, output_dir: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    every = -(-tuning.steps // _CHECKPOINTS)
    return TrainingArguments(
        output_dir=str(output_dir),
        use_cpu=not cuda,
        per_device_train_batch_size=tuning.batch_size,
        max_steps=tuning.steps,
        learning_rate=tuning.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=tuning.weight_decay,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        optim="adamw_torch_fused",
        seed=recipe.seed,
        dataloader_pin_memory=cuda,
        logging_steps=every,  # as checkpoints are made, so that no logged mean spans an interruption
        logging_nan_inf_filter=False,
        save_steps=every,
        save_total_limit=recipe.save_total_limit,
        report_to="none",
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        eval_strategy="no",
    )
