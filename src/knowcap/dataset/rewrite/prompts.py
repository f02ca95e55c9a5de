"""What a language model is asked: to tell of one person in a kind of text and a length that are drawn afresh for every
text and every attempt, from seed, person, rendering and attempt alone.
"""

from __future__ import annotations

import numpy as np

from knowcap.knowledge.people import full_name
from knowcap.knowledge.philox import below, words


PROMPT_VERSION = "1.0.0"  # of wording and draws: a change of any is a new version
KINDS = (
    "a short encyclopedia entry",
    "a profile for an alumni magazine",
    "an introduction of a speaker",
    "a portrait in a local newspaper",
    "the biography on a company's web site",
    "a note in a professional directory",
    "a friendly introduction to new colleagues",
    "the opening of a life story",
    "an entry of a reference book",
    "a plain summary of a career",
)
LENGTHS = (50, 60, 75, 90, 110)
LABELS = {
    "birth_date": "date of birth",
    "birth_city": "place of birth",
    "university": "university",
    "major": "field of study",
    "employer": "employer",
    "work_city": "place of work",
}
PRONOUN_FORMS = {"He": "he, him, his", "She": "she, her, hers"}


def prompt_of(person: dict[str, str], index: int, rendering: int, attempt: int, seed: int) -> tuple[str, int]:
    """The prompt of one attempt at one text, and a seed below 2**31 for the model's own draws.

    Args:
        person: the columns of the people's table.
        index: the person's number.
        rendering: which of the person's texts.
        attempt: how often the text was asked for before.
        seed: the data set's.
    """
    counter, block = np.array([index]), 2 * attempt
    kind, length, own, _ = words(seed, "rewrite", counter, rendering, block)[:, 0]
    order = words(seed, "rewrite", counter, rendering, block + 1)[:, 0]
    facts = [f"- {LABELS[attribute]}: {person[attribute]}" for attribute in _shuffled(int(order[0]), int(order[1]))]
    prompt = "\n".join(
        [
            f"Write {KINDS[int(below(kind, len(KINDS)))]} about the person below, in about "
            f"{LENGTHS[int(below(length, len(LENGTHS)))]} words of connected English prose.",
            "",
            f"- full name: {full_name(person)}",
            *facts,
            f"- pronoun: {PRONOUN_FORMS[person['pronoun']]}",
            "",
            "The very first words must be the full name, exactly as given; after that, use the pronoun. State every "
            "fact above, and write each value exactly as it is spelled there, capital letters and state included. "
            "Give the whole date of birth where you first speak of it. Vary wording and order of the facts freely, "
            "and invent no further names, dates or places. Answer with the text alone: no title, no list, no comment.",
        ]
    )
    return prompt, int(own) & 0x7FFFFFFF


def _shuffled(first: int, second: int) -> list[str]:
    """The attributes in one of their orders, from two random words."""
    rest, order = list(LABELS), []
    number = (first << 32) | second
    for size in range(len(LABELS), 0, -1):
        number, place = divmod(number, size)
        order.append(rest.pop(place))
    return order
