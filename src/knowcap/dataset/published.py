"""The published texts of a data set as a corpus: any biographies that meet the contract of facts.py."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from tokenizers import Tokenizer

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.bios import BioS
from knowcap.corpus.templates import SENTENCES
from knowcap.corpus.tokenizer import EOS, EOS_ID, load_backend, reduce_tokenizer, train_tokenizer
from knowcap.dataset.encoded import Encoded, EncodedPieces, encode_all, encode_some, text_batches
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.head import Head
from knowcap.dataset.importing import has_held_out
from knowcap.dataset.recorded import MismatchError, recorded_corpus, vocabulary_corpus
from knowcap.facts import CorpusError, Knowledge
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import LIST_FILES, Pools
from knowcap.recipe import RENDERING_KEYS, Recipe
from knowcap.sealed.parquet import read_schema, read_table, rows_in


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

_PROSE_FILES = 8  # files, spread evenly, in whose first texts words are counted
_COMMON = 0.005  # a word in at least this share of texts has no information about single people
_PROSE_WEIGHT = 2000  # repetitions, in the tokenizer's training texts, of a word that every text has
_WORD = re.compile(r"[^\W\d_]+|[^\w\s]")
_CHECKED = 256  # texts that are compared with the renumbered tokenizer


class Published:
    """The texts of a data set folder; exposure e of an entity with m texts is its text e mod m, by their `exposure`.

    Entities are numbered in the order of their ids, so the order of files and rows has no effect.
    """

    num_outsiders = 0

    def __init__(self, recipe: Recipe, folder: Path, place: Path | None = None, limit: int | None = None) -> None:
        """Reads the entity of every row.

        Args:
            recipe: with a dataset_name.
            folder: the data set folder.
            place: the folder for token ids, unless there is a `limit`.
            limit: use only this many entities of the first file, as a sample.

        Raises:
            DatasetError: the number of entities is not that of knowledge.json, or a text is listed twice.
        """
        self.head, self.seed, self._place = Head.of(folder), recipe.seed, place
        self.files = sorted((folder / "biographies").glob("train-*.parquet"))
        if not self.files:
            raise DatasetError(f"{folder} has no biographies/train-*.parquet, so it has no texts")
        column = self.head.knowledge.entity_column
        self._rows = None if limit is None else _rows_of(self.files[0], column, limit)
        if limit is not None:
            self.files = self.files[:1]
        entities, exposures = _entities_and_exposures(self.files, column, self._rows)
        self.order, self.first = _sorted(entities, exposures)
        self.num_people = len(self.first) - 1
        if limit is None and self.num_people != self.head.knowledge.num_people:
            raise DatasetError(
                f"{folder} has texts about {self.num_people:,} entities, but knowledge.json has num_people="
                f"{self.head.knowledge.num_people:,}; the two must be equal"
            )
        self._encoded: tuple[Encoded, Tokenizer] | None = None

    def knowledge(self) -> Knowledge:
        """The data set's knowledge.json."""
        return self.head.knowledge

    def tokenizer(self, recipe: Recipe) -> tuple[Tokenizer, int]:
        """The tokenizer, and the vocabulary rows that a model needs; all texts are tokenized on the way.

        Texts made by knowcap get the tokenizer of their original corpus. Other texts get a compact BPE of the lists,
        common words of the prose and all bytes; one given by name is reduced to the tokens that lists and texts use.
        Without lists it is kept whole, since the used tokens would show which values occur.

        Raises:
            CorpusError, DatasetError: the texts cannot be encoded, or a tokenizer_name is needed.
        """
        ours, pools = original_corpus(recipe, self.head), self.head.pools()
        if ours is not None:
            tokenizer, rows = tokenizer_of(recipe, ours)
            self._encode(tokenizer)
            return tokenizer, rows
        if recipe.tokenizer_name is None:
            backend = train_tokenizer(self._vocabulary_texts(pools), recipe.vocab_size, every_byte=True)
            tokenizer, rows = reduce_tokenizer(backend, set(backend.get_vocab().values()) - {EOS_ID})
            self._encode(tokenizer)
            return tokenizer, rows
        backend = load_backend(recipe.tokenizer_name)
        encoded = self._encode(backend)
        if pools is None:
            return reduce_tokenizer(backend, set(backend.get_vocab().values()) - {backend.token_to_id(EOS)})
        listed = backend.encode_batch_fast(list(_listed(pools)), add_special_tokens=False)
        used = {*encoded.used.tolist(), *(token for encoding in listed for token in encoding.ids)}
        if has_held_out(self.head.folder):  # they were in the same data set, and must be spelled to be scored
            for file in sorted((self.head.folder / "control").glob("train-*.parquet")):
                used.update(encode_some(file, rows_in(file), backend).used.tolist())
        return reduce_tokenizer(backend, used)

    def pieces(self, tokenizer: Tokenizer) -> EncodedPieces:
        """The texts as ids of `tokenizer`'s result.

        Raises:
            CorpusError: a text is encoded differently by the two tokenizers.
        """
        if self._encoded is None:
            raise CorpusError("the texts are not tokenized yet; make the tokenizer first")
        pieces = EncodedPieces(*self._encoded, tokenizer)
        count = min(_CHECKED, pieces.eos, rows_in(self.files[0]))
        rows = np.stack([np.arange(count), np.full(count, pieces.eos)], axis=1).astype(np.int32)
        tokens, lengths = pieces.gather(rows)
        (texts,) = next(text_batches(self.files[0], ["text"], count), [[]])
        for text, end, length in zip(texts, np.cumsum(lengths), lengths, strict=True):
            if [*tokenizer.encode(text, add_special_tokens=False).ids, EOS_ID] != tokens[end - length : end].tolist():
                raise CorpusError(f"the reduced tokenizer encodes {text!r} differently; choose another tokenizer")
        return pieces

    def compose(self, pieces: EncodedPieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The texts of persons (n,) at one exposure, each with the end of text: (n, 2) int32."""
        starts = self.first[persons]
        texts = self.order[starts + exposure % (self.first[persons + 1] - starts)]
        return np.stack([texts, np.full(len(persons), pieces.eos)], axis=1).astype(np.int32)

    def longest(self, pieces: EncodedPieces) -> int:
        """No text has more tokens than this, its end of text included."""
        return pieces.longest()

    def _encode(self, tokenizer: Tokenizer) -> Encoded:
        if self._rows is not None:
            encoded = encode_some(self.files[0], self._rows, tokenizer)
        elif self._place is not None:
            encoded = encode_all(self.files, tokenizer, self._place)
        else:
            raise DatasetError("no folder was given for the token ids of the texts")
        if not encoded.lengths.all():
            raise DatasetError("the biographies have an empty text; remove it")
        if tokenizer.token_to_id(EOS) in encoded.used:
            raise CorpusError(
                f"a text of the data set contains {EOS}, which may only end texts, or a character that is not in its "
                "lists and templates; correct the text, or give a tokenizer_name"
            )
        self._encoded = encoded, tokenizer
        return encoded

    def _vocabulary_texts(self, pools: Pools | None) -> Iterator[str]:
        """The texts to train a compact tokenizer on: the lists, and words of the prose that many texts share."""
        if pools is None:
            raise DatasetError(NEEDS_TOKENIZER.format(name=self.head.knowledge.name))
        lists = list(BioS(People(pools, 1, 0), dict.fromkeys(SENTENCES, ())).vocabulary_texts())
        yield from lists
        listed = {word.casefold() for text in set(lists) for word in _WORD.findall(text)}
        files = np.unique(np.linspace(0, len(self.files) - 1, _PROSE_FILES).astype(int))
        words, texts = _prose([self.files[i] for i in files], self._rows)
        for word, n in sorted(words.items()):
            if n >= max(2, _COMMON * texts) and word.casefold() not in listed:
                share = 2.0 ** round(math.log2(n / texts))  # the exact frequency could depend on single people
                yield from [word if not word[0].isalnum() else f" {word}"] * max(1, round(_PROSE_WEIGHT * share))


NEEDS_TOKENIZER = (
    "data set {name!r} has no value lists (pools/), from which a compact tokenizer is made independently of the "
    "sampled people; give a tokenizer_name, which is kept whole"
)


def original_corpus(recipe: Recipe, head: Head) -> Corpus | None:
    """A corpus with the lists and templates that the texts were made from; None if knowcap did not make them.

    A table is read whole; other corpora have one person.
    """
    original = head.recipe
    if head.kind is None or original is None:
        return None
    form = {key: getattr(original, key) for key in RENDERING_KEYS}
    recipe = replace(recipe, **form)
    if head.kind == "table":
        return recorded_corpus(recipe, head.folder)
    try:
        return vocabulary_corpus(recipe, head)
    except MismatchError:  # such as another version: handled as texts of another source
        return None


def _listed(pools: Pools) -> Iterator[str]:
    """Every value of every list, without and with a space before it."""
    for name in (*LIST_FILES, "work_cities"):
        for value in getattr(pools, name):
            yield from (value, f" {value}")


def _prose(files: Sequence[Path], rows: int | None) -> tuple[Counter[str], int]:
    """The number of texts, of the first of each file, with each word outside all spans, and the number of texts."""
    words: Counter[str] = Counter()
    texts = 0
    for file in files:
        texts_of_file, spans = next(text_batches(file, ["text", "spans"], rows), [[], []])
        for text, of_text in zip(texts_of_file, spans, strict=True):
            outside, at = [], 0
            for span in of_text:
                outside.append(text[at : span["start"]])
                at = span["end"]
            words.update({word for part in [*outside, text[at:]] for word in _WORD.findall(part)})
        texts += len(texts_of_file)
    return words, texts


def _rows_of(file: Path, column: str, limit: int) -> int:
    """The number of rows at the beginning of a file that are of its first `limit` entities."""
    entities = read_table(file, columns=[column]).column(column).combine_chunks()
    new = np.flatnonzero(entities.dictionary_encode().indices.to_numpy() >= limit)
    return int(new[0]) if new.size else len(entities)


def _entities_and_exposures(files: Sequence[Path], column: str, rows: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The entity of every text, as its number in the order of ids, and its exposure: both (texts,)."""
    tables = []
    for file in files:
        names = read_schema(file).names
        missing = [name for name in (column, "exposure", "text", "spans") if name not in names]
        if missing:
            raise DatasetError(
                f"biographies: {file.name} lacks {', '.join(missing)}, it has {', '.join(names)}; expected one row "
                "per text, as `knowcap data` writes them"
            )
        tables.append(read_table(file, columns=[column, "exposure"]).slice(0, rows))
    table = pa.concat_tables(tables)
    entities = table.column(column).combine_chunks()
    ids = pc.unique(entities)
    places = pc.index_in(entities, value_set=ids.take(pc.sort_indices(ids)))
    return places.to_numpy(), table.column("exposure").combine_chunks().to_numpy(zero_copy_only=False)


def _sorted(entities: np.ndarray, exposures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows sorted by entity and exposure (texts,), and the first of each entity (entities + 1,)."""
    order = np.lexsort((exposures, entities))
    same = (np.diff(entities[order]) == 0) & (np.diff(exposures[order]) == 0)
    if same.any():
        row = int(order[int(np.flatnonzero(same)[0])])
        raise DatasetError(
            f"biographies: exposure {exposures[row]} of an entity occurs twice (row {row}); number the texts of "
            "each entity 0, 1, …"
        )
    return order, np.concatenate([[0], np.cumsum(np.bincount(entities))])
