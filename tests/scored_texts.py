"""Biographies and models that scoring tests share."""

from __future__ import annotations

import itertools

import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap.facts import Knowledge, Row


CANDIDATES = {"birth_city": 8, "employer": 4, "pronoun": 2}


DETERMINED = {"work_city": "employer"}


CITIES = ("Rome", "Oslo", "New York", "Zürich", "Bonn", "Lima", "Pisa", "Lyon")


WORK = {"Acme Ltd": "Rome", "Disney+": "New York", "Bolt": "Rome", "Core.": "Bonn"}


def full_knowledge(num_people: int = 12) -> Knowledge:
    return tiny.knowledge(CANDIDATES, determined=DETERMINED, num_people=num_people)


def biographies(num_people: int = 12, renderings: int = 2, first: int = 0) -> list[tuple[Row, int]]:
    """People with values that differ, in two forms: work city after the employer, and before it."""
    pairs = []
    for i, rendering in itertools.product(range(first, first + num_people), range(renderings)):
        name = f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i % 26]}{'aeiou'[i % 5]}n {'Lee' if i % 2 else 'de la Cruz'}{i // 26}"
        employer = list(WORK)[i % 4]
        pronoun, city = ("He", "She")[i // 2 % 2], CITIES[(3 * i + i // 8) % 8]
        born = (" was born in ", ("birth_city", city), ". ")
        if rendering % 2 == 0:
            parts = (*born, ("pronoun", pronoun), " works at ", ("employer", employer), ", ")
            parts += (pronoun, " lives in ", ("work_city", WORK[employer]), ".")
        else:
            parts = (" lives in ", ("work_city", WORK[employer]), ". ", ("pronoun", pronoun), " works at ")
            parts += (("employer", employer), ". ", pronoun, *born)
        pairs.append((tiny.say(i, ("name", name), *parts), rendering))
    return pairs


def gpt2(vocab_size: int, positions: int = 160) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=vocab_size, n_positions=positions, initializer_range=0.3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)
