"""What is wrong with a recipe that asks questions, before any work is done."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from knowcap.models import ModelError, parse_model_name
from knowcap.recipe import QA_KEYS


if TYPE_CHECKING:
    from knowcap.recipe import Recipe


_RANKS = ("extract_rank", "extract_embedding_rank")


def check_questions(recipe: Recipe, bad: Collection[str]) -> list[str]:
    """What asks, or is mixed with questions, where the vocabulary has none of their words; ranks that no matrix has.

    Args:
        recipe: of any corpus; others than bioS have no questions, which is told elsewhere.
        bad: keys that have a problem of their own.
    """
    unclear = {*QA_KEYS, "junk_people", "corpus"}.intersection(bad)
    if unclear or recipe.corpus != "bioS" or recipe.dataset_name is not None:
        return []
    problems, asks = [], {"qa_share": recipe.qa_share > 0, "extract": recipe.extract != "none"}
    if not recipe.questions:
        problems += [
            f"{key}={getattr(recipe, key)!r}, but the tokenizer has no words for questions; give questions: true too"
            for key, set_ in asks.items()
            if set_
        ]
    if recipe.extract == "lora" and not {"model_name", "head_dim", *_RANKS}.intersection(bad):
        problems += _check_ranks(recipe)
    if recipe.qa_share and recipe.junk_people:
        problems.append(
            f"qa_share={recipe.qa_share} and junk_people={recipe.junk_people}: training mixes biographies with one "
            "of them; leave one out"
        )
    return problems


def _check_ranks(recipe: Recipe) -> list[str]:
    """Ranks of LoRA that no matrix of the model has."""
    try:
        width = parse_model_name(recipe.model_name).num_heads * recipe.head_dim
    except ModelError:
        return []  # told with the model's own problems
    ranks = {key: getattr(recipe, key) for key in _RANKS}
    return [
        f"{key}={rank} exceeds the hidden size {width} of {recipe.model_name}; give {width} or less"
        for key, rank in ranks.items()
        if rank > width
    ]
