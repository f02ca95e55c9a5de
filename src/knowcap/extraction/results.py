"""The results in extraction.json: extractable accuracy and bits, beside memorizable ones of the same people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from knowcap.capacity.summary import MEMORIZABLE_ATTRIBUTES
from knowcap.extraction.answering import matches
from knowcap.extraction.questions import ExtractionError, Question
from knowcap.facts import Knowledge
from knowcap.sealed.parquet import batches, read_table


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

SCHEMA_VERSION = 1
BEAMS = 4
_MATCHES = ("greedy_match", f"beam_{BEAMS}_match")


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


def summarize(parts: Sequence[Path], scores: Path, knowledge: Knowledge) -> dict[str, Any]:
    """Accuracy and bits by attribute and over the paper's five (otherwise all that count bits).

    Bits are lower bounds (Lemma F.1): log2 of the candidates minus nll / ln 2, with the answer predicted from its
    question by weights that were not tuned on this person. An attribute's stored bits are those of the same people in
    the run's nll.parquet, from training texts.

    Args:
        parts: files with tables of `answer_table`, of which the numbers alone are in memory.
        scores: the run's nll.parquet.
        knowledge: of the data set.

    Returns:
        `attributes` {name: {memorizable_accuracy, extractable_accuracy, extractable_accuracy_beam_4, stored_bits,
        extractable_bits, max_bits}}, the first three in [0, 1], bits per person; the means of the accuracies and sums
        of the bits over `extractable_attributes`; `extractable_share` of the stored bits, None if none are stored.

    Raises:
        ExtractionError: the run was not measured on all of these people.
    """
    columns = [knowledge.entity_column, "attribute", *_MATCHES, "nll", "log2_candidates"]
    answered = pa.concat_tables(read_table(part, columns, read_dictionary=["attribute"]) for part in parts)
    people = pc.unique(answered[knowledge.entity_column])
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
    attribute = answered["attribute"].unify_dictionaries().combine_chunks()
    names, codes = attribute.dictionary.to_pylist(), attribute.indices.to_numpy()
    numbers = ("nll", "log2_candidates", *_MATCHES)
    columns = {name: answered[name].to_numpy(zero_copy_only=False) for name in numbers}
    bits = columns["log2_candidates"] - columns["nll"] / math.log(2)
    rows = {}
    for code in sorted(range(len(names)), key=lambda code: int(np.argmax(codes == code))):  # as they occur
        name, chosen = names[code], codes == code
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


def _memorized(scores: Path, people: pa.Array) -> dict[str, tuple[float, float]]:
    """Memorizable accuracy and bits per person of each attribute, over these people: means over their texts."""
    found: dict[str, _Sums] = {}
    names = ["entity", "attribute", "nll", "log2_candidates", "greedy_match"]
    place_of, row = _places(people), 0
    for batch in batches(scores, names):
        columns = {name: batch.column(name) for name in names}
        places = place_of(columns["entity"])
        used = (places >= 0) & columns["log2_candidates"].is_valid().to_numpy(zero_copy_only=False)
        attribute = columns["attribute"].dictionary_encode()
        codes = attribute.indices.to_numpy(zero_copy_only=False)
        nll, log2_candidates = (columns[name].to_numpy(zero_copy_only=False) for name in ("nll", "log2_candidates"))
        bits = log2_candidates - nll / math.log(2)
        match = columns["greedy_match"].to_numpy(zero_copy_only=False).astype(np.float64)
        for code, name in enumerate(attribute.dictionary.to_pylist()):
            chosen = np.flatnonzero(used & (codes == code))
            if chosen.size:
                sums = found.setdefault(name, _Sums(len(people)))
                sums.add(places[chosen], match[chosen], bits[chosen], row + chosen)
        row += len(batch)
    return {name: sums.means() for name, sums in found.items() if sums.count.all()}


class _Sums:
    """The texts of each person of one attribute: how many, the sums of matches and bits, and the first one's row."""

    def __init__(self, people: int) -> None:
        self.count, self.row = np.zeros(people, dtype=np.int32), np.zeros(people, dtype=np.int64)
        self.match, self.bits = np.zeros(people), np.zeros(people)

    def add(self, places: np.ndarray, match: np.ndarray, bits: np.ndarray, rows: np.ndarray) -> None:
        """Adds texts, (n,) each, with the places of their people."""
        new = np.flatnonzero(self.count[places] == 0)[::-1]  # a person's first row is written last
        self.row[places[new]] = rows[new]
        for sums, values in ((self.count, 1), (self.match, match), (self.bits, bits)):
            np.add.at(sums, places, values)

    def means(self) -> tuple[float, float]:
        """The means over people of their means, added in the order of their first texts."""
        order = np.argsort(self.row)
        pairs = np.stack([self.match / self.count, self.bits / self.count], axis=1)[order]
        match, bits = np.mean(pairs, axis=0).tolist()
        return match, bits


def _places(people: pa.Array) -> Callable[[pa.Array], np.ndarray]:
    """A function from entities to the place of each among these people, (n,); -1 for others."""
    if not pa.types.is_integer(people.type):
        return lambda ids: pc.fill_null(pc.index_in(ids.cast(pa.string()), value_set=people), -1).to_numpy()
    ordered = np.sort(people.to_numpy())

    def places(ids: pa.Array) -> np.ndarray:
        values = ids.to_numpy(zero_copy_only=False)
        at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
        return np.where(ordered[at] == values, at, -1)

    return places
