"""Tokenized questions: token ids of prompts and answers, and the positions of the value's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from knowcap.corpus.questions import answer_text, prompt
from knowcap.dataset.folder import question_files, read_questions
from knowcap.models.separators import Separators
from knowcap.sealed.parquet import num_distinct, read_schema


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Item = TypeVar("Item")

IGNORED = -100
_AT_ONCE = 1024  # questions that are tokenized together


class ExtractionError(ValueError):
    """Extraction that cannot start or continue."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        entity, attribute, text, answer: a row of the config `qa`.
        prompt: an end of text, and the tokens up to `Answer:`.
        tokens: the tokens of the answer, its period and the end of text.
        value: start and end of the value's own tokens within `tokens`.
    """

    entity: int | str
    attribute: str
    text: str
    answer: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    value: tuple[int, int]

    def labels(self) -> list[int]:
        """The whole text's labels for tuning: the answer, its period and the end of text; the prompt is ignored."""
        return [IGNORED] * len(self.prompt) + [*self.tokens]

    def value_labels(self) -> list[int]:
        """The whole text's labels for scoring: only the value's own tokens."""
        first, end = self.value
        inside = [token if first <= n < end else IGNORED for n, token in enumerate(self.tokens)]
        return [IGNORED] * len(self.prompt) + inside


def questions_of(
    dataset_dir: Path, split: str, tokenizer: PreTrainedTokenizerFast, rows: int, limit: int | None = None
) -> Iterator[Question]:
    """The questions of a split of a data set's config `qa`, in its order; read and tokenized piece by piece.

    Args:
        dataset_dir: the data set folder.
        split: train or test.
        tokenizer: the model's.
        rows: number of the model's vocabulary rows.
        limit: only this number of people, the first ones.

    Raises:
        DatasetError: the data set has no questions.
        ExtractionError: the model's tokenizer has no tokens for them.
    """
    for some in pieces(read_questions(dataset_dir, split, limit), _AT_ONCE):
        yield from tokenized(some, tokenizer, rows)


def num_people(dataset_dir: Path, split: str) -> int:
    """How many people the questions of a split are about."""
    files = question_files(dataset_dir, split)
    return num_distinct(files, read_schema(files[0]).names[0])


def pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of at most `size` items."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def tokenized(
    table: Sequence[tuple[int | str, str, str, str]], tokenizer: PreTrainedTokenizerFast, rows: int
) -> list[Question]:
    """The questions of rows of the config `qa`, one or more; arguments and errors are those of `questions_of`."""
    texts = [prompt(row[2]) for row in table]
    whole = [text + answer_text(row[3]) for text, row in zip(texts, table, strict=True)]
    before = tokenizer(texts, add_special_tokens=False)["input_ids"]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    _check_encoded(whole, encoded["input_ids"], tokenizer, rows)
    begin, end = Separators.of(tokenizer, "eos").before, cast(int, tokenizer.eos_token_id)
    made = []
    for row, text, first, ids, offsets in zip(
        table, texts, before, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if ids[: len(first)] != first:
            raise ExtractionError(f"the tokenizer merges {text!r} with its answer; use another tokenizer")
        start = len(text) + 1
        value = _overlapping(offsets[len(first) :], start, start + len(row[3]))
        made.append(Question(*row, (*begin, *first), (*ids[len(first) :], end), value))
    return made


def padded(rows: Sequence[Sequence[int]], filler: int) -> list[list[int]]:
    """Rows padded with `filler` on the right to one length."""
    width = max(len(row) for row in rows)
    return [[*row, *[filler] * (width - len(row))] for row in rows]


def _overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Start and end of the tokens that overlap characters start … end - 1; such a token counts whole."""
    inside = [n for n, (first, last) in enumerate(offsets) if first < end and last > start]
    return inside[0], inside[-1] + 1


def _check_encoded(
    texts: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerFast, rows: int
) -> None:
    """Raises ExtractionError if a question has tokens without a vocabulary row in the model."""
    if tokenizer.eos_token_id is None:
        raise ExtractionError("the model's tokenizer has no end-of-text token; set eos_token")
    unknown: set[Any] = {cast(int, tokenizer.eos_token_id), cast(int | None, tokenizer.unk_token_id)}
    for text, ids in zip(texts, encoded, strict=True):
        if unknown.intersection(ids) or max(ids) >= rows:
            raise ExtractionError(
                f"the model's tokenizer cannot encode {text!r}: it was trained on biographies only; train the model "
                "with questions: true in the recipe"
            )
