"""Tokenizers made in tests, and what assembled texts are held to."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from knowcap.corpus.pieces import used_tokens
from knowcap.corpus.tokenizer import (
    EOS_ID,
    reduce_tokenizer,
)


def foreign_bpe() -> Tokenizer:
    """A byte-level BPE that has never seen our lists: all 256 bytes, merges of some English."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=600, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    words = [
        "the university of the town of her company",
        "she went to work.. in Washington D.C. again",
        "Inc. + plus+.",
    ]
    tokenizer.train_from_iterator(words * 20, trainer)
    return tokenizer


def assembled_equals_tokenized(corpus, tokenizer, pieces, exposures):
    persons = np.arange(corpus.num_people)
    count = 0
    for exposure in exposures:
        tokens, lengths = pieces.gather(corpus.compose(pieces, persons, exposure))
        texts = [row.text for row in corpus.rows(persons, exposure)]
        whole = [[*e.ids, EOS_ID] for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        assert [len(ids) for ids in whole] == lengths.tolist()
        assert np.concatenate(whole).tolist() == tokens.tolist()
        count += len(texts)
    return count


def reduced(corpus):
    foreign = foreign_bpe()
    return reduce_tokenizer(foreign, used_tokens(corpus.piece_texts(), foreign))
