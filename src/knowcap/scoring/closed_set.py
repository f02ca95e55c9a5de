"""Closed-set scoring: at every token of a value, P is renormalized over the tokens that continue some candidate.

The candidates' token sequences form a trie. Along the true value's path, the nll of a token is
`logsumexp(logits of the node's children) - logit of the true child`, still from one forward pass, and the
probabilities of all candidates add up to 1. If one candidate is a prefix of another, the following token decides. The
sum over a value is -ln of the probability of a predictor that knows the lists, so the bound is as sound as that of
token scoring (Part 3.3, Lemma F.1); it is never above the token nll, since only impossible continuations are excluded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowcap.corpus.candidates import Candidates, ListOf
from knowcap.facts import CorpusError, Knowledge, Row, ScoredFact, Span
from knowcap.scoring.mode import TextError
from knowcap.scoring.tokens import Tokens


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CONTEXT = 32  # characters before a value that its tokens may depend on
_WORD = re.compile(r"\s*\S+\s*")
_MAX_WORDS = 4  # that are read after a value to distinguish it from candidates that it is a prefix of


class AlikeError(TextError):
    """Two candidates that the text after the value does not distinguish."""


@dataclass(frozen=True)
class TriePath:
    """The path of the true value through a trie, up to its last step with a choice.

    Attributes:
        tokens: (steps,) int64, the true tokens.
        offsets: (steps + 1,) int64; at step i the tokens `allowed[offsets[i]:offsets[i + 1]]` are possible.
        allowed: token ids, int64; each step's include the true one.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    allowed: np.ndarray


class _Node:
    """A node of a trie of token sequences."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.ends = False  # whether a candidate ends here


class _Surroundings(NamedTuple):
    """The text around a part of a value: before its first token, at the start of that token, and after the part."""

    before: str
    lead: str
    after: str
    last: bool


class ClosedSets:
    """Tries of the candidates of all attributes, for one tokenizer, built when they are needed and cached."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, candidates: dict[ListOf, Candidates], end: int) -> None:
        """Stores the candidates; tries are built later.

        Args:
            tokenizer: a fast tokenizer.
            candidates: the candidates of each attribute, or of an attribute of one entity.
            end: the token that ends a text.
        """
        self.candidates, self._backend, self._end = candidates, tokenizer.backend_tokenizer, end
        self._tries: dict[tuple[object, ...], _Node] = {}
        self._paths: dict[tuple[object, ...], TriePath] = {}

    def key(self, attribute: str, entity: int | str) -> ListOf:
        """The list that a fact of an entity is scored against: its own, or that of the attribute."""
        own = (attribute, str(entity))
        return own if own in self.candidates else attribute

    def path(
        self, attribute: ListOf, value: str, *, before: str, lead: str, right: str, of: Collection[str] | None = None
    ) -> TriePath:
        """The steps of one value in its text, from its first token on.

        Args:
            attribute: the `key` of the value's list.
            value: the true value.
            before: the text before the value's first token, as far as it can change the value's tokens.
            lead: the characters of that first token before the value, usually white space.
            right: the text after the value.
            of: the only possible values (the employers of a city that the text has stated).

        Raises:
            CorpusError: there are no lists for the attribute, or they lack the value.
            TextError: a token spans two parts of a value, or two candidates cannot be distinguished.
        """
        if attribute not in self.candidates:
            listed = sorted(key for key in self.candidates if isinstance(key, str))
            raise CorpusError(
                f"{attribute} has no list of candidates (the data set's config candidates has {listed}), which "
                "closed-set scoring needs; use token scoring, or add its list"
            )
        only = None if of is None else tuple(sorted(of))
        *shorter, longest = _prefixes(right)
        for words in shorter:
            try:
                return self._cached(attribute, value, before, lead, words, only)
            except AlikeError:
                continue  # more of the text after the value may distinguish them
        return self._cached(attribute, value, before, lead, longest, only)

    def _cached(self, *key: Any) -> TriePath:
        if key not in self._paths:
            self._paths[key] = self._walk(*key)
        return self._paths[key]

    def _walk(
        self, attribute: ListOf, value: str, before: str, lead: str, right: str, only: tuple[str, ...] | None
    ) -> TriePath:
        """The path through the tries of all parts, one after the other."""
        lists, parts = self.candidates[attribute].parts, self.candidates[attribute].split(value)
        surroundings, tries = [], []
        for number, texts in enumerate(lists):
            last = number + 1 == len(lists)
            first = number == 0
            after = right if last else lists[number + 1][0]
            place = _Surroundings(before if first else lists[number - 1][0], lead if first else "", after, last)
            surroundings.append(place)
            tries.append(self._trie((attribute, number, place, only), texts if only is None else only, place))
        tokens: list[int] = []
        allowed: list[list[int]] = []
        longer: set[int] = set()  # tokens that continue the part before instead of ending it
        for number, (part, place, node) in enumerate(zip(parts, surroundings, tries, strict=True)):
            ended = {self._end} if place.last else set(tries[number + 1].children)  # what may follow a whole part
            for token in self._sequences([part], place)[0]:
                choice = set(node.children) | longer | (ended if node.ends else set())
                if len(choice) < len(node.children) + len(longer) + (len(ended) if node.ends else 0):
                    raise TextError(
                        f"{attribute}: the tokens of {value!r} do not show where one part ends and the next begins"
                    )
                tokens.append(token)
                allowed.append(sorted(choice))
                node, longer = node.children[token], set()
            longer = set(node.children)
        if longer:
            tokens.append(self._end)
            allowed.append(sorted(longer | {self._end}))
        return _path(tokens, allowed)

    def _trie(self, key: tuple[object, ...], texts: Sequence[str], place: _Surroundings) -> _Node:
        """The trie of one part's texts."""
        if key not in self._tries:
            root, ends = _Node(), []
            for sequence in self._sequences(texts, place):
                node = root
                for token in sequence:
                    node = node.children.setdefault(token, _Node())
                node.ends = True
                if place.last and place.after.strip():
                    ends.append(node)
            if any(node.children for node in ends):
                raise AlikeError(
                    f"{key[0]}: one candidate is a prefix of another, and both fit before {place.after!r}"
                )
            self._tries[key] = root
        return self._tries[key]

    def _sequences(self, texts: Sequence[str], place: _Surroundings) -> list[list[int]]:
        """The tokens of each text in its surroundings: tokens after the text are kept for the last part only.

        Raises:
            TextError: a token that spans a part and the text after it.
        """
        whole = [f"{place.before}{place.lead}{text}{place.after}" for text in texts]
        begin, found = len(place.before), []
        for text, encoding in zip(texts, self._backend.encode_batch(whole, add_special_tokens=False), strict=True):
            end = begin + len(place.lead) + len(text)
            first = next(i for i, (_, stop) in enumerate(encoding.offsets) if stop > begin)
            if not place.last and any(start < end < stop for start, stop in encoding.offsets):
                raise TextError(f"one token spans the end of {text!r} and the text after it; use another tokenizer")
            count = len(encoding.ids) if place.last else sum(stop <= end for _, stop in encoding.offsets)
            found.append(encoding.ids[first:count])
        return found


def _prefixes(text: str) -> list[str]:
    """A text's first word, its first two words, …"""
    ends = [word.end() for word in islice(_WORD.finditer(text), _MAX_WORDS)]
    return [text[:end].rstrip() for end in ends] or [""]


def _path(tokens: Sequence[int], allowed: Sequence[Sequence[int]]) -> TriePath:
    """A path without the steps at its end that have no choice."""
    steps = max((i + 1 for i, step_tokens in enumerate(allowed) if len(step_tokens) > 1), default=0)
    offsets = np.cumsum([0, *(len(step_tokens) for step_tokens in allowed[:steps])])
    flat = [token for step_tokens in allowed[:steps] for token in step_tokens]
    return TriePath(np.array(tokens[:steps], dtype=np.int64), offsets, np.array(flat, dtype=np.int64))


def closed_targets(
    rows: Sequence[Row],
    facts: Sequence[ScoredFact],
    fact_rows: np.ndarray,
    tokens: Tokens,
    first: np.ndarray,
    knowledge: Knowledge,
    closed_sets: ClosedSets,
    text_starts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The steps of all facts' paths through their tries.

    Args:
        rows: the texts.
        facts, fact_rows: the scored facts, and the row of each.
        tokens: the tokens of the texts.
        first: the index of the first token of each span of `facts`, in order.
        knowledge: the texts' prefix, and which attributes determine others.
        closed_sets: the candidates, for the texts' tokenizer.
        text_starts: where the first token of each text is in `EncodedRows.ids`.

    Returns:
        targets and truths (steps,), as in `EncodedRows`; the fact of each; the possible ids of each, and their offsets
        (steps + 1,).

    Raises:
        CorpusError: a value that is in no list.
        TextError: a value whose tokens depend on more than the 32 characters before it.
    """
    first_tokens = np.cumsum(tokens.counts) - tokens.counts
    paths, begins, owners, number = [], [], [], 0
    for fact, scored in enumerate(facts):
        r, of = int(fact_rows[fact]), None
        for span in scored.spans:
            token = int(first[number])
            place = token - int(first_tokens[r])
            paths.append(_span_path(rows[r], span, tokens, token, place, r, knowledge, closed_sets, of))
            if span.attribute != scored.attribute:  # a determined value that the text states first
                value = rows[r].text[span.start : span.end]
                of = closed_sets.candidates[span.attribute].of.get(value)
            begins.append(int(text_starts[r]) + place)
            owners.append(fact)
            number += 1
    steps = np.array([len(path.tokens) for path in paths], dtype=np.int64)
    within = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    targets = np.repeat(np.array(begins, dtype=np.int64), steps) + within
    truths = np.concatenate([path.tokens for path in paths] or [np.zeros(0, dtype=np.int64)])
    allowed = np.concatenate([path.allowed for path in paths] or [np.zeros(0, dtype=np.int64)])
    sizes = np.concatenate([np.diff(path.offsets) for path in paths] or [np.zeros(0, dtype=np.int64)])
    owners_of = np.repeat(np.array(owners, dtype=np.int64), steps)
    return targets, truths, owners_of, (allowed, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _span_path(
    row: Row,
    span: Span,
    tokens: Tokens,
    token: int,
    place: int,
    number: int,
    knowledge: Knowledge,
    closed_sets: ClosedSets,
    of: frozenset[str] | None,
) -> TriePath:
    """The path of one span, checked against the tokens of its text."""
    text, prefix, base = row.text, len(knowledge.text_prefix), int(tokens.bases[number])
    end = int(tokens.ends[token - 1]) - base if place else 0  # of the text before the value's first token
    if end <= prefix:
        contexts = [knowledge.text_prefix]
    else:
        contexts = ["a"] * (int(tokens.word_starts[token]) == token) + [text[max(0, end - _CONTEXT) : end]]
    after = int(tokens.counts[number]) - place
    there = tokens.ids[token : token + after]
    for before in contexts:
        path = closed_sets.path(
            closed_sets.key(span.attribute, row.entity),
            text[span.start : span.end],
            before=before,
            lead=text[max(end, prefix) : span.start],
            right=text[span.end :],
            of=of,
        )
        steps = min(len(path.tokens), after)  # the step after these is the end of text
        if len(path.tokens) <= after + 1 and np.array_equal(path.tokens[:steps], there[:steps]):
            return path
    raise TextError(
        f"entity {row.entity!r}: the tokens of {span} in {text!r} depend on more than the {_CONTEXT} characters "
        "before it, so its candidates' tokens are unknown; use another tokenizer, or token scoring"
    )
