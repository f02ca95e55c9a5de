"""The tokens of a batch of texts, and the token that a text follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from knowcap.scoring.errors import TextError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Tokens(NamedTuple):
    """The tokens of all texts, one after the other, each array of shape (tokens,) but for the last two.

    `begins` and `ends` are in code points on one line on which all texts stand, with a gap of one between two texts,
    so that one sorted array serves all of them; text r begins at `bases[r]` and has `counts[r]` tokens. `word_starts`
    is the first token of a token's pre-token.
    """

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    word_starts: np.ndarray
    counts: np.ndarray
    bases: np.ndarray


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that a text follows: the end of the text before it, or the begin token where there is no end token.

    Raises:
        TextError: no fast tokenizer, or one without either token.
    """
    if not tokenizer.is_fast:
        raise TextError(f"got a {type(tokenizer).__name__} without offsets; expected a fast one (tokenizer.json)")
    start = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if start is None:
        raise TextError("the tokenizer has neither eos_token nor bos_token; set the one that separates training texts")
    return start
