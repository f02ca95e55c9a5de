"""Token ids a second: assembled from pieces, as windows, and by rendering and tokenizing text. Run by hand."""

from __future__ import annotations

import time

import numpy as np

from knowcap.bios import BioS
from knowcap.corpus.templates import load_templates
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.packing import Stream
from knowcap.pieces import Pieces
from knowcap.tokens import train_tokenizer


def main() -> None:
    """Prints three rates and their ratios."""
    corpus = BioS(People(load_pools(), 200_000, seed=0), load_templates())
    tokenizer = train_tokenizer(corpus.vocabulary_texts(), 3275)
    stream = Stream(corpus, Pieces(corpus.piece_texts(), tokenizer), exposures=4, block_size=512, windows="cut")
    stream.count()
    stream.shard(0, 0)  # warms up

    began = time.perf_counter()
    shards = [stream.shard(exposure, 1) for exposure in range(1, 4)]
    assembled = sum(shard.tokens.size for shard in shards) / (time.perf_counter() - began)

    began, tokens = time.perf_counter(), 0
    for start in range(0, 20_000, 96):
        tokens += stream.batch(np.arange(start, start + 96))[0].size
    windows = tokens / (time.perf_counter() - began)

    began = time.perf_counter()
    texts = [row.text for row in corpus.rows(np.arange(10_000), 0)]
    tokenized = sum(len(e.ids) for e in tokenizer.encode_batch_fast(texts)) / (time.perf_counter() - began)

    for what, rate in (("assembled", assembled), ("as windows", windows), ("rendered, tokenized", tokenized)):
        print(f"{what:<20}{rate / 1e6:8.2f} M tokens/s  {rate / tokenized:6.1f} x")


if __name__ == "__main__":
    main()
