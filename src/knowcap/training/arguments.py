"""TrainingArguments of a recipe, and the requirements of a recipe that this machine does not meet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.models.devices import launch_problems, unused_gpus, uses_gpu
from knowcap.recipe import Recipe
from knowcap.recipe.optimizer import MUON


if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)


def training_arguments(recipe: Recipe, output_dir: Path, **settings: Any) -> TrainingArguments:
    """The arguments that training and tuning share, for this machine, and the `settings` that differ.

    A process without a launcher is held to one GPU: the Trainer would wrap the model in DataParallel on all visible
    ones, and multiply the batch by their number. Precision and compilation are the recipe's, whatever the launcher's
    configuration or the environment says.

    Args:
        recipe: gives AdamW's settings, the precision, the seed and the number of kept checkpoints.
        output_dir: the folder of the checkpoints.
        settings: further TrainingArguments, such as max_steps, learning_rate and optim (by default fused AdamW).
    """
    from transformers import TrainingArguments

    cuda = uses_gpu()
    args = TrainingArguments(
        output_dir=str(output_dir),
        use_cpu=not cuda,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        tf32=False,  # else torch_compile turns it on for the whole process, for scoring in float32 too
        seed=recipe.seed,
        dataloader_pin_memory=cuda,
        logging_nan_inf_filter=False,
        save_total_limit=recipe.save_total_limit,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        eval_strategy="no",
        **(dict[str, Any](optim="adamw_torch_fused") | settings),
    )
    args.mixed_precision = "no" if recipe.precision == "fp32" else recipe.precision
    if not args.torch_compile:
        args.torch_compile_backend = "no"
    if unused := unused_gpus(args.device):
        logger.info(unused)
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def machine_problems(recipe: Recipe, world_size: int = 1, fsdp: bool = False) -> list[str]:
    """The reasons why this machine cannot train the recipe; imports torch.

    Args:
        recipe: a recipe without other problems.
        world_size: number of processes, over all machines.
        fsdp: whether they would shard the model.
    """
    problems = []
    cuda = uses_gpu()
    if fsdp and not cuda:
        problems.append(
            "FSDP needs a GPU, but there is no GPU: on a CPU it silently trains as plain DDP; "
            "use the accelerate configuration cpu_2"
        )
    else:
        problems += launch_problems()
    if fsdp and recipe.optimizer == MUON:
        problems.append(
            "optimizer: muon makes updates of whole matrices, but FSDP divides them among processes; use the "
            "accelerate configuration multi_gpu, or optimizer: adamw_torch_fused"
        )
    if fsdp and recipe.fake_quantization_bits is not None:
        problems.append(
            f"fake_quantization_bits={recipe.fake_quantization_bits} rounds whole matrices, but FSDP divides them "
            "among processes; use the accelerate configuration multi_gpu"
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
