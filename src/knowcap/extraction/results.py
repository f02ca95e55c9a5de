"""The results in extraction.json: extractable accuracy and bits, beside memorizable ones of the same people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from knowcap.capacity.summary import MEMORIZABLE_ATTRIBUTES
from knowcap.extraction.answering import matches
from knowcap.extraction.questions import ExtractionError, Question
from knowcap.facts import Knowledge
from knowcap.sealed.parquet import read_table


SCHEMA_VERSION = 1
BEAMS = 4


def answer_table(
    questions: Sequence[Question], greedy: Sequence[str], beam: Sequence[str], nll: np.ndarray, knowledge: Knowledge
) -> pa.Table:
    """One row per question: question, true answer, generated answers, whether they match, and nll (nats)."""
    known = {a.name: a.log2_candidates for a in knowledge.attributes}
    return pa.table(
        {
            knowledge.entity_column: [q.entity for q in questions],
            "attribute": [q.attribute for q in questions],
            "question": [q.text for q in questions],
            "answer": [q.answer for q in questions],
            "greedy": list(greedy),
            f"beam_{BEAMS}": list(beam),
            "greedy_match": [matches(text, q.answer) for text, q in zip(greedy, questions, strict=True)],
            f"beam_{BEAMS}_match": [matches(text, q.answer) for text, q in zip(beam, questions, strict=True)],
            "nll": pa.array(nll, pa.float64()),
            "log2_candidates": pa.array([known[q.attribute] for q in questions], pa.float64()),
        }
    )


def summarize(answered: pa.Table, scores: Path, knowledge: Knowledge) -> dict[str, Any]:
    """Accuracy and bits by attribute and over the paper's five (otherwise all that count bits).

    Bits are lower bounds (Lemma F.1): log2 of the candidates minus nll / ln 2, with the answer predicted from its
    question by weights that were not tuned on this person. An attribute's stored bits are those of the same people in
    the run's nll.parquet, from training texts.

    Args:
        answered: the table of `answer_table`.
        scores: the run's nll.parquet.
        knowledge: of the data set.

    Returns:
        `attributes` {name: {memorizable_accuracy, extractable_accuracy, extractable_accuracy_beam_4, stored_bits,
        extractable_bits, max_bits}}, the first three in [0, 1], bits per person; the means of the accuracies and sums
        of the bits over `extractable_attributes`; `extractable_share` of the stored bits, None if none are stored.

    Raises:
        ExtractionError: the run was not measured on all of these people.
    """
    people = set(answered[knowledge.entity_column].to_pylist())
    rows = _by_attribute(answered, _memorized(scores, people), knowledge)
    chosen = (
        list(MEMORIZABLE_ATTRIBUTES)
        if rows.keys() >= set(MEMORIZABLE_ATTRIBUTES)
        else [n for n, row in rows.items() if row["max_bits"] is not None]
    )
    if missing := [name for name in chosen if rows[name]["stored_bits"] is None]:
        raise ExtractionError(
            f"{scores} has no scores of {', '.join(missing)} for all people of the questions; measure the run on all "
            "of its people (`knowcap measure RUN --overwrite`)"
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


def _by_attribute(
    answered: pa.Table, memorized: dict[str, tuple[float, float]], knowledge: Knowledge
) -> dict[str, dict[str, Any]]:
    """The entries of `attributes`."""
    columns = {name: answered[name].to_numpy(zero_copy_only=False) for name in answered.column_names}
    bits = columns["log2_candidates"] - columns["nll"] / math.log(2)
    rows = {}
    for name in dict.fromkeys(columns["attribute"].tolist()):
        chosen = columns["attribute"] == name
        counts = bool(knowledge.log2_candidates(name))
        accuracy, stored_bits = memorized.get(name, (None, None))
        rows[name] = {
            "memorizable_accuracy": accuracy,
            "extractable_accuracy": float(columns["greedy_match"][chosen].mean()),
            f"extractable_accuracy_beam_{BEAMS}": float(columns[f"beam_{BEAMS}_match"][chosen].mean()),
            "stored_bits": stored_bits if counts else None,
            "extractable_bits": float(bits[chosen].mean()) if counts else None,
            "max_bits": knowledge.log2_candidates(name) if counts else None,
        }
    return rows


def _memorized(scores: Path, people: set[int | str]) -> dict[str, tuple[float, float]]:
    """Memorizable accuracy and bits per person of each attribute, over these people: means over their texts."""
    table = read_table(scores, columns=["entity", "attribute", "nll", "log2_candidates", "greedy_match"])
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
