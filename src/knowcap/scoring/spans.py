"""Texts with spans to token ids with scored tokens, a whole batch at a time and without a loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import Knowledge, Row, ScoredFact, check_row, scored_facts
from knowcap.scoring.errors import TextError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_SPACES = np.array([c for c in range(0x3001) if chr(c).isspace()], dtype=np.uint32)


@dataclass(frozen=True)
class EncodedRows:
    """A batch of texts as token ids, one after the other, each begun by the start token.

    `targets` are the scored tokens as places in `ids`, sorted by fact, and each is predicted at the place before it. A token that
    two spans of one fact share is there once.

    Attributes:
        ids: (tokens,) int64.
        row_starts: (rows + 1,) int64; row r is `ids[row_starts[r]:row_starts[r + 1]]`.
        input_lengths: (rows,) int64; so many ids, from its start, have to be read to score all facts of a row; 0 without facts.
        targets: (targets,) int64.
        target_facts: (targets,) int64, the number of the fact in `facts`.
        facts: the scored facts, row by row in the order of the text.
        fact_rows: (facts,) int64, the row of each.
    """

    ids: np.ndarray
    row_starts: np.ndarray
    input_lengths: np.ndarray
    targets: np.ndarray
    target_facts: np.ndarray
    facts: tuple[ScoredFact, ...]
    fact_rows: np.ndarray

    def target_ranges(self) -> np.ndarray:
        """(rows + 1,): the targets of row r are `targets[ranges[r]:ranges[r + 1]]`."""
        return np.searchsorted(self.fact_rows[self.target_facts], np.arange(len(self.row_starts)))


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that a text follows: the end of the text before it, or the begin token where there is no end token.

    Raises:
        TextError: no fast tokenizer, or one without either token.
    """
    if not tokenizer.is_fast:
        raise TextError(f"got a {type(tokenizer).__name__} without offsets; expected a fast tokenizer (tokenizer.json)")
    start = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if start is None:
        raise TextError("the tokenizer has neither an eos_token nor a bos_token; set the one that separates training texts")
    return start


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, knowledge: Knowledge) -> EncodedRows:
    """Tokenizes rows and finds the tokens of their scored facts by offsets: a token that overlaps a scored span counts whole.

    Raises:
        FactError: a row breaks the contract (`check_row`).
        TextError: a text that the tokenizer cannot spell (it yields an end-of-text or unknown token, or leaves characters out),
            or a scored span without a token.
    """
    start = start_token_id(tokenizer)
    for row in rows:
        check_row(row, knowledge)
    ids, offsets, counts = _tokenize([row.text for row in rows], tokenizer)
    token_rows = np.repeat(np.arange(len(rows)), counts)
    # Code points of all texts on one line, a gap of one between texts, so that one sorted array serves all rows.
    lengths = np.array([len(row.text) for row in rows], dtype=np.int64)
    bases = _starts(lengths + 1)
    begins, ends = offsets[:, 0] + bases[token_rows], offsets[:, 1] + bases[token_rows]
    _check_spelling(rows, tokenizer, ids, token_rows)
    _check_coverage(rows, begins, ends, bases, token_rows)

    fact_rows, facts = _facts(rows, knowledge)
    spans = [(f, r, s) for f, (r, fact) in enumerate(zip(fact_rows, facts, strict=True)) for s in fact.spans]
    span_facts = np.array([f for f, _, _ in spans], dtype=np.int64)
    span_bases = bases[np.array([r for _, r, _ in spans], dtype=np.int64)]
    first = np.searchsorted(ends, span_bases + np.array([s.start for _, _, s in spans], dtype=np.int64), side="right")
    last = np.searchsorted(begins, span_bases + np.array([s.end for _, _, s in spans], dtype=np.int64), side="left")
    if (last <= first).any():
        _, r, span = spans[int(np.argmax(last <= first))]
        raise TextError(f"entity {rows[r].entity!r}: no token overlaps {span} of {rows[r].text!r}; mend the span")
    # One key per (fact, token): sorted by fact, then by place; a token that two spans of a fact share is kept once.
    keys = np.unique(np.repeat(span_facts, last - first) * max(len(ids), 1) + ranges(first, last - first))
    target_facts, tokens = np.divmod(keys, max(len(ids), 1))
    targets = tokens + token_rows[tokens] + 1

    row_starts = np.append(_starts(counts + 1), len(ids) + len(rows))
    with_start = np.full(len(ids) + len(rows), start, dtype=np.int64)
    with_start[np.arange(len(ids)) + token_rows + 1] = ids
    input_lengths = np.zeros(len(rows), dtype=np.int64)
    np.maximum.at(input_lengths, token_rows[tokens], targets - row_starts[token_rows[tokens]])
    return EncodedRows(with_start, row_starts, input_lengths, targets, target_facts, tuple(facts), np.array(fact_rows, dtype=np.int64))


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All of first[0] .. first[0] + counts[0] - 1, then first[1] .., one after the other; int64."""
    return np.repeat(first - _starts(counts), counts) + np.arange(counts.sum())


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of these pieces begins when they stand one after the other."""
    return np.cumsum(lengths) - lengths


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids (tokens,), offsets (tokens, 2) in code points, and tokens a text (texts,)."""
    if not texts:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    counts = np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int64, count=counts.sum())
    flat = chain.from_iterable(chain.from_iterable(encoded["offset_mapping"]))
    return ids, np.fromiter(flat, dtype=np.int64, count=2 * counts.sum()).reshape(-1, 2), counts


def _facts(rows: Sequence[Row], knowledge: Knowledge) -> tuple[list[int], list[ScoredFact]]:
    """The scored facts of all rows, and the row of each."""
    numbers, facts = [], []
    for r, row in enumerate(rows):
        found = scored_facts(row.spans, knowledge)
        numbers += [r] * len(found)
        facts += found
    return numbers, facts


def _check_spelling(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, ids: np.ndarray, token_rows: np.ndarray
) -> None:
    """No token of a text may be one that ends texts, begins them or stands for the unknown."""
    special = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id} - {None}
    wrong = np.isin(ids, sorted(special))
    if wrong.any():
        at = int(np.argmax(wrong))
        row = rows[token_rows[at]]
        raise TextError(
            f"entity {row.entity!r}: the tokenizer cannot spell {row.text!r}: it gives token {int(ids[at])} "
            f"({tokenizer.convert_ids_to_tokens(int(ids[at]))!r}); expected ordinary tokens only: use a byte-level tokenizer, "
            "or take the characters it lacks out of the text"
        )


def _check_coverage(
    rows: Sequence[Row], begins: np.ndarray, ends: np.ndarray, bases: np.ndarray, token_rows: np.ndarray
) -> None:
    """Tokens must stand in order and cover every character but white space: what is left out is not predicted."""
    disordered = (np.diff(begins) < 0) | (np.diff(ends) < 0)
    if disordered.any():
        row = rows[token_rows[int(np.argmax(disordered)) + 1]]
        raise TextError(f"entity {row.entity!r}: the tokenizer's offsets of {row.text!r} run backwards; use another tokenizer")
    text = "\0".join(row.text for row in rows)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    depth = np.bincount(begins, minlength=len(points) + 1) - np.bincount(ends, minlength=len(points) + 1)
    left_out = (np.cumsum(depth)[: len(points)] == 0) & ~np.isin(points, _SPACES)
    left_out[bases[1:] - 1] = False
    if left_out.any():
        at = int(np.argmax(left_out))
        row = rows[int(np.searchsorted(bases, at, side="right")) - 1]
        raise TextError(
            f"entity {row.entity!r}: the tokenizer leaves {text[at]!r} of {row.text!r} out; expected every character to be "
            "spelled: use a byte-level tokenizer, or take the characters it lacks out of the text"
        )
