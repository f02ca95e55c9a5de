"""The keys of the optimizer and of the learning rate's schedule, by the names of transformers' Trainer, and Muon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from knowcap.recipe.keys import NOT_NEGATIVE, POSITIVE, Condition, Range, key_field, nearest


MUON, WSD = "muon", "warmup_stable_decay"
_ADAMW = ("adamw_torch_fused", "adamw_torch", MUON)  # Muon's other parameters have AdamW
OPTIMIZERS = (*_ADAMW, "adafactor", "adagrad", "rmsprop", "sgd")
# The settings that the Trainer reads from optim_args; weight_decay is a key of the recipe.
OPTIM_ARGS = {
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    "sgd": ("momentum", "dampening", "nesterov"),
}
_WITH_MINIMUM = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", WSD)
SCHEDULES = (*_WITH_MINIMUM, "cosine", "linear", "inverse_sqrt", "constant_with_warmup", "constant")


def _refused() -> dict[str, str]:
    """Why the Trainer's other optimizers cannot be used."""
    packages = {
        "bitsandbytes": "adamw_bnb_8bit adamw_8bit ademamix ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit "
        "paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop_bnb "
        "rmsprop_bnb_8bit rmsprop_bnb_32bit",
        "torchao": "adamw_torch_4bit adamw_torch_8bit",
        "torch_xla": "adamw_torch_xla",
        "torch_npu": "adamw_torch_npu_fused",
        "torchdistx": "adamw_anyprecision",
        "galore_torch": "galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise "
        "galore_adamw_8bit_layerwise galore_adafactor_layerwise",
        "apollo_torch": "apollo_adamw apollo_adamw_layerwise",
        "lomo_optim": "lomo adalomo",
        "grokadamw": "grokadamw",
        "schedulefree": "schedule_free_radam schedule_free_adamw schedule_free_sgd",
        "torch-optimi": "stable_adamw",
    }
    return {
        name: f"it needs the package {package}, which knowcap does not use"
        for package, names in packages.items()
        for name in names.split()
    }


REFUSED_OPTIMIZERS = _refused()
REFUSED_SCHEDULES = {
    "reduce_lr_on_plateau": "it needs an evaluation during training, and a resumed run would differ",
    "greedy": "it needs an evaluation during training, and a resumed run would differ",
    "cosine_with_restarts": "its number of cycles is no key of a recipe; with one cycle it is cosine",
    "polynomial": "its power and end are no keys of a recipe; with the Trainer's it is linear",
}

_OTHER_NAMES = {
    "adamw": "the Trainer's name of it is adamw_torch_fused",
    "wsd": f"the Trainer's name of it is {WSD}",
}

_key = partial(key_field, shapes="training")
_BETA = Range(lambda v: 0 <= v < 1, "at least 0 and less than 1")


def _used(
    holds: Callable[[Any], bool], otherwise: str, keys: tuple[str, ...], default: Any, text: str, **metadata: Any
) -> Any:
    """A key that has an effect where `holds`; a recipe whose base sets it can set it back to its default elsewhere."""
    condition = Condition(holds, f"{otherwise} (its default, {default}, is accepted)", keys)
    return _key(default, text, used_with=(condition,), **metadata)


_adamw_key = partial(
    _used,
    lambda recipe: recipe.optimizer in _ADAMW or recipe.extract != "none",
    "with optimizer: {optimizer}",
    ("optimizer", "extract"),
)
_muon_key = partial(_used, lambda recipe: recipe.optimizer == MUON, "without optimizer: muon", ("optimizer",))
_schedule = ("lr_scheduler_type",)
_wsd_key = partial(
    _used, lambda recipe: recipe.lr_scheduler_type == WSD, f"without lr_scheduler_type: {WSD}", _schedule
)


@dataclass(frozen=True, kw_only=True)
class OptimizerSection:
    """Optimizer and learning rate"""

    optimizer: str = _key(
        "adamw_torch_fused",
        "by the Trainer's name, or muon: torch's Muon for the matrices of the blocks, AdamW for the rest",
        choices=OPTIMIZERS,
        refused=REFUSED_OPTIMIZERS | _OTHER_NAMES,
    )
    learning_rate: float = _key(1e-3, "peak learning rate", range=POSITIVE)
    lr_scheduler_type: str = _key(
        "cosine_with_min_lr",
        "schedule, by the Trainer's name",
        choices=SCHEDULES,
        refused=REFUSED_SCHEDULES | _OTHER_NAMES,
    )
    min_learning_rate_ratio: float = _used(
        lambda recipe: recipe.lr_scheduler_type in _WITH_MINIMUM,
        "with lr_scheduler_type: {lr_scheduler_type}",
        _schedule,
        0.1,
        "the cosine, or the decay of warmup_stable_decay, ends at this share of the peak",
        range=Range(lambda v: 0 <= v <= 1, "0 to 1"),
    )
    warmup_steps: int = _used(
        lambda recipe: recipe.lr_scheduler_type != "constant",
        "with lr_scheduler_type: constant, unlike constant_with_warmup",
        _schedule,
        1000,
        "steps of linear warm-up",
        range=NOT_NEGATIVE,
    )
    learning_rate_decay_share: float = _wsd_key(
        0.2,
        "warmup_stable_decay: share of all steps in which the learning rate falls, at the end",
        range=Range(lambda v: 0 < v <= 1, "more than 0 and at most 1"),
    )
    learning_rate_decay_type: str = _wsd_key(
        "linear", "warmup_stable_decay: how it falls", choices=("linear", "cosine", "1-sqrt")
    )
    weight_decay: float = _key(0.02, "weight decay, of the matrices only", range=NOT_NEGATIVE)
    adam_beta1: float = _adamw_key(0.9, "beta 1 of AdamW", range=_BETA)
    adam_beta2: float = _adamw_key(0.999, "beta 2 of AdamW", range=_BETA)
    adam_epsilon: float = _adamw_key(1e-8, "epsilon of AdamW", range=POSITIVE)
    muon_learning_rate: float | None = _muon_key(
        None,
        "peak learning rate of Muon's matrices; default: learning_rate, as their updates are scaled to AdamW's size",
        range=Range(lambda v: v is None or v > 0, "more than 0, or null for learning_rate"),
    )
    muon_momentum: float = _muon_key(0.95, "Nesterov momentum of Muon", range=_BETA)
    optim_args: str | None = _used(
        lambda recipe: recipe.optimizer in OPTIM_ARGS,
        f"without optimizer: {' or '.join(OPTIM_ARGS)}",
        ("optimizer",),
        None,
        "further settings, such as momentum=0.9,nesterov=true",
    )
    max_grad_norm: float = _key(1.0, "gradient clipping; 0 is off", range=NOT_NEGATIVE)


def optim_args_problems(optimizer: str, optim_args: str | None) -> list[str]:
    """The problems of `optim_args`: `name=value` with commas between, of the names that the optimizer reads."""
    known = OPTIM_ARGS.get(optimizer, ())
    if optim_args is None or not known:
        return []
    problems = []
    for part in optim_args.replace(" ", "").split(","):
        name, equals, value = part.partition("=")
        flag = name in ("nesterov", "centered")
        if name not in known or not equals:
            hint = nearest(name, known)
            problems.append(f"optim_args: got {part!r}, expected {' or '.join(f'{n}=…' for n in known)}{hint}")
        elif flag and value not in ("true", "false"):
            problems.append(f"optim_args: {name}={value}, expected true or false")
        elif not flag and not _is_number(value):
            problems.append(f"optim_args: {name}={value}, expected a number of 0 or more")
    return problems


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False
