"""The optimizer and the learning rate's schedule of a recipe, as the Trainer takes them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from knowcap.recipe import KEYS, Recipe
from knowcap.recipe.optimizer import MUON, WSD


if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, TrainingArguments

logger = logging.getLogger(__name__)


def optimizer_arguments(recipe: Recipe) -> dict[str, Any]:
    """TrainingArguments of the optimizer and the schedule; what depends on the number of steps is set later."""
    return {
        "optim": KEYS["optimizer"].default if recipe.optimizer == MUON else recipe.optimizer,
        "optim_args": recipe.optim_args,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "warmup_steps": recipe.warmup_steps,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "lr_scheduler_kwargs": schedule_settings(recipe, 1),
    }


def muon_of(recipe: Recipe) -> tuple[Any, dict[str, Any]] | None:
    """The Trainer's `optimizer_cls_and_kwargs` for Muon; None for its own optimizers."""
    if recipe.optimizer != MUON:
        return None
    from knowcap.training.muon import muon_with_adamw

    settings = {
        "learning_rate": recipe.learning_rate,
        "muon_learning_rate": recipe.muon_learning_rate or recipe.learning_rate,
        "momentum": recipe.muon_momentum,
        "weight_decay": recipe.weight_decay,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
    }
    return lambda: muon_with_adamw, settings


def optimizer_of(recipe: Recipe, model: PreTrainedModel) -> Optimizer:
    """The optimizer alone, to time its update: Muon, or else AdamW."""
    import torch

    muon = muon_of(recipe)
    return torch.optim.AdamW(model.parameters(), fused=True) if muon is None else muon[0]()(model, **muon[1])


def set_steps(args: TrainingArguments, recipe: Recipe, num_steps: int) -> None:
    """Sets the number of steps, and what of the schedule depends on it; warns if the learning rate cannot fall."""
    args.max_steps = num_steps
    args.lr_scheduler_kwargs = schedule_settings(recipe, num_steps)
    if recipe.optimizer == MUON:
        args.optim = MUON  # for trackers; the Trainer reads it for its own optimizers alone
    if recipe.lr_scheduler_type == "constant":
        return
    if recipe.warmup_steps >= num_steps:
        logger.warning("warmup_steps=%d covers all %d steps: no decay", recipe.warmup_steps, num_steps)
    elif recipe.lr_scheduler_type == WSD and recipe.warmup_steps + _falling(recipe, num_steps) > num_steps:
        logger.warning(
            "warmup_steps=%d and learning_rate_decay_share=%g together exceed all %d steps: the decay has the last %d",
            recipe.warmup_steps, recipe.learning_rate_decay_share, num_steps, num_steps - recipe.warmup_steps,
        )  # fmt: skip


def schedule_settings(recipe: Recipe, num_steps: int) -> dict[str, Any]:
    """The Trainer's `lr_scheduler_kwargs`.

    Its warmup_stable_decay rises from min_learning_rate_ratio of the peak, the others from 0.
    """
    if recipe.lr_scheduler_type.endswith("with_min_lr"):
        return {"min_lr_rate": recipe.min_learning_rate_ratio}
    if recipe.lr_scheduler_type != WSD:
        return {}
    return {
        "num_decay_steps": min(_falling(recipe, num_steps), max(0, num_steps - recipe.warmup_steps)),
        "decay_type": recipe.learning_rate_decay_type,
        "min_lr_ratio": recipe.min_learning_rate_ratio,
    }


def _falling(recipe: Recipe, num_steps: int) -> int:
    return round(recipe.learning_rate_decay_share * num_steps)


def unusual_settings(recipe: Recipe) -> dict[str, Any]:
    """Optimizer, schedule, fake quantization and order of windows, where they are not the default, by recipe key."""
    found: dict[str, Any] = {}
    if recipe.optimizer != KEYS["optimizer"].default:
        found["optimizer"] = recipe.optimizer
        if recipe.optimizer == MUON:
            found["muon_learning_rate"] = recipe.muon_learning_rate or recipe.learning_rate
            found["muon_momentum"] = recipe.muon_momentum
        elif recipe.optim_args is not None:
            found["optim_args"] = recipe.optim_args
    if recipe.lr_scheduler_type != KEYS["lr_scheduler_type"].default:
        found["lr_scheduler_type"] = recipe.lr_scheduler_type
        if recipe.lr_scheduler_type == WSD:
            found |= {key: getattr(recipe, key) for key in ("learning_rate_decay_share", "learning_rate_decay_type")}
    if recipe.fake_quantization_bits is not None:
        found |= {key: getattr(recipe, key) for key in ("fake_quantization_bits", "fake_quantization_start")}
    if recipe.train_sampling_strategy != KEYS["train_sampling_strategy"].default:
        found["train_sampling_strategy"] = recipe.train_sampling_strategy
    return found
