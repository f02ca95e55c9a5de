"""Reading nll.parquet and control.parquet as tables of facts by entity and attribute; the diversity terms of bioD."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from knowcap.facts import NAME
from knowcap.files import NLL_FILE
from knowcap.sealed.parquet import read_schema, read_table


COLUMNS = ("entity", "attribute", "rendering", "nll", "log2_candidates", "greedy_match")


class CapacityError(ValueError):
    """Scored facts cannot be summarized or compared; the message says what was expected and what to do."""


@dataclass(frozen=True)
class Facts:
    """One row per entity, one column per attribute, means over renderings; NaN if a fact is not stated.

    `nll` is in nats, `references` are log2 of the candidates in bits, `accuracy` is the share of greedy matches; each
    of shape `(entities, attributes)`. `entities` are the ids of the first rows; further rows state no facts.
    """

    attributes: list[str]
    nll: np.ndarray
    references: np.ndarray
    accuracy: np.ndarray
    entities: np.ndarray

    @property
    def bits(self) -> np.ndarray:
        """The bits of each fact, `(entities, attributes)`."""
        return self.references - self.nll / math.log(2)


def mean(values: np.ndarray) -> float:
    """Mean of the numbers that are not NaN; NaN if there are none."""
    stated = values[~np.isnan(values)]
    return float(stated.mean()) if stated.size else math.nan


def check_file(path: Path) -> None:
    """Raises CapacityError unless a file of scored facts is there, with all columns."""
    if not path.is_file():
        raise CapacityError(f"{path} is missing; score the model again (`knowcap measure`)")
    missing = [c for c in COLUMNS if c not in read_schema(path).names]
    if missing:
        raise CapacityError(f"{path}: columns {missing} are missing, expected {list(COLUMNS)}; score the model again")


def read_facts(path: Path, measurement: dict[str, Any]) -> Facts:
    """A parquet file's facts by entity and attribute; columns in the order of knowledge.json, the name first.

    All of it at once: for a control. `knowcap.capacity.blocks` reads nll.parquet.

    Raises:
        CapacityError: the file or a column is missing, a number is impossible, or a fact occurs twice.
    """
    check_file(path)
    table = read_table(path, columns=list(COLUMNS), read_dictionary=["attribute"])
    return facts_of(table, measurement["knowledge"], path)


def facts_of(
    table: pa.Table,
    knowledge: dict[str, Any],
    path: str | Path = NLL_FILE,
    *,
    names: Sequence[str] | None = None,
    first_row: int = 0,
) -> Facts:
    """`read_facts` for a table in memory, as `knowcap.scoring.score_rows` returns it.

    Args:
        table: a table with the columns of nll.parquet.
        knowledge: the content of knowledge.json.
        path, first_row: the table's name in error messages, and the number of its first row.
        names: the attributes; by default those that occur.

    Raises:
        CapacityError: there are no facts, a number is impossible, or a fact occurs twice.
    """
    if table.num_rows == 0:
        raise CapacityError(f"{path} holds no scored facts; check that the data set's rows have spans")
    declared = declared_bits(knowledge)
    attribute, names = _attribute_codes(table.column("attribute"), declared, path, names)
    references = np.array([declared[name] for name in names])
    nll = _numbers(table.column("nll"))
    _check_columns(path, nll, _numbers(table.column("log2_candidates")), references[attribute], first_row)

    entity, entities = _codes(table.column("entity"))
    num_entities = len(entities)
    cell = entity.astype(np.int64) * len(names) + attribute
    num_cells = num_entities * len(names)
    _check_repeats(path, cell, num_cells, table.column("rendering"))
    count = np.bincount(cell, minlength=num_cells)

    def cell_means(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(cell, weights=values, minlength=num_cells)
        return np.where(count > 0, sums / np.maximum(count, 1), np.nan).reshape(num_entities, len(names))

    greedy_match = _numbers(table.column("greedy_match").cast(pa.int8()))
    stated = (count > 0).reshape(num_entities, len(names))
    known = np.where(stated, references, np.nan)
    return Facts(names, cell_means(nll), known, cell_means(greedy_match), entities)


def check_scored(found: int, measurement: dict[str, Any]) -> int:
    """How many entities were scored but state no fact. Raises CapacityError if more state some than were scored."""
    scored, total = measurement["entities_scored"], measurement["num_entities"]
    if not found <= scored <= total:
        raise CapacityError(
            f"{NLL_FILE} has {found} entities, and its measurement counts {scored} scored of {total}; expected no "
            "more than were scored. Score the model again"
        )
    return scored - found


def with_all_entities(facts: Facts, measurement: dict[str, Any]) -> Facts:
    """Adds a row of NaN for each entity that was scored but states no fact: it counts with zero bits."""
    gap = ((0, check_scored(len(facts.nll), measurement)), (0, 0))
    nll, references, accuracy = (
        np.pad(a, gap, constant_values=np.nan) for a in (facts.nll, facts.references, facts.accuracy)
    )
    return Facts(facts.attributes, nll, references, accuracy, facts.entities)


def chunk_columns(attributes: Sequence[str], terms: Sequence[Mapping[str, Any]]) -> list[int]:
    """The columns of the terms' first chunks. Raises CapacityError if those of a term were not scored."""
    missing = [term["fact"] for term in terms if term["fact"] not in attributes]
    if missing:
        raise CapacityError(
            f"{NLL_FILE} lacks {missing}, which the diversity terms need; score the model again, with a version of "
            "knowcap that scores first chunks"
        )
    return [attributes.index(term["fact"]) for term in terms]


def diversity(facts: Facts, terms: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """`diversity_of` the facts with first chunks. Raises CapacityError if the first chunks of a term are missing."""
    return diversity_of([mean(facts.nll[:, column]) for column in chunk_columns(facts.attributes, terms)], terms)


def diversity_of(p3: Sequence[float], terms: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Bits of the diversity terms of bioD, what a model knows of which strings exist (Part 3.3, Def. 4.1), and their
    maximum.

    A term is S x (log2(T^L / D) - p3 / ln 2): S credited strings, D in theory; p3 in nats is the mean over the
    entities of the first chunk's nll. A term is negative if p3 is large.

    Args:
        p3: of each term.
        terms: the terms of knowledge.json; empty for other corpora.
    """
    most = math.fsum(term["log2_candidates"] for term in terms)
    unknown = math.fsum(term["credited"] * nll / math.log(2) for term, nll in zip(terms, p3, strict=True))
    return most - unknown, most


def unknown_diversity(facts: Facts, terms: Sequence[Mapping[str, Any]], stated: Sequence[int]) -> np.ndarray:
    """Each entity's share of what the model does not know of the diversity terms, in bits: (entities,).

    The term S x (log2(T^L / D) - p3 / ln 2) is linear in p3, which is a mean over entities. So an entity's share is
    S x nll / (ln 2 x entities), and `diversity_of` is the maximum less the sum of the shares. Resampled with the other
    bits of their entities, they give an interval that includes the variation of the term, which goes with theirs.

    Args:
        facts: of some entities, with first chunks.
        terms: the terms of knowledge.json.
        stated: how many of all entities state each term's first chunk.
    """
    shares = np.zeros(len(facts.nll))
    for term, column, count in zip(terms, chunk_columns(facts.attributes, terms), stated, strict=True):
        shares += np.nan_to_num(facts.nll[:, column]) * (term["credited"] / (math.log(2) * max(1, count)))
    return shares


def without_first_chunks(facts: Facts, terms: Sequence[Mapping[str, Any]]) -> Facts:
    """The facts to sum: a first chunk is a part of its value and must not count twice."""
    excluded = {term["fact"] for term in terms}
    kept = [column for column, name in enumerate(facts.attributes) if name not in excluded]
    nll, references, accuracy = (table[:, kept] for table in (facts.nll, facts.references, facts.accuracy))
    return Facts([facts.attributes[column] for column in kept], nll, references, accuracy, facts.entities)


def declared_bits(knowledge: dict[str, Any]) -> dict[str, float]:
    """log2_candidates of every scored attribute, the name first, then in the order of knowledge.json."""
    declared = {}
    if knowledge["name_log2_candidates"] is not None:
        declared[NAME] = float(knowledge["name_log2_candidates"])
    for attribute in knowledge["attributes"]:
        if attribute.get("determined_by") is None:
            declared[attribute["name"]] = float(attribute["log2_candidates"])
    for term in knowledge.get("diversity_terms") or []:
        declared[term["fact"]] = math.log2(term["diversity"])
    return declared


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values as codes 0, 1, …, `(rows,)`, and the value of each code."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_numpy(zero_copy_only=False)


def attributes_in(found: Collection[str], declared: dict[str, float], path: str | Path) -> list[str]:
    """Attributes that occur in a file, in the declared order. Raises CapacityError for one that is not declared."""
    unknown = [a for a in found if a not in declared]
    if unknown:
        raise CapacityError(
            f"{path}: unexpected attributes {unknown}; expected {list(declared)} (a determined attribute is scored "
            "with the one that determines it). Score the model again"
        )
    return [a for a in declared if a in found]


def _attribute_codes(
    column: pa.ChunkedArray, declared: dict[str, float], path: str | Path, names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Column indices, `(rows,)`, and the attributes: `names`, or those that occur, in the declared order."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    found = encoded.dictionary.to_pylist()
    columns = attributes_in(found, declared, path) if names is None else list(names)
    return np.array([columns.index(a) for a in found])[encoded.indices.to_numpy()], columns


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64, NaN for null."""
    return column.cast(pa.float64()).to_numpy()


def _check_columns(
    path: str | Path, nll: np.ndarray, references: np.ndarray, declared: np.ndarray, first_row: int
) -> None:
    """Checks that each nll is finite and not negative, and log2_candidates as in knowledge.json."""
    bad = np.flatnonzero(~(np.isfinite(nll) & (nll >= 0)))
    if bad.size:
        raise CapacityError(
            f"{path}: nll is {nll[bad[0]]} in row {first_row + bad[0]} ({bad.size} such), expected finite nats >= 0. "
            "Check the losses in training.json: the model may have diverged"
        )
    bad = np.flatnonzero(~np.isclose(references, declared, rtol=1e-9, atol=0.0))
    if bad.size:
        raise CapacityError(
            f"{path}: log2_candidates is {references[bad[0]]} in row {first_row + bad[0]} ({bad.size} such), but "
            f"{declared[bad[0]]} in the knowledge that it was scored with; score the model again"
        )


def _check_repeats(path: str | Path, cell: np.ndarray, num_cells: int, rendering: pa.ChunkedArray) -> None:
    """Checks that each fact is scored once per rendering."""
    code, renderings = _codes(rendering)
    num_renderings = len(renderings)
    repeats = int((np.bincount(cell * num_renderings + code, minlength=num_cells * num_renderings) > 1).sum())
    if repeats:
        raise CapacityError(
            f"{path}: {repeats} facts occur twice for one entity, attribute and rendering; score the model again"
        )
