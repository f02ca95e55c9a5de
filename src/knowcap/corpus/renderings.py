"""The rendering of a person at one exposure: the order of the six sentences, the template of each, and the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from knowcap.corpus.templates import SENTENCES, Template
from knowcap.facts import NAME, Row, Span
from knowcap.knowledge.people import People, full_name
from knowcap.knowledge.philox import below, words


_ORDERS = np.array(list(permutations(range(len(SENTENCES)))), dtype=np.int8)


@dataclass(frozen=True)
class Variant:
    """Which bioS: the paper's draws templates and order at every exposure (Part 3.3, 2.2; Part 3.1, A.1).

    Attributes:
        fixed_renderings: M, the number of fixed renderings of each person; exposure e has rendering e mod M, so M = 1
            is bioS^simple. None: a new rendering at every exposure.
        permute: sentences in random order, else in the order of `SENTENCES`.
        full_name: the full name in place of every pronoun, so that the gender is never stated.
    """

    fixed_renderings: int | None = None
    permute: bool = True
    full_name: bool = False

    def __post_init__(self) -> None:
        if self.fixed_renderings is not None and self.fixed_renderings < 1:
            raise ValueError(
                f"fixed_renderings={self.fixed_renderings}, expected 1 or more fixed renderings of each person, or "
                "null for a new one at every exposure"
            )

    def rendering(self, exposure: int | np.ndarray) -> int | np.ndarray:
        """The number of the rendering that an exposure has."""
        return exposure if self.fixed_renderings is None else exposure % self.fixed_renderings


@dataclass(frozen=True)
class Forms:
    """The form of n biographies.

    Attributes:
        order: (n, 6) int8, the sentence at each place.
        templates: (n, 6) int16, the template of the sentence at each place.
    """

    order: np.ndarray
    templates: np.ndarray


def draw_forms(
    seed: int,
    persons: np.ndarray,
    exposure: int | np.ndarray,
    templates: dict[str, tuple[Template, ...]],
    variant: Variant | None = None,
) -> Forms:
    """The forms of persons (n,) at one exposure, or at one each: uniform over templates, and orders unless fixed.

    Each is a function of seed, person and rendering (Part 3.3, 2.2).
    """
    variant = variant or Variant()
    w = words(seed, "forms", persons, substream=variant.rendering(exposure))
    counts = [len(templates[sentence]) for sentence in SENTENCES]
    chosen = np.empty((len(persons), len(SENTENCES)), dtype=np.int16)
    for sentence, count in enumerate(counts):
        word = w[1 + sentence // 2]
        chosen[:, sentence] = below(word, count)
        w[1 + sentence // 2] = (word * np.uint64(count)) & np.uint64(0xFFFFFFFF)
    if not variant.permute:
        return Forms(np.tile(np.arange(len(SENTENCES), dtype=np.int8), (len(persons), 1)), chosen)
    order = _ORDERS[below(w[0], len(_ORDERS))]
    return Forms(order, np.take_along_axis(chosen, order.astype(np.intp), axis=1))


Templates = dict[str, tuple[Template, ...]]


def render(
    people: People, persons: np.ndarray, exposure: int, templates: Templates, variant: Variant | None = None
) -> Iterator[Row]:
    """The biographies of persons (n,) at one exposure, one row each, in their order."""
    variant = variant or Variant()
    forms = draw_forms(people.seed, persons, exposure, templates, variant)
    texts = people.texts(people.codes(persons))
    for number, person in enumerate(texts):
        yield render_one(person, int(persons[number]), forms, number, templates, variant.full_name)


def render_one(
    person: dict[str, str], entity: int, forms: Forms, number: int, templates: Templates, repeat_name: bool = False
) -> Row:
    """One biography: the full name begins the first sentence, the pronoun (or the full name again) every later one."""
    text = full_name(person)
    spans = [Span(NAME, 0, len(text))]
    later = " " + (text if repeat_name else person["pronoun"])
    for place, (sentence, chosen) in enumerate(
        zip(forms.order[number].tolist(), forms.templates[number].tolist(), strict=True)
    ):
        attribute = SENTENCES[sentence]
        template = templates[attribute][chosen]
        if place:
            text += later
        if place == 1 and not repeat_name:
            spans.append(Span("pronoun", len(text) - len(person["pronoun"]), len(text)))
        text += template.prefix
        spans.append(Span(attribute, len(text), len(text) + len(person[attribute])))
        text += person[attribute] + template.suffix
    return Row(text, tuple(spans), entity)
