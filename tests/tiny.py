"""Tokenizers, models and data sets small enough to know everything about them; for tests only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from knowcap.facts import Attribute, Knowledge, Row, Span


EOS = "<|endoftext|>"
SURE = 80.0  # logits this much above the others: probability 1 to the last bit of float32


def wrap(backend: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    """A `tokenizers` backend as transformers know it, with an end-of-text token unless given otherwise."""
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": EOS} | special))


def byte_tokenizer(
    merges: Sequence[tuple[str, str]] = (), *, trim_offsets: bool = True, **special: Any
) -> PreTrainedTokenizerFast:
    """One token a byte, and the given merges in the byte-level alphabet (a space is `Ġ`)."""
    tokens = [EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if trim_offsets:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrap(backend, **special)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], show_progress=False, initial_alphabet=sorted(alphabet)
    )
    backend.train_from_iterator(texts, trainer)
    return wrap(backend)


def metaspace_tokenizer(texts: Iterable[str], vocab_size: int = 200) -> PreTrainedTokenizerFast:
    """A BPE that writes spaces as `▁` and puts one before the text, as Llama's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[EOS], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return wrap(backend)


def unigram_tokenizer(texts: Iterable[str], vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A Unigram model that writes spaces as `▁`, as T5's and many SentencePiece ones do."""
    texts = list(texts)
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = [EOS, "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    missing = set("".join(texts)) - {token for token, _ in vocabulary} - {" "}  # the trainer prunes characters too
    vocabulary += [[character, -20.0] for character in sorted(missing)]
    backend.model = models.Unigram([tuple(entry) for entry in vocabulary], unk_id=1)
    return wrap(backend, unk_token="<unk>")


def char_tokenizer(characters: str, **special: Any) -> PreTrainedTokenizerFast:
    """One token a character; what is not in `characters` becomes the unk_token, if one is given."""
    vocabulary = {token: i for i, token in enumerate([EOS, *dict.fromkeys(characters)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token", EOS)))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return wrap(backend, **special)


def forgetful_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """One token a character; leaves out, without a word, what is not in `characters`."""
    vocabulary = {token: i for i, token in enumerate([EOS, *dict.fromkeys(characters)])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    return wrap(backend)


class TinyModel(nn.Module):
    """What scoring needs of a causal language model: config, parameters, and logits of (batch, seq, vocabulary)."""

    def __init__(self, vocab_size: int, positions: int | None = None) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size, model_type="tiny")
        if positions is not None:
            self.config.max_position_embeddings = positions
        self.unused = nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, int]] = []

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, use_cache: bool = True
    ) -> SimpleNamespace:
        """Logits of every prefix."""
        if use_cache or self.training:
            raise RuntimeError("expected use_cache=False and eval mode")
        self.shapes.append(tuple(input_ids.shape))
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for i, ids in enumerate(input_ids.tolist()):
            for j in range(len(ids)):
                for token, logit in self.logits_after(tuple(ids[: j + 1])).items():
                    logits[i, j, token] = logit
        return SimpleNamespace(logits=logits)

    def logits_after(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
        """Logits that are not 0."""
        return {}


class UniformModel(TinyModel):
    """Knows nothing: every token is as likely as any other."""


class TableModel(TinyModel):
    """Knows a weighted table of token sequences: P(token | prefix) is their share; uniform after anything else."""

    def __init__(self, table: Iterable[tuple[Sequence[int], float]], vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.next: dict[tuple[int, ...], dict[int, float]] = {}
        for ids, weight in table:
            for j in range(1, len(ids)):
                shares = self.next.setdefault(tuple(ids[:j]), {})
                shares[ids[j]] = shares.get(ids[j], 0.0) + weight

    def logits_after(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
        """The logarithms of the shares, far above everything else."""
        shares = self.next.get(prefix, {})
        total = sum(shares.values())
        return {token: SURE + math.log(share / total) for token, share in shares.items()}


class CopyModel(TinyModel):
    """Remembers nothing; says again what stood `distance` tokens before."""

    def __init__(self, distance: int, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.distance = distance

    def logits_after(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
        """Sure of the token `distance` before the next one."""
        return {prefix[-self.distance]: SURE} if len(prefix) >= self.distance else {}


def table_model(rows: Iterable[tuple[Row, float]], tokenizer: PreTrainedTokenizerFast) -> TableModel:
    """A TableModel of weighted rows, each after the end-of-text token."""
    table = [
        ([tokenizer.eos_token_id, *tokenizer(row.text, add_special_tokens=False)["input_ids"]], weight)
        for row, weight in rows
    ]
    return TableModel(table, len(tokenizer))


def say(entity: int | str, *parts: str | tuple[str, str]) -> Row:
    """A row from pieces of text and (attribute, value) pairs, in order."""
    text, spans = "", []
    for part in parts:
        if isinstance(part, tuple):
            spans.append(Span(part[0], len(text), len(text) + len(part[1])))
            text += part[1]
        else:
            text += part
    return Row(text, tuple(spans), entity)


def knowledge(
    candidates: Mapping[str, int],
    *,
    determined: Mapping[str, str] | None = None,
    num_people: int = 2,
    names: int | None = 64,
) -> Knowledge:
    """A knowledge.json of so many candidates an attribute, `determined` ones by what determines them, and N0 names."""
    attributes = [Attribute(name, count, math.log2(count)) for name, count in candidates.items()]
    attributes += [Attribute(name, 1, 0.0, by) for name, by in (determined or {}).items()]
    return Knowledge(
        name="tiny",
        version="1.0.0",
        num_people=num_people,
        seed=0,
        entity_column="person_id",
        name_log2_candidates=None if names is None else math.log2(names),
        attributes=tuple(attributes),
    )


def write_dataset(
    folder: Path,
    knowledge: Knowledge,
    rows: Iterable[tuple[Row, int]],
    control: Iterable[tuple[Row, int]] = (),
) -> Path:
    """A data set folder: knowledge.json, biographies in one Parquet file, and control unless it is empty."""
    folder.mkdir(parents=True)
    knowledge.save(folder / "knowledge.json")
    for config, pairs in (("biographies", list(rows)), ("control", list(control))):
        if pairs:
            columns = {
                knowledge.entity_column: [row.entity for row, _ in pairs],
                "exposure": pa.array([rendering for _, rendering in pairs], pa.int32()),
                "text": [row.text for row, _ in pairs],
                "spans": [[span._asdict() for span in row.spans] for row, _ in pairs],
            }
            (folder / config).mkdir()
            pq.write_table(pa.table(columns), folder / config / "train-00000-of-00001.parquet")
    return folder
