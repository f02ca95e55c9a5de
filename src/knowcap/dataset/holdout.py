"""Entities of a published data set that are held out of training: its null control, where it brings none.

They leave the texts and people of the run's copy, and their texts become its config `control`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from knowcap.dataset.folder import has_config, manifest_of
from knowcap.dataset.head import Head
from knowcap.dataset.recorded import check_matches, computed_table
from knowcap.facts import Attribute, Knowledge
from knowcap.files import CARD_FILE, KNOWLEDGE_FILE
from knowcap.knowledge.tuples import held_out, num_held_out
from knowcap.recipe import Recipe
from knowcap.sealed.parquet import batches, read_table, write_table


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

_CONTROLS = {"biographies": "control", "neutral": "neutral_control"}
_ONE_FILE = "00000-of-00001.parquet"


def num_to_hold_out(recipe: Recipe, knowledge: Knowledge, has_control: bool) -> int:
    """How many entities of a data set are held out: none where it has a control of its own. Raises CorpusError."""
    return 0 if has_control else num_held_out(knowledge.num_people, recipe.holdout_entities)


def hold_out(folder: Path, recipe: Recipe) -> list[str]:
    """Moves entities of a data set folder into its config `control`, and counts knowledge.json again without them.

    People that knowcap drew and numbered are held out from the last number on, so that the others keep theirs; of any
    other data set those whose ids have the smallest SHA-256.

    Returns:
        The paths, within the folder, of the files that were changed or made; none if no entity is held out.

    Raises:
        CorpusError: an impossible share.
    """
    head = Head.of(folder)
    count = num_to_hold_out(recipe, head.knowledge, has_config(folder, "control"))
    if not count:
        return []
    if head.kind == "table":
        check_matches(computed_table(recipe, folder).computed(), head.knowledge)
    column = head.knowledge.entity_column
    ids = _entities(folder, column)
    chosen = np.zeros(len(ids), dtype=bool)
    if head.kind in ("bioS", "bioD"):
        chosen[np.asarray(pc.sort_indices(ids))[len(ids) - count :]] = True
    else:
        chosen = held_out(ids.to_pylist(), count)
    outside = ids.filter(pa.array(chosen))
    changed = [KNOWLEDGE_FILE]
    for config, control in _CONTROLS.items():
        changed += _move(folder, config, folder / control / f"train-{_ONE_FILE}", column, outside)
    changed += _move(folder, "people", folder / "people" / f"control-{_ONE_FILE}", column, outside)
    _without(folder, head, recipe, len(ids) - count).save(folder / KNOWLEDGE_FILE, manifest_of(folder))
    _update_card(folder, count)
    return sorted(changed)


def _entities(folder: Path, column: str) -> pa.Array:
    """The distinct entities of the texts, in the order of their first texts."""
    files = sorted((folder / "biographies").glob("train-*.parquet"))
    read = [read_table(file, columns=[column]).column(column) for file in files]
    return pc.unique(pa.chunked_array([chunk for part in read for chunk in part.chunks]))


def _move(folder: Path, config: str, to: Path, column: str, outside: pa.Array) -> list[str]:
    """Moves the rows of entities from the files of a config to one file; returns the paths of all of them."""
    files, moved = sorted((folder / config).glob("train-*.parquet")), []
    for file in files:
        table = read_table(file)
        if column not in table.column_names:
            return []
        is_outside = pc.is_in(table.column(column), value_set=outside.cast(table.schema.field(column).type))
        moved.append(table.filter(is_outside))
        file.unlink()  # it may be a hard link to a file of the Hub's cache
        write_table(table.filter(pc.invert(is_outside)), file, compression="zstd")
    if not files:
        return []
    to.parent.mkdir(exist_ok=True)
    write_table(pa.concat_tables(moved), to, compression="zstd")
    return [path.relative_to(folder).as_posix() for path in (*files, to)]


def _without(folder: Path, head: Head, recipe: Recipe, num_people: int) -> Knowledge:
    """The knowledge of the entities that are left."""
    if head.kind == "table":
        return replace(computed_table(recipe, folder).computed(), seed=head.knowledge.seed)
    knowledge = head.knowledge
    stated, chunks = _stated_and_chunks(folder, knowledge)
    attributes = tuple(_stated_by(a, stated.get(a.name, 0), num_people) for a in knowledge.attributes)
    terms = tuple(_credited(term, len(chunks[term["fact"]])) for term in knowledge.diversity_terms)
    return replace(knowledge, num_people=num_people, attributes=attributes, diversity_terms=terms)


def _stated_by(attribute: Attribute, stated: int, num_people: int) -> Attribute:
    """The attribute, with the number of entities that still state it where not all do."""
    if attribute.stated is None:
        return attribute
    return replace(attribute, stated=None if stated == num_people else stated)


def _credited(term: dict[str, Any], chunks: int) -> dict[str, Any]:
    """A diversity term with the strings that still begin a value; each has the bits that it had."""
    credited = min(term["credited"], chunks)
    return term | {"credited": credited, "log2_candidates": term["log2_candidates"] / term["credited"] * credited}


def _stated_and_chunks(folder: Path, knowledge: Knowledge) -> tuple[dict[str, int], dict[str, set[str]]]:
    """How many entities state each attribute, and the first chunks that begin the values of each diversity term."""
    entities: dict[str, set[int | str]] = {a.name: set() for a in knowledge.attributes if a.stated is not None}
    chunks: dict[str, set[str]] = {term["fact"]: set() for term in knowledge.diversity_terms}
    if entities or chunks:
        for entity, text, spans in _texts(folder, knowledge.entity_column):
            for span in spans:
                if span["attribute"] in entities:
                    entities[span["attribute"]].add(entity)
            for term in knowledge.diversity_terms:
                place = next((s for s in spans if s["attribute"] == term["attribute"]), None)
                if place and (found := re.match(term["first_chunk"], text[place["start"] : place["end"]])):
                    chunks[term["fact"]].add(found[0])
    return {name: len(those) for name, those in entities.items()}, chunks


def _texts(folder: Path, column: str) -> Iterator[tuple[Any, str, list[dict[str, Any]]]]:
    for file in sorted((folder / "biographies").glob("train-*.parquet")):
        for batch in batches(file, [column, "text", "spans"]):
            yield from zip(*(batch.column(name).to_pylist() for name in (column, "text", "spans")), strict=True)


def _update_card(folder: Path, count: int) -> None:
    """The copy's card lists its files as they are now, and has a line on the entities that were held out."""
    from huggingface_hub import DatasetCard

    from knowcap.dataset.card import CONFIGS, config_files, splits

    if not (folder / CARD_FILE).is_file():
        return
    card = DatasetCard.load(folder / CARD_FILE, ignore_metadata_errors=True)
    card.data.pop("dataset_info", None)
    card.data["configs"] = [config_files(folder, config) for config in CONFIGS if splits(folder, config)]
    note = f"{count:,} entities were held out of training; they are the config `control`."
    card.text = f"{card.text.rstrip()}\n\n{note}\n"
    (folder / CARD_FILE).write_text(str(card), encoding="utf-8")
