"""From a recipe to its corpus: the one module that knows all corpora."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from knowcap.corpus.base import Corpus
from knowcap.corpus.bios import BioS
from knowcap.corpus.junk import Junk
from knowcap.corpus.renderings import Variant
from knowcap.corpus.templates import load_templates
from knowcap.facts import Knowledge
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe


def corpus_of(recipe: Recipe, folder: Path | None = None, place: Path | None = None) -> Corpus:
    """The recipe's corpus.

    Args:
        recipe: one without problems.
        folder: of the data set of `dataset_name`; by default it is fetched.
        place: the folder for the token ids of published texts.

    Raises:
        CorpusError: lists, numbers or templates cannot be used.
        DatasetError, CorpusError, DatasetError: a data set that cannot be used.
    """
    if recipe.dataset_name is not None:
        return _corpus_of_dataset(recipe, folder, place)
    if recipe.corpus == "bioD":
        from knowcap.corpus.biod import biod_of

        return biod_of(recipe)
    if recipe.corpus == "morris":
        from knowcap.corpus.morris import morris_of

        return morris_of(recipe)
    if recipe.corpus == "table":
        from knowcap.corpus.table import table_of

        return table_of(recipe)
    pools = load_pools(recipe.pools_dir, recipe.pools_fraction, recipe.lists)
    people = People(pools, recipe.num_people, recipe.seed)
    variant = Variant(recipe.fixed_renderings, recipe.permute, recipe.full_name)
    junk = Junk(recipe.junk_people, recipe.domain_token, recipe.junk_tokens)
    return BioS(people, load_templates(recipe.num_templates, lists=pools.lists), variant, junk, recipe.questions)


def _corpus_of_dataset(recipe: Recipe, folder: Path | None, place: Path | None, limit: int | None = None) -> Corpus:
    from knowcap.dataset.importing import source_of
    from knowcap.dataset.published import Published
    from knowcap.dataset.recorded import recorded_corpus
    from knowcap.dataset.source import WHOLE

    folder = source_of(recipe).fetch(*WHOLE) if folder is None else folder
    if recipe.dataset_texts == "published":
        return cast(Corpus, Published(recipe, folder, place, limit))  # tokenized whole: WholeTexts in place of pieces
    return recorded_corpus(recipe, folder, limit)


def sample_of(recipe: Recipe, count: int) -> Corpus:
    """The recipe's corpus with its first people only, at most `count`. Raises the same errors as `corpus_of`."""
    if recipe.dataset_name is None:
        return corpus_of(replace(recipe, num_people=min(recipe.num_people, count)))
    from knowcap.dataset.importing import sample_folder, source_of

    return _corpus_of_dataset(recipe, sample_folder(recipe, source_of(recipe)), None, count)


def knowledge_of(recipe: Recipe) -> Knowledge:
    """The content of the recipe's knowledge.json; the people of a data set are not read, so how many of those that are
    left state an attribute is estimated where some are still to be held out.
    """
    if recipe.dataset_name is None:
        return corpus_of(recipe).knowledge()
    from knowcap.dataset.holdout import num_to_hold_out
    from knowcap.dataset.importing import source_of

    source = source_of(recipe)
    knowledge = source.knowledge()
    count = num_to_hold_out(recipe, knowledge, bool(source.paths("control/*.parquet")))
    left = knowledge.num_people - count
    attributes = tuple(
        a if a.stated is None else replace(a, stated=round(a.stated * left / knowledge.num_people))
        for a in knowledge.attributes
    )
    return replace(knowledge, num_people=left, attributes=attributes)
