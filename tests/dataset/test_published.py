"""The texts of a data set as they are: each once an exposure, by a tokenizer made without people."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_set_folders import edit, rewritten, with_value
from tiny import bpe_tokenizer

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.templates import SENTENCES
from knowcap.corpus.tokenizer import EOS_ID
from knowcap.dataset import encoded
from knowcap.dataset.corpora import corpus_of, sample_of
from knowcap.dataset.encoded import encode_all
from knowcap.dataset.folder import DatasetError, read_rows
from knowcap.dataset.published import Published
from knowcap.dataset.stage import write
from knowcap.facts import CorpusError, Knowledge, check_row
from knowcap.knowledge.people import People
from knowcap.recipe import Recipe
from knowcap.training.packing import TrainingError
from knowcap.training.windows import stream_of


SETTINGS = {
    "run_name": "published", "model_name": "gpt2-2-2", "exposures": 7, "block_size": 400, "windows": "aligned",
    "shard_size": 16,
}  # fmt: skip
MADE = Recipe(**SETTINGS, num_people=40, pools_fraction=0.05, num_templates=1, renderings=4, vocab_size=300)


def recipe_of(folder: Path, **changes: object) -> Recipe:
    return Recipe(
        **SETTINGS | {"dataset_name": str(folder), "dataset_texts": "published", "vocab_size": 300} | changes
    )


def texts_of(folder: Path) -> dict[int | str, list[str]]:
    """The texts of every entity."""
    renderings: dict[int | str, list[str]] = {}
    for row, _ in read_rows(folder):
        renderings.setdefault(row.entity, []).append(row.text)
    return renderings


def stream(recipe: Recipe, place: Path):
    """The stream of a recipe's texts, its tokenizer and corpus."""
    corpus = corpus_of(recipe, Path(recipe.dataset_name), place)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    return stream_of(recipe, corpus, tokenizer), tokenizer, rows


def spelled(tokenizer, texts) -> Counter[tuple[int, ...]]:
    """Texts as the tokenizer has them, whole."""
    return Counter(tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)


def seen(made, exposure: int) -> Counter[tuple[int, ...]]:
    """The texts in the windows of an exposure."""
    found: Counter[tuple[int, ...]] = Counter()
    for number in range(made.shards):
        ids = made.shard(exposure, number).tokens
        ends = np.flatnonzero(ids == EOS_ID)
        found.update(tuple(ids[a + 1 : b].tolist()) for a, b in zip(ends, ends[1:], strict=False))
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A data set of knowcap's own."""
    return write(MADE, tmp_path_factory.mktemp("data") / "bioS")


@pytest.fixture(scope="module")
def foreign(ours, tmp_path_factory) -> Path:
    return rewritten(ours, tmp_path_factory.mktemp("data") / "bioR")


def test_each_text_enters_once_an_exposure_in_turn(foreign, tmp_path):
    renderings = texts_of(foreign)
    assert {len(texts) for texts in renderings.values()} == {1, 2, 3}
    made, tokenizer, _ = stream(recipe_of(foreign), tmp_path / "texts")
    for exposure in range(7):
        assert seen(made, exposure) == spelled(tokenizer, (t[exposure % len(t)] for t in renderings.values()))


def test_the_tokens_are_those_of_tokenizing_whole_texts_and_their_count_is_reported(foreign, tmp_path):
    made, tokenizer, rows = stream(recipe_of(foreign), tmp_path / "texts")
    counts, tokens = made.count()
    lengths = {text: len(tokenizer.encode(text).ids) for texts in texts_of(foreign).values() for text in texts}
    expected = sum(lengths[t[e % len(t)]] + 1 for e in range(7) for t in texts_of(foreign).values())
    assert tokens == expected + counts.sum()  # and the end of text that begins every window
    assert made.corpus.longest(made.pieces) == max(lengths.values()) + 1
    assert made.pieces.used().max() < rows and set(made.pieces.used()) >= {EOS_ID}


def test_the_order_of_rows_and_files_has_no_effect(foreign, tmp_path):
    before, tokenizer, _ = stream(recipe_of(foreign), tmp_path / "texts")
    other = Path(shutil.copytree(foreign, tmp_path / "other"))
    (file,) = (other / "biographies").glob("*.parquet")
    table = pq.read_table(file)
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    file.unlink()
    for number, size in enumerate((0, 30, len(table) - 30)):
        path = other / "biographies" / f"train-{number:05d}-of-00003.parquet"
        pq.write_table(table.slice((0, 0, 30)[number], size), path)
    after, again, _ = stream(recipe_of(other), tmp_path / "others")
    assert again.to_str() == tokenizer.to_str()
    for exposure in (0, 5):
        for number in range(before.shards):
            assert np.array_equal(before.shard(exposure, number).tokens, after.shard(exposure, number).tokens)


def test_our_own_texts_have_the_tokenizer_that_generating_them_again_has(ours, tmp_path):
    generated_again = Recipe(**SETTINGS, dataset_name=str(ours), num_templates=1, vocab_size=300)
    made, tokenizer, rows = stream(recipe_of(ours), tmp_path / "texts")
    expected, expected_rows = tokenizer_of(generated_again, corpus_of(generated_again))
    assert (tokenizer.to_str(), rows) == (expected.to_str(), expected_rows)
    assert seen(made, 5) == spelled(tokenizer, (texts[1] for texts in texts_of(ours).values()))


def test_a_compact_tokenizer_spells_any_text_and_knows_the_lists_and_common_words_alone(foreign, tmp_path):
    _, tokenizer, rows = stream(recipe_of(foreign, vocab_size=900), tmp_path / "texts")
    assert rows == tokenizer.get_vocab_size()
    assert tokenizer.decode(tokenizer.encode("Ω≈ç √ 日本").ids) == "Ω≈ç √ 日本"
    corpus = Published(recipe_of(foreign), foreign)
    words = set(corpus._vocabulary_texts(corpus.head.pools()))
    assert {" Colleagues", " praise", " born", ";"} <= words
    lists = {word for file in (foreign / "pools").glob("*.txt") for word in re.findall(r"\w+", file.read_text())}
    prose = words - set(BioS(People(corpus.head.pools(), 1, 0), dict.fromkeys(SENTENCES, ())).vocabulary_texts())
    assert not {word.strip().casefold() for word in prose} & {word.casefold() for word in lists}


def test_who_is_there_does_not_show_in_a_compact_tokenizer(tmp_path):
    made = []
    for seed in (1, 2):
        folder = write(replace(MADE, seed=seed, num_people=30, renderings=3), tmp_path / f"ours{seed}")
        other = rewritten(folder, tmp_path / f"other{seed}")
        made.append(stream(recipe_of(other), tmp_path / f"texts{seed}")[1].to_str())
    assert made[0] == made[1]


def test_a_tokenizer_by_name_keeps_what_lists_and_texts_use_or_all_without_lists(foreign, ours, tmp_path):
    bpe_tokenizer([text for texts in texts_of(ours).values() for text in texts], 500).save_pretrained(tmp_path / "bpe")
    named = {"tokenizer_name": str(tmp_path / "bpe")}
    made, tokenizer, rows = stream(recipe_of(foreign, **named), tmp_path / "texts")
    assert rows < 500
    renderings = texts_of(foreign)
    assert seen(made, 0) == spelled(tokenizer, (texts[0] for texts in renderings.values()))
    for name in (foreign / "pools" / "university.txt").read_text().splitlines():
        assert all(0 < number < rows for number in tokenizer.encode(f" {name}").ids)
    bare = rewritten(ours, tmp_path / "bare", lists=False)
    made, tokenizer, rows = stream(recipe_of(bare, **named), tmp_path / "more")
    assert rows == 500 and seen(made, 1) == spelled(tokenizer, (t[1 % len(t)] for t in renderings.values()))


def test_without_lists_a_tokenizer_must_be_named(ours, tmp_path):
    bare = rewritten(ours, tmp_path / "bare", lists=False)
    with pytest.raises(DatasetError, match="'bioR' has no value lists .* give a tokenizer_name, which is kept"):
        stream(recipe_of(bare), tmp_path / "texts")


def test_a_sample_is_the_first_entities(foreign):
    corpus = sample_of(recipe_of(foreign), 10)
    assert corpus.num_people == 10
    tokenizer, _ = tokenizer_of(recipe_of(foreign), corpus)
    made = stream_of(recipe_of(foreign), corpus, tokenizer)
    assert sum(seen(made, 0).values()) == 10


# Token ids on disk.


def test_texts_are_tokenized_once(foreign, tmp_path, monkeypatch):
    first = stream(recipe_of(foreign), tmp_path / "texts")[0]
    monkeypatch.setattr(encoded, "_encoded", None)
    again = stream(recipe_of(foreign), tmp_path / "texts")[0]
    assert np.array_equal(first.shard(2, 0).tokens, again.shard(2, 0).tokens)
    assert isinstance(again.pieces._ids, np.memmap)


def test_a_killed_call_goes_on_at_its_file_to_the_same_result(foreign, tmp_path, monkeypatch):
    table = pq.read_table(foreign / "biographies")
    files = [tmp_path / f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    for number, file in enumerate(files):
        pq.write_table(table.slice(30 * number, 30), file)
    tokenizer = bpe_tokenizer(table.column("text").to_pylist()).backend_tokenizer
    whole = encode_all(files, tokenizer, tmp_path / "whole")
    encode = encoded._encoded
    monkeypatch.setattr(encoded, "_encoded", lambda file, *rest: cut_off(encode(file, *rest), file == files[1]))
    with pytest.raises(KeyboardInterrupt):
        encode_all(files, tokenizer, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    renderings = []
    monkeypatch.setattr(encoded, "_encoded", lambda f, *r: renderings.append(f) or encode(f, *r))
    again = encode_all(files, tokenizer, tmp_path / "cut")
    assert renderings == files[1:]
    assert np.array_equal(again.ids, whole.ids) and np.array_equal(again.lengths, whole.lengths)


def cut_off(parts, here: bool):
    """The parts of a file; the first one alone where it is cut off."""
    for part in parts:
        yield part
        if here:
            raise KeyboardInterrupt


def test_ids_of_another_tokenizer_are_not_taken(foreign, tmp_path):
    stream(recipe_of(foreign), tmp_path / "texts")
    with pytest.raises(CorpusError, match="encoded with another tokenizer, or other texts; choose another run_name"):
        stream(recipe_of(foreign, vocab_size=310), tmp_path / "texts")


# What breaks the contract.


def broken(folder: Path, tmp_path: Path, change) -> Recipe:
    copy = Path(shutil.copytree(folder, tmp_path / "broken"))
    edit(copy, change, "biographies")
    return recipe_of(copy)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.slice(1), DatasetError, "texts about 39 entities, .* num_people=40; the two must be equal"),
        (lambda t: pa.concat_tables([t, t.slice(4, 1)]), DatasetError, "exposure 1 of an entity occurs twice"),
        (lambda t: t.drop_columns(["spans"]), DatasetError, "lacks spans, it has who, exposure, text"),
        (lambda t: with_value(t, 2, text="<|endoftext|>"), CorpusError, "contains <|endoftext|>"),
        (lambda t: with_value(t, 2, text=""), DatasetError, "the biographies have an empty text"),
    ],
)
def test_texts_that_cannot_be_used_are_an_error(foreign, tmp_path, change, error, message):
    recipe = broken(foreign, tmp_path, change)
    with pytest.raises(error, match=message):
        stream(recipe, tmp_path / "texts")


def test_a_window_that_cannot_hold_the_longest_text_is_reported_with_one_that_can(foreign, tmp_path):
    with pytest.raises(TrainingError, match="block_size=100, but a text of the data set has [0-9]+ tokens") as error:
        stream(recipe_of(foreign, block_size=100), tmp_path / "texts")
    least = int(str(error.value).split("give block_size ")[1].split()[0])
    stream(recipe_of(foreign, block_size=least), tmp_path / "texts")
    with pytest.raises(TrainingError, match=f"give block_size {least} or more"):
        stream(recipe_of(foreign, block_size=least - 1), tmp_path / "texts")
    stream(recipe_of(foreign, block_size=least - 1, windows="cut"), tmp_path / "texts")


def test_the_foreign_data_set_follows_the_contract(foreign):
    knowledge = Knowledge.load(foreign / "knowledge.json")
    assert not knowledge.bound and isinstance(corpus_of(recipe_of(foreign), foreign), Published)
    for row, _ in read_rows(foreign):
        check_row(row, knowledge)
