"""Memorizable accuracy: how often a model, prompted with a training text up to a value, goes on with that value."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowcap.capacity.tables import Facts, mean
from knowcap.facts import NAME


# The paper's, where all of them are there: gender is none of them, nor is the work city, which the employer tells.
FIVE = ("birth_date", "birth_city", "university", "major", "employer")


def memorizable(facts: Facts) -> dict[str, Any]:
    """Memorizable accuracy and the attributes that it is the mean of (Part 3.3, App. A.2).

    The prompt is a text up to the value ("Anya Briar Forger was born on"), the model goes on greedily, and what it
    says must be the value. That is `greedy_match`, without generating: as long as every token of the value is the
    model's first choice after the true ones before it, those are the ones that it generated itself; at the first that
    is not, generation has left the value.

    - A value said after what it determines (an employer after its work city) is one fact with that, so the city must
      have been generated too: nothing that was told helps.
    - Under token scoring a value is matched once its own tokens are, whatever the model would say next. Where one
      value begins another ("Disney", "Disney+": 2 companies, 2 universities, 7 majors of bioS) a model that goes on to
      the longer one counts as right. Closed-set scoring asks for the token after such a value as well, but chooses
      among the candidates alone.

    Returns:
        `memorizable_accuracy`, the mean over attributes of the share of entities (means over renderings) whose value
        is generated, NaN without any; times N it is the paper's sum over people. `memorizable_attributes`: the five of
        the paper where all are there, else every attribute that counts bits and is not the name.
    """
    values = [a for a in facts.attributes if a != NAME]
    names = (
        list(FIVE) if set(FIVE) <= set(values) else [a for a in values if mean(_column(facts, a, "references")) > 0]
    )
    shares = np.array([mean(_column(facts, a, "accuracy")) for a in names])
    return {"memorizable_accuracy": mean(shares), "memorizable_attributes": names}


def _column(facts: Facts, attribute: str, table: str) -> np.ndarray:
    return getattr(facts, table)[:, facts.attributes.index(attribute)]
