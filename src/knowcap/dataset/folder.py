"""The data set folder: Parquet files for `load_dataset`, knowledge.json, and a card; the one module that writes and
reads it. Tables are written chunk by chunk, by one process or several; the files do not depend on how many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from knowcap.corpus.candidates import CandidateRow, Candidates, ListOf, candidates_by_attribute
from knowcap.facts import Knowledge, Row, Span, check_row, check_values
from knowcap.files import CARD_FILE, KNOWLEDGE_FILE, FileError, whole_folder
from knowcap.processes import share_out
from knowcap.progress import progress_bar
from knowcap.recipe.plain_names import pattern_in
from knowcap.sealed import CONTENT_DIGEST, check_files, digest_of, read_result
from knowcap.sealed.digests import FILES
from knowcap.sealed.parquet import batches, open_parquet, parquet_writer, read_schema, rows_in


ENTITIES_PER_FILE = 50_000
CHUNK = 10_000  # entities in memory at a time in each process
_AT_ONCE = 1024  # rows that are read
_CANDIDATE_COLUMNS = (
    ("attribute", pa.string()), ("part", pa.int32()), ("last_part", pa.int32()), ("text", pa.string()),
    ("of", pa.string()), ("entity", pa.string()),  # the last one only where an entity has a list of its own
)  # fmt: skip
SPAN = pa.struct([("attribute", pa.string()), ("start", pa.int32()), ("end", pa.int32())])


class DatasetError(ValueError):
    """A data set that cannot be made, found, read or used; the message names the problem and a fix."""


@dataclass(frozen=True)
class Table:
    """One split of a config of a data set.

    Attributes:
        config, split: where its files go: `config/split-00000-of-00002.parquet`.
        first, end: the numbers of its entities.
        batch: makes the rows of entities first … end - 1; it must be picklable, since it is sent to other processes.
    """

    config: str
    split: str
    first: int
    end: int
    batch: Callable[[int, int], pa.RecordBatch]

    def files(self) -> list[tuple[str, int, int]]:
        """The name of every file, with its first and end entity."""
        starts = range(self.first, self.end, ENTITIES_PER_FILE)
        return [
            (f"{self.split}-{n:05d}-of-{len(starts):05d}.parquet", start, min(self.end, start + ENTITIES_PER_FILE))
            for n, start in enumerate(starts)
        ]

    def batches(self, first: int, end: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The rows of entities first … end - 1, chunk by chunk, with the number of entities in each."""
        for start in range(first, end, CHUNK):
            stop = min(end, start + CHUNK)
            yield self.batch(start, stop), stop - start


def write_tables(folder: Path, tables: Sequence[Table], num_proc: int = 1) -> Iterator[tuple[str, int]]:
    """Writes every file of every table under an empty folder; yields a config and the number of entities
    written, chunk by chunk.

    Raises:
        ProcessError: a process was killed. An error in a process is raised here.
    """
    jobs = []
    for table in tables:
        (folder / table.config).mkdir(exist_ok=True)
        jobs += [(folder / table.config / name, table, first, end) for name, first, end in table.files()]
    yield from share_out(_write_file, jobs, num_proc)


def _write_file(job: tuple[Path, Table, int, int]) -> Iterator[tuple[str, int]]:
    path, table, first, end = job
    rows = table.batches(first, end)
    batch, count = next(rows)
    with parquet_writer(path, batch.schema, compression="zstd") as writer:
        writer.write_batch(batch)
        yield table.config, count
        for batch, count in rows:
            writer.write_batch(batch)
            yield table.config, count


def write_folder(
    folder: Path,
    parts: Sequence[Table],
    knowledge: Knowledge,
    lists: Callable[[Path], None],
    card: Callable[[Path], str],
    num_proc: int = 1,
) -> Path:
    """Makes a data set folder of tables, whole or not at all; `lists` and `card` get it after the tables.

    Raises:
        DatasetError: `datasets` reads the folder's path as a pattern, so that it could not be loaded.
    """
    if (mark := pattern_in(str(folder.absolute()))) is not None:
        raise DatasetError(f"{folder}: load_dataset reads {mark} of its path as a pattern; choose another folder")
    with whole_folder(folder) as made:
        total = sum(part.end - part.first for part in parts)
        with progress_bar(total=total, desc=folder.name, unit_scale=True, leave=False, delay=2) as bar:
            for config, count in write_tables(made, parts, num_proc):
                bar.set_postfix_str(config, refresh=False)
                bar.update(count)
        lists(made)
        knowledge.save(made / KNOWLEDGE_FILE, manifest_of(made))
        (made / CARD_FILE).write_text(card(made), encoding="utf-8")
    return folder


def manifest_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a data set folder but its card and knowledge.json, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: digest_of(path) for name, path in paths.items() if name not in (CARD_FILE, KNOWLEDGE_FILE)}


def check_manifest(folder: Path) -> None:
    """Checks that the files of a data set folder are those that its knowledge.json lists, if it lists any.

    Raises:
        FileError: knowledge.json is broken or was edited; a file is missing or differs.
    """
    try:
        check_files(folder, read_result(folder / KNOWLEDGE_FILE).get(FILES), KNOWLEDGE_FILE)
    except FileError as error:
        meant = f"if the change is meant, remove {FILES} and {CONTENT_DIGEST} from {KNOWLEDGE_FILE}"
        raise FileError(f"{error}; {meant}") from error


def write_rows(
    folder: Path, knowledge: Knowledge, rows: Sequence[tuple[Row, int]], lists: Sequence[CandidateRow] = ()
) -> Path:
    """Makes a data set folder of existing texts, each with the number of its rendering; without a card.

    Raises:
        FactError: a row breaks the contract, or states a value before its span.
    """
    for row, _ in rows:
        check_row(row, knowledge)
        check_values(row, {s.attribute: row.text[s.start : s.end] for s in reversed(row.spans[1:])}, knowledge)
    texts, numbers = [row for row, _ in rows], np.array([number for _, number in rows])

    def batch(first: int, end: int) -> pa.RecordBatch:
        return text_batch(knowledge.entity_column, texts[first:end], numbers[first:end])

    made = [Table("biographies", "train", 0, len(rows), batch)]
    made += [Table("candidates", "train", 0, len(lists), partial(candidate_batch, lists))] if lists else []
    with whole_folder(folder) as place:
        for _ in write_tables(place, made):
            pass
        knowledge.save(place / KNOWLEDGE_FILE)
    return folder


def read_knowledge(folder: str | Path) -> Knowledge:
    """The folder's knowledge.json. Raises FactError if there is none."""
    return Knowledge.load(Path(folder) / KNOWLEDGE_FILE)


def has_config(folder: str | Path, config: str) -> bool:
    """Whether the folder has Parquet files of that config."""
    return any((Path(folder) / config).glob("*.parquet"))


def num_rows(folder: str | Path, config: str = "biographies") -> int:
    """The number of rows of a config, from its files' footers."""
    return sum(rows_in(file) for file in _files(folder, config))


def read_rows(
    folder: str | Path, config: str = "biographies", places: range | np.ndarray | None = None
) -> Iterator[tuple[Row, int]]:
    """The rows of a config in file order, each with its rendering's number (its `exposure`).

    Args:
        folder: of the data set.
        config: of the texts.
        places: the numbers of the rows to read, ascending, (n,) int64; all by default. Files and row groups without
            any of them are not read.
    """
    column = read_knowledge(folder).entity_column
    for batch in rows_at(_files(folder, config), [column, "exposure", "text", "spans"], places):
        columns = batch.to_pydict()
        for entity, rendering, text, spans in zip(
            columns[column], columns["exposure"], columns["text"], columns["spans"], strict=True
        ):
            yield Row(text, tuple(Span(s["attribute"], s["start"], s["end"]) for s in spans), entity), rendering


def rows_at(
    files: Sequence[Path], columns: Sequence[str], places: range | np.ndarray | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of some rows of several files, in batches of at most 1,024; `places` as for `read_rows`."""
    if places is None:
        places = range(sum(rows_in(file) for file in files))
    first = 0
    for file in files:
        end = first + rows_in(file)
        low, high = bisect_left(places, first), bisect_left(places, end)
        if low < high:
            yield from _rows_of_file(file, columns, places[low:high], first)
        first = end


def _rows_of_file(
    file: Path, columns: Sequence[str], places: range | np.ndarray, first: int
) -> Iterator[pa.RecordBatch]:
    """`rows_at` of one file, whose rows are numbered from `first` on."""
    with open_parquet(file) as opened:
        for group in range(opened.num_row_groups):
            end = first + opened.metadata.row_group(group).num_rows
            low, high = bisect_left(places, first), bisect_left(places, end)
            if low < high:
                for batch in opened.iter_batches(_AT_ONCE, row_groups=[group], columns=list(columns)):
                    low, high = bisect_left(places, first), bisect_left(places, first + len(batch))
                    if high - low == len(batch):
                        yield batch
                    elif low < high:
                        yield batch.take(pa.array(np.asarray(places[low:high]) - first))
                    first += len(batch)
            first = end


def entities_in(folder: str | Path, config: str) -> Iterator[list[int | str]]:
    """The entity of each row of a config, in pieces."""
    column = read_knowledge(folder).entity_column
    for batch in rows_at(_files(folder, config), [column]):
        yield batch.column(0).to_pylist()


def read_questions(
    folder: str | Path, split: str, limit: int | None = None
) -> Iterator[tuple[int | str, str, str, str]]:
    """Entity, attribute, question and answer of each row of config `qa`, of one split, of the first `limit` entities.

    Raises:
        DatasetError: the folder has no questions.
    """
    entities: set[int | str] = set()  # with a limit
    for file in question_files(folder, split):
        for batch in batches(file, batch_size=_AT_ONCE):
            columns = batch.to_pydict()
            names = (next(iter(columns)), "attribute", "question", "answer")
            for row in zip(*(columns[name] for name in names), strict=True):
                if limit is not None:
                    if row[0] not in entities and len(entities) == limit:
                        return
                    entities.add(row[0])
                yield row


def question_files(folder: str | Path, split: str) -> list[Path]:
    """The files of one split of config `qa`. Raises DatasetError if there are none."""
    return _files(folder, "qa", f"{split}-*.parquet")


def _files(folder: str | Path, config: str, pattern: str = "*.parquet") -> list[Path]:
    files = sorted((Path(folder) / config).glob(pattern))
    if not files:
        there = sorted(p.name for p in Path(folder).glob("*")) if Path(folder).is_dir() else "no such folder"
        raise DatasetError(
            f"{folder} has no Parquet files of config {config!r}; it holds {there}; make it with `knowcap data`"
        )
    return files


def read_candidates(folder: str | Path) -> dict[ListOf, Candidates]:
    """The lists of the folder's config `candidates`, by attribute, or by attribute and entity.

    Raises:
        DatasetError, CorpusError: there are none, or a part is missing.
    """
    return candidates_by_attribute(row for file in _files(folder, "candidates") for row in _candidates_of(file))


def _candidates_of(file: Path) -> Iterator[CandidateRow]:
    names, known = read_schema(file).names, [name for name, _ in _CANDIDATE_COLUMNS]
    if not set(known) - {"entity"} <= set(names) <= set(known):
        raise DatasetError(f"{file} has the columns {', '.join(names)}; expected {', '.join(known)}")
    for batch in batches(file, batch_size=CHUNK):
        for row in batch.to_pylist():
            yield CandidateRow(**row)


def candidate_batch(lists: Sequence[CandidateRow], first: int, end: int) -> pa.RecordBatch:
    """Rows first … end - 1 of the candidates config."""
    shared = all(row.entity is None for row in lists)
    columns = zip(_CANDIDATE_COLUMNS, zip(*lists[first:end], strict=True), strict=True)
    return pa.RecordBatch.from_pydict(
        {name: pa.array(column, kind) for (name, kind), column in columns if name != "entity" or not shared}
    )


def text_batch(entity_column: str, rows: Sequence[Row], exposures: np.ndarray) -> pa.RecordBatch:
    """The columns of the biographies config, of at least one row, with the rows' exposures (n,)."""
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


def describe(folder: Path) -> str:
    """The folder's content in one line."""
    knowledge = read_knowledge(folder)
    return f"{knowledge.num_people:,} people, {knowledge.total_bits:,.0f} bits"
