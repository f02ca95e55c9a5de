"""Grouping by length: the same windows in another order, near their place, with the least padding of any sorting."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.templates import load_templates
from knowcap.corpus.tokenizer import train_tokenizer
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.processes.signals import Interrupted
from knowcap.recipe import Recipe, RecipeError
from knowcap.run.preflight import load_recipe
from knowcap.training.grouping import BATCHES, LengthGroups
from knowcap.training.packing import Stream
from knowcap.training.stage import train, windows_of


POOLS, TEMPLATES = load_pools(fraction=0.1), load_templates(3)
TEN = BioS(People(POOLS, 10, 0), TEMPLATES)
TOKENIZER = train_tokenizer(TEN.vocabulary_texts(), 400)
PIECES = Pieces(TEN.piece_texts(), TOKENIZER)


def stream(num_people: int, exposures: int, shard_size: int = 65_536, block_size: int = 128) -> Stream:
    corpus = BioS(People(POOLS, num_people, 1), TEMPLATES)
    made = Stream(corpus, PIECES, exposures=exposures, block_size=block_size, windows="aligned", shard_size=shard_size)
    made.count()
    return made


# Several exposures in a group, several groups in an exposure, shards of one person; two biographies in a window.
STREAMS = {
    "few": {"num_people": 30, "exposures": 20},
    "many": {"num_people": 500, "exposures": 2},
    "shards": {"num_people": 61, "exposures": 3, "shard_size": 20},
    "two": {"num_people": 100, "exposures": 4, "block_size": 200},
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_window_stands_once_and_in_its_group(name, batch_size):
    made = stream(**STREAMS[name])
    positions = np.arange(len(made))
    found = LengthGroups(made, batch_size)(positions)
    assert sorted(found.tolist()) == positions.tolist()
    assert (found // (BATCHES * batch_size) == positions // (BATCHES * batch_size)).all()
    assert (found != positions).any() == (batch_size > 1 or len(made) > 1)


@pytest.mark.parametrize("name", STREAMS)
def test_a_group_has_the_padding_of_its_sorted_windows(name):
    made, batch_size = stream(**STREAMS[name]), 7
    groups = LengthGroups(made, batch_size)
    lengths = np.array([len(row) for row in made.windows(np.arange(len(made)))])
    assert (made.window_lengths(np.arange(len(made))) == lengths).all()
    in_order = padded = 0
    for first in range(0, len(made), BATCHES * batch_size):
        own = np.arange(first, min(len(made), first + BATCHES * batch_size))
        ranked = np.sort(lengths[own])
        parts = [ranked[start : start + batch_size] for start in range(0, len(own), batch_size)]
        least = sum(int(part.max()) * len(part) for part in parts)
        batches = [groups(own[start : start + batch_size]) for start in range(0, len(own), batch_size)]
        assert sum(int(lengths[batch].max()) * len(batch) for batch in batches) == least
        in_order += sum(
            int(lengths[own[s : s + batch_size]].max()) * len(own[s : s + batch_size])
            for s in range(0, len(own), batch_size)
        )
        padded += least
    assert padded < in_order


def test_any_batch_can_be_looked_up_alone():
    made = stream(61, 6, 20)
    positions = np.arange(len(made))
    in_order = LengthGroups(made, 5)(positions)
    for position in np.random.default_rng(0).permutation(len(positions))[:60]:
        assert LengthGroups(made, 5)(positions[[position]])[0] == in_order[position]


@pytest.mark.parametrize("name", STREAMS)
def test_a_pass_makes_each_shard_once(name, monkeypatch):
    made, calls = stream(**STREAMS[name]), []
    make = Stream._make
    monkeypatch.setattr(Stream, "_make", lambda self, *args: calls.append(args) or make(self, *args))
    groups = LengthGroups(made, 7)
    for start in range(0, len(made), 7):
        made.batch(groups(np.arange(start, min(len(made), start + 7))))
    assert len(calls) == len(set(calls))


def test_batches_of_a_group_come_in_an_order_of_their_own():
    made, batch_size = stream(500, 2), 5
    groups = LengthGroups(made, batch_size)
    ranks = []
    for first in (0, BATCHES * batch_size):
        means = (
            made.window_lengths(groups(np.arange(first, first + BATCHES * batch_size))).reshape(BATCHES, -1).mean(1)
        )
        ranks.append(np.argsort(means, kind="stable").tolist())
    assert ranks[0] != ranks[1] and list(range(BATCHES)) not in ranks


RECIPE = Recipe(
    num_people=40,
    exposures=4,
    vocab_size=300,
    pools_fraction=0.1,
    num_templates=3,
    block_size=128,
    windows="aligned",
    model_name="gpt2-1-1",
    head_dim=8,
    train_batch_size=5,
    warmup_steps=2,
    save_steps=7,
    logging_steps=7,
    train_sampling_strategy="group_by_length",
)


def test_training_reads_every_text_and_a_resumed_one_gives_the_same_weights(tmp_path, monkeypatch):
    train(RECIPE, tmp_path / "whole")
    seen = []
    make = Stream.batch

    def ended(self, windows):
        seen.append(windows.tolist())
        if len(seen) == 18:
            raise Interrupted("test")
        return make(self, windows)

    monkeypatch.setattr(Stream, "batch", ended)
    with pytest.raises(Interrupted):
        train(RECIPE, tmp_path / "parts")
    monkeypatch.setattr(Stream, "batch", make)
    train(RECIPE, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    training = json.loads((tmp_path / "parts/model/training.json").read_text())
    assert training["train_sampling_strategy"] == "group_by_length"


def test_without_it_the_order_is_that_of_the_stream():
    made = stream(30, 2)
    plain = windows_of(replace(RECIPE, train_sampling_strategy="sequential"), made)
    assert plain.groups is None
    assert torch.equal(plain.__getitems__([3, 4])["input_ids"], torch.from_numpy(made.batch(np.array([3, 4]))[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": "cut"}, "without windows: aligned"),
        ({"torch_compile": "true"}, "with torch_compile"),
        ({"junk_people": "10"}, "with junk_people or qa_share"),
        ({"train_sampling_strategy": "random"}, "sequential is random"),
        ({"train_sampling_strategy": "by_length"}, "expected sequential or group_by_length"),
    ],
)
def test_what_it_has_no_effect_on_is_an_error(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("quickstart", {"train_sampling_strategy": "group_by_length"} | changes)
