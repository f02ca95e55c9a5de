"""Questions with their answers as training texts: mixed training (Part 3.1, 3) asks about half of the people, from the
beginning, among the biographies of all.
"""

from __future__ import annotations

import numpy as np

from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.questions import ANSWER, ASK, QUESTION, QUESTIONS, by_split, num_in_train
from knowcap.knowledge.people import CODES


_NAMES = ("later_first_name", "middle_name", "last_name")
_VALUE_CODE = [CODES.index("employer" if attribute == "work_city" else attribute) for attribute in QUESTIONS]


class QuestionTexts:
    """Every question about the people of the split `train`, for a `Stream`: text 6 p + a asks the one at place p for
    attribute a. Nobody of the split `test` is ever among them.
    """

    def __init__(self, corpus: BioS) -> None:
        self.corpus, self.seed = corpus, corpus.seed
        self.num_people = num_in_train(corpus.num_people) * len(QUESTIONS)  # texts, as a stream counts them

    def persons(self, texts: np.ndarray) -> np.ndarray:
        """Whom texts (n,) ask about: (n,) int64."""
        return by_split(self.corpus.num_people, self.seed, texts // len(QUESTIONS))

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int) -> np.ndarray:
        """The pieces of texts (n,), the same at every exposure: (n, 7) int32, end of text included."""
        codes, asked = self.corpus.people.codes(self.persons(persons)), persons % len(QUESTIONS)
        out = np.empty((len(persons), 7), dtype=np.int32)
        out[:, 0] = asked + pieces.groups[QUESTION].start
        for column, part in enumerate(_NAMES):
            out[:, 1 + column] = codes[column] + pieces.groups[part].start
        out[:, 4] = asked + pieces.groups[ASK].start
        starts = np.array([pieces.groups[f"{ANSWER}/{attribute}"].start for attribute in QUESTIONS])
        values = codes[_VALUE_CODE].T  # (n, 6)
        out[:, 5] = starts[asked] + np.take_along_axis(values, asked[:, None], axis=1)[:, 0]
        out[:, 6] = pieces.eos
        return out

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""
        names = sum(pieces.longest(part) for part in _NAMES)
        answers = max(pieces.longest(f"{ANSWER}/{attribute}") for attribute in QUESTIONS)
        return pieces.longest(QUESTION) + names + pieces.longest(ASK) + answers + 1
