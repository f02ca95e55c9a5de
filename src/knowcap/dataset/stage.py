"""The knowledge stage: from a recipe to its data set folder."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.candidates import candidate_rows
from knowcap.corpus.questions import HasQuestions, num_train_people, split_order
from knowcap.corpus.table import Table as TableCorpus
from knowcap.dataset.card import dataset_card
from knowcap.dataset.contract import check_contract
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import DatasetError, Table, candidate_batch, read_knowledge, text_batch, write_folder
from knowcap.dataset.head import write_lists
from knowcap.dataset.importing import import_dataset
from knowcap.facts import MIN_CONTROL, Knowledge
from knowcap.files import KNOWLEDGE_FILE
from knowcap.recipe import Recipe


_SHOWN = 200  # characters of a difference in a message


def build(recipe: Recipe, run_dir: Path, num_proc: int = 1) -> Path:
    """Makes `run_dir/knowledge`, unless it exists: people, their first renderings, questions, the null control; or a
    copy of the data set that the recipe names.

    Raises:
        DatasetError: the data set cannot be fetched.
        CorpusError: the recipe's lists, templates or tokenizer cannot be used.
        FactError: a table's texts break the contract of data sets.
    """
    folder = run_dir / "knowledge"
    if recipe.dataset_name is not None:
        return import_dataset(recipe, folder)
    if (folder / KNOWLEDGE_FILE).is_file():
        check_knowledge(folder, corpus_of(recipe).knowledge())
        return folder
    write(recipe, folder, num_proc)
    if recipe.corpus == "table":  # a user's facts and sentences
        check_contract(folder, read_knowledge(folder))
    return folder


def write(recipe: Recipe, folder: Path, num_proc: int = 1) -> Path:
    """Makes a data set folder, whole or not at all; the files do not depend on `num_proc`.

    Raises:
        CorpusError: the recipe's lists, templates or tokenizer cannot be used.
    """
    corpus = corpus_of(recipe)
    card = partial(dataset_card, recipe=recipe, corpus=corpus, tokenizer=tokenizer_of(recipe, corpus))
    lists = partial(write_lists, recipe=recipe, corpus=corpus)
    return write_folder(folder, tables(recipe, corpus), corpus.knowledge(), lists, card, num_proc)


def tables(recipe: Recipe, corpus: Corpus) -> list[Table]:
    """The tables of a recipe's data set folder, whose rows are not made yet."""
    entity_column = corpus.knowledge().entity_column
    people, control = corpus.num_people, min(recipe.control_people, corpus.num_outsiders)
    texts = partial(_texts, corpus, entity_column, published_renderings(recipe))
    held_out = corpus.num_outsiders if isinstance(corpus, TableCorpus) else 0
    made = [
        Table("people", "train", 0, people, partial(_people, corpus)),
        Table("people", "control", people, people + held_out, partial(_people, corpus)),
        Table("biographies", "train", 0, people, texts),
    ]
    if isinstance(corpus, HasQuestions):
        half, asked = num_train_people(people), partial(_questions, corpus)
        made += [Table("qa", "train", 0, half, asked), Table("qa", "test", half, people, asked)]
    lists = list(candidate_rows(corpus))
    made.append(Table("candidates", "train", 0, len(lists), partial(candidate_batch, lists)))
    if control >= (2 if held_out else MIN_CONTROL):
        made.append(Table("control", "train", corpus.first_outsider, corpus.first_outsider + control, texts))
    return [table for table in made if table.end > table.first]


def published_renderings(recipe: Recipe) -> int:
    """The number of texts of a person in the folder: at most the number of exposures and of distinct renderings."""
    distinct = 1 if recipe.corpus == "morris" else recipe.fixed_renderings or recipe.renderings
    return min(recipe.renderings, recipe.exposures, distinct)


def check_knowledge(folder: Path, expected: Knowledge) -> None:
    """Raises DatasetError if the folder's knowledge.json is not the recipe's."""
    found = read_knowledge(folder)
    if found != expected:
        both = {field.name: (getattr(found, field.name), getattr(expected, field.name)) for field in fields(Knowledge)}
        values = [f"{name} is {one!r}, expected {other!r}" for name, (one, other) in both.items() if one != other]
        shown = "; ".join(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…" for value in values)
        raise DatasetError(
            f"{folder} holds {found.num_people} people of seed {found.seed}, version {found.version}; "
            f"the recipe asks for {expected.num_people} of seed {expected.seed}, version {expected.version}, "
            f"or its lists differ ({KNOWLEDGE_FILE}: {shown}); choose another run_name or pass --overwrite_output_dir"
        )


def _people(corpus: Corpus, first: int, end: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(corpus.people_columns(first, end))


def _texts(corpus: Corpus, entity_column: str, renderings: int, first: int, end: int) -> pa.RecordBatch:
    """Texts with spans, person by person, each person's renderings in their order."""
    renderings_rows = [corpus.rows(np.arange(first, end), exposure) for exposure in range(renderings)]
    rows = [row for of_one in zip(*renderings_rows, strict=True) for row in of_one]
    return text_batch(entity_column, rows, np.arange(len(rows)) % renderings)


def _questions(corpus: HasQuestions, first: int, end: int) -> pa.RecordBatch:
    """Questions about the people at places first … end - 1 of the order that splits them."""
    persons = np.sort(split_order(corpus.num_people, corpus.seed, np.arange(first, end)))
    return pa.RecordBatch.from_pydict(corpus.questions(persons))
