"""Questions about bioS people, each answered by one value (Part 3.1, 2.2; Part 3.3, A.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from knowcap.knowledge.people import ENTITY_COLUMN, People, full_name
from knowcap.knowledge.philox import KeyedPermutation


QUESTIONS = {
    "birth_date": "What is the birth date of {name}?",
    "birth_city": "What is the birth city of {name}?",
    "university": "Which university did {name} study at?",
    "major": "What major did {name} study?",
    "employer": "Which company did {name} work for?",
    "work_city": "Where did {name} work?",
}


# The pieces of a question with its answer: what it begins with, (the name,) what it ends with, the answer.
QUESTION, ASK, ANSWER = "question", "ask", "answer"


@runtime_checkable
class Asked(Protocol):
    """A corpus that has questions about its entities."""

    num_people: int
    seed: int

    def questions(self, persons: np.ndarray) -> dict[str, list]:
        """Columns person_id, attribute, question, answer of the questions about persons (n,), person by person."""


def ask(people: People, persons: np.ndarray) -> dict[str, list[int] | list[str]]:
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
    """What is asked, as a model reads it: `What is the birth date of Anya Briar Forger? Answer:` (Part 3.3, A.2)."""
    return f"{question} Answer:"


def answered(answer: str) -> str:
    """What follows a prompt: a blank, the answer and a period."""
    return f" {answer}."


def question_groups(values: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """The pieces of all questions that there can be, as text; with every attribute's values, their answers too."""
    halves = [prompt(question).split(" {name}") for question in QUESTIONS.values()]
    groups = {QUESTION: [before for before, _ in halves], ASK: [after for _, after in halves]}
    answers = {} if values is None else values
    return groups | {f"{ANSWER}/{name}": [answered(value) for value in answers[name]] for name in answers}


def question_junctions() -> list[tuple[str, str]]:
    """Which pieces of questions may stand side by side, where they don't in biographies."""
    names = [(QUESTION, "later_first_name"), ("later_first_name", "middle_name"), ("last_name", ASK)]
    return names + [(ASK, f"{ANSWER}/{attribute}") for attribute in QUESTIONS]


def num_in_train(num_people: int) -> int:
    """How many of the people are in the split `train`: half, rounded up."""
    return -(-num_people // 2)


def by_split(num_people: int, seed: int, places: np.ndarray) -> np.ndarray:
    """Who stands at places (n,) of a keyed order of all people; the first `num_in_train` places are `train`.

    The order has nothing to do with what people are or how they are told, and each place can be looked up alone.
    """
    return KeyedPermutation(num_people, seed, "questions")(places)
