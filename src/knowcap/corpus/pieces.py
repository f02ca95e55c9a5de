"""Token ids of texts without tokenizing the texts: every piece is tokenized once, and numpy gathers texts from pieces.

A corpus lists its pieces and which can be neighbours (`PieceTexts`). `Pieces` checks neighbours when it is built: the
assembled ids equal those of the whole text, or it raises an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.facts import CorpusError


MARKER = "marker"  # the group of tokens that can stand in front of a text, each with the space after it
CHECKED = 4000  # pairs per junction, and members of a group with parts


@dataclass(frozen=True)
class Ids:
    """Token ids of many short texts.

    Attributes:
        tokens: all texts one after another, int32.
        lengths: (texts,) int32.
        starts: (texts,) int64, the position of every text in `tokens`.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.cumsum(self.lengths, dtype=np.int64) - self.lengths)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Ids:
        """The ids of each text."""
        lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
        return cls(np.fromiter(chain.from_iterable(texts), dtype=np.int32, count=int(lengths.sum())), lengths)

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.lengths)

    def __getitem__(self, text: int) -> list[int]:
        """The ids of one text."""
        start = self.starts[text]
        return self.tokens[start : start + self.lengths[text]].tolist()

    def gather(self, texts: np.ndarray) -> np.ndarray:
        """The ids of texts (n,) one after another."""
        lengths = self.lengths[texts]
        ends = np.cumsum(lengths, dtype=np.int64)
        index = np.repeat(self.starts[texts] - ends + lengths, lengths)
        index += np.arange(index.size)
        return self.tokens[index]

    def joined(self, members: np.ndarray) -> Ids:
        """The texts that each consist of several of these: members (n, texts of each)."""
        return Ids(self.gather(members.ravel()), self.lengths[members].sum(axis=1, dtype=np.int32))

    def first_with(self, token: int) -> int | None:
        """The first text that has a token, or None."""
        places = np.flatnonzero(self.tokens == token)
        return int(np.searchsorted(self.starts + self.lengths, places[0], side="right")) if places.size else None


@dataclass(frozen=True)
class Parts:
    """A group whose members consist of texts of shorter lists.

    Attributes:
        lists: in the order of the text, each with the context after which its texts are tokenized.
        members: (members, lists), the text of each list that a member has.
    """

    lists: list[tuple[str, list[str]]]
    members: np.ndarray

    def taken(self) -> list[tuple[str, list[str]]]:
        """The lists without texts that no member has."""
        columns = [np.unique(column).tolist() for column in self.members.T]
        return [
            (context, [texts[i] for i in some]) for (context, texts), some in zip(self.lists, columns, strict=True)
        ]


@dataclass(frozen=True)
class PieceTexts:
    """The pieces of a corpus, as text.

    Attributes:
        groups: the text of every piece, by group; with the space before it, if it has one.
        junctions: pairs of groups that can be neighbours.
        beginnings: the groups that begin a text; all others follow a word.
        parts: the shorter lists that long groups (dates) consist of, which saves tokenizing every member.
    """

    groups: dict[str, list[str]]
    junctions: list[tuple[str, str]]
    beginnings: frozenset[str]
    parts: dict[str, Parts] = field(default_factory=dict)

    @property
    def markers(self) -> tuple[str, ...]:
        """The tokens that can stand in front of a text: each is one token of the tokenizer."""
        return tuple(text.rstrip() for text in self.groups.get(MARKER, ()))

    def encode(self, tokenizer: Tokenizer) -> dict[str, Ids]:
        """The ids of every piece, by group. Raises CorpusError if a piece merges with the word before it."""
        encoded = {}
        for group, texts in self.groups.items():
            if group in self.parts:
                parts = self.parts[group]
                lists = [_encode_after(context, texts, tokenizer) for context, texts in parts.lists]
                first = np.cumsum([0, *map(len, lists[:-1])])
                encoded[group] = Ids.of([ids for some in lists for ids in some]).joined(parts.members + first)
            else:
                encoded[group] = Ids.of(_encode_after("" if group in self.beginnings else "a", texts, tokenizer))
        return encoded


class Pieces:
    """The token ids of every piece of a corpus, from which texts are gathered.

    Attributes:
        groups: the range of piece numbers of each group.
        starts, lengths: (pieces,), the position and length of every piece in `tokens`.
        tokens: all pieces one after another, int32.
        eos: the piece that ends a text.
        empty: a piece without tokens, for texts that have fewer pieces than others.
    """

    def __init__(self, texts: PieceTexts, tokenizer: Tokenizer, checked: int = CHECKED) -> None:
        """Tokenizes every piece, and checks that it does not merge with its neighbours.

        Args:
            texts: of the pieces.
            tokenizer: any.
            checked: pairs that are checked at every junction, and members of every group with parts, at most.

        Raises:
            CorpusError: the tokenizer merges across pieces, or cannot encode a piece.
        """
        encoded = texts.encode(tokenizer)
        self.groups: dict[str, range] = {}
        number = 0
        for group, pieces in encoded.items():
            self.groups[group] = range(number, number + len(pieces))
            number += len(pieces)
            unknown = pieces.first_with(EOS_ID)
            if unknown is not None:
                text = texts.groups[group][unknown]
                raise CorpusError(f"the tokenizer cannot encode {text!r}; choose another tokenizer or list")
        for text, length in zip(texts.groups.get(MARKER, ()), encoded.get(MARKER, Ids.of([])).lengths, strict=True):
            if length != 1:
                raise CorpusError(f"the tokenizer makes {length} tokens of {text!r}, expected one")
        for group in texts.parts:
            _check_members(texts, encoded, group, tokenizer, checked)
        beside = {group: _checked_beside(texts, group) for group in set(chain.from_iterable(texts.junctions))}
        for left, right in texts.junctions:
            _check_junction(texts, encoded, {g: beside[g] for g in (left, right)}, (left, right), tokenizer, checked)
        self.eos, self.empty = number, number + 1
        every = [*encoded.values(), Ids.of([[EOS_ID], []])]
        self._ids = Ids(np.concatenate([i.tokens for i in every]), np.concatenate([i.lengths for i in every]))
        self.tokens, self.lengths, self.starts = self._ids.tokens, self._ids.lengths, self._ids.starts

    def gather(self, composed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the texts one after another, each with its end of text, and the length of each.

        Args:
            composed: (n, pieces per text), from the corpus' `compose`.

        Returns:
            tokens (total,) int32, lengths (n,) int64.
        """
        return self._ids.gather(composed.ravel()), self.lengths[composed].sum(axis=1, dtype=np.int64)

    def used(self) -> np.ndarray:
        """The token ids that any text can use, sorted, end of text included."""
        return np.unique(self.tokens)

    def longest(self, group: str) -> int:
        """The tokens of the longest piece of a group."""
        pieces = self.groups[group]
        return int(self.lengths[pieces.start : pieces.stop].max())


def used_tokens(texts: PieceTexts, tokenizer: Tokenizer, extras: Sequence[str] = ()) -> set[int]:
    """The ids that a corpus and extras (questions) can use with any tokenizer, without markers."""
    encodings = tokenizer.encode_batch_fast(list(extras), add_special_tokens=False)
    used = {token for encoding in encodings for token in encoding.ids}
    for group, members in texts.groups.items():
        # The lists of a group with parts have all its tokens.
        lists = (
            texts.parts[group].taken()
            if group in texts.parts
            else [("" if group in texts.beginnings else "a", members)]
        )
        for context, some in lists if group != MARKER else ():
            used.update(token for ids in _encode_after(context, some, tokenizer) for token in ids)
    return used


def _encode_after(context: str, texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each text after the context, which must end at a token's end."""
    before = tokenizer.encode(context, add_special_tokens=False).ids if context else []
    out = []
    for text, encoding in zip(
        texts, tokenizer.encode_batch_fast([context + t for t in texts], add_special_tokens=False), strict=True
    ):
        ids = encoding.ids
        if ids[: len(before)] != before or len(ids) == len(before):
            raise CorpusError(f"the tokenizer merges {text!r} with the word before it; choose another tokenizer")
        out.append(ids[len(before) :])
    return out


def _checked_beside(texts: PieceTexts, group: str) -> np.ndarray:
    """The pieces of a group that are checked beside other groups: (n,).

    All pieces; or, of a group with parts, one piece with each text of each list, so every text that can stand at the
    group's beginning or end is among them.
    """
    if group not in texts.parts:
        return np.arange(len(texts.groups[group]))
    columns = texts.parts[group].members.T
    return np.unique(np.concatenate([np.unique(column, return_index=True)[1] for column in columns]))


def _check_members(texts: PieceTexts, encoded: dict[str, Ids], group: str, tokenizer: Tokenizer, count: int) -> None:
    """Checks that members of a group with parts, tokenized whole, have the tokens of their parts.

    Of longer groups `count` members, spread evenly, are checked.
    """
    size = len(texts.groups[group])
    checked = np.linspace(0, size - 1, min(count, size)).astype(int).tolist()
    context = "" if group in texts.beginnings else "a"
    whole = _encode_after(context, [texts.groups[group][i] for i in checked], tokenizer)
    for i, ids in zip(checked, whole, strict=True):
        if ids != encoded[group][i]:
            raise CorpusError(
                f"the tokenizer merges parts of {texts.groups[group][i]!r}: {len(ids)} tokens as a whole, "
                f"{len(encoded[group][i])} as parts; choose another tokenizer"
            )


def _check_junction(
    texts: PieceTexts,
    encoded: dict[str, Ids],
    beside: dict[str, np.ndarray],
    groups: tuple[str, str],
    tokenizer: Tokenizer,
    count: int,
) -> None:
    """Checks that every piece of `beside`, next to one of the other group, has the same tokens as alone.

    Of more pieces `count`, spread evenly, are checked.
    """
    left, right = groups
    sizes = len(beside[left]), len(beside[right])
    count = min(count, max(sizes))
    places = [np.linspace(0, max(count, size) - 1, count).astype(int) for size in sizes]
    lefts = beside[left][places[0] % sizes[0]].tolist()
    rights = beside[right][places[1][::-1] % sizes[1]].tolist()
    context = "" if left in texts.beginnings else "a"
    before = tokenizer.encode(context, add_special_tokens=False).ids if context else []
    pairs = [(texts.groups[left][a], texts.groups[right][b]) for a, b in zip(lefts, rights, strict=True)]
    encodings = tokenizer.encode_batch_fast([context + a + b for a, b in pairs], add_special_tokens=False)
    for a, b, (one, two), encoding in zip(lefts, rights, pairs, encodings, strict=True):
        alone = before + encoded[left][a] + encoded[right][b]
        if encoding.ids != alone:
            raise CorpusError(
                f"the tokenizer merges {one!r} and {two!r}: {len(encoding.ids)} tokens together, "
                f"{len(alone)} as two pieces; choose another tokenizer"
            )
