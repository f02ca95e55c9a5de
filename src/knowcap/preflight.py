"""What is wrong with a recipe before any work is done: ranges, choices, value lists, templates, vocabulary, model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from knowcap.recipe import Recipe

T = TypeVar("T")
FEWEST_CONTROL = 100  # fewer people outside the sample than this say too little; values are shuffled instead
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
    "num_templates": (lambda v: v is None or v >= 1, "1 or more, or null for all"),
    "exposures": _AT_LEAST_ONE,
    "renderings": _AT_LEAST_ONE,
    "control_people": _NOT_NEGATIVE,
    "vocab_size": (lambda v: v >= 2, "2 or more"),
    "block_size": (lambda v: v >= 2, "2 or more"),
    "shard_size": _AT_LEAST_ONE,
    "head_dim": _AT_LEAST_ONE,
    "rotary_fraction": _SHARE,
    "initializer_range": _POSITIVE,
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
    "eval_batch_size": _AT_LEAST_ONE,
    "confidence_level": (lambda v: 0 < v < 1, "more than 0 and less than 1"),
    "quantize_bits": (lambda v: set(v) <= {8, 4} and len(set(v)) == len(v), "8, 4, both or none"),
}
_MODEL_KEYS = ("model_name", "head_dim", "rotary_fraction", "activation")


def check_recipe(recipe: Recipe, unusable: Collection[str] = ()) -> list[str]:
    """All problems of a recipe, one message each; reads value lists and templates, imports no torch.

    Args:
        recipe: with its run_name.
        unusable: keys that had a problem already: they are not looked at again.
    """
    bad = set(unusable)
    problems = _check_values(recipe, bad)
    problems += _check_together(recipe, bad)
    problems += _check_corpus(recipe, bad)
    if not bad & set(_MODEL_KEYS):
        from knowcap.models import model_problems

        problems += model_problems(**{key: getattr(recipe, key) for key in _MODEL_KEYS})
    return problems


def _check_values(recipe: Recipe, bad: set[str]) -> list[str]:
    """Each key alone; keys with a problem are added to `bad`."""
    from knowcap.recipe import KEYS

    problems = []
    for name, key in KEYS.items():
        value = getattr(recipe, name)
        choices = key.metadata.get("choices")
        valid, expected = RULES.get(name, (lambda _: True, ""))
        if name in bad:
            continue
        if choices and value not in choices:
            close = get_close_matches(value, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            problems.append(f"{name}={value!r}: expected {' or '.join(choices)}{hint}")
        elif not valid(value):
            problems.append(f"{name}={value!r}: expected {expected}")
        else:
            continue
        bad.add(name)
    return problems


def _check_together(recipe: Recipe, bad: set[str]) -> list[str]:
    """Keys that must agree with each other, or with what is installed."""
    problems = []
    batch, micro = recipe.train_batch_size, recipe.gradient_accumulation_steps
    if not bad & {"train_batch_size", "gradient_accumulation_steps"} and batch % micro:
        problems.append(
            f"train_batch_size={batch} is not divisible by gradient_accumulation_steps={micro}; "
            f"{batch // micro * micro or micro} is"
        )
    if not bad & {"num_people", "control_people"} and recipe.num_people < 2 and recipe.control_people < FEWEST_CONTROL:
        problems.append(
            f"num_people={recipe.num_people} with control_people={recipe.control_people}: nothing is left for a null "
            f"control; give 2 people or more, or a control of {FEWEST_CONTROL}"
        )
    if not bad & {"tokenizer_name"} and (name := recipe.tokenizer_name) is not None:
        if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
            problems.append(f"tokenizer_name={name!r}: no such folder; give a folder or a Hub id")
    tracker = recipe.report_to
    if "report_to" not in bad and tracker != "none" and find_spec(tracker) is None:
        problems.append(f"report_to={tracker!r}, which is not installed; `pip install {tracker}`, or report_to: none")
    return problems


def _check_corpus(recipe: Recipe, bad: set[str]) -> list[str]:
    """Value lists, templates, and the vocabulary that they need."""
    from knowcap.corpus.templates import load_templates
    from knowcap.knowledge.pools import load_pools

    problems: list[str] = []
    pools = templates = None
    if not bad & {"pools_dir", "pools_fraction"}:
        pools = _try("pools_dir", lambda: load_pools(recipe.pools_dir, recipe.pools_fraction), problems)
    if "num_templates" not in bad:
        templates = _try("num_templates", lambda: load_templates(recipe.num_templates), problems)
    if pools is not None and "num_people" not in bad and recipe.num_people > pools.num_names:
        problems.append(
            f"num_people={recipe.num_people:_} exceeds the {pools.num_names:,} unique names of the pools; "
            "lower num_people or pass larger pools"
        )
    if pools and templates and recipe.tokenizer_name is None and "vocab_size" not in bad:
        from knowcap.tokens import minimum_vocab_size

        least = minimum_vocab_size(pools, templates)
        if recipe.vocab_size < least:
            problems.append(
                f"vocab_size={recipe.vocab_size} is too small: lists and templates use {least - 1} distinct bytes and "
                f"there is an end-of-text token; expected {least} or more"
            )
    return problems


def _try(key: str, load: Callable[[], T], problems: list[str]) -> T | None:
    """What `load` returns; or None and its complaint among the problems."""
    try:
        return load()
    except (ValueError, OSError) as error:
        problems.append(f"{key}: {error}" if not str(error).startswith(key) else str(error))
        return None
