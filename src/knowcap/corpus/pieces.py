"""Token ids of texts without tokenizing the texts: every piece is tokenized once, and numpy gathers texts from pieces.

A corpus lists its pieces and which can be neighbours (`PieceTexts`). `Pieces` checks neighbours when it is built: the
assembled ids equal those of the whole text, or it raises an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.facts import CorpusError


MARKER = "marker"  # the group of tokens that can stand in front of a text, each with the space after it
_CHECKED_PER_JUNCTION = 4000


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

    def encode(self, tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
        """The ids of every piece, by group. Raises CorpusError if a piece merges with the word before it."""
        encoded = {}
        for group, texts in self.groups.items():
            if group in self.parts:
                parts = self.parts[group]
                lists = [_encode_after(context, texts, tokenizer) for context, texts in parts.lists]
                chosen = parts.members.tolist()
                encoded[group] = [[t for ids, i in zip(lists, row, strict=True) for t in ids[i]] for row in chosen]
            else:
                encoded[group] = _encode_after("" if group in self.beginnings else "a", texts, tokenizer)
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

    def __init__(self, texts: PieceTexts, tokenizer: Tokenizer) -> None:
        """Tokenizes every piece.

        Raises:
            CorpusError: the tokenizer merges across pieces, or cannot encode a piece.
        """
        encoded = texts.encode(tokenizer)
        ids: list[list[int]] = []
        self.groups: dict[str, range] = {}
        for group, pieces in encoded.items():
            self.groups[group] = range(len(ids), len(ids) + len(pieces))
            ids += pieces
            for text, piece in zip(texts.groups[group], pieces, strict=True):
                if EOS_ID in piece:
                    raise CorpusError(f"the tokenizer cannot encode {text!r}; choose another tokenizer or list")
                if group == MARKER and len(piece) != 1:
                    raise CorpusError(f"the tokenizer makes {len(piece)} tokens of {text!r}, expected one")
        for left, right in texts.junctions:
            _check_junction(texts, encoded, left, right, tokenizer)
        self.eos, self.empty = len(ids), len(ids) + 1
        ids += [[EOS_ID], []]
        self.lengths = np.array([len(piece) for piece in ids], dtype=np.int32)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths[:-1], dtype=np.int64)])
        self.tokens = np.array([token for piece in ids for token in piece], dtype=np.int32)

    def gather(self, composed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the texts one after another, each with its end of text, and the length of each.

        Args:
            composed: (n, pieces per text), from the corpus' `compose`.

        Returns:
            tokens (total,) int32, lengths (n,) int64.
        """
        flat = composed.ravel()
        lengths = self.lengths[flat]
        ends = np.cumsum(lengths, dtype=np.int64)
        index = np.repeat(self.starts[flat] - ends + lengths, lengths)
        index += np.arange(index.size)
        return self.tokens[index], self.lengths[composed].sum(axis=1, dtype=np.int64)

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


def _check_junction(
    texts: PieceTexts, encoded: dict[str, list[list[int]]], left: str, right: str, tokenizer: Tokenizer
) -> None:
    """Checks that every piece of two groups, beside one of the other group, has the same tokens as alone.

    Of longer groups (dates) a few thousand pieces, spread evenly, are checked.
    """
    sizes = len(encoded[left]), len(encoded[right])
    count = min(_CHECKED_PER_JUNCTION, max(sizes))
    lefts = np.linspace(0, max(count, sizes[0]) - 1, count).astype(int) % sizes[0]
    rights = np.linspace(0, max(count, sizes[1]) - 1, count).astype(int)[::-1] % sizes[1]
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
