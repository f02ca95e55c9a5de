"""A change of lists, templates, questions or draws is a new version: what each version says is pinned here.

Where a digest differs, the data sets of that version out there differ too: raise VERSION, then pin the new digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from knowcap.corpus import biod
from knowcap.corpus.questions import HasQuestions
from knowcap.corpus.templates import load_templates
from knowcap.dataset.corpora import corpus_of
from knowcap.knowledge import people, strings
from knowcap.knowledge.pools import lists_version, load_pools
from knowcap.recipe import Recipe


PAPER = lists_version(people.VERSION, "paper")
BIOS = Recipe(num_people=50, model_name="gpt2-2-2")
BIOD = replace(BIOS, corpus="bioD", num_attributes=3, chunks_per_value=2, diversity=50, alphabet_size=20)
PINNED = {
    (people.VERSION, "lists"): "6cc534464d4b4740",
    (people.VERSION, "bioS"): "75150ad1e06e07b4",
    (PAPER, "lists"): "145076f9136d5dcf",
    (PAPER, "bioS"): "111df077d0d422f6",
    (biod.VERSION, "bioD"): "125ecd773ffad568",
    (biod.VERSION, "compact bioD"): "5a3d9510f1c7e672",
    (strings.VERSION, "morris"): "f461e91f0fb46e32",
    (strings.VERSION, "short morris"): "81d2778b6472f585",
}


def said(recipe: Recipe) -> object:
    """People, outsiders, texts of two exposures and questions."""
    corpus, everyone = corpus_of(recipe), np.arange(recipe.num_people + 20)
    rows = [(row.text, row.spans, row.entity) for exposure in (0, 1) for row in corpus.rows(everyone, exposure)]
    asked = corpus.questions(everyone) if isinstance(corpus, HasQuestions) else None
    return corpus.people_columns(0, recipe.num_people), rows, asked


@pytest.mark.parametrize(
    ("version", "what", "content"),
    [
        (people.VERSION, "lists", lambda: (load_pools(), load_templates())),
        (people.VERSION, "bioS", lambda: said(BIOS)),
        (PAPER, "lists", lambda: (load_pools(lists="paper"), load_templates(lists="paper"))),
        (PAPER, "bioS", lambda: said(replace(BIOS, lists="paper"))),
        (biod.VERSION, "bioD", lambda: said(BIOD)),
        (biod.VERSION, "compact bioD", lambda: said(replace(BIOD, compact=True))),
        (strings.VERSION, "morris", lambda: said(replace(BIOS, corpus="morris"))),
        (strings.VERSION, "short morris", lambda: said(replace(BIOS, corpus="morris", string_length=5))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_content_of_a_version_stays(version, what, content):
    assert hashlib.sha256(repr(content()).encode()).hexdigest()[:16] == PINNED[version, what]


def test_other_lists_are_another_version_and_cut_ones_are_not(tmp_path):
    ours = load_pools()
    other = replace(ours, majors=(*ours.majors[:-1], "Knots"))
    again = replace(ours, majors=(*ours.majors[:-1], "Ropes"))
    versions = {pools.version("1.0.0") for pools in (ours, load_pools(fraction=0.1), other, again)}
    assert len(versions) == 3 and "1.0.0" in versions
    assert all(version.startswith("1.0.0") for version in versions)
    knowledge = people.People(other, 10, 0).knowledge()
    assert load_pools(lists="paper", fraction=0.1).version("1.0.0") == "2.0.0"
    assert knowledge.version == other.version(people.VERSION) != people.VERSION
