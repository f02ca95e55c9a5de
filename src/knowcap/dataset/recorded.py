"""The people of a data set folder as a corpus, rendered again at every exposure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from knowcap.corpus.base import Corpus
from knowcap.corpus.biod import BioD, biod_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.junk import Junk
from knowcap.corpus.renderings import Variant
from knowcap.corpus.sentences import Sentences, read_sentences
from knowcap.corpus.table import ENTITY_COLUMN, Table, check_vocabulary_is_known, limit_templates
from knowcap.corpus.templates import load_templates
from knowcap.dataset.head import POOLS, TEMPLATES, Head
from knowcap.facts import CorpusError, Knowledge
from knowcap.knowledge.people import People
from knowcap.knowledge.recorded import batches, read_people, read_values
from knowcap.knowledge.tuples import Column, Tuples
from knowcap.recipe import Recipe
from knowcap.sealed.parquet import rows_in


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

PUBLISHED = "use `dataset_texts: published`, which trains on its own texts"


class MismatchError(CorpusError):
    """The lists, templates and options at hand do not give the knowledge that the data set has."""


def recorded_corpus(recipe: Recipe, folder: Path, limit: int | None = None) -> Corpus:
    """The people of a data set folder, rendered by the recipe.

    Args:
        recipe: with a dataset_name; its seed is that of the renderings and their order.
        folder: with the head of the data set, and the people config.
        limit: read only this many rows of `people`, as a sample; a table is always read whole.

    Raises:
        CorpusError: these people cannot be rendered, or their config cannot be read.
        CorpusError: lists or templates cannot be used.
    """
    head = Head.of(folder)
    files = sorted((folder / "people").glob("train-*.parquet"))
    if not files:
        raise CorpusError(f"{folder} has no people/train-*.parquet, so its people cannot be rendered; {PUBLISHED}")
    corpus = vocabulary_corpus(recipe, head)
    if isinstance(corpus, BioS):
        people = read_people(files, corpus.people.pools, head.knowledge, recipe.seed, limit)
        return BioS(people, corpus.templates, corpus.variant, corpus.junk)
    if isinstance(corpus, BioD):
        return RecordedBioD(files, corpus, head, limit)
    table = computed_table(recipe, folder)
    check_matches(table.computed(), head.knowledge)
    return table


def computed_table(recipe: Recipe, folder: Path) -> RecordedTable:
    """The entities of a table's data set folder, and what follows from them, whatever its knowledge.json has.

    Raises:
        CorpusError: they cannot be rendered.
    """
    files = sorted((folder / "people").glob("train-*.parquet"))
    sentences = _sentences(recipe, folder)
    outsiders = sorted((folder / "people").glob("control-*.parquet"))
    tuples = _tuples([*files, *outsiders], sentences)
    check_vocabulary_is_known(tuples, sentences, recipe)
    held_out = sum(rows_in(file) for file in outsiders)
    return RecordedTable(tuples, sentences, recipe, Head.of(folder).knowledge, held_out)


def vocabulary_corpus(recipe: Recipe, head: Head) -> Corpus | None:
    """A corpus of the same lists, templates and form with one person in it; None for a table.

    Raises:
        MismatchError: knowcap cannot render this data set, or would give other knowledge.
        CorpusError: lists or templates cannot be used.
    """
    knowledge, original = head.knowledge, head.recipe
    if head.kind is None or original is None:
        why = (
            f"its recipe.yaml has corpus: {original.corpus}"
            if original
            else "it has no recipe.yaml that knowcap can read"
        )
        raise MismatchError(
            f"data set {knowledge.name!r} cannot be rendered again: {why}, and knowcap renders bioS, bioD and "
            f"tables; {PUBLISHED}"
        )
    if head.kind == "table":
        return None
    pools = head.pools()
    no_pools = MismatchError(f"data set {knowledge.name!r} lacks {POOLS}/ with its value lists; {PUBLISHED}")
    if head.kind == "bioD":
        if pools is None and not original.compact:
            raise no_pools
        domain = knowledge.text_prefix.rstrip() or None
        one = replace(original, num_people=1, junk_people=0, junk_tokens=0, domain_token=domain, seed=recipe.seed)
        biod = biod_of(replace(one, tokenizer_name=recipe.tokenizer_name), pools)
        check_matches(biod.knowledge(), knowledge)
        return biod
    if pools is None:
        raise no_pools
    variant = Variant(recipe.fixed_renderings, recipe.permute, recipe.full_name)
    domain = Junk(domain_token=knowledge.text_prefix.rstrip() or None)
    bios = BioS(
        People(pools, 1, recipe.seed), load_templates(recipe.num_templates, lists=pools.lists), variant, domain
    )
    has_gender = "pronoun" in [a.name for a in knowledge.attributes]
    if has_gender == recipe.full_name:
        raise MismatchError(
            f"full_name={recipe.full_name}, but data set {knowledge.name!r} has "
            f"{'a gender, which pronouns state' if has_gender else 'no gender, since its texts have no pronouns'}; "
            f"give full_name: {'false' if has_gender else 'true'}"
        )
    check_matches(bios.knowledge(), knowledge)
    return bios


def check_matches(ours: Knowledge, recorded: Knowledge) -> None:
    """Raises MismatchError if texts that are rendered now would have other knowledge than the data set's.

    The people and their number may differ.
    """
    ours = replace(ours, num_people=recorded.num_people, seed=recorded.seed, diversity_terms=recorded.diversity_terms)
    if ours.version != recorded.version:
        raise MismatchError(
            f"data set {recorded.name!r} has version {recorded.version} of lists and templates, this knowcap has "
            f"{ours.version}; use the knowcap that made it, or {PUBLISHED.removeprefix('use ')}"
        )
    names = [f.name for f in fields(Knowledge)]
    differing = [name for name in names if getattr(ours, name) != getattr(recorded, name)]
    if differing:
        name = differing[0]
        raise MismatchError(
            f"data set {recorded.name!r}: its knowledge.json has {name}={getattr(recorded, name)!r}, its lists and "
            f"people make {getattr(ours, name)!r}; correct one of them, or {PUBLISHED}"
        )


def same_terms(ours: Sequence[dict[str, Any]], recorded: Sequence[dict[str, Any]]) -> bool:
    """Whether diversity terms are the same, their bits up to rounding."""
    bits = [[float(term["log2_candidates"]) for term in terms] for terms in (ours, recorded)]
    rest = [[term | {"log2_candidates": 0.0} for term in terms] for terms in (ours, recorded)]
    return rest[0] == rest[1] and all(map(math.isclose, *bits))


class RecordedBioD(BioD):
    """bioD with the names and values of a data set."""

    @property
    def num_outsiders(self) -> int:
        """None: only the recorded people exist."""
        return 0

    def __init__(self, files: Sequence[Path], biod: BioD, head: Head, limit: int | None = None) -> None:
        """Reads the people config. Raises CorpusError if it has another shape than `biod`."""
        diversity, codes = read_values(
            files, biod.diversity, biod.name_lists, biod.symbols, head.knowledge.num_people, compact=biod.compact,
            limit=limit,
        )  # fmt: skip
        super().__init__(diversity, len(codes), biod.pools, biod.junk)
        self._codes = codes
        if limit is None:
            credited = replace(self.knowledge(), seed=head.knowledge.seed)
            if not same_terms(credited.diversity_terms, head.knowledge.diversity_terms):
                raise CorpusError(
                    f"data set {head.knowledge.name!r}: the diversity terms of knowledge.json do not fit the "
                    f"people config; correct one of them, or {PUBLISHED}"
                )
        self._knowledge = head.knowledge

    def _name_codes(self, persons: np.ndarray) -> np.ndarray:
        return self._codes[persons]


class RecordedTable(Table):
    """A table with the entities and facts of a data set."""

    def __init__(
        self, tuples: Tuples, sentences: Sentences, recipe: Recipe, recorded: Knowledge, num_outsiders: int
    ) -> None:
        super().__init__(
            tuples,
            sentences,
            seed=recipe.seed,
            name=recorded.name,
            version=recorded.version,
            num_outsiders=num_outsiders,
        )
        self._recorded = recorded

    def computed(self) -> Knowledge:
        """The knowledge that follows from these facts."""
        return super().knowledge()

    def knowledge(self) -> Knowledge:
        """The data set's knowledge.json."""
        return self._recorded


def _sentences(recipe: Recipe, folder: Path) -> Sentences:
    """The templates of a data set of a table."""
    sentences, problems = read_sentences(folder / TEMPLATES)
    if problems:
        raise CorpusError(*problems)
    return limit_templates(sentences, recipe.num_templates, folder / TEMPLATES)


def _tuples(files: Sequence[Path], sentences: Sentences) -> Tuples:
    """The facts of a table's people config, entities in its order."""
    names = list(sentences.attributes)
    read = pa.Table.from_batches(batches(files, (ENTITY_COLUMN, *names)))
    entities = tuple(read.column(ENTITY_COLUMN).cast(pa.string()).to_pylist())
    if len(set(entities)) != len(entities) or None in entities:
        raise CorpusError("people: an entity is listed twice, or has no name; remove it")
    columns = {}
    for name in names:
        values = pc.cast(read.column(name).combine_chunks(), pa.string())
        distinct = sorted({value for value in values.unique().to_pylist() if value is not None})
        if distinct:
            codes = pc.fill_null(pc.index_in(values, value_set=pa.array(distinct, pa.string())), -1).to_numpy()
            columns[name] = Column(tuple(distinct), codes.astype(np.int32))
    return Tuples(entities, columns)
