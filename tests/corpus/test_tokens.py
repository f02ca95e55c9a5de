"""Tokenizers: they know no people, and what is assembled equals tokenizing the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from made_tokenizers import assembled_equals_tokenized, foreign_bpe, reduced
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer
from value_lists import NASTY

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS, _date_parts
from knowcap.corpus.pieces import Pieces, PieceTexts
from knowcap.corpus.templates import SENTENCES, Template, load_templates
from knowcap.corpus.tokenizer import (
    BPE_FILES,
    EOS_ID,
    _trained,
    load_backend,
    minimum_vocab_size,
    reduce_tokenizer,
    save_tokenizer,
    train_tokenizer,
    wrap,
)
from knowcap.dataset.corpora import corpus_of
from knowcap.facts import CorpusError
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe
from knowcap.training.windows import check_whole_texts


@pytest.fixture(scope="module")
def ours():
    corpus = BioS(People(load_pools(), 6000, seed=1), load_templates(12))
    tokenizer = train_tokenizer(corpus.vocabulary_texts(), 700)
    return corpus, tokenizer, Pieces(corpus.piece_texts(), tokenizer)


def test_assembled_ids_equal_tokenizing_the_whole_text(ours):
    corpus, tokenizer, pieces = ours
    assert assembled_equals_tokenized(corpus, tokenizer, pieces, range(1)) == 6000


@pytest.mark.slow
def test_assembled_ids_equal_whole_texts_for_nasty_endings():
    corpus = BioS(People(NASTY, 18, seed=1), load_templates())
    for tokenizer in (train_tokenizer(corpus.vocabulary_texts(), 400), reduced(corpus)[0]):
        pieces = Pieces(corpus.piece_texts(), tokenizer)
        assert assembled_equals_tokenized(corpus, tokenizer, pieces, range(50)) == 900


def test_a_reduced_tokenizer_cuts_as_the_original_does():
    corpus, foreign = BioS(People(load_pools(), 500, seed=0), load_templates(12)), foreign_bpe()
    small, rows = reduced(corpus)
    seen = set()
    for row in corpus.rows(np.arange(500), 0):
        before, after = foreign.encode(row.text), small.encode(row.text)
        assert after.tokens == before.tokens
        assert 0 < min(after.ids) and max(after.ids) < rows
        seen.update(after.ids)
    assert rows < foreign.get_vocab_size() + 1
    assert len(seen) > rows / 2


def test_a_reduced_tokenizer_serves_a_whole_corpus():
    corpus = BioS(People(load_pools(), 1000, seed=0), load_templates(12))
    small, rows = reduced(corpus)
    pieces = Pieces(corpus.piece_texts(), small)
    assert pieces.used().max() == rows - 1 and pieces.used().size == rows
    check_whole_texts(corpus, pieces, small)


def test_a_tokenizer_from_a_folder_is_reduced(tmp_path):
    wrap(foreign_bpe(), 64).save_pretrained(tmp_path)
    recipe = Recipe(
        run_name="x",
        model_name="gpt2-2-2",
        num_people=50,
        pools_fraction=0.1,
        num_templates=2,
        tokenizer_name=str(tmp_path),
    )
    corpus = corpus_of(recipe)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    check_whole_texts(corpus, pieces, tokenizer)
    assert pieces.used().size == rows < 600


@pytest.mark.parametrize("names", BPE_FILES)
def test_gpt2s_two_files_are_a_tokenizer_by_the_folder_or_either_file(tmp_path, names):
    whole = foreign_bpe()
    whole.model.save(str(tmp_path))
    for saved, name in zip(BPE_FILES[0], names, strict=True):
        (tmp_path / saved).rename(tmp_path / name)
    text = "Marie Ada Stone was born on May 1, 1999.\nÉté"
    for path in (tmp_path, *(tmp_path / name for name in names)):
        assert load_backend(str(path)).encode(text).tokens == whole.encode(text).tokens
    wrap(train_tokenizer([text], 60), 64).save_pretrained(tmp_path)  # a tokenizer.json is the folder's tokenizer
    assert load_backend(str(tmp_path)).get_vocab_size() < 60 < load_backend(str(tmp_path / names[0])).get_vocab_size()


def test_files_that_are_no_tokenizer_are_reported(tmp_path):
    (tmp_path / "words.txt").write_text("Marie")
    with pytest.raises(CorpusError, match=r"is a file, expected one of vocab.json and merges.txt or encoder.json and"):
        load_backend(str(tmp_path / "words.txt"))
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(CorpusError, match="is a file, expected"):
        load_backend(str(tmp_path / "vocab.json"))
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(
        CorpusError, match=r"vocab.json and merges.txt are not a BPE's vocabulary and merges: .*; copy"
    ):
        load_backend(str(tmp_path))


def test_a_saved_tokenizer_loads_as_transformers_know_it(ours, tmp_path):
    _, tokenizer, _ = ours
    save_tokenizer(tokenizer, 128, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Marie was born", add_special_tokens=False)["input_ids"] == tokenizer.encode("Marie was born").ids
    assert loaded.eos_token_id == loaded.pad_token_id == EOS_ID and loaded.model_max_length == 128


def test_a_missing_tokenizer_is_reported(tmp_path):
    recipe = Recipe(run_name="x", model_name="gpt2-2-2", num_people=50, tokenizer_name=str(tmp_path / "none"))
    with pytest.raises(CorpusError, match="Hub id or a folder"):
        tokenizer_of(recipe, corpus_of(recipe))


def test_two_seeds_and_two_samples_give_the_same_tokenizer_byte_for_byte():
    texts = set()
    for seed, num_people in ((0, 100), (1, 100), (2, 50_000)):
        recipe = Recipe(
            run_name="x", model_name="gpt2-2-2", num_people=num_people, seed=seed, vocab_size=500, pools_fraction=0.2
        )
        _trained.cache_clear()
        tokenizer, _ = tokenizer_of(recipe, corpus_of(recipe))
        texts.add(tokenizer.to_str())
    assert len(texts) == 1


def test_a_tokenizer_of_the_same_texts_is_trained_once_and_each_caller_has_its_own():
    _trained.cache_clear()
    one, other, third = (train_tokenizer(["ab ab", "b"], size) for size in (6, 6, 5))
    assert one.to_str() == other.to_str() != third.to_str() and _trained.cache_info().misses == 2
    one.add_tokens(["more"])
    assert other.get_vocab_size() == 6


def test_the_alphabet_stays_whatever_is_used(ours):
    corpus, tokenizer, _ = ours
    pools = corpus.people.pools
    letters = {c for values in (pools.first_names, pools.last_names, pools.universities) for v in values for c in v}
    vocabulary = tokenizer.get_vocab()
    assert all(("Ġ" if c == " " else c) in vocabulary for c in letters)


def test_too_small_a_vocabulary_is_an_error():
    texts = list(BioS(People(load_pools(), 1, seed=0), load_templates(1)).vocabulary_texts())
    least = minimum_vocab_size(texts)
    assert train_tokenizer(texts, least).get_vocab_size() == least
    with pytest.raises(CorpusError, match=f"at least {least}"):
        train_tokenizer(texts, least - 1)


def test_a_tokenizer_that_merges_across_pieces_is_an_error():
    corpus = BioS(People(load_pools(fraction=0.05), 50, seed=0), load_templates(2))
    tokenizer = Tokenizer(BPE(unk_token="<|endoftext|>"))  # no pre-tokenizer: merges run over blanks
    texts = [row.text for row in corpus.rows(np.arange(50), 0)] * 3
    alphabet = [chr(c) for c in range(32, 127)]
    trainer = BpeTrainer(
        vocab_size=1500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    with pytest.raises(CorpusError, match="merges"):
        Pieces(corpus.piece_texts(), tokenizer)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        (("y", " "), "merges parts of"),  # January, February … before the day
        (("@", " "), "merges ' [A-Z].*@' and ' He'"),  # one of 200 years, before the next piece
        (("s", " "), "merges 'Ilias' and ' January"),  # the piece before
    ],
)
def test_merges_within_dates_and_beside_them_are_found(merge, message):
    parts = _date_parts([""])
    parts.lists[2][1][137] += "@"
    dates = ["".join(parts.lists[i][1][n] for i, n in enumerate(row)) for row in parts.members.tolist()]
    groups = {"name": ["Ilias"], "date": dates, "next": [" He"]}
    texts = PieceTexts(groups, [("name", "date"), ("date", "next")], frozenset({"name"}), {"date": parts})
    alphabet = {chr(c): c - 31 for c in range(32, 127)} | {"<|endoftext|>": 0}

    def tokenizer(merges):
        return Tokenizer(BPE(alphabet | {a + b: 100 for a, b in merges}, merges, unk_token="<|endoftext|>"))

    pieces = Pieces(texts, tokenizer([]))
    assert pieces.lengths.tolist() == [5, *map(len, dates), 3, 1, 0]
    assert pieces.gather(np.array([[0, 5, 1000, pieces.eos]]))[0].tolist() == [
        alphabet[character] for character in "Ilias" + dates[4] + dates[999]
    ] + [EOS_ID]
    with pytest.raises(CorpusError, match=message):
        Pieces(texts, tokenizer([merge]))


def test_a_text_that_cannot_be_spelled_is_an_error(ours):
    corpus, tokenizer, _ = ours
    foreign = {s: (Template(" ßß ", "."),) if s == "major" else corpus.templates[s] for s in SENTENCES}
    with pytest.raises(CorpusError, match="cannot encode"):
        Pieces(BioS(corpus.people, foreign).piece_texts(), tokenizer)


def test_an_unknown_kind_of_tokenizer_is_an_error():
    with pytest.raises(CorpusError, match="WordPiece"):
        reduce_tokenizer(Tokenizer(WordPiece({"a": 0, "[UNK]": 1})), {0})


@pytest.mark.slow
def test_assembled_ids_equal_whole_texts_on_a_hundred_thousand():
    corpus = BioS(People(load_pools(), 50_000, seed=7), load_templates())
    tokenizer = train_tokenizer(corpus.vocabulary_texts(), 1024)
    pieces = Pieces(corpus.piece_texts(), tokenizer)
    assert assembled_equals_tokenized(corpus, tokenizer, pieces, range(2)) == 100_000
