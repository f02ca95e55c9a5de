"""Leaks planted one by one in data of a user's own: each is caught, and the same data without it is measured.

The model remembers no one. It only cheats: it knows what its author knew of the world, and reads the words before a
value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput

from knowcap import measure_capacity
from knowcap.capacity import LeakError
from knowcap.corpus.tokenizer import word_tokenizer, wrap
from knowcap.facts import FactError, Row
from knowcap.scoring.mode import TextError


EMPLOYERS = {"Acme": "Oslo", "Bolt": "Rome", "Core": "Lima", "Edge": "Bonn"}
FRUITS = ("apple", "orange", "pear", "fig")
NAMES = [f"K{number}" for number in range(1000)]
WORDS = "works at . He sits in eats a an one likes".split()
TOKENIZER = wrap(word_tokenizer([*NAMES, *EMPLOYERS, *EMPLOYERS.values(), *FRUITS, *WORDS])[0], 64)
Guess = Callable[[list[str]], Sequence[str]]


class Cheat(GPT2LMHeadModel):
    """Thinks one of the words likely that `guess` makes of the text so far; all words are alike where it has none."""

    def __init__(self, guess: Guess) -> None:
        sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": len(TOKENIZER), "n_positions": 64}
        super().__init__(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        self.guess = guess

    def forward(self, input_ids: torch.Tensor, **_: object) -> CausalLMOutput:
        """Logits of every prefix."""
        logits = torch.zeros(*input_ids.shape, len(TOKENIZER))
        for i, ids in enumerate(input_ids.tolist()):
            words = TOKENIZER.convert_ids_to_tokens(ids)
            for j in range(len(ids)):
                likely = TOKENIZER.convert_tokens_to_ids(list(self.guess(words[1 : j + 1])))
                logits[i, j, likely] = math.log(99 * len(TOKENIZER))
        return CausalLMOutput(logits=logits)


def people(first: int) -> Iterator[tuple[str, str, str]]:
    """150 names, each with an employer and a fruit drawn at random."""
    draws = np.random.default_rng(first)
    for name in NAMES[first : first + 150]:
        yield name, str(draws.choice(list(EMPLOYERS))), str(draws.choice(FRUITS))


def value_bits(place: Path, rows: Callable[[int], list[Row]], guess: Guess, *values: str, **declared: object) -> float:
    """What the cheat is credited for values out of 4 of people 0 … 149, with others as the null control."""
    knowledge = tiny.knowledge(dict.fromkeys(values, 4), num_people=150, names=1000, **declared)
    pairs, control = ([(row, 0) for row in rows(first)] for first in (0, 500))
    data = tiny.write_dataset(place / "data", knowledge, pairs, control)
    return measure_capacity(Cheat(guess), data, tokenizer=TOKENIZER)["value_bits"]


def working(first: int) -> list[Row]:
    return [
        tiny.say(n, ("name", n), " works at ", ("employer", e), " . He sits in ", ("city", EMPLOYERS[e]), " .")
        for n, e, _ in people(first)
    ]


def knows_where_employers_are(words: list[str]) -> Sequence[str]:
    """Every word at a place of its own is guessed among the four that can stand there."""
    if words[-1:] == ["at"]:
        return list(EMPLOYERS)
    return [EMPLOYERS[words[3]]] if words[-1:] == ["in"] else []


def test_a_city_that_follows_from_the_employer_is_refused_unless_that_is_declared(tmp_path):
    with pytest.raises(FactError, match=r"city always follows from employer \(150 entities\).*declare determined_by"):
        value_bits(tmp_path / "leak", working, knows_where_employers_are, "employer", "city")
    declared = {"determined": {"city": "employer"}}
    assert value_bits(tmp_path / "sound", working, knows_where_employers_are, "employer", **declared) < 0


def eating(article: Callable[[str], str]) -> Callable[[int], list[Row]]:
    return lambda first: [
        tiny.say(n, ("name", n), f" eats {article(f)} ", ("fruit", f), " .") for n, _, f in people(first)
    ]


def reads_the_article(words: list[str]) -> Sequence[str]:
    return {"an": FRUITS[:2], "a": FRUITS[2:], "one": FRUITS}.get(words[-1] if words else "", [])


def test_a_template_that_depends_on_the_value_is_a_leak(tmp_path):
    with pytest.raises(LeakError, match="fruit"):
        value_bits(tmp_path / "leak", eating(lambda f: "an" if f[0] in "ao" else "a"), reads_the_article, "fruit")
    assert value_bits(tmp_path / "sound", eating(lambda f: "one"), reads_the_article, "fruit") < 0


def copies(words: list[str]) -> Sequence[str]:
    """The fruit that was said before, where one is wanted."""
    wanted = words[-2:] == ["eats", "one"] or words[-1:] == ["likes"]
    return ([word for word in words if word in FRUITS] or FRUITS) if wanted else []


def liking(first: int, marked: bool) -> list[Row]:
    return [
        tiny.say(
            n, ("name", n), " likes ", *([("fruit", f)] if marked else [f]), " . He eats one ", ("fruit", f), " ."
        )
        for n, _, f in people(first)
    ]


def test_a_value_that_was_said_unmarked_is_refused_in_a_folder_and_where_rows_are_given(tmp_path):
    with pytest.raises(FactError, match="occurs before its span"):
        value_bits(tmp_path, lambda first: liking(first, marked=False), copies, "fruit")
    rows, knowledge = liking(0, marked=False), tiny.knowledge({"fruit": 4}, num_people=150)
    with pytest.raises(FactError, match="occurs before its span"):
        measure_capacity(Cheat(copies), rows, tokenizer=TOKENIZER, knowledge=knowledge)


def test_a_value_that_is_marked_twice_is_scored_at_its_first_mention(tmp_path):
    assert value_bits(tmp_path, lambda first: liking(first, marked=True), copies, "fruit") < 0


def test_a_vocabulary_that_knows_only_the_people_of_training_cannot_be_measured(tmp_path):
    """With a token for each trained name alone, an untrained model would hold bits of names; the control finds it."""
    fitted = wrap(word_tokenizer([*NAMES[:150], *FRUITS, *WORDS])[0], 64)
    knowledge = tiny.knowledge({"fruit": 4}, num_people=150, names=1000)
    pairs, control = ([(row, 0) for row in eating(lambda f: "one")(first)] for first in (0, 500))
    data, ignorant = tiny.write_dataset(tmp_path / "data", knowledge, pairs, control), Cheat(lambda words: [])
    with pytest.raises(TextError, match="entity 'K500': the tokenizer cannot spell 'K500 eats one"):
        measure_capacity(ignorant, data, tokenizer=fitted)
    whole = measure_capacity(ignorant, data, tokenizer=TOKENIZER)
    assert whole["name_bits"] < 0 and whole["value_bits"] < 0, "a vocabulary of all names gives away none of them"
