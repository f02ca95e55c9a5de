"""Questions about bioS people, each answered by one value (Part 3.1, 2.2; Part 3.3, A.2), for data sets and mixed
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from knowcap.corpus.pieces import Pieces
from knowcap.knowledge.people import CODES, ENTITY_COLUMN, People, full_name
from knowcap.knowledge.philox import KeyedPermutation


QUESTIONS = {
    "birth_date": "What is the birth date of {name}?",
    "birth_city": "What is the birth city of {name}?",
    "university": "Which university did {name} study at?",
    "major": "What major did {name} study?",
    "employer": "Which company did {name} work for?",
    "work_city": "Where did {name} work?",
}
# The groups of pieces of a question with its answer: the words before the name, those after it, the answer.
QUESTION_START, QUESTION_END, ANSWER = "question", "ask", "answer"
_NAMES = ("later_first_name", "middle_name", "last_name")
_VALUE_CODE = [CODES.index("employer" if attribute == "work_city" else attribute) for attribute in QUESTIONS]


@runtime_checkable
class HasQuestions(Protocol):
    """A corpus that has questions about its entities."""

    num_people: int
    seed: int

    def questions(self, persons: np.ndarray) -> dict[str, list]:
        """Columns person_id, attribute, question, answer of the questions about persons (n,), person by person."""
        ...


def question_columns(people: People, persons: np.ndarray) -> dict[str, list]:
    """The columns of the questions about persons (n,): six rows a person, in the order of `QUESTIONS`."""
    columns: dict[str, list] = {ENTITY_COLUMN: [], "attribute": [], "question": [], "answer": []}
    for number, person in zip(persons.tolist(), people.texts(people.codes(persons)), strict=True):
        name = full_name(person)
        columns[ENTITY_COLUMN] += [number] * len(QUESTIONS)
        columns["attribute"] += QUESTIONS
        columns["question"] += [question.format(name=name) for question in QUESTIONS.values()]
        columns["answer"] += [person[attribute] for attribute in QUESTIONS]
    return columns


def prompt(question: str) -> str:
    """A question as the model reads it: `What is the birth date of Anya Briar Forger? Answer:` (Part 3.3, A.2)."""
    return f"{question} Answer:"


def answer_text(answer: str) -> str:
    """What follows a prompt: a space, the answer and a period."""
    return f" {answer}."


def question_groups(values: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """The pieces of all possible questions, as text; given every attribute's values, those of their answers too."""
    halves = [prompt(question).split(" {name}") for question in QUESTIONS.values()]
    groups = {QUESTION_START: [before for before, _ in halves], QUESTION_END: [after for _, after in halves]}
    answers = {} if values is None else values
    return groups | {f"{ANSWER}/{name}": [answer_text(value) for value in answers[name]] for name in answers}


def question_junctions() -> list[tuple[str, str]]:
    """Which pieces of questions can be neighbours that are not neighbours in biographies."""
    names = [(QUESTION_START, "later_first_name"), ("later_first_name", "middle_name"), ("last_name", QUESTION_END)]
    return names + [(QUESTION_END, f"{ANSWER}/{attribute}") for attribute in QUESTIONS]


def num_train_people(num_people: int) -> int:
    """How many of the people are in the split `train`: half, rounded up."""
    return -(-num_people // 2)


def split_order(num_people: int, seed: int, places: np.ndarray) -> np.ndarray:
    """The people at places (n,) of a keyed order of all people; the first `num_train_people` places are `train`.

    The order is independent of the people's values and of their texts, and each place can be looked up alone.
    """
    return KeyedPermutation(num_people, seed, "questions")(places)


class QuestionTexts:
    """Every question about the people of the split `train` with its answer, as training texts for a `Stream`.

    Text 6 p + a asks for attribute a of the person at place p. In mixed training (Part 3.1, 3) these texts stand among
    the biographies of all people from the beginning. No one of the split `test` is among them.
    """

    def __init__(self, people: People) -> None:
        self.people, self.seed = people, people.seed
        self.num_people = num_train_people(people.num_people) * len(QUESTIONS)  # texts, as a stream counts them

    def persons(self, texts: np.ndarray) -> np.ndarray:
        """The people that texts (n,) ask about: (n,) int64."""
        return split_order(self.people.num_people, self.seed, texts // len(QUESTIONS))

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of texts (n,), the same at every exposure: (n, 7) int32, end of text included."""
        codes, asked = self.people.codes(self.persons(persons)), persons % len(QUESTIONS)
        out = np.empty((len(persons), 7), dtype=np.int32)
        out[:, 0] = asked + pieces.groups[QUESTION_START].start
        for column, part in enumerate(_NAMES):
            out[:, 1 + column] = codes[column] + pieces.groups[part].start
        out[:, 4] = asked + pieces.groups[QUESTION_END].start
        starts = np.array([pieces.groups[f"{ANSWER}/{attribute}"].start for attribute in QUESTIONS])
        values = codes[_VALUE_CODE].T  # (n, 6)
        out[:, 5] = starts[asked] + np.take_along_axis(values, asked[:, None], axis=1)[:, 0]
        out[:, 6] = pieces.eos
        return out

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""
        names = sum(pieces.longest(part) for part in _NAMES)
        answers = max(pieces.longest(f"{ANSWER}/{attribute}") for attribute in QUESTIONS)
        return pieces.longest(QUESTION_START) + names + pieces.longest(QUESTION_END) + answers + 1
