"""The data set folder: Parquet files that `load_dataset` reads, knowledge.json, and a card. The one place that writes
or reads it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from knowcap.bios import people_of, templates_of
from knowcap.corpus.render import render
from knowcap.facts import Knowledge, Row, Span
from knowcap.folders import whole_folder
from knowcap.knowledge.people import COLUMNS, ENTITY_COLUMN, People
from knowcap.preflight import FEWEST_CONTROL
from knowcap.recipe import Recipe


logger = logging.getLogger(__name__)

_CHUNK = 10_000  # people held in memory at a time
_PEOPLE_PER_FILE = 500_000
PEOPLE_SCHEMA = pa.schema([(ENTITY_COLUMN, pa.int64()), *((column, pa.string()) for column in COLUMNS[1:])])
SPAN = pa.struct([("attribute", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
BIOGRAPHIES_SCHEMA = pa.schema(
    [(ENTITY_COLUMN, pa.int64()), ("exposure", pa.int32()), ("text", pa.string()), ("spans", pa.list_(SPAN))]
)


class DatasetError(ValueError):
    """A data set folder that cannot be read; the message says what was got, what was expected and how to mend it."""


def build(recipe: Recipe, run_dir: Path) -> Path:
    """Makes `run_dir/knowledge`, unless it is there: people, their first renderings, and the null control's.

    Raises:
        PoolsError, PeopleError, TemplateError: lists, numbers or templates that cannot be used.
    """
    folder = run_dir / "knowledge"
    people, templates = people_of(recipe), templates_of(recipe)
    if (folder / "knowledge.json").is_file():
        check_people(folder, people)
        return folder
    control = min(recipe.control_people, people.num_outsiders)
    renderings = min(recipe.renderings, recipe.exposures)

    def biographies(first: int, end: int) -> pa.RecordBatch:
        told = [render(people, np.arange(first, end), exposure, templates) for exposure in range(renderings)]
        return _biographies([row for of_one in zip(*told, strict=True) for row in of_one], renderings)

    inside, outside = (0, people.num_people), (people.num_people, people.num_people + control)
    with whole_folder(folder) as made:
        _write(made / "people", PEOPLE_SCHEMA, inside, lambda a, b: _people(people, a, b))
        _write(made / "biographies", BIOGRAPHIES_SCHEMA, inside, biographies)
        if control >= FEWEST_CONTROL:
            _write(made / "control", BIOGRAPHIES_SCHEMA, outside, biographies)
        knowledge = people.knowledge(recipe.corpus)
        (made / "README.md").write_text(dataset_card(knowledge, recipe, made), encoding="utf-8")
        knowledge.save(made / "knowledge.json")
    return folder


def check_people(folder: Path, people: People) -> None:
    """Raises DatasetError where the folder's knowledge.json is of other people than the recipe's."""
    there, expected = read_knowledge(folder), people.knowledge(read_knowledge(folder).name)
    if there != expected:
        raise DatasetError(
            f"{folder} holds {there.num_people} people of seed {there.seed}, version {there.version}; "
            f"the recipe asks for {expected.num_people} of seed {expected.seed}, version {expected.version}, "
            "or its lists differ; "
            "choose another run_name or pass --overwrite_output_dir"
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
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_CHUNK):
            columns = batch.to_pydict()
            for entity, rendering, text, spans in zip(
                columns[entity_column], columns["exposure"], columns["text"], columns["spans"], strict=True
            ):
                yield Row(text, tuple(Span(s["attribute"], s["start"], s["end"]) for s in spans), entity), rendering


def _files(folder: str | Path, config: str) -> list[Path]:
    files = sorted((Path(folder) / config).glob("*.parquet"))
    if not files:
        there = sorted(p.name for p in Path(folder).glob("*")) if Path(folder).is_dir() else "no such folder"
        raise DatasetError(
            f"{folder} has no Parquet files of config {config!r}; it holds {there}; make it with `knowcap data`"
        )
    return files


def _write(
    folder: Path, schema: pa.Schema, persons: tuple[int, int], make: Callable[[int, int], pa.RecordBatch]
) -> None:
    """Writes `make(first, end)` for all persons, chunk by chunk, into numbered Parquet files."""
    folder.mkdir()
    first, end = persons
    starts = np.arange(first, end, _CHUNK)
    files = -(-(end - first) // _PEOPLE_PER_FILE)
    with tqdm(total=end - first, desc=folder.name, unit=" people", unit_scale=True, leave=False, delay=2) as bar:
        for number, group in enumerate(np.array_split(starts, files)):
            path = folder / f"train-{number:05d}-of-{files:05d}.parquet"
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for start in group.tolist():
                    stop = min(end, start + _CHUNK)
                    writer.write_batch(make(start, stop))
                    bar.update(stop - start)


def _people(people: People, first: int, end: int) -> pa.RecordBatch:
    texts = list(people.texts(people.codes(np.arange(first, end))))
    columns = [pa.array(range(first, end), pa.int64())]
    columns += [pa.array([person[column] for person in texts], pa.string()) for column in COLUMNS[1:]]
    return pa.record_batch(columns, schema=PEOPLE_SCHEMA)


def _biographies(rows: list[Row], renderings: int) -> pa.RecordBatch:
    """Rows that stand person by person, each person's renderings in their order."""
    return pa.record_batch(
        [
            pa.array([row.entity for row in rows], pa.int64()),
            pa.array(np.arange(len(rows)) % renderings, pa.int32()),
            pa.array([row.text for row in rows], pa.string()),
            pa.array([[span._asdict() for span in row.spans] for row in rows], pa.list_(SPAN)),
        ],
        schema=BIOGRAPHIES_SCHEMA,
    )


def dataset_card(knowledge: Knowledge, recipe: Recipe, folder: Path) -> str:
    """README.md of a data set folder: front matter with its configs, then what it holds, counted in its files."""
    configs = [config for config in ("people", "biographies", "control") if has_config(folder, config)]
    front = ["---", "language: en", "license: apache-2.0", f"pretty_name: {knowledge.name}"]
    front += ["annotations_creators: [machine-generated]", "language_creators: [machine-generated]"]
    front += ["source_datasets: [original]", "task_categories: [text-generation]", "task_ids: [language-modeling]"]
    front += ["tags: [synthetic, knowledge-capacity, physics-of-language-models]", "configs:"]
    for config in configs:
        # `datasets` finds its cache by the card's metadata alone: what differs must differ there.
        front += [f"- config_name: {config}", f"  description: Parquet sha256 {fingerprint(folder, config)}"] + (
            ["  default: true"] if config == "biographies" else []
        )
        front += ["  data_files:", "  - split: train", f"    path: {config}/*.parquet"]
    rows = {config: num_rows(folder, config) for config in configs}
    example = next(read_rows_of_new(folder))
    body = [
        f"# {knowledge.name}({knowledge.num_people:,})",
        "",
        f"Synthetic biographies of {knowledge.num_people:,} people who don't exist, after Part 3.3 of *Physics of "
        f"Language Models* (arXiv:2404.05405): {knowledge.bits_per_person:.4f} bits a person, "
        f"{knowledge.total_bits:,.0f} bits in all. Made by knowcap from seed {knowledge.seed}, "
        f"lists and templates version {knowledge.version}.",
        "",
        "| config | rows | what |",
        "|---|---|---|",
        *(f"| {config} | {rows[config]:,} | {_WHAT[config]} |" for config in configs),
        "",
        "| attribute | candidates | bits |",
        "|---|---|---|",
        f"| name | {2**knowledge.name_log2_candidates:,.0f} | {knowledge.name_log2_candidates:.4f}, less log2 N |",
        *(
            f"| {a.name} | {a.candidates:,} | {a.log2_candidates:.4f} |"
            if a.determined_by is None
            else f"| {a.name} | determined by {a.determined_by} | 0 |"
            for a in knowledge.attributes
        ),
        "",
        f"An example:\n\n> {example}",
        "",
        f"Value lists: {'those of the package' if recipe.pools_dir is None else 'a folder of their own'}, fraction "
        f"{recipe.pools_fraction:g}. Templates a sentence: {recipe.num_templates or 'all'}.",
        "",
        "Spans are offsets in code points, end exclusive, of each fact's first mention.",
    ]
    return "\n".join([*front, "---", "", *body, ""])


def fingerprint(folder: Path, config: str) -> str:
    """A digest of a config's files."""
    digest = hashlib.sha256()
    for path in _files(folder, config):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


_WHAT = {
    "people": "who they are, a column an attribute",
    "biographies": "texts with spans, one row a person and exposure",
    "control": "biographies of people outside the sample, for the null control; never train on these",
}


def read_rows_of_new(folder: Path) -> Iterator[str]:
    """The texts of a folder whose knowledge.json is not written yet."""
    for file in _files(folder, "biographies"):
        yield from pq.read_table(file, columns=["text"]).column("text").to_pylist()


def describe(folder: Path) -> str:
    """One line: what the folder holds."""
    knowledge = read_knowledge(folder)
    return f"{knowledge.num_people:,} people, {knowledge.total_bits:,.0f} bits"


def read_json(path: Path) -> dict[str, object]:
    """A JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))
