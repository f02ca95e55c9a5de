"""Windows: everything enters once an exposure, any window can be made alone, nothing else is in there."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.pieces import Pieces
from knowcap.corpus.templates import load_templates
from knowcap.corpus.tokenizer import EOS_ID, train_tokenizer
from knowcap.dataset.corpora import corpus_of
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.training.packing import HasTextLengths, Stream, TrainingError


POOLS, TEMPLATES = load_pools(fraction=0.1), load_templates(3)
TEN = BioS(People(POOLS, 10, 0), TEMPLATES)
TOKENIZER = train_tokenizer(TEN.vocabulary_texts(), 400)
PIECES = Pieces(TEN.piece_texts(), TOKENIZER)
LONGEST = TEN.longest(PIECES)


def stream(
    windows: str,
    num_people: int = 500,
    exposures: int = 3,
    block_size: int = 128,
    shard_size: int = 150,
    seed: int = 1,
):
    made = Stream(
        BioS(People(POOLS, num_people, seed), TEMPLATES),
        PIECES,
        exposures=exposures,
        block_size=block_size,
        windows=windows,
        shard_size=shard_size,
    )
    made.counts, made.tokens = made.count()
    return made


def biographies(made: Stream) -> list[tuple[int, ...]]:
    """The biographies of all windows in order, taken apart at the ends of text."""
    found, part = [], []
    for window in range(len(made)):
        input_ids, labels = made.batch(np.array([window]))
        ids = input_ids[0][labels[0] != -100].tolist()
        if made.aligned:
            assert ids[0] == EOS_ID and ids[-1] == EOS_ID
            ids = ids[1:]
        for token in ids:
            if token == EOS_ID:
                if part:
                    found.append(tuple(part))
                part = []
            else:
                part.append(token)
    assert not part
    return found


@pytest.mark.parametrize("windows", ["cut", "aligned"])
def test_every_biography_enters_once_an_exposure(windows):
    made = stream(windows)
    expected = Counter()
    for exposure in range(3):
        for row in made.corpus.rows(np.arange(500), exposure):
            expected[tuple(TOKENIZER.encode(row.text).ids)] += 1
    assert Counter(biographies(made)) == expected


@pytest.mark.parametrize("windows", ["cut", "aligned"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shared_among_processes_nothing_is_lost_or_doubled(windows, processes):
    made = stream(windows)
    shares = [np.arange(rank, len(made), processes) for rank in range(processes)]
    seen = np.zeros(len(made), dtype=int)
    whole = [made.batch(np.array([w]))[0][0] for w in range(len(made))]
    for share in shares:
        for window in share.tolist():
            assert np.array_equal(made.batch(np.array([window]))[0][0], whole[window])
            seen[window] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("windows", ["cut", "aligned"])
def test_a_window_found_alone_equals_the_one_met_on_the_way(windows):
    first, second = stream(windows), stream(windows)
    middle = len(first) // 2
    for window in range(middle + 1):
        met = first.batch(np.array([window]))
    assert all(np.array_equal(a, b) for a, b in zip(second.batch(np.array([middle])), met, strict=True))


@pytest.mark.parametrize("windows", ["cut", "aligned"])
def test_finding_a_window_costs_one_shard(windows, monkeypatch):
    made = stream(windows)
    asked = []
    monkeypatch.setattr(made, "_make", lambda *shard, make=made._make: asked.append(shard) or make(*shard))
    made.batch(np.array([len(made) - 1]))
    made.batch(np.array([len(made) - 2]))
    assert len(asked) == 1


def test_cut_windows_are_full_but_for_the_last_of_a_shard():
    made = stream("cut")
    for exposure in range(3):
        for shard in range(made.shards):
            lengths = made.shard(exposure, shard).lengths
            assert (lengths[:-1] == 128).all() and 1 <= lengths[-1] <= 128


def test_aligned_windows_take_as_many_whole_biographies_as_fit():
    made = stream("aligned")
    shard = made.shard(0, 0)
    for window in range(len(shard.starts) - 1):
        following = shard.tokens[shard.starts[window + 1] + 1 :]
        next_length = int(np.argmax(following == EOS_ID)) + 1
        assert shard.lengths[window] <= 128 < shard.lengths[window] + next_length


@pytest.mark.parametrize("windows", ["cut", "aligned"])
def test_counted_tokens_are_those_of_the_windows(windows):
    made = stream(windows)
    total = sum(int((made.batch(np.array([w]))[1] != -100).sum()) for w in range(len(made)))
    assert total == made.tokens
    assert made.counts.sum() == len(made)


def lengths_one_by_one(made: Stream, exposure: int, shard: int) -> list[int]:
    """Each biography composed alone and its tokens counted."""
    alone = (made.corpus.compose(made.pieces, np.array([p]), exposure) for p in made.persons(exposure, shard))
    return [len(made.pieces.gather(composed)[0]) for composed in alone]


@pytest.mark.parametrize("windows", ["cut", "aligned"])
@pytest.mark.parametrize("num_proc", [1, 3])
def test_counts_are_those_of_brute_force_whatever_the_number_of_processes(windows, num_proc):
    made = stream(windows, num_people=400, shard_size=90)
    again = Stream(made.corpus, PIECES, exposures=3, block_size=128, windows=windows, shard_size=90)
    reported = []
    counts, tokens = again.count(reported.append, num_proc)
    assert sum(reported) == 15 and counts.shape == (3, 5)
    assert np.array_equal(counts, made.counts) and tokens == made.tokens
    for exposure, shard in np.ndindex(3, 5):
        lengths = lengths_one_by_one(made, exposure, shard)
        whole = made.shard(exposure, shard)
        assert len(whole.starts) == counts[exposure, shard] and sum(lengths) + 1 == len(whole.tokens)
        if windows == "cut":
            assert counts[exposure, shard] == -(-(sum(lengths) + 1) // 128)


@pytest.mark.parametrize(
    "keys",
    [
        {"num_attributes": 12, "chunks_per_value": 3},
        {"num_attributes": 120, "alphabet_size": 200},
        {"num_attributes": 5, "chunks_per_value": 2, "compact": True},
    ],
    ids=str,
)
def test_lengths_of_biod_are_those_of_composed_texts(keys):
    recipe = Recipe(corpus="bioD", num_people=200, diversity=20, vocab_size=300, **keys)
    corpus = corpus_of(recipe)
    pieces = Pieces(corpus.piece_texts(), tokenizer_of(recipe, corpus)[0])
    assert isinstance(corpus, HasTextLengths) and not isinstance(TEN, HasTextLengths)
    made = Stream(corpus, pieces, exposures=2, block_size=64, windows="cut", shard_size=150)
    for exposure, shard in np.ndindex(2, 2):
        assert made.lengths(range(exposure, exposure + 1), shard)[0].tolist() == lengths_one_by_one(
            made, exposure, shard
        )


def test_counts_kept_from_an_earlier_run_serve_again():
    made = stream("cut")
    again = Stream(made.corpus, PIECES, exposures=3, block_size=128, windows="cut", shard_size=150)
    again.use_counts(made.counts)
    assert len(again) == len(made)
    with pytest.raises(TrainingError, match="count again"):
        again.use_counts(made.counts[:2])


def test_exposures_differ_in_order_and_in_words():
    made = stream("cut")
    assert not np.array_equal(made.persons(0, 0), made.persons(1, 0))
    together = np.concatenate([made.persons(1, shard) for shard in range(made.shards)])
    assert np.array_equal(np.sort(together), np.arange(500))


def test_shards_of_a_huge_population_are_reached_at_random():
    corpus = BioS(People(load_pools(), 20_000_000, seed=0), load_templates(1))
    tokenizer = train_tokenizer(corpus.vocabulary_texts(), 300)
    made = Stream(
        corpus,
        Pieces(corpus.piece_texts(), tokenizer),
        exposures=100,
        block_size=512,
        windows="cut",
        shard_size=4096,
    )
    persons = made.persons(73, 3000)
    assert len(np.unique(persons)) == 4096 and persons.max() > 15_000_000
    assert made.shard(73, 3000).tokens.size > 4096 * 40


def test_a_stream_can_be_sent_to_another_process():
    made = stream("cut")
    sent = pickle.loads(pickle.dumps(made))
    assert np.array_equal(sent.batch(np.array([3]))[0], made.batch(np.array([3]))[0])


def test_padding_is_masked():
    made = stream("aligned")
    input_ids, labels = made.batch(np.arange(8))
    assert input_ids.shape == labels.shape
    kept = labels != -100
    assert (input_ids[kept] == labels[kept]).all() and (input_ids[~kept] == EOS_ID).all()


def test_aligned_windows_shorter_than_a_biography_are_an_error():
    with pytest.raises(TrainingError, match="aligned windows hold whole ones"):
        stream("aligned", block_size=LONGEST)
