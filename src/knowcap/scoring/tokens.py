"""The tokens of a batch of texts with their offsets, checked to spell every character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from knowcap.facts import Row
from knowcap.models.separators import Separators
from knowcap.scoring.mode import TextError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPACES = np.array([c for c in range(0x3001) if chr(c).isspace()], dtype=np.uint32)


class Tokens(NamedTuple):
    """The tokens of all texts, one after the other, each array of shape (tokens,) except the last two.

    `begins` and `ends` are in code points of all texts joined with a gap of one between two texts, so that one sorted
    array serves all of them; text r begins at `bases[r]` and has `counts[r]` tokens. `word_starts` is the first token
    of a token's pre-token.
    """

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    word_starts: np.ndarray
    counts: np.ndarray
    bases: np.ndarray


def tokenize(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, separators: Separators | None = None) -> Tokens:
    """The tokens of all texts, without separators.

    Raises:
        TextError: a text that the tokenizer cannot spell: it yields an end-of-text or unknown token or a
            separator, or leaves characters out.
    """
    tokens = _tokens(rows, tokenizer)
    _check_spelling(rows, tokenizer, tokens, () if separators is None else (*separators.before, *separators.after))
    _check_coverage(rows, tokens)
    return tokens


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of several pieces of these lengths begins when they are joined."""
    return np.cumsum(lengths) - lengths


def _tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> Tokens:
    """The tokens of all texts, unchecked."""
    texts = [row.text for row in rows]
    bases = offsets_of(np.array([len(text) + 1 for text in texts], dtype=np.int64))
    if not texts:
        empty = np.zeros(0, dtype=np.int64)
        return Tokens(empty, empty, empty, empty, empty, empty, bases)
    encoded: Any = tokenizer(
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


def _check_spelling(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, tokens: Tokens, separators: Sequence[int]
) -> None:
    """Raises TextError if a text contains the token that ends texts, begins them or stands for unknown characters."""
    of = cast(Any, tokenizer)
    special = {of.eos_token_id, of.bos_token_id, of.unk_token_id, *separators} - {None}
    wrong = np.isin(tokens.ids, sorted(special))
    if wrong.any():
        at = int(np.argmax(wrong))
        row, token = rows[tokens.rows[at]], int(tokens.ids[at])
        raise TextError(
            f"entity {row.entity!r}: the tokenizer cannot spell {row.text!r}: it yields token {token} "
            f"({tokenizer.convert_ids_to_tokens(token)!r}); expected ordinary tokens only. Use a byte-level "
            "tokenizer, or remove the characters that it lacks from the text"
        )


def _check_coverage(rows: Sequence[Row], tokens: Tokens) -> None:
    """Raises TextError unless tokens are in order and cover every character except white space: a character that is
    left out is not predicted.
    """
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
        # The characters are not named: if a BPE leaves one out, the offsets of all later ones are wrong.
        raise TextError(
            f"entity {row.entity!r}: the tokenizer leaves characters of {row.text!r} out; expected tokens for every "
            "character. Use a byte-level tokenizer, or remove the characters that it lacks from the text"
        )
