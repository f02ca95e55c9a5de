"""Questions as a model reads them: token ids of prompts and answers, and which of them are the value's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.corpus.questions import answer_text, prompt
from knowcap.dataset.folder import read_questions
from knowcap.extraction.errors import ExtractError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        entity, attribute, text, answer: a row of the config `qa`.
        prompt: the end of text before it, and the tokens up to `Answer:`.
        tokens: the tokens of the answer, its period and the end of text.
        value: where the value's own tokens begin and end within `tokens`.
    """

    entity: int | str
    attribute: str
    text: str
    answer: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    value: tuple[int, int]

    def labels(self) -> list[int]:
        """Whole text's labels for tuning: the answer, its period and the end of text count, the prompt doesn't."""
        return [IGNORED] * len(self.prompt) + [*self.tokens]

    def value_labels(self) -> list[int]:
        """Whole text's labels for scoring: the value's own tokens alone."""
        first, end = self.value
        inside = [token if first <= n < end else IGNORED for n, token in enumerate(self.tokens)]
        return [IGNORED] * len(self.prompt) + inside


def questions_of(
    dataset_dir: Path, split: str, tokenizer: PreTrainedTokenizerFast, rows: int, limit: int | None = None
) -> list[Question]:
    """The questions of a split of a data set's config `qa`, in its order.

    Args:
        dataset_dir: the data set folder.
        split: train or test.
        tokenizer: the model's.
        rows: of its vocabulary that the model has.
        limit: the first so many people only.

    Raises:
        DatasetError: the data set has no questions.
        ExtractError: the model's tokenizer has no tokens for them.
    """
    table = read_questions(dataset_dir, split, limit)
    if not table:
        return []
    texts = [prompt(row[2]) for row in table]
    whole = [text + answer_text(row[3]) for text, row in zip(texts, table, strict=True)]
    before = tokenizer(texts, add_special_tokens=False)["input_ids"]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    end = tokenizer.eos_token_id
    _check_spelling(whole, encoded["input_ids"], tokenizer, rows)
    made = []
    for row, text, first, ids, offsets in zip(
        table, texts, before, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if ids[: len(first)] != first:
            raise ExtractError(f"the tokenizer merges {text!r} with its answer; use another tokenizer")
        start = len(text) + 1
        value = _overlapping(offsets[len(first) :], start, start + len(row[3]))
        made.append(Question(*row, (end, *first), (*ids[len(first) :], end), value))
    return made


def padded(rows: Sequence[Sequence[int]], filler: int) -> list[list[int]]:
    """Rows of one length, filled up at their ends."""
    width = max(len(row) for row in rows)
    return [[*row, *[filler] * (width - len(row))] for row in rows]


def _overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """First and end number of the tokens that have characters of start … end - 1; such a token counts whole."""
    inside = [n for n, (first, last) in enumerate(offsets) if first < end and last > start]
    return inside[0], inside[-1] + 1


def _check_spelling(
    texts: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerFast, rows: int
) -> None:
    """Raises ExtractError where a question has tokens that the model has no row for."""
    if tokenizer.eos_token_id is None:
        raise ExtractError("the model's tokenizer has no end-of-text token, so an answer has no end; set eos_token")
    unknown = {tokenizer.eos_token_id, tokenizer.unk_token_id}
    for text, ids in zip(texts, encoded, strict=True):
        if unknown.intersection(ids) or max(ids) >= rows:
            raise ExtractError(
                f"the model's tokenizer cannot spell {text!r}: it was made from biographies alone; train the model "
                "by a recipe with questions: true"
            )
