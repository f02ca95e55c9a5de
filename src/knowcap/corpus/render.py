"""Biographies as text, with the exact span of each fact's first mention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from knowcap.corpus.forms import Forms, Variant, draw_forms
from knowcap.corpus.templates import SENTENCES, Template
from knowcap.facts import NAME, Row, Span
from knowcap.knowledge.people import People, full_name


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
