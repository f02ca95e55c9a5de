"""The data set folder: Parquet files that `load_dataset` reads, knowledge.json, and a card. The one place that writes
or reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.candidates import Candidates, Listed, gathered
from knowcap.corpus.questions import Asked, by_split, num_in_train
from knowcap.dataset.card import dataset_card
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.listed import listed
from knowcap.dataset.lists import write_lists
from knowcap.dataset.parquet import CHUNK, Table, write_tables
from knowcap.facts import FEWEST_CONTROL, Knowledge, Row, Span, check_row, check_values
from knowcap.files import whole_folder
from knowcap.recipe import Recipe


_LISTED = (
    ("attribute", pa.string()), ("part", pa.int32()), ("last_part", pa.int32()), ("text", pa.string()),
    ("of", pa.string()),
)  # fmt: skip
SPAN = pa.struct([("attribute", pa.string()), ("start", pa.int32()), ("end", pa.int32())])


class DatasetError(ValueError):
    """A data set folder that cannot be read; the message says what was got, what was expected and how to mend it."""


def build(recipe: Recipe, run_dir: Path, num_proc: int = 1) -> Path:
    """Makes `run_dir/knowledge`, unless it is there: people, their first renderings, questions, the null control; or
    the data set that the recipe names.

    Raises:
        SourceError: a data set that can't be had.
        CorpusError: what the recipe names cannot be used.
    """
    folder = run_dir / "knowledge"
    if recipe.dataset_name is not None:
        from knowcap.dataset.importing import import_dataset

        return import_dataset(recipe, folder)
    if (folder / "knowledge.json").is_file():
        check_knowledge(folder, corpus_of(recipe).knowledge())
        return folder
    return write(recipe, folder, num_proc)


def write(recipe: Recipe, folder: Path, num_proc: int = 1) -> Path:
    """Makes a data set folder, whole or not at all; the same files whatever `num_proc`.

    Raises:
        CorpusError: what the recipe names cannot be used.
    """
    corpus = corpus_of(recipe)
    card = partial(dataset_card, recipe=recipe, corpus=corpus, tokenizer=tokenizer_of(recipe, corpus))
    lists = partial(write_lists, recipe=recipe, corpus=corpus)
    return write_folder(folder, tables(recipe, corpus), corpus.knowledge(), lists, card, num_proc)


def write_folder(
    folder: Path,
    parts: Sequence[Table],
    knowledge: Knowledge,
    lists: Callable[[Path], None],
    card: Callable[[Path], str],
    num_proc: int = 1,
) -> Path:
    """Makes a data set folder of tables, whole or not at all; `lists` and `card` get it with all before in it."""
    with whole_folder(folder) as made:
        total = sum(part.end - part.first for part in parts)
        with tqdm(total=total, desc=folder.name, unit_scale=True, leave=False, delay=2) as bar:
            for config, count in write_tables(made, parts, num_proc):
                bar.set_postfix_str(config, refresh=False)
                bar.update(count)
        knowledge.save(made / "knowledge.json")
        lists(made)
        (made / "README.md").write_text(card(made), encoding="utf-8")
    return folder


def write_rows(
    folder: Path, knowledge: Knowledge, rows: Sequence[tuple[Row, int]], lists: Sequence[Listed] = ()
) -> Path:
    """Makes a data set folder of texts that are there already, each with its rendering's number; no card.

    Raises:
        FactError: a row that breaks the contract, or says a value unmarked before its span.
    """
    for row, _ in rows:
        check_row(row, knowledge)
        check_values(row, {s.attribute: row.text[s.start : s.end] for s in reversed(row.spans[1:])}, knowledge)
    texts, numbers = [row for row, _ in rows], np.array([number for _, number in rows])

    def batch(first: int, end: int) -> pa.RecordBatch:
        return text_batch(knowledge.entity_column, texts[first:end], numbers[first:end])

    made = [Table("biographies", "train", 0, len(rows), batch)]
    made += [Table("candidates", "train", 0, len(lists), partial(_candidates, lists))] if lists else []
    with whole_folder(folder) as place:
        for _ in write_tables(place, made):
            pass
        knowledge.save(place / "knowledge.json")
    return folder


def tables(recipe: Recipe, corpus: Corpus) -> list[Table]:
    """Everything that a recipe's data set folder has in Parquet files, not made yet."""
    entity_column = corpus.knowledge().entity_column
    people, control = corpus.num_people, min(recipe.control_people, corpus.num_outsiders)
    texts = partial(_texts, corpus, entity_column, published_renderings(recipe))
    made = [
        Table("people", "train", 0, people, partial(_people, corpus)),
        Table("biographies", "train", 0, people, texts),
    ]
    if isinstance(corpus, Asked):
        half, asked = num_in_train(people), partial(_questions, corpus)
        made += [Table("qa", "train", 0, half, asked), Table("qa", "test", half, people, asked)]
    lists = list(listed(corpus))
    made.append(Table("candidates", "train", 0, len(lists), partial(_candidates, lists)))
    if control >= FEWEST_CONTROL:
        made.append(Table("control", "train", corpus.first_outsider, corpus.first_outsider + control, texts))
    return [table for table in made if table.end > table.first]


def published_renderings(recipe: Recipe) -> int:
    """How many texts a person has in the folder: no more than there are exposures, or different ways to tell one."""
    ways = 1 if recipe.corpus == "morris" else recipe.fixed_renderings or recipe.renderings
    return min(recipe.renderings, recipe.exposures, ways)


def check_knowledge(folder: Path, expected: Knowledge) -> None:
    """Raises DatasetError where the folder's knowledge.json is of another knowledge than the recipe's."""
    there = read_knowledge(folder)
    if there != expected:
        raise DatasetError(
            f"{folder} holds {there.num_people} people of seed {there.seed}, version {there.version}; "
            f"the recipe asks for {expected.num_people} of seed {expected.seed}, version {expected.version}, "
            "or its lists differ; choose another run_name or pass --overwrite_output_dir"
        )


def read_knowledge(folder: str | Path) -> Knowledge:
    """The folder's knowledge.json. Raises FactError where there is none."""
    return Knowledge.load(Path(folder) / "knowledge.json")


def has_config(folder: str | Path, config: str) -> bool:
    """Whether the folder has Parquet files of that config."""
    return any((Path(folder) / config).glob("*.parquet"))


def num_rows(folder: str | Path, config: str = "biographies") -> int:
    """How many rows a config has, from its files' footers."""
    return sum(pq.read_metadata(file).num_rows for file in _files(folder, config))


def read_rows(folder: str | Path, config: str = "biographies") -> Iterator[tuple[Row, int]]:
    """The rows of a config in file order, each with its rendering's number (its `exposure`)."""
    entity_column = read_knowledge(folder).entity_column
    for file in _files(folder, config):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=CHUNK):
            columns = batch.to_pydict()
            for entity, rendering, text, spans in zip(
                columns[entity_column], columns["exposure"], columns["text"], columns["spans"], strict=True
            ):
                yield Row(text, tuple(Span(s["attribute"], s["start"], s["end"]) for s in spans), entity), rendering


def read_questions(folder: str | Path, split: str, limit: int | None = None) -> list[tuple[int | str, str, str, str]]:
    """Entity, attribute, question and answer of each row of config `qa`, of one split, of the first `limit` entities.

    Raises:
        DatasetError: the folder has no questions.
    """
    rows: list[tuple[int | str, str, str, str]] = []
    entities: set[int | str] = set()
    for file in _files(folder, "qa", f"{split}-*.parquet"):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=CHUNK):
            columns = batch.to_pydict()
            names = (next(iter(columns)), "attribute", "question", "answer")
            for row in zip(*(columns[name] for name in names), strict=True):
                if limit is not None and row[0] not in entities and len(entities) == limit:
                    return rows
                entities.add(row[0])
                rows.append(row)
    return rows


def _files(folder: str | Path, config: str, pattern: str = "*.parquet") -> list[Path]:
    files = sorted((Path(folder) / config).glob(pattern))
    if not files:
        there = sorted(p.name for p in Path(folder).glob("*")) if Path(folder).is_dir() else "no such folder"
        raise DatasetError(
            f"{folder} has no Parquet files of config {config!r}; it holds {there}; make it with `knowcap data`"
        )
    return files


def read_candidates(folder: str | Path) -> dict[str, Candidates]:
    """The lists of the folder's config `candidates`, by attribute.

    Raises:
        DatasetError, CorpusError: it has none, or they are not whole.
    """
    rows = (row.values() for file in _files(folder, "candidates") for row in pq.read_table(file).to_pylist())
    return gathered(Listed(*row) for row in rows)


def _candidates(lists: Sequence[Listed], first: int, end: int) -> pa.RecordBatch:
    columns = zip(*lists[first:end], strict=True)
    return pa.RecordBatch.from_pydict(
        {name: pa.array(column, kind) for (name, kind), column in zip(_LISTED, columns, strict=True)}
    )


def _people(corpus: Corpus, first: int, end: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(corpus.people_columns(first, end))


def _texts(corpus: Corpus, entity_column: str, renderings: int, first: int, end: int) -> pa.RecordBatch:
    """Texts with spans, person by person, each person's renderings in their order."""
    told = [corpus.rows(np.arange(first, end), exposure) for exposure in range(renderings)]
    rows = [row for of_one in zip(*told, strict=True) for row in of_one]
    return text_batch(entity_column, rows, np.arange(len(rows)) % renderings)


def text_batch(entity_column: str, rows: Sequence[Row], exposures: np.ndarray) -> pa.RecordBatch:
    """The columns of the biographies config: one row or more, each with its exposure (n,)."""
    return pa.RecordBatch.from_pydict(
        {
            entity_column: [row.entity for row in rows],
            "exposure": pa.array(exposures, pa.int32()),
            "text": [row.text for row in rows],
            "spans": _span_column(rows),
        }
    )


def _span_column(rows: Sequence[Row]) -> pa.ListArray:
    """The spans of all rows, from flat columns."""
    attributes, starts, ends = zip(*(span for row in rows for span in row.spans), strict=True)
    flat = [pa.array(attributes, pa.string()), pa.array(starts, pa.int32()), pa.array(ends, pa.int32())]
    offsets = np.cumsum([0, *(len(row.spans) for row in rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(flat, fields=list(SPAN)))


def _questions(corpus: Asked, first: int, end: int) -> pa.RecordBatch:
    """Questions about those who stand at places first … end - 1 of the order that splits them."""
    persons = np.sort(by_split(corpus.num_people, corpus.seed, np.arange(first, end)))
    return pa.RecordBatch.from_pydict(corpus.questions(persons))


def describe(folder: Path) -> str:
    """One line: what the folder holds."""
    knowledge = read_knowledge(folder)
    return f"{knowledge.num_people:,} people, {knowledge.total_bits:,.0f} bits"
