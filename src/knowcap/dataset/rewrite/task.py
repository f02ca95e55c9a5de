"""Which texts a language model is asked for, the prompt of each, and the settings that unfinished texts belong to."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite.writers import Writer
from knowcap.files import read_json, write_json
from knowcap.knowledge.people import VERSION, full_name
from knowcap.knowledge.philox import below, words
from knowcap.knowledge.pools import DEFAULT_LISTS, Pools, lists_version
from knowcap.recipe import KEYS, Recipe


NEUTRAL_RENDERINGS = 4
TEXTS_A_SHARD = 4000
_SETTINGS_FILE = "settings.json"


class MissingTexts(DatasetError):
    """Texts that the writer failed to give; the message counts them by reason. The finished texts are kept."""


@dataclass(frozen=True)
class Task:
    """Which texts there are to write.

    Attributes:
        num_people: N.
        texts_per_person: biographies of each person.
        control_people: people outside the sample, with one text each, for the null control.
        seed: of people and prompts.
        pools_dir: a folder of value lists; the package's own by default.
        lists: the name of the package's lists, whose templates give the neutral texts.
    """

    num_people: int
    texts_per_person: int = 40
    control_people: int = 1000
    seed: int = 0
    pools_dir: str | None = None
    lists: str = DEFAULT_LISTS

    def recipe(self) -> Recipe:
        """The recipe of texts about the same people from templates.

        Raises:
            DatasetError: a number is out of range.
        """
        numbers = {key: getattr(self, key) for key in ("num_people", "control_people", "seed")}
        keys = numbers | {"lists": self.lists}
        wrong = [problem for key, value in keys.items() if (problem := KEYS[key].wrong_value(value))]
        if self.texts_per_person < 1:
            wrong.append(f"texts_per_person={self.texts_per_person}: expected 1 or more")
        if wrong:
            raise DatasetError("; ".join(wrong))
        return Recipe(**numbers, pools_dir=self.pools_dir, lists=self.lists, renderings=NEUTRAL_RENDERINGS)


def settings_of(task: Task, writer: Writer, pools: Pools) -> dict[str, Any]:
    """The settings that the texts and their files depend on."""
    values = {key: value for key, value in asdict(pools).items() if key != "lists"}
    lists = hashlib.sha256(repr(values).encode()).hexdigest()[:16]
    settings = {key: value for key, value in asdict(task).items() if key not in ("pools_dir", "lists")}
    settings |= {"model_name": writer.model_name, "temperature": writer.temperature}
    settings |= {"max_new_tokens": writer.max_new_tokens, "prompt_version": PROMPT_VERSION}
    return settings | {"version": lists_version(VERSION, task.lists), "lists": lists, "texts_a_shard": TEXTS_A_SHARD}


def start(parts: Path, settings: dict[str, Any]) -> int:
    """Saves the settings, or compares them with the saved ones; returns the number of finished passes.

    Raises:
        DatasetError: the folder has other settings.
    """
    path = parts / _SETTINGS_FILE
    if not path.is_file():
        write_json(path, {"settings": settings, "passes": 0})
        return 0
    saved = read_json(path)
    values = [(key, saved["settings"].get(key), value) for key, value in settings.items()]
    differing = [f"{key} is {old!r} there and {new!r} here" for key, old, new in values if old != new]
    if differing:
        raise DatasetError(
            f"{parts} holds texts with other settings: {', '.join(differing)}; choose another output_dir, or remove "
            "that folder"
        )
    return saved["passes"]


def save_passes(parts: Path, passes: int) -> None:
    """Saves the number of passes through all shards."""
    path = parts / _SETTINGS_FILE
    write_json(path, read_json(path) | {"passes": passes})


PROMPT_VERSION = "1.0.0"  # of wording and draws: any change is a new version
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
    """The prompt of one attempt at one text, and a seed below 2**31 for the model's sampling.

    Args:
        person: the columns of the people's table.
        index: the person's number.
        rendering: the number of the person's text.
        attempt: the number of earlier requests for the text.
        seed: the data set's seed.
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
    """The attributes in a random order, from two random words."""
    rest, order = list(LABELS), []
    number = (first << 32) | second
    for size in range(len(LABELS), 0, -1):
        number, place = divmod(number, size)
        order.append(rest.pop(place))
    return order
