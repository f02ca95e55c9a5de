"""From answers to extraction.json: extractable accuracy and bits, beside memorizable ones of the same people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from knowcap.capacity.accuracy import FIVE
from knowcap.extraction.errors import ExtractError
from knowcap.extraction.matcher import matches
from knowcap.extraction.questions import Question
from knowcap.facts import Knowledge


SCHEMA_VERSION = 1
BEAMS = 4


def answer_table(
    questions: Sequence[Question], greedy: Sequence[str], beam: Sequence[str], nll: np.ndarray, knowledge: Knowledge
) -> pa.Table:
    """One row a question: what was asked, what is true, what was said, whether it matches, and nll (nats)."""
    known = {a.name: a.log2_candidates for a in knowledge.attributes}
    return pa.table(
        {
            knowledge.entity_column: [q.entity for q in questions],
            "attribute": [q.attribute for q in questions],
            "question": [q.text for q in questions],
            "answer": [q.answer for q in questions],
            "greedy": list(greedy),
            f"beam_{BEAMS}": list(beam),
            "greedy_match": [matches(said, q.answer) for said, q in zip(greedy, questions, strict=True)],
            f"beam_{BEAMS}_match": [matches(said, q.answer) for said, q in zip(beam, questions, strict=True)],
            "nll": pa.array(nll, pa.float64()),
            "log2_candidates": pa.array([known[q.attribute] for q in questions], pa.float64()),
        }
    )


def summarize(answered: pa.Table, scores: Path, knowledge: Knowledge) -> dict[str, Any]:
    """Accuracy and bits by attribute and over the paper's five (else all asked that count bits).

    Bits are lower bounds (Lemma F.1): log2 of the candidates less nll / ln 2, the answer predicted from its question
    by weights that were never tuned on this person. An attribute's stored bits are those of the run's nll.parquet, of
    the same people, from training texts.

    Args:
        answered: the table of `answer_table`.
        scores: the run's nll.parquet.
        knowledge: of the data set.

    Returns:
        `attributes` {name: {memorizable_accuracy, extractable_accuracy, extractable_accuracy_beam_4, stored_bits,
        extractable_bits, max_bits}}, the first three in [0, 1], bits a person; the means of the accuracies and sums of
        the bits over `extractable_attributes`; `extractable_share` of the stored bits, None where none are stored.

    Raises:
        ExtractError: the run was measured on other people.
    """
    column = answered[knowledge.entity_column].to_numpy(zero_copy_only=False)
    people, attributes = set(column.tolist()), answered["attribute"].to_numpy(zero_copy_only=False)
    stored = _stored(scores, people)
    rows: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(attributes.tolist()):
        mine = attributes == name
        bits = answered["log2_candidates"].to_numpy()[mine] - answered["nll"].to_numpy()[mine] / math.log(2)
        counts = bool(knowledge.log2_candidates(name))
        memorized, stored_bits = stored.get(name, (None, None))
        rows[name] = {
            "memorizable_accuracy": memorized,
            "extractable_accuracy": float(answered["greedy_match"].to_numpy(zero_copy_only=False)[mine].mean()),
            f"extractable_accuracy_beam_{BEAMS}": float(
                answered[f"beam_{BEAMS}_match"].to_numpy(zero_copy_only=False)[mine].mean()
            ),
            "stored_bits": stored_bits if counts else None,
            "extractable_bits": float(bits.mean()) if counts else None,
            "max_bits": knowledge.log2_candidates(name) if counts else None,
        }
    chosen = list(FIVE) if rows.keys() >= set(FIVE) else [n for n, row in rows.items() if row["max_bits"] is not None]
    if missing := [name for name in chosen if rows[name]["stored_bits"] is None]:
        raise ExtractError(
            f"{scores} has no scores of {', '.join(missing)} of the people asked about; measure the run on all of its "
            "people (`knowcap measure RUN --overwrite`)"
        )
    means = {
        key: float(np.mean([rows[name][key] for name in chosen]))
        for key in ("memorizable_accuracy", "extractable_accuracy", f"extractable_accuracy_beam_{BEAMS}")
    }
    sums = {
        f"{key}_per_entity": float(sum(rows[name][key] for name in chosen))
        for key in ("stored_bits", "extractable_bits", "max_bits")
    }
    held = sums["stored_bits_per_entity"]
    share = sums["extractable_bits_per_entity"] / held if held > 0 else None
    return {
        **means, **sums, "extractable_share": share, "extractable_attributes": chosen, "people_asked": len(people),
        "attributes": rows,
    }  # fmt: skip


def _stored(scores: Path, people: set[int | str]) -> dict[str, tuple[float, float]]:
    """Memorizable accuracy and bits a person of each attribute, over these people: means over their texts."""
    table = pq.read_table(scores, columns=["entity", "attribute", "nll", "log2_candidates", "greedy_match"])
    sums: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    columns = (table[name].to_pylist() for name in table.column_names)
    for entity, attribute, nll, log2_candidates, match in zip(*columns, strict=True):
        if entity in people and log2_candidates is not None:
            bits = log2_candidates - nll / math.log(2)
            sums.setdefault(attribute, {}).setdefault(entity, []).append((float(match), bits))
    found = {}
    for attribute, texts in sums.items():
        if texts.keys() >= people:
            found[attribute] = tuple(np.mean([np.mean(pairs, axis=0) for pairs in texts.values()], axis=0).tolist())
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
