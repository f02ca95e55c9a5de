"""Questions in a temporary file, so that memory does not grow with the number of people that a model is tuned on."""

from __future__ import annotations

import marshal
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import overload

from knowcap.extraction.questions import Question


class StoredQuestions(Sequence[Question]):
    """Questions that are read from a file without a name when they are needed; memory holds where each begins.

    Processes that are forked read the same file.

    Attributes:
        num_tokens: of all prompts and answers together.
    """

    def __init__(self, questions: Iterable[Question], folder: Path) -> None:
        """Writes the file on the disk of an existing folder, 100 to 400 bytes a question."""
        self._file = TemporaryFile(dir=folder)
        self._starts, self.num_tokens = array("q", [0]), 0
        try:
            for q in questions:
                self._add(q)
            self._file.flush()
        except BaseException:
            self._file.close()
            raise

    def _add(self, q: Question) -> None:
        values = marshal.dumps((q.entity, q.attribute, q.text, q.answer, q.prompt, q.tokens, q.value))
        self._starts.append(self._starts[-1] + self._file.write(values))
        self.num_tokens += len(q.prompt) + len(q.tokens)

    def __enter__(self) -> StoredQuestions:
        """Itself, until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the file."""
        self._file.close()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._starts) - 1

    @overload
    def __getitem__(self, number: int) -> Question: ...
    @overload
    def __getitem__(self, number: slice) -> list[Question]: ...
    def __getitem__(self, number: int | slice) -> Question | list[Question]:
        """One question, or a list of several."""
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        first, end = self._starts[at], self._starts[at + 1]
        return Question(*marshal.loads(os.pread(self._file.fileno(), end - first, first)))
