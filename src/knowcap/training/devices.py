"""What a recipe asks of the machine: processes that can share its batch, and a GPU where it needs one."""

from __future__ import annotations

from knowcap.recipe import Recipe


def machine_problems(recipe: Recipe, world_size: int = 1, fsdp: bool = False) -> list[str]:
    """Why training cannot start on this machine as asked; imports torch.

    Args:
        recipe: one without problems of its own.
        world_size: processes, over all machines.
        fsdp: whether they would shard the model.
    """
    import torch

    problems = []
    cuda = torch.cuda.is_available()
    if fsdp and not cuda:
        problems.append(
            "FSDP was asked for, but there is no GPU: on a CPU it silently trains as plain DDP; "
            "use the accelerate configuration cpu_2"
        )
    if recipe.precision == "fp16" and not cuda:
        problems.append("precision: fp16 needs a GPU, but none was found; use fp32 or bf16")
    share = world_size * recipe.gradient_accumulation_steps
    if recipe.train_batch_size % share:
        problems.append(
            f"train_batch_size={recipe.train_batch_size} windows cannot be shared by {world_size} processes x "
            f"{recipe.gradient_accumulation_steps} accumulation steps; give a multiple of {share}"
        )
    return problems
