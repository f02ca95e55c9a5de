"""Which texts a model can score: known before it is loaded, so that a row of a table can be left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from knowcap.facts import FactError, Knowledge, Row
from knowcap.scoring.mode import ScoringError
from knowcap.scoring.spans import encode_rows


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from knowcap.models.separators import Separators
    from knowcap.scoring.closed_set import ClosedSets

_ROWS = 1000  # tokenized at a time


def unscorable(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    config: Any,
    knowledge: Knowledge,
    separators: Separators | None = None,
    closed_sets: ClosedSets | None = None,
) -> dict[int, str]:
    """What is wrong with texts, by index: too long for the model's positions, or not in the tokenizer's vocabulary.

    Args:
        rows: the texts.
        tokenizer: of the model.
        config: of the model, or of its text decoder.
        knowledge: which facts are scored.
        separators: what stands around texts; by default what the tokenizer itself puts first.
        closed_sets: the candidates, if values are scored among them.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None) or math.inf  # state-space models have none
    found: dict[int, str] = {}

    def check(numbers: Sequence[int]) -> None:
        encoded = encode_rows([rows[i] for i in numbers], tokenizer, knowledge, closed_sets, separators)
        for i, length in zip(numbers, encoded.input_lengths.tolist(), strict=True):
            if length > positions:
                found[i] = f"{length} tokens before the end of the answer, the model has {positions} positions"

    for begin in range(0, len(rows), _ROWS):
        numbers = range(begin, min(begin + _ROWS, len(rows)))
        try:
            check(numbers)
        except (FactError, ScoringError):
            for i in numbers:  # one by one, to find which
                try:
                    check([i])
                except (FactError, ScoringError) as error:
                    found[i] = str(error)
    return found
