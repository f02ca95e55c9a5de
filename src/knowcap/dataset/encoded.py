"""Whole texts as token ids: tokenized once, file by file, into an array on disk that processes map into memory."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.facts import CorpusError
from knowcap.files import flush, read_json, replace_folder, whole_file, write_json, writing
from knowcap.progress import progress_bar
from knowcap.sealed.parquet import batches, rows_in


_BATCH = 10_000  # texts tokenized at a time
_SCANNED = 1 << 24  # ids scanned at a time


@dataclass(frozen=True)
class Encoded:
    """The ids of all texts one after another, by the tokenizer that they were encoded with.

    Attributes:
        ids: (tokens,) uint16, or int32 for vocabularies that need it.
        lengths: (texts,) int32.
        used: the ids that occur, sorted.
    """

    ids: np.ndarray
    lengths: np.ndarray
    used: np.ndarray


class EncodedPieces:
    """Texts to gather windows from, as `Pieces`: every text is one piece, and so is the end of text.

    Attributes:
        lengths: (texts + 1,), tokens of every piece.
        eos: the piece that ends a text.
    """

    def __init__(self, encoded: Encoded, encoder: Tokenizer, tokenizer: Tokenizer) -> None:
        """`encoder` gave the ids; `tokenizer` is the same with its tokens renumbered."""
        self._ids = encoded.ids
        self._used = encoded.used
        self._new = np.zeros(max(encoder.get_vocab_size(), int(self._used[-1]) + 1), dtype=np.int32)
        if encoder is tokenizer:
            self._new[:] = np.arange(len(self._new))
        else:
            numbers: list[Any] = [tokenizer.token_to_id(str(encoder.id_to_token(i))) for i in self._used.tolist()]
            self._new[self._used] = numbers
        self.eos = len(encoded.lengths)
        self.lengths = np.append(encoded.lengths, np.int32(1))
        self._starts = np.concatenate([[0], np.cumsum(encoded.lengths, dtype=np.int64)])

    def gather(self, composed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of texts, each with its end of text, and the length of each.

        Args:
            composed: (n, 2), text and end of text.

        Returns:
            tokens (total,) int32, lengths (n,) int64.
        """
        texts = composed[:, 0]
        lengths = self.lengths[texts].astype(np.int64) + 1
        ends = np.cumsum(lengths)
        index = np.repeat(self._starts[texts] - ends + lengths, lengths) + np.arange(int(lengths.sum()))
        index[ends - 1] = 0  # the array has no ends of text
        tokens = self._new[self._ids[index]]
        tokens[ends - 1] = EOS_ID
        return tokens, lengths

    def used(self) -> np.ndarray:
        """The token ids that any text uses, sorted, end of text included."""
        return np.unique(np.append(self._new[self._used], np.int32(EOS_ID)))

    def longest(self) -> int:
        """No text has more tokens than this, its end of text included."""
        return int(self.lengths.max()) + 1


def text_batches(file: Path, columns: Sequence[str], rows: int | None = None) -> Iterator[list[list]]:
    """Columns of a Parquet file as lists, batch by batch; of the first `rows` rows, if given."""
    left = rows
    for batch in batches(file, columns, batch_size=_BATCH):
        batch = batch if left is None else batch.slice(0, left)
        yield [batch.column(name).to_pylist() for name in columns]
        left = None if left is None else left - len(batch)
        if left == 0:
            return


def encode_some(file: Path, rows: int, tokenizer: Tokenizer) -> Encoded:
    """The first texts of a file, in memory."""
    parts = list(_encoded(file, tokenizer, rows))
    ids, lengths = map(np.concatenate, zip(*parts, strict=True))
    return Encoded(ids, lengths, _used(ids))


def encode_all(files: Sequence[Path], tokenizer: Tokenizer, place: Path) -> Encoded:
    """The texts of all files, in `place`, which is made whole or not at all; after an interruption, finished files are
    kept.

    Args:
        files: Parquet files with a column `text`.
        tokenizer: must be the one that `place` was made with, if it exists.
        place: the folder of ids.bin, lengths.npy, used.npy and encoded.json.

    Raises:
        CorpusError: `place` was made with another tokenizer or from other files.
    """
    record = {
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "files": {f"{file.parent.name}/{file.name}": rows_in(file) for file in files},
        "dtype": _type_of(tokenizer).name,
    }
    if not place.is_dir():
        with writing(place):
            _make(files, tokenizer, place, record)
    if _read(place) != record:
        raise CorpusError(
            f"{place} holds texts encoded with another tokenizer, or other texts; "
            "choose another run_name or pass --overwrite_output_dir"
        )
    ids = np.memmap(place / "ids.bin", dtype=record["dtype"], mode="r")
    return Encoded(ids, np.load(place / "lengths.npy"), np.load(place / "used.npy"))


def _make(files: Sequence[Path], tokenizer: Tokenizer, place: Path, record: dict) -> None:
    partial = place.with_name(f".{place.name}.partial")
    if _read(partial) != record:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / "encoded.json", record)
    parts = [partial / f"lengths-{number:05d}.npy" for number in range(len(files))]
    done = next((number for number, part in enumerate(parts) if not part.is_file()), len(parts))
    kept = [np.load(part) for part in parts[:done]]
    rows = record["files"].values()
    with (
        (partial / "ids.bin").open("ab") as ids,
        progress_bar(total=sum(rows), initial=sum(map(len, kept)), desc="tokenizing", unit=" texts", delay=2) as bar,
    ):
        ids.truncate(sum(int(lengths.sum(dtype=np.int64)) for lengths in kept) * _type_of(tokenizer).itemsize)
        for file, part in zip(files[done:], parts[done:], strict=True):
            lengths_of_file = []
            for tokens, lengths in _encoded(file, tokenizer):
                ids.write(tokens.tobytes())
                lengths_of_file.append(lengths)
                bar.update(len(lengths))
            ids.flush()
            os.fsync(ids.fileno())
            kept.append(np.concatenate([np.zeros(0, dtype=np.int32), *lengths_of_file]))
            with whole_file(part) as made, made.open("wb") as out:
                np.save(out, kept[-1])
    np.save(partial / "lengths.npy", np.concatenate(kept))
    np.save(partial / "used.npy", _used(np.memmap(partial / "ids.bin", dtype=record["dtype"], mode="r")))
    for part in parts:
        part.unlink()
    flush(partial)
    replace_folder(partial, place)


def _encoded(file: Path, tokenizer: Tokenizer, rows: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and lengths of the texts of a file, batch by batch."""
    kind = _type_of(tokenizer)
    for (texts,) in text_batches(file, ["text"], rows):
        encodings = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in encodings], dtype=np.int32)
        yield np.array([token for ids in encodings for token in ids], dtype=kind), lengths


def _used(ids: np.ndarray) -> np.ndarray:
    """The ids that occur, sorted."""
    seen = np.zeros(0, dtype=bool)
    for first in range(0, len(ids), _SCANNED):
        some = ids[first : first + _SCANNED]
        seen = np.pad(seen, (0, max(0, int(some.max()) + 1 - len(seen))))
        seen[some] = True
    return np.flatnonzero(seen)


def _type_of(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32)


def _read(place: Path) -> dict | None:
    file = place / "encoded.json"
    return read_json(file) if file.is_file() else None
