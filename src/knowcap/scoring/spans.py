"""Texts with spans → token ids with scored tokens, a batch at a time, and the contexts in which they are scored."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import FactError, Knowledge, Row, ScoredFact, Span, check_row, scored_facts
from knowcap.models.separators import Separators
from knowcap.scoring.closed_set import closed_targets
from knowcap.scoring.mode import TextError
from knowcap.scoring.tokens import Tokens, offsets_of, tokenize


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from knowcap.scoring.closed_set import ClosedSets

PACKED_GROUP = 1024  # rows packed into windows at a time, for any batch size and number of processes


@dataclass(frozen=True)
class EncodedRows:
    """A batch of texts as token ids, one after the other, with separators: those before each, those after each.

    `targets` are the indices in `ids` of scored tokens, sorted by fact; each is predicted from the tokens before it.
    A token that two spans of one fact share occurs once.

    Attributes:
        ids: (tokens,) int64; after the last row stands the token that ends a text.
        row_starts: (rows + 1,) int64; row r, with its separators, is `ids[row_starts[r]:row_starts[r + 1]]`.
        input_lengths: (rows,) int64, how many ids of a row must be read to score all its facts; 0 without facts.
        targets: (targets,) int64.
        truths: (targets,) int64, the true token of each: that of `ids`, or the one that ends a text (closed sets).
        target_facts: (targets,) int64, index of the fact in `facts`.
        facts: the scored facts, row by row in the order of the text, bioD's first chunks after them.
        fact_rows: (facts,) int64, the row of each.
        allowed: None if any token is possible; with closed sets the possible ids and offsets; those of target t are
            `allowed[0][allowed[1][t]:allowed[1][t + 1]]`.
    """

    ids: np.ndarray
    row_starts: np.ndarray
    input_lengths: np.ndarray
    targets: np.ndarray
    truths: np.ndarray
    target_facts: np.ndarray
    facts: tuple[ScoredFact, ...]
    fact_rows: np.ndarray
    allowed: tuple[np.ndarray, np.ndarray] | None = None

    def target_ranges(self) -> np.ndarray:
        """(rows + 1,): the targets of row r are `targets[ranges[r]:ranges[r + 1]]`."""
        return np.searchsorted(self.fact_rows[self.target_facts], np.arange(len(self.row_starts)))


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    knowledge: Knowledge,
    closed_sets: ClosedSets | None = None,
    separators: Separators | None = None,
) -> EncodedRows:
    """Tokenizes rows and finds the tokens of their scored facts: a token that overlaps a scored span counts whole.

    The white space right before a value is scored with it, and so are other tokens before it in the same pre-token: a
    space that is a token of its own rules out the values that would have merged with it.

    With `closed_sets` the targets are the tokens at which several candidates are possible, which may include the one
    after the value; diversity terms have no targets.

    `separators` are the tokens around each text, by default those of start_token auto.

    Raises:
        FactError: a row breaks the contract (`check_row`).
        ModelError: a tokenizer that is not fast, or has no start token.
        TextError: a text that the tokenizer cannot spell (see `tokenize`), a scored span without a token, or a scored
            fact that begins with a text's first token where no start token stands before it.
    """
    separators = Separators.of(tokenizer) if separators is None else separators
    for row in rows:
        check_row(row, knowledge)
    tokens = tokenize(rows, tokenizer, separators)

    found = [scored_facts(row.spans, knowledge) for row in rows]
    if closed_sets is None:
        found = [facts + first_chunks(row, knowledge) for facts, row in zip(found, rows, strict=True)]
    fact_rows = np.repeat(np.arange(len(rows)), np.array([len(facts) for facts in found], dtype=np.int64))
    facts = tuple(chain.from_iterable(found))
    first, counts, span_facts = _span_tokens(rows, facts, fact_rows, tokens, len(knowledge.text_prefix))
    row_starts = np.append(offsets_of(tokens.counts + separators.size), len(tokens.ids) + len(rows) * separators.size)
    text_starts = row_starts[:-1] + len(separators.before)
    ids = _with_separators(tokens, separators, row_starts)
    if closed_sets is None:
        # One key per (fact, token): sorted by fact, then position; a token that two spans share is kept once.
        width = max(len(tokens.ids), 1)
        keys = np.unique(np.repeat(span_facts, counts) * width + ranges(first, counts))
        (target_facts, positions), allowed = np.divmod(keys, width), None
        targets = positions + (text_starts - offsets_of(tokens.counts))[tokens.rows[positions]]
        truths = ids[targets]
    else:
        targets, truths, target_facts, allowed = closed_targets(
            rows, facts, fact_rows, tokens, first, knowledge, closed_sets, text_starts
        )
    input_lengths, target_rows = np.zeros(len(rows), dtype=np.int64), fact_rows[target_facts]
    if not separators.before:
        _check_not_first(rows, facts, target_facts, target_rows, targets - row_starts[target_rows])
    np.maximum.at(input_lengths, target_rows, targets - row_starts[target_rows])
    return EncodedRows(ids, row_starts, input_lengths, targets, truths, target_facts, facts, fact_rows, allowed)


def _with_separators(tokens: Tokens, separators: Separators, row_starts: np.ndarray) -> np.ndarray:
    """The ids of all texts with the separators around each, and after the last one the token that ends a text."""
    pairs = np.array([*separators.before, *separators.after], dtype=np.int64)
    ids = np.full(row_starts[-1] + 1, 0 if separators.end is None else separators.end, dtype=np.int64)
    count = len(separators.before)
    shift = count + np.arange(len(tokens.counts)) * separators.size
    ids[np.arange(len(tokens.ids)) + shift[tokens.rows]] = tokens.ids
    ids[row_starts[:-1, None] + np.arange(count)] = pairs[:count]
    ids[row_starts[1:, None] - separators.size + count + np.arange(len(separators.after))] = pairs[count:]
    return ids


def _check_not_first(
    rows: Sequence[Row],
    facts: Sequence[ScoredFact],
    target_facts: np.ndarray,
    target_rows: np.ndarray,
    places: np.ndarray,
) -> None:
    """Raises TextError if a scored token is the first of its text, which nothing predicts without a start token."""
    if (places == 0).any():
        at = int(np.argmax(places == 0))
        row, fact = rows[target_rows[at]], facts[target_facts[at]]
        raise TextError(
            f"entity {row.entity!r}: {fact.attribute} begins with the first token of {row.text!r}, which nothing "
            "predicts with start_token none; use start_token auto, bos or eos, or begin the text with other words"
        )


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All of first[0] .. first[0] + counts[0] - 1, then first[1] .., one after the other; int64."""
    return np.repeat(first - offsets_of(counts), counts) + np.arange(counts.sum())


def _span_tokens(
    rows: Sequence[Row], facts: Sequence[ScoredFact], fact_rows: np.ndarray, tokens: Tokens, prefix: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First token, number of tokens, and fact of every scored span."""
    spans = [(f, r, span) for f, (r, fact) in enumerate(zip(fact_rows, facts, strict=True)) for span in fact.spans]
    reach = [_reach(rows[r], span.start, prefix) for _, r, span in spans]
    base = tokens.bases[np.array([r for _, r, _ in spans], dtype=np.int64)]
    begin, limit = (base + np.array([pair[i] for pair in reach], dtype=np.int64) for i in (0, 1))
    own = np.searchsorted(tokens.ends, base + np.array([s.start for *_, s in spans], dtype=np.int64), side="right")
    last = np.searchsorted(tokens.begins, base + np.array([s.end for *_, s in spans], dtype=np.int64), side="left")
    if (last <= own).any():
        _, r, span = spans[int(np.argmax(last <= own))]
        raise TextError(f"entity {rows[r].entity!r}: no token overlaps {span} of {rows[r].text!r}; correct the span")
    first = np.searchsorted(tokens.ends, begin, side="right")
    same_word = np.maximum(tokens.word_starts[own], np.searchsorted(tokens.begins, limit, side="left"))
    first = np.minimum(first, same_word)
    return first, last - first, np.array([f for f, _, _ in spans], dtype=np.int64)


def _reach(row: Row, start: int, prefix: int) -> tuple[int, int]:
    """How far left of a value at `start` scored tokens may begin: in any case, and within the value's pre-token.

    White space right before the value is scored in any case. Otherwise the characters that touch it, and the white
    space before them, are scored if they are in the value's pre-token; never what another span covers, nor the first
    `prefix` characters.
    """
    earliest = max([span.end for span in row.spans if span.end <= start], default=prefix)
    head = row.text[earliest:start]
    begin = earliest + len(head.rstrip())
    if begin < start or not head:
        return begin, begin
    touching = head.split()[-1]
    return start, earliest + len(head[: len(head) - len(touching)].rstrip())


def first_chunks(row: Row, knowledge: Knowledge) -> list[ScoredFact]:
    """The first chunks of bioD's values, for p3 (Part 3.3, 3.1): measured separately, never added to the values' bits.

    Raises:
        FactError: a value whose beginning does not match its diversity term.
    """
    first = {span.attribute: span for span in reversed(row.spans)}
    facts = []
    for term in knowledge.diversity_terms:
        if (span := first.get(term["attribute"])) is not None:
            found = re.match(term["first_chunk"], value := row.text[span.start : span.end])
            if not found or not found.end():
                raise FactError(f"entity {row.entity!r}: {span} is {value!r}, expected {term['first_chunk']!r}")
            chunk = Span(term["fact"], span.start, span.start + found.end())
            facts.append(ScoredFact(term["fact"], math.log2(term["diversity"]), (chunk,)))
    return facts


@dataclass(frozen=True)
class Contexts:
    """Groups of texts that the model reads together; each begins with the separators before its first text.

    Attributes:
        rows: (contexts + 1,) int64; context c has the texts rows[c] … rows[c + 1] - 1.
        starts: (contexts,) int64, where each begins in `EncodedRows.ids`.
        lengths: (contexts,) int64; how many ids must be read to score all its facts; 0 without facts.
    """

    rows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def isolated_rows(encoded: EncodedRows) -> Contexts:
    """One context per text."""
    return Contexts(np.arange(len(encoded.input_lengths) + 1), encoded.row_starts[:-1], encoded.input_lengths)


def packed_rows(encoded: EncodedRows, rows: Sequence[Row], block_size: int) -> Contexts:
    """Contexts of as many whole texts as fit in a window, with their separators; never two of one entity.

    Training windows may cut a text; texts are scored whole, so that the context contains the name.

    Raises:
        TextError: a text that is longer than a window.
    """
    sizes = np.diff(encoded.row_starts)
    if sizes.max(initial=0) > block_size:
        worst = int(np.argmax(sizes))
        raise TextError(
            f"entity {rows[worst].entity!r}: the text has {sizes[worst]} tokens with its separators, a window "
            f"has {block_size}; expected windows that hold every text. Pass a larger window (--window), or context "
            "isolated"
        )
    bounds, filled, entities = [0], 0, set()
    for number, (size, row) in enumerate(zip(sizes.tolist(), rows, strict=True)):
        if filled + size > block_size or row.entity in entities:
            bounds.append(number)
            filled, entities = 0, set()
        filled += size
        entities.add(row.entity)
    starts = encoded.row_starts[bounds]
    needed = np.where(encoded.input_lengths > 0, encoded.row_starts[:-1] + encoded.input_lengths, 0)
    lengths = np.maximum.reduceat(needed, bounds) - starts
    return Contexts(np.append(bounds, len(rows)), starts, np.maximum(lengths, 0))


def by_rendering(renderings: Sequence[int]) -> np.ndarray:
    """An order of rows in which the texts of one entity are far apart."""
    return np.argsort(np.asarray(renderings), kind="stable")
