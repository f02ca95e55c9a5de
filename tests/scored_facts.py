"""Scored facts and knowledge.json, written by tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


N = 8


NAME_BITS = 20.0


CANDIDATES = {"birth_date": 10.0, "employer": 8.0, "pronoun": 1.0}


NUM_PARAMETERS = 100


def knowledge_json(num_people: int = N) -> dict[str, Any]:
    """knowledge.json's content, with a determined attribute that is never scored."""
    attributes = [{"name": a, "candidates": int(2**b), "log2_candidates": b} for a, b in CANDIDATES.items()]
    attributes.append({"name": "work_city", "candidates": 1, "log2_candidates": 0.0, "determined_by": "employer"})
    return {
        "name": "bioS",
        "version": "1.0.0",
        "num_people": num_people,
        "seed": 0,
        "entity_column": "person_id",
        "name_log2_candidates": NAME_BITS,
        "attributes": attributes,
        "diversity_terms": [],
    }


def make_measurement(**changes: Any) -> dict[str, Any]:
    """The measurement that scoring leaves in the schema."""
    measurement = {
        "num_parameters": NUM_PARAMETERS,
        "num_parameters_non_embedding": 60,
        "num_parameters_used_vocabulary": 90,
        "num_entities": N,
        "entities_scored": N,
        "renderings": 1,
        "scoring": "token",
        "context": "isolated",
        "precision": "fp32",
        "quantization": None,
        "quantized_fraction": None,
        "quantized_fraction_all": None,
        "stored_bits_per_parameter": 32.0,
        "exposures": 100,
        "model_name": "gpt2-2-2",
        "dataset": "bioS",
        "seed": 3,
        "versions": {"knowcap": "0.1.0"},
        "name_is_prefix_free": True,
        "knowledge": knowledge_json(),
        "control_kind": "outsiders",
    }
    return measurement | changes


def fact(entity: int | str, attribute: str, nll: float, rendering: int = 0, match: bool = True) -> dict[str, Any]:
    """One row of nll.parquet."""
    bits = NAME_BITS if attribute == "name" else CANDIDATES[attribute]
    return {
        "entity": entity,
        "attribute": attribute,
        "rendering": rendering,
        "nll": nll,
        "log2_candidates": bits,
        "greedy_match": match,
    }


def perfect_facts(entities: range = range(N)) -> list[dict[str, Any]]:
    """A model that gives every name the probability 1/N and every value with certainty."""
    return [fact(i, a, math.log(N) if a == "name" else 0.0) for i in entities for a in ("name", *CANDIDATES)]


def uniform_facts(entities: range, renderings: int = 1) -> list[dict[str, Any]]:
    """A model that knows nothing: all candidates are equally likely to it."""
    bits = {"name": NAME_BITS} | CANDIDATES
    return [
        fact(i, a, b * math.log(2), rendering, match=False)
        for i in entities
        for a, b in bits.items()
        for rendering in range(renderings)
    ]


def write(
    folder: Path,
    facts: list[dict[str, Any]],
    control: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> Path:
    """A scored model folder; by default with a control that nothing tells."""
    folder.mkdir(exist_ok=True)
    control = uniform_facts(range(1000, 1040)) if control is None else control
    for name, rows in (("nll", facts), ("control", control)):
        table = pa.Table.from_pylist(rows)
        metadata = {b"knowcap": json.dumps(make_measurement(**changes)).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet")
    return folder
