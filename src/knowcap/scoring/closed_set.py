"""Closed-set scoring: at every token of a value, P is renormalised over the tokens that lead on to some candidate.

The candidates' token sequences make a trie. Along the true value's path, the nll of a token is
`logsumexp(logits of the node's children) - logit of the true child`: still one forward pass, and the probabilities of
all candidates add up to 1. A value that begins another is told apart by the token after it. So the sum over a value is
-ln of what a predictor that knows the lists, and is right about nothing else, gives the value: as sound a bound as the
token loss (Part 3.3, Lemma F.1), and never below it, since what it leaves out could not have been meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowcap.corpus.candidates import Candidates
from knowcap.facts import CorpusError
from knowcap.scoring.errors import TextError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORD = re.compile(r"\s*\S+\s*")
_MOST_WORDS = 4  # after a value are looked at, until they tell it from those that begin with it


class AlikeError(TextError):
    """Two candidates that what follows the value cannot tell apart."""


@dataclass(frozen=True)
class Path:
    """The true way through a trie, as far as there is a choice.

    Attributes:
        tokens: (steps,) int64, the true tokens.
        offsets: (steps + 1,) int64; at step i one of `allowed[offsets[i]:offsets[i + 1]]` may come.
        allowed: token ids, int64; the true one is among those of its step.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    allowed: np.ndarray


class _Node:
    """A place in a trie of token sequences."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.ends = False  # whether a candidate ends here


class _Place(NamedTuple):
    """What stands around a part of a value: before its first token, in that token, and after the part."""

    before: str
    lead: str
    after: str
    last: bool


class ClosedSets:
    """Tries of the candidates of all attributes, for one tokenizer, made as they are needed and kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, candidates: dict[str, Candidates], end: int) -> None:
        """Makes nothing yet.

        Args:
            tokenizer: a fast one.
            candidates: by attribute.
            end: the token that ends a text.
        """
        self.candidates, self._backend, self._end = candidates, tokenizer.backend_tokenizer, end
        self._tries: dict[tuple[object, ...], _Node] = {}
        self._paths: dict[tuple[object, ...], Path] = {}

    def path(
        self, attribute: str, value: str, *, before: str, lead: str, right: str, of: Collection[str] | None = None
    ) -> Path:
        """The steps of one value in its text, from its first token on.

        Args:
            attribute: whose candidates.
            value: the true one.
            before: what stands before the value's first token, as far as it can change the value's tokens.
            lead: what that first token has in front of the value, white space most often.
            right: the text after the value.
            of: only these values may come (the employers of a city that was said already).

        Raises:
            CorpusError: no lists for the attribute, or the value is not in them.
            TextError: tokens reach from one part of a value into the next, or two candidates cannot be told apart.
        """
        if attribute not in self.candidates:
            raise CorpusError(
                f"{attribute} has no list of candidates (the data set's config candidates has "
                f"{sorted(self.candidates)}), so its set is not closed; use token scoring, or add its list"
            )
        only = None if of is None else tuple(sorted(of))
        *shorter, longest = _beginnings(right)
        for words in shorter:
            try:
                return self._kept(attribute, value, before, lead, words, only)
            except AlikeError:
                continue  # what follows the value further on may tell
        return self._kept(attribute, value, before, lead, longest, only)

    def _kept(self, *key: Any) -> Path:
        if key not in self._paths:
            self._paths[key] = self._walk(*key)
        return self._paths[key]

    def _walk(
        self, attribute: str, value: str, before: str, lead: str, right: str, only: tuple[str, ...] | None
    ) -> Path:
        """The path through the tries of all parts, one after the other."""
        lists, parts = self.candidates[attribute].parts, self.candidates[attribute].split(value)
        places, tries = [], []
        for number, texts in enumerate(lists):
            last = number + 1 == len(lists)
            first = number == 0
            after = right if last else lists[number + 1][0]
            place = _Place(before if first else lists[number - 1][0], lead if first else "", after, last)
            places.append(place)
            tries.append(self._trie((attribute, number, place, only), texts if only is None else only, place))
        tokens: list[int] = []
        allowed: list[list[int]] = []
        longer: set[int] = set()  # how the part before may go on instead of ending
        for number, (part, place, node) in enumerate(zip(parts, places, tries, strict=True)):
            ended = {self._end} if place.last else set(tries[number + 1].children)  # what may come after a whole part
            for token in self._sequences([part], place)[0]:
                choice = set(node.children) | longer | (ended if node.ends else set())
                if len(choice) < len(node.children) + len(longer) + (len(ended) if node.ends else 0):
                    raise TextError(f"{attribute}: the parts of {value!r} cannot be told apart by their tokens")
                tokens.append(token)
                allowed.append(sorted(choice))
                node, longer = node.children[token], set()
            longer = set(node.children)
        if longer:
            tokens.append(self._end)
            allowed.append(sorted(longer | {self._end}))
        return _path(tokens, allowed)

    def _trie(self, key: tuple[object, ...], texts: Sequence[str], place: _Place) -> _Node:
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
                raise AlikeError(f"{key[0]}: a candidate and one that begins so are alike before {place.after!r}")
            self._tries[key] = root
        return self._tries[key]

    def _sequences(self, texts: Sequence[str], place: _Place) -> list[list[int]]:
        """The tokens of each text in its place: what follows is kept for the last part, cut off for others.

        Raises:
            TextError: a token that reaches from a part into the next one.
        """
        whole = [f"{place.before}{place.lead}{text}{place.after}" for text in texts]
        begin, found = len(place.before), []
        for text, encoding in zip(texts, self._backend.encode_batch(whole, add_special_tokens=False), strict=True):
            end = begin + len(place.lead) + len(text)
            first = next(i for i, (_, stop) in enumerate(encoding.offsets) if stop > begin)
            if not place.last and any(start < end < stop for start, stop in encoding.offsets):
                raise TextError(f"a token reaches from {text!r} into what follows it; use another tokenizer")
            count = len(encoding.ids) if place.last else sum(stop <= end for _, stop in encoding.offsets)
            found.append(encoding.ids[first:count])
        return found


def _beginnings(text: str) -> list[str]:
    """A text's first word, its first two words, …"""
    ends = [word.end() for word in islice(_WORD.finditer(text), _MOST_WORDS)]
    return [text[:end].rstrip() for end in ends] or [""]


def _path(tokens: Sequence[int], allowed: Sequence[Sequence[int]]) -> Path:
    """A path, less the steps at its end that have no choice."""
    steps = max((i + 1 for i, tokens_there in enumerate(allowed) if len(tokens_there) > 1), default=0)
    offsets = np.cumsum([0, *(len(tokens_there) for tokens_there in allowed[:steps])])
    flat = [token for tokens_there in allowed[:steps] for token in tokens_there]
    return Path(np.array(tokens[:steps], dtype=np.int64), offsets, np.array(flat, dtype=np.int64))
