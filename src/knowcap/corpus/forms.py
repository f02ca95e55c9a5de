"""How a person is told at one exposure: the order of the six sentences and the template of each, drawn afresh."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from knowcap.corpus.templates import SENTENCES, Template
from knowcap.philox import below, words


_ORDERS = np.array(list(permutations(range(len(SENTENCES)))), dtype=np.int8)


@dataclass(frozen=True)
class Forms:
    """One biography a row.

    Attributes:
        order: (n, 6) int8, which sentence stands at each place.
        templates: (n, 6) int16, the template of the sentence at each place.
    """

    order: np.ndarray
    templates: np.ndarray


def draw_forms(seed: int, persons: np.ndarray, exposure: int, templates: dict[str, tuple[Template, ...]]) -> Forms:
    """The forms of persons (n,) at one exposure: uniform over orders and templates (Part 3.3, 2.2).

    Each depends on seed, person and exposure alone.
    """
    w = words(seed, "forms", persons, substream=exposure)
    order = _ORDERS[below(w[0], len(_ORDERS))]
    counts = [len(templates[sentence]) for sentence in SENTENCES]
    chosen = np.empty((len(persons), len(SENTENCES)), dtype=np.int16)
    for sentence, count in enumerate(counts):
        word = w[1 + sentence // 2]
        chosen[:, sentence] = below(word, count)
        w[1 + sentence // 2] = (word * np.uint64(count)) & np.uint64(0xFFFFFFFF)
    return Forms(order, np.take_along_axis(chosen, order.astype(np.intp), axis=1))
