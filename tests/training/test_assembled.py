"""Assembled token ids equal tokenizing the whole text, on every corpus, for lists with nasty endings, and for a
tokenizer that has never seen them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from countries import write_table
from made_tokenizers import assembled_equals_tokenized
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from value_lists import write_lists

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.recipe import Recipe


# Dots, pluses and brackets at the end, values that begin others, letters of several scripts, CRLF and a BOM.
NASTY = {
    "first_name": "\ufeffAl\r\nAnn\r\nAnna\r\nZoë\r\n李\r\nO'Neil\r\nJean-Luc\r\n",
    "middle_name": "Jo\r\nJoan\r\nD.\r\nMcA\r\n",
    "last_name": "Li\r\nLin\r\nLin Jr.\r\nO'Neil III\r\nÅström\r\nSt. John\r\n",
    "city": "Washington D.C.\r\nYork\r\nNew York, NY\r\nSão Paulo, SP\r\n東京\r\nHa!\r\nYork (PA)\r\n",
    "university": "Texas Tech\r\nTexas Tech University\r\nÉcole 42\r\nUniversity of St. \r\nM.I.T.\r\nA&M...\r\n",
    "field": "Art\r\nArt History\r\nC++\r\nC#\r\nX\r\nHe\r\nShe, and He\r\n",
    "company": "Disney; York, PA\r\nDisney+; York, PA\r\nDow Inc.; Washington, D.C.\r\nYahoo!; Troy, NY\r\n"
    'Inc; Troy, NY\r\n3M; São Paulo, SP\r\n"Q."; Troy, NY\r\nA.; Troy, N.Y.\r\n',
}
FACTS = {
    name: {"city": city, "firm": firm, "field": field}
    for name, city, firm, field in [
        ("Al", "Washington D.C.", "Dow Inc.", "Art"),
        ("Al Gore's", "York", "Disney+", "Art History"),
        ("李", "東京", "Yahoo!", "C++"),
        ("St. John", "New York, NY", "Disney", "He"),
        ("Zoë", "York", 'The "Q."', "X"),
        ("It", "São Paulo", "A.", "It"),
        ("3M...", "Ha!", "3M", "C#"),
    ]
}
SENTENCES = """\
attributes:
  city: {templates: ["{entity} lies in {value}.", "{entity} is near {value}; they say so!", "{entity} saw {value}?"]}
  firm: {templates: ["{entity} works for {value}.", "{entity} owns {value}, all of it."]}
  field: {templates: ["{entity} knows {value}.", "{entity} knows {value} well."]}
"""


@lru_cache
def english_bpe() -> Tokenizer:
    """Trained as GPT-2's was: on bytes, all 256 of them, after its regular expression, on English (Python's own)."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=8000, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    endings = [f"He said {end} She left{end}{end} She" for end in (".", "!", "+", "Inc.", "D.C.", "...", "?.", '".')]
    numbers = [f" {number}" for number in range(100, 160)]  # bioD's symbols must be single tokens
    tokenizer.train_from_iterator([*topics.values(), *endings * 30, *numbers * 30], trainer)
    return tokenizer


def corpus_and_recipe(kind: str, place: Path, num_people: int) -> tuple[Corpus, Recipe]:
    keys: dict[str, object] = {"num_people": num_people}
    if kind.startswith("bioS"):
        keys |= {"full_name": "full names" in kind}
        if "nasty" in kind:
            keys |= {"num_people": 168, "pools_dir": str(write_lists(place / "lists", **NASTY))}
    elif kind == "bioD":
        keys |= {"corpus": "bioD", "num_attributes": 4, "chunks_per_value": 2, "diversity": 50, "alphabet_size": 60}
    elif kind == "bioD nasty":
        keys |= {"corpus": "bioD", "num_attributes": 4, "diversity": 50, "alphabet_size": 60, "num_people": 168}
        keys |= {"pools_dir": str(write_lists(place / "lists", **NASTY))}
    else:
        keys = write_table(place, FACTS, SENTENCES)
    recipe = Recipe(**keys)
    return corpus_of(recipe), recipe


KINDS = ["bioS", "bioS nasty", "bioS nasty, full names", "bioD", "bioD nasty", "table nasty"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("foreign", [False, True], ids=["our BPE", "English BPE"])
@pytest.mark.parametrize("samples", [1500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_assembled_ids_equal_tokenizing_the_whole_text(kind, foreign, samples, tmp_path):
    corpus, recipe = corpus_and_recipe(kind, tmp_path, samples // 2)
    if foreign:
        wrap(english_bpe(), 1000).save_pretrained(tmp_path / "english")
        recipe = replace(recipe, tokenizer_name=str(tmp_path / "english"))
    tokenizer, rows = tokenizer_of(recipe, corpus)
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    exposures = range(-(-samples // corpus.num_people))
    assert assembled_equals_tokenized(corpus, tokenizer, pieces, exposures) >= samples
    assert pieces.used().max() < rows
    if foreign and kind != "table nasty":  # a table's own tokenizer keeps what it was trained with
        assert pieces.used().size == rows


def test_the_nasty_lists_are_as_nasty_as_they_look(tmp_path):
    corpus, _ = corpus_and_recipe("bioS nasty", tmp_path, 0)
    pools = corpus.people.pools
    assert {"Washington D.C.", "東京"} <= {*pools.birth_cities} and {"Disney", "Disney+", "Dow Inc."} < {
        *pools.employers
    }
    texts = [row.text for exposure in range(20) for row in corpus.rows(np.arange(168), exposure)]
    assert not any("\r" in text or "\ufeff" in text for text in texts)
    assert any("Disney+. " in text for text in texts) and any("Washington D.C.. " in text for text in texts)
