"""Texts with spans to token ids with scored tokens, a whole batch at a time and without a loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import Knowledge, Row, ScoredFact, check_row, scored_facts
from knowcap.scoring.closed_targets import closed_targets
from knowcap.scoring.errors import TextError
from knowcap.scoring.first_chunks import first_chunks
from knowcap.scoring.tokens import Tokens, start_token_id


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from knowcap.scoring.closed_set import ClosedSets


_SPACES = np.array([c for c in range(0x3001) if chr(c).isspace()], dtype=np.uint32)


@dataclass(frozen=True)
class EncodedRows:
    """A batch of texts as token ids, one after the other, a start token before each and after the last.

    `targets` are the scored tokens as places in `ids`, sorted by fact, and each is predicted at the place before it.
    A token that two spans of one fact share is there once.

    Attributes:
        ids: (tokens,) int64.
        row_starts: (rows + 1,) int64; row r is `ids[row_starts[r]:row_starts[r + 1]]`.
        input_lengths: (rows,) int64; so many ids of a row have to be read to score all its facts; 0 without facts.
        targets: (targets,) int64.
        target_facts: (targets,) int64, the number of the fact in `facts`.
        facts: the scored facts, row by row in the order of the text, bioD's first chunks after them.
        fact_rows: (facts,) int64, the row of each.
        allowed: None where a token may be any; with closed sets the ids that may come at each target, and where those
            of target t stand: `allowed[0][allowed[1][t]:allowed[1][t + 1]]`.
    """

    ids: np.ndarray
    row_starts: np.ndarray
    input_lengths: np.ndarray
    targets: np.ndarray
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
) -> EncodedRows:
    """Tokenizes rows and finds the tokens of their scored facts: a token that overlaps a scored span counts whole.

    The white space right before a value counts with it, and so do other tokens before it in the same pre-token: a
    space that is a token of its own tells that the value is none of those that would have merged with it.

    With `closed_sets` the targets are the tokens at which a candidate is left or taken, one after the value perhaps,
    and a diversity term has none.

    Raises:
        FactError: a row breaks the contract (`check_row`).
        TextError: a text that the tokenizer cannot spell (it yields an end-of-text or unknown token, or leaves
            characters out), or a scored span without a token.
    """
    start = start_token_id(tokenizer)
    for row in rows:
        check_row(row, knowledge)
    tokens = _tokenize(rows, tokenizer)
    _check_spelling(rows, tokenizer, tokens)
    _check_coverage(rows, tokens)

    found = [scored_facts(row.spans, knowledge) for row in rows]
    if closed_sets is None:
        found = [facts + first_chunks(row, knowledge) for facts, row in zip(found, rows, strict=True)]
    fact_rows = np.repeat(np.arange(len(rows)), np.array([len(facts) for facts in found], dtype=np.int64))
    facts = tuple(chain.from_iterable(found))
    first, counts, span_facts = _span_tokens(rows, facts, fact_rows, tokens, len(knowledge.text_prefix))
    if closed_sets is None:
        # One key per (fact, token): sorted by fact, then place; a token that two spans of a fact share is kept once.
        width = max(len(tokens.ids), 1)
        keys = np.unique(np.repeat(span_facts, counts) * width + ranges(first, counts))
        (target_facts, places), allowed = np.divmod(keys, width), None
        targets = places + tokens.rows[places] + 1  # a start token stands before every text
    else:
        targets, target_facts, allowed = closed_targets(rows, facts, fact_rows, tokens, first, knowledge, closed_sets)

    # Another start token stands after the last text, as one does after each: it ends a text too.
    row_starts = np.append(_starts(tokens.counts + 1), len(tokens.ids) + len(rows))
    ids = np.full(len(tokens.ids) + len(rows) + 1, start, dtype=np.int64)
    ids[np.arange(len(tokens.ids)) + tokens.rows + 1] = tokens.ids
    input_lengths, target_rows = np.zeros(len(rows), dtype=np.int64), fact_rows[target_facts]
    np.maximum.at(input_lengths, target_rows, targets - row_starts[target_rows])
    return EncodedRows(ids, row_starts, input_lengths, targets, target_facts, facts, fact_rows, allowed)


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """All of first[0] .. first[0] + counts[0] - 1, then first[1] .., one after the other; int64."""
    return np.repeat(first - _starts(counts), counts) + np.arange(counts.sum())


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of these pieces begins when they stand one after the other."""
    return np.cumsum(lengths) - lengths


def _tokenize(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> Tokens:
    """The tokens of all texts."""
    texts = [row.text for row in rows]
    bases = _starts(np.array([len(text) + 1 for text in texts], dtype=np.int64))
    if not texts:
        nothing = np.zeros(0, dtype=np.int64)
        return Tokens(nothing, nothing, nothing, nothing, nothing, nothing, bases)
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
    offsets = np.fromiter(flat, dtype=np.int64, count=2 * counts.sum()).reshape(-1, 2)
    token_rows = np.repeat(np.arange(len(rows)), counts)
    words = np.concatenate([np.array(encoding.word_ids, dtype=np.float64) for encoding in encoded.encodings])
    first = np.ones(len(ids), dtype=bool)  # of its pre-token
    first[1:] = (words[1:] != words[:-1]) | (token_rows[1:] != token_rows[:-1])
    word_starts = np.maximum.accumulate(np.where(first, np.arange(len(ids)), 0))
    begins, ends = offsets[:, 0] + bases[token_rows], offsets[:, 1] + bases[token_rows]
    return Tokens(ids, begins, ends, token_rows, word_starts, counts, bases)


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
        raise TextError(f"entity {rows[r].entity!r}: no token overlaps {span} of {rows[r].text!r}; mend the span")
    first = np.searchsorted(tokens.ends, begin, side="right")
    same_word = np.maximum(tokens.word_starts[own], np.searchsorted(tokens.begins, limit, side="left"))
    first = np.minimum(first, same_word)
    return first, last - first, np.array([f for f, _, _ in spans], dtype=np.int64)


def _reach(row: Row, start: int, prefix: int) -> tuple[int, int]:
    """How far left of a value at `start` its tokens may reach: what counts in any case, and what within its pre-token.

    White space right before it counts in any case. Otherwise whatever touches it, and the white space before that,
    counts where it is in the value's pre-token; never what another span covers, nor the first `prefix` characters.
    """
    earliest = max([span.end for span in row.spans if span.end <= start], default=prefix)
    head = row.text[earliest:start]
    begin = earliest + len(head.rstrip())
    if begin < start or not head:
        return begin, begin
    touching = head.split()[-1]
    return start, earliest + len(head[: len(head) - len(touching)].rstrip())


def _check_spelling(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, tokens: Tokens) -> None:
    """No token of a text may be one that ends texts, begins them or stands for the unknown."""
    special = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id} - {None}
    wrong = np.isin(tokens.ids, sorted(special))
    if wrong.any():
        at = int(np.argmax(wrong))
        row, token = rows[tokens.rows[at]], int(tokens.ids[at])
        raise TextError(
            f"entity {row.entity!r}: the tokenizer cannot spell {row.text!r}: it gives token {token} "
            f"({tokenizer.convert_ids_to_tokens(token)!r}); expected ordinary tokens only: use a byte-level "
            "tokenizer, or take the characters it lacks out of the text"
        )


def _check_coverage(rows: Sequence[Row], tokens: Tokens) -> None:
    """Tokens must stand in order and cover every character but white space: what is left out is not predicted."""
    disordered = (np.diff(tokens.begins) < 0) | (np.diff(tokens.ends) < 0)
    if disordered.any():
        row = rows[tokens.rows[int(np.argmax(disordered)) + 1]]
        raise TextError(f"entity {row.entity!r}: the offsets of {row.text!r} run backwards; use another tokenizer")
    text = "\0".join(row.text for row in rows)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    size = len(points) + 1
    depth = np.cumsum(np.bincount(tokens.begins, minlength=size) - np.bincount(tokens.ends, minlength=size))
    left_out = (depth[: len(points)] == 0) & ~np.isin(points, _SPACES)
    left_out[tokens.bases[1:] - 1] = False
    if left_out.any():
        row = rows[int(np.searchsorted(tokens.bases, int(np.argmax(left_out)), side="right")) - 1]
        # Which ones cannot be told: a BPE that leaves a character out gives all later ones the wrong offsets.
        raise TextError(
            f"entity {row.entity!r}: the tokenizer leaves characters of {row.text!r} out; expected every one to be "
            "spelled: use a byte-level tokenizer, or take the characters it lacks out of the text"
        )
