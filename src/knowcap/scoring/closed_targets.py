"""Where the choices of closed sets stand in a batch of tokenized texts, and between which tokens each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from knowcap.facts import Knowledge, Row, ScoredFact, Span
from knowcap.scoring.errors import TextError


if TYPE_CHECKING:
    from knowcap.scoring.closed_set import ClosedSets, Path
    from knowcap.scoring.tokens import Tokens

_CONTEXT = 32  # characters before a value that its tokens may depend on


def closed_targets(
    rows: Sequence[Row],
    facts: Sequence[ScoredFact],
    fact_rows: np.ndarray,
    tokens: Tokens,
    first: np.ndarray,
    knowledge: Knowledge,
    closed_sets: ClosedSets,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The steps of all facts' paths through their tries.

    Args:
        rows: the texts.
        facts, fact_rows: the scored facts, and the row of each.
        tokens: of the texts.
        first: per span of `facts`, one after the other, the number of its first token.
        knowledge: what all texts begin with, and what determines what.
        closed_sets: of the tokenizer.

    Returns:
        targets (steps,), places in ids that have a token before each text and one after them all; the fact of each;
        the ids that may come at each, and where they begin (steps + 1,).

    Raises:
        CorpusError: a value that is in no list.
        TextError: tokens of a value that depend on more of the text than is looked at.
    """
    row_starts = np.cumsum(tokens.counts + 1) - (tokens.counts + 1)
    text_starts = np.cumsum(tokens.counts) - tokens.counts
    paths, begins, owners, number = [], [], [], 0
    for fact, scored in enumerate(facts):
        r, of = int(fact_rows[fact]), None
        for span in scored.spans:
            token = int(first[number])
            place = token - int(text_starts[r])
            paths.append(_path(rows[r], span, tokens, token, place, r, knowledge, closed_sets, of))
            if span.attribute != scored.attribute:  # a determined value, said first
                value = rows[r].text[span.start : span.end]
                of = closed_sets.candidates[span.attribute].of.get(value)
            begins.append(int(row_starts[r]) + 1 + place)
            owners.append(fact)
            number += 1
    steps = np.array([len(path.tokens) for path in paths], dtype=np.int64)
    within = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    targets = np.repeat(np.array(begins, dtype=np.int64), steps) + within
    allowed = np.concatenate([path.allowed for path in paths] or [np.zeros(0, dtype=np.int64)])
    sizes = np.concatenate([np.diff(path.offsets) for path in paths] or [np.zeros(0, dtype=np.int64)])
    owners_of = np.repeat(np.array(owners, dtype=np.int64), steps)
    return targets, owners_of, (allowed, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _path(
    row: Row,
    span: Span,
    tokens: Tokens,
    token: int,
    place: int,
    number: int,
    knowledge: Knowledge,
    closed_sets: ClosedSets,
    of: frozenset[str] | None,
) -> Path:
    """The path of one span, held against the tokens of its text."""
    text, prefix, base = row.text, len(knowledge.text_prefix), int(tokens.bases[number])
    end = int(tokens.ends[token - 1]) - base if place else 0  # of what stands before the value's first token
    if end <= prefix:
        contexts = [knowledge.text_prefix]
    else:
        contexts = ["a"] * (int(tokens.word_starts[token]) == token) + [text[max(0, end - _CONTEXT) : end]]
    after = int(tokens.counts[number]) - place
    there = tokens.ids[token : token + after]
    for before in contexts:
        path = closed_sets.path(
            span.attribute,
            text[span.start : span.end],
            before=before,
            lead=text[max(end, prefix) : span.start],
            right=text[span.end :],
            of=of,
        )
        steps = min(len(path.tokens), after)  # the step after those is the end of text
        if len(path.tokens) <= after + 1 and np.array_equal(path.tokens[:steps], there[:steps]):
            return path
    raise TextError(
        f"entity {row.entity!r}: the tokens of {span} in {text!r} depend on more than the {_CONTEXT} characters "
        "before it, so its candidates' tokens cannot be told; use another tokenizer, or token scoring"
    )
