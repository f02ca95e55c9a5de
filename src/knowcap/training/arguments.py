"""TrainingArguments of a recipe, and the requirements of a recipe that this machine does not meet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.recipe import Recipe


if TYPE_CHECKING:
    from transformers import TrainingArguments


def training_arguments(recipe: Recipe, output_dir: Path, **settings: Any) -> TrainingArguments:
    """The arguments that training and tuning share, for this machine, and the `settings` that differ.

    Args:
        recipe: gives AdamW's settings, the precision, the seed and the number of kept checkpoints.
        output_dir: the folder of the checkpoints.
        settings: further TrainingArguments, such as max_steps and learning_rate.
    """
    import torch
    from transformers import TrainingArguments

    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(output_dir),
        use_cpu=not cuda,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        optim="adamw_torch_fused",
        seed=recipe.seed,
        dataloader_pin_memory=cuda,
        logging_nan_inf_filter=False,
        save_total_limit=recipe.save_total_limit,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        eval_strategy="no",
        **settings,
    )


def machine_problems(recipe: Recipe, world_size: int = 1, fsdp: bool = False) -> list[str]:
    """The reasons why this machine cannot train the recipe; imports torch.

    Args:
        recipe: a recipe without other problems.
        world_size: number of processes, over all machines.
        fsdp: whether they would shard the model.
    """
    import torch

    problems = []
    cuda = torch.cuda.is_available()
    if fsdp and not cuda:
        problems.append(
            "FSDP needs a GPU, but there is no GPU: on a CPU it silently trains as plain DDP; "
            "use the accelerate configuration cpu_2"
        )
    if recipe.precision == "fp16" and not cuda:
        problems.append("precision: fp16 needs a GPU, but none was found; use fp32 or bf16")
    share = world_size * recipe.gradient_accumulation_steps
    if recipe.train_batch_size % share:
        problems.append(
            f"train_batch_size={recipe.train_batch_size} windows cannot be divided among {world_size} processes x "
            f"{recipe.gradient_accumulation_steps} accumulation steps; give a multiple of {share}"
        )
    return problems
