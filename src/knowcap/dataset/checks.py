"""The checks of a recipe's data set that its small files allow, before any work is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from knowcap.corpus.tokenizer import SMALLEST_OF_ANY_TEXT, check_vocabulary
from knowcap.dataset.head import Head
from knowcap.dataset.holdout import num_to_hold_out
from knowcap.dataset.importing import has_held_out, sample_folder, source_of
from knowcap.dataset.published import NEEDS_TOKENIZER, original_corpus
from knowcap.dataset.recorded import recorded_corpus, vocabulary_corpus
from knowcap.dataset.source import HEAD, Source, find_source
from knowcap.facts import CorpusError, Knowledge
from knowcap.recipe import KEYS, RENDERING_KEYS


if TYPE_CHECKING:
    from knowcap.recipe import Recipe


def check_source(recipe: Recipe) -> list[str]:
    """The problems of a recipe's data set at its source, even if the run has a copy."""
    if recipe.dataset_name is None:
        return []
    try:
        return check_dataset(recipe, set(), find_source(recipe.dataset_name, recipe.dataset_revision))
    except ValueError as error:
        return [str(error)]


def check_dataset(recipe: Recipe, bad: set[str], source: Source | None = None) -> list[str]:
    """All problems of a recipe with its `dataset_name`; of a repo on the Hub, only small files are fetched.

    Args:
        recipe: with a dataset_name.
        bad: keys that had a problem already.
        source: where the data set is read; by default the run's own copy, if there is one.
    """
    if bad & {"dataset_name", "dataset_revision", "dataset_texts", "seed"}:
        return []
    try:
        source = source or source_of(recipe)
        head = Head.of(source.fetch(*HEAD, quiet=True))
        held_out_before = source.commit is None and has_held_out(source.folder)  # the run's own copy
        has_control = bool(source.paths("control/*.parquet")) and not held_out_before
        problems = _check_keys(recipe, head, bad, has_control)
        if bad.intersection(RENDERING_KEYS):
            return problems
        check = _check_published if recipe.dataset_texts == "published" else _check_online
        if head.kind == "table":  # its vocabulary is made of its facts
            head = replace(head, folder=sample_folder(recipe, source))
        return problems + check(recipe, head, bad)
    except CorpusError as error:
        return error.problems
    except (ValueError, OSError) as error:
        return [str(error)]


def _check_holdout(recipe: Recipe, knowledge: Knowledge, has_control: bool) -> list[str]:
    """A share of entities that cannot be held out, or has no effect beside a control of the data set's own."""
    if has_control:
        why = f"on data set {knowledge.name!r}, which has its own null control (config control)"
        return [KEYS["holdout_entities"].no_effect(recipe.holdout_entities, why)]
    try:
        num_to_hold_out(recipe, knowledge, has_control)
    except CorpusError as error:
        return error.problems
    return []


def _check_keys(recipe: Recipe, head: Head, bad: set[str], has_control: bool) -> list[str]:
    """Keys that contradict the data set, or have no effect on it."""
    kind, name = head.kind, head.knowledge.name
    made_as = kind or name
    problems = []
    if "corpus" not in bad and recipe.corpus not in (KEYS["corpus"].default, made_as):
        problems.append(
            f"corpus={recipe.corpus!r}, but dataset_name={recipe.dataset_name!r} is {made_as}; leave it out"
        )
    if recipe.holdout_entities is not None and "holdout_entities" not in bad:
        problems += _check_holdout(recipe, head.knowledge, has_control)
    if recipe.dataset_texts == "published":
        return problems
    unused = [key for key in RENDERING_KEYS if kind in ("bioD", "table") and kind not in KEYS[key].corpora]
    return problems + [
        KEYS[key].no_effect(value, f"on data set {name!r}, which is {kind}")
        for key in unused
        if key not in bad and (value := getattr(recipe, key)) != KEYS[key].default
    ]


def _check_online(recipe: Recipe, head: Head, bad: set[str]) -> list[str]:
    """Whether new texts of its people can be generated, and the vocabulary that this needs."""
    corpus = vocabulary_corpus(recipe, head)
    if corpus is None:
        corpus = recorded_corpus(recipe, head.folder)
    own = head.recipe is not None and head.recipe.compact
    if own or recipe.tokenizer_name is not None or "vocab_size" in bad:
        return []
    return check_vocabulary(recipe.vocab_size, corpus.vocabulary_texts())


def _check_published(recipe: Recipe, head: Head, bad: set[str]) -> list[str]:
    """The vocabulary that its texts need."""
    ours, pools = original_corpus(recipe, head), head.pools()
    if recipe.tokenizer_name is not None or "vocab_size" in bad:
        return []
    if ours is not None:
        return (
            []
            if head.recipe is not None and head.recipe.compact
            else check_vocabulary(recipe.vocab_size, ours.vocabulary_texts())
        )
    if pools is None:
        return [NEEDS_TOKENIZER.format(name=head.knowledge.name)]
    if recipe.vocab_size < SMALLEST_OF_ANY_TEXT:
        return [
            f"vocab_size={recipe.vocab_size} is too small: texts of data set {head.knowledge.name!r} may have any "
            f"byte; expected {SMALLEST_OF_ANY_TEXT} or more"
        ]
    return []
