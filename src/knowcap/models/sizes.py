"""A recipe's model for a vocabulary: its configuration, its number of parameters, and the widths that make a number.

Names family-L-H have closed forms, without torch; other configurations are built on the meta device, without memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any

from knowcap.models.architectures import (
    architecture,
    config_problems,
    fields_of,
    is_config,
    is_hub_id,
    snapshot_name,
    text_type,
)
from knowcap.models.configs import meta_model, model_config
from knowcap.models.counts import (
    closed_form_active_parameters,
    closed_form_parameters,
    count_active_parameters,
    count_parameters,
)
from knowcap.models.names import ModelError, model_problems, parse_model_name
from knowcap.models.registration import packages
from knowcap.models.widths import TOLERANCE, fit_widths
from knowcap.recipe import KEYS, ModelSection, section_keys


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from knowcap.recipe import Recipe

_TARGETS = ("num_parameters", "num_active_parameters")
_OF_NAMES = tuple(key for key in signature(model_config).parameters if key != "vocab_size")
_WIDEST = 2**20  # of a head


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: all, tied ones once; and those that one token passes through."""

    num_parameters: int
    num_active_parameters: int


def parameters_of(recipe: Recipe, vocab_size: int) -> Parameters:
    """The exact numbers of parameters of a recipe's model with `vocab_size` vocabulary rows; without torch for names
    family-L-H.

    Raises:
        ModelError: the model cannot be built, or no width makes its num_parameters.
    """
    return _parameters(_key(recipe), vocab_size)


def recipe_config(recipe: Recipe, vocab_size: int) -> PreTrainedConfig:
    """The configuration of a recipe's model with `vocab_size` vocabulary rows.

    Raises:
        ModelError: lists all problems at once.
    """
    return _config(_key(recipe), vocab_size)


def widths_of(recipe: Recipe, vocab_size: int) -> dict[str, int]:
    """The widths that num_parameters or num_active_parameters picks, by key; {} without them.

    Raises:
        ModelError: no width makes about as many parameters.
    """
    return dict(_widths(_key(recipe), vocab_size))


def architecture_problems(recipe: Recipe) -> list[str]:
    """The problems of the recipe's model, without its vocabulary; imports no torch for names family-L-H."""
    settings = {key: getattr(recipe, key) for key in section_keys(ModelSection)}
    given = [key for key in _TARGETS if settings[key] is not None]
    problems = [f"{' and '.join(given)} are both given; give one of them"] if len(given) > 1 else []
    if is_config(recipe.model_name):
        return problems + config_problems(settings)
    if recipe.model_config_overrides is not None:
        problems.append(
            KEYS["model_config_overrides"].no_effect(
                recipe.model_config_overrides, f"on model_name={recipe.model_name!r}, which is no config.json"
            )
        )
    if given and recipe.head_dim != KEYS["head_dim"].default:
        problems.append(
            f"head_dim={recipe.head_dim} and {given[0]}={settings[given[0]]}, which picks it; give one of them"
        )
    names: dict[str, Any] = {key: settings[key] for key in signature(model_problems).parameters}
    if not given:
        return problems + model_problems(**names)
    # A target picks head_dim: only problems that no width solves are the recipe's.
    changed: list[dict[str, Any]] = [names | {"head_dim": d} for d in range(1, 129)]
    return problems + min((model_problems(**one) for one in changed), key=len)


def hidden_size_of(recipe: Recipe) -> int | None:
    """The hidden size of a recipe's model, where its name and head_dim give it; None for other models."""
    if is_config(recipe.model_name) or any(getattr(recipe, key) is not None for key in _TARGETS):
        return None
    return parse_model_name(recipe.model_name).num_heads * recipe.head_dim


def shown_name(recipe: Recipe) -> str:
    """The name of a recipe's model on cards, plots and in tables: family-L-H, or a configuration's model_type."""
    return text_type(recipe.model_name) if is_config(recipe.model_name) else recipe.model_name


def description(recipe: Recipe, vocab_size: int) -> dict[str, Any]:
    """What training.json says of a recipe's model: its name, active parameters and, unless a name gives all of it, the
    configuration, the changes to it and the widths that were picked.
    """
    found: dict[str, Any] = {"model_name": shown_name(recipe)}
    found["num_active_parameters"] = parameters_of(recipe, vocab_size).num_active_parameters
    widths = widths_of(recipe, vocab_size)
    targets = {key: value for key in _TARGETS if (value := getattr(recipe, key)) is not None}
    if is_config(recipe.model_name):
        source = recipe.model_name if is_hub_id(recipe.model_name) else snapshot_name(recipe.model_name)
        changes = recipe.model_config_overrides or {}
        found["architecture"] = {"config": source, "overrides": changes, **targets, "widths": widths}
        found["architecture"] |= {"imports": list(packages())} if packages() else {}
    elif widths:
        found["architecture"] = {**targets, "widths": widths}
    return found


def describe_size(recipe: Recipe, vocab_size: int) -> str:
    """What a target picked and how near it is, such as `head_dim 10: 11,900 parameters, 0.8 % below num_parameters`;
    empty without a target.
    """
    widths = widths_of(recipe, vocab_size)
    if not widths:
        return ""
    target = next(key for key in _TARGETS if getattr(recipe, key) is not None)
    found = getattr(parameters_of(recipe, vocab_size), target)
    off = 100 * (found / getattr(recipe, target) - 1)
    near = f"{abs(off):.1f} % {'above' if off > 0 else 'below'}" if found != getattr(recipe, target) else "exactly"
    picked = ", ".join(f"{key} {value}" for key, value in widths.items())
    return f"{picked}: {found:,} parameters, {near} {target}"


def _key(recipe: Recipe) -> str:
    """What the model depends on besides the vocabulary, as text, so that it can be looked up."""
    settings = {key: getattr(recipe, key) for key in (*section_keys(ModelSection), "block_size")}
    return json.dumps(settings, default=str)


@lru_cache(maxsize=4096)
def _parameters(key: str, vocab_size: int) -> Parameters:
    settings = json.loads(key)
    if not is_config(settings["model_name"]):
        return _closed(settings | dict(_widths(key, vocab_size)), vocab_size)
    return _counted(_config(key, vocab_size))


def _counted(config: PreTrainedConfig) -> Parameters:
    model = meta_model(config)
    return Parameters(count_parameters(model).num_parameters, count_active_parameters(model))


def _closed(settings: dict[str, Any], vocab_size: int) -> Parameters:
    sizes = {"vocab_size": vocab_size, **{key: settings[key] for key in ("block_size", "head_dim")}}
    active = {"num_experts_per_tok": settings["num_experts_per_tok"]}
    name = settings["model_name"]
    return Parameters(closed_form_parameters(name, **sizes), closed_form_active_parameters(name, **sizes, **active))


def _config(key: str, vocab_size: int) -> PreTrainedConfig:
    settings, widths = json.loads(key), dict(_widths(key, vocab_size))
    if is_config(settings["model_name"]):
        named = (settings["model_name"], settings["model_config_overrides"])
        return architecture(*named, vocab_size, settings["block_size"], widths)
    return model_config(vocab_size=vocab_size, **{key: (settings | widths)[key] for key in _OF_NAMES})


@lru_cache(maxsize=4096)
def _widths(key: str, vocab_size: int) -> tuple[tuple[str, int], ...]:
    settings = json.loads(key)
    target = next((target for target in _TARGETS if settings[target] is not None), None)
    if target is None:
        return ()
    if not is_config(settings["model_name"]):
        return (("head_dim", _head_dim(settings, vocab_size, target)),)
    named = (settings["model_name"], settings["model_config_overrides"])

    def count(widths: dict[str, int]) -> int:
        return getattr(_counted(architecture(*named, vocab_size, settings["block_size"], widths)), target)

    return tuple(fit_widths(fields_of(*named), count, settings[target]).widths.items())


def _head_dim(settings: dict[str, Any], vocab_size: int, target: str) -> int:
    """The width of a head with which a named model comes nearest to its target."""
    wanted = settings[target]
    names: dict[str, Any] = {key: settings[key] for key in signature(model_problems).parameters}

    def count(head_dim: int) -> int:
        return getattr(_closed(settings | {"head_dim": head_dim}, vocab_size), target)

    def fits(head_dim: int) -> bool:
        changed: dict[str, Any] = {**names, "head_dim": head_dim}
        return not model_problems(**changed)

    low, high = 0, 1
    while high < _WIDEST and count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= wanted else (middle, high)
    possible = [d for d in range(max(1, high - 64), high + 65) if fits(d)]
    best = min(possible, key=lambda d: abs(count(d) - wanted), default=None)
    if best is None or abs(count(best) / wanted - 1) > TOLERANCE:
        near = ", ".join(
            f"{count(d):,} (head_dim {d})" for d in sorted(possible, key=lambda d: abs(count(d) - wanted))[:2]
        )
        raise ModelError(
            f"no head_dim of {settings['model_name']} makes about {target}={wanted:,}: the nearest are "
            f"{near or 'none'}; take another number of layers or heads, or, of gpt2-rotary, a larger rotary_fraction "
            "for finer steps"
        )
    return best
