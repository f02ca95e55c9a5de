"""Token ids a second: assembled from pieces, as windows for the Trainer, and by rendering and tokenizing text; texts
counted a second; milliseconds to any shard of a huge population. Run by hand:

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python tests/benchmarks/assemble.py

Rates are of one core's time, so that what else the machine does matters less; counting takes all cores' wall time.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.recipe import Recipe
from knowcap.training.packing import Stream
from knowcap.training.trainer import WindowDataset
from knowcap.training.windows import stream_of


WANTED = {"assembled": 20.0, "windows for the Trainer": 5.0}  # million tokens a second, on one core
BIOS = Recipe(num_people=200_000, vocab_size=3275, exposures=4)
BIOD = replace(BIOS, corpus="bioD", num_attributes=5, chunks_per_value=2, diversity=100, alphabet_size=100)


def main() -> None:
    """Prints rates, and their ratios to what is wanted."""
    for recipe in (BIOS, BIOD):
        corpus = corpus_of(recipe)
        stream = made_stream(recipe, corpus)
        print(f"{recipe.corpus}({recipe.num_people:,}), {stream.pieces.lengths.size:,} pieces")
        rates(stream)
        counting(replace(recipe, exposures=100), corpus)
    random_access()


def made_stream(recipe: Recipe, corpus: Corpus) -> Stream:
    """The recipe's stream, its windows not counted yet."""
    return stream_of(recipe, corpus, tokenizer_of(recipe, corpus)[0])


def rates(stream: Stream) -> None:
    """Tokens a second, of shards that were not made before."""
    stream.count()
    stream.shard(0, 0)  # warms up
    began, tokens = time.process_time(), 0
    for exposure in range(1, 4):
        tokens += stream.shard(exposure, 1).tokens.size
    show("assembled", tokens, began)

    began, tokens, windows = time.process_time(), 0, WindowDataset(stream, 96)
    for start in range(0, 20_000, 96):
        tokens += windows.__getitems__(list(range(start, start + 96)))["input_ids"].numel()
    show("windows for the Trainer", tokens, began)

    corpus, (tokenizer, _) = stream.corpus, tokenizer_of(BIOS, stream.corpus)
    began = time.process_time()
    texts = [row.text for row in corpus.rows(np.arange(10_000), 0)]
    show("rendered, tokenized", sum(len(e.ids) for e in tokenizer.encode_batch_fast(texts)), began)


def show(what: str, tokens: int, began: float) -> None:
    """One line: the rate, and how it compares to what is wanted."""
    rate = tokens / (time.process_time() - began) / 1e6
    ratio = f"  {rate / WANTED[what]:6.2f} x the {WANTED[what]:.0f} M that are wanted" if what in WANTED else ""
    print(f"  {what:<26}{rate:8.2f} M tokens/s{ratio}")


def counting(recipe: Recipe, corpus: Corpus) -> None:
    """Texts a second whose windows are counted, by one process and by one a core; the start of these is in it."""
    stream = made_stream(recipe, corpus)
    texts = stream.exposures * corpus.num_people
    for num_proc in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
        began = time.perf_counter()
        stream.count(num_proc=num_proc)
        took = time.perf_counter() - began
        hours = took / texts * 10_000_000 * 1000 / 3600
        rate = f"{texts / took / 1e6:.2f} M texts/s, {hours:.1f} h for 10 M people x 1000 exposures"
        print(f"  windows counted, num_proc {num_proc}: {rate}")


def random_access() -> None:
    """Milliseconds to shards met at random, of 20 million people and 1000 exposures; each is made from nothing."""
    recipe = replace(BIOS, num_people=20_000_000, exposures=1000)
    stream = made_stream(recipe, corpus_of(recipe))
    stream.shard(0, 0)  # warms up
    rng = np.random.default_rng(0)
    for _ in range(6):
        exposure, shard = int(rng.integers(stream.exposures)), int(rng.integers(stream.shards))
        began = time.process_time()
        tokens = stream.shard(exposure, shard).tokens.size
        took = 1000 * (time.process_time() - began)
        print(
            f"exposure {exposure}, shard {shard} of {stream.shards} at 20 M people: {took:.0f} ms, {tokens:,} tokens"
        )


if __name__ == "__main__":
    main()
