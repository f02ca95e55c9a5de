"""Seconds of token scoring against a bare forward loop over the same batches. Run by hand.

What is wanted: at most 15 % more. The bare loop has the token ids ready and drops its logits.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.candidates import candidate_rows, candidates_by_attribute
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.models import build_model, model_config
from knowcap.recipe import Recipe
from knowcap.scoring import encode_rows, score_rows
from knowcap.scoring.batches import CHUNK_ROWS
from knowcap.scoring.closed_set import ClosedSets


def bare(model: torch.nn.Module, lengths: np.ndarray, batch_size: int, rows: int) -> float:
    """Seconds of forward passes alone, over batches of the same shapes in the same order."""
    began = time.perf_counter()
    with torch.no_grad():
        for chunk in range(0, len(lengths), CHUNK_ROWS):
            some = np.sort(lengths[chunk : chunk + CHUNK_ROWS])[::-1]
            for start in range(0, len(some), batch_size):
                shape = (len(some[start : start + batch_size]), int(some[start]))
                ids = torch.randint(1, rows, shape)
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return time.perf_counter() - began


def main() -> None:
    """Prints seconds and ratios for three widths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_people", type=int, default=4000)
    parser.add_argument("--models", nargs="+", default=["gpt2-rotary-2-2", "gpt2-rotary-4-4", "gpt2-rotary-4-8"])
    given = parser.parse_args()
    for name in given.models:
        recipe = Recipe(num_people=given.num_people, model_name=name, vocab_size=3275)
        corpus = corpus_of(recipe)
        backend, rows = tokenizer_of(recipe, corpus)
        tokenizer, knowledge = wrap(backend, 512), corpus.knowledge()
        texts = list(corpus.rows(np.arange(given.num_people), 0))
        model = build_model(model_config(name, vocab_size=rows, block_size=512), 0).eval()
        lengths = encode_rows(texts, tokenizer, knowledge).input_lengths
        pairs = [(row, 0) for row in texts]
        sets = ClosedSets(tokenizer, candidates_by_attribute(candidate_rows(corpus)), tokenizer.eos_token_id)
        seconds: dict[str, list[float]] = {"bare": [], "token": [], "closed set": []}
        for _ in range(3):
            seconds["bare"].append(bare(model, lengths, 64, rows))
            for kind, closed in (("token", None), ("closed set", sets)):
                began = time.perf_counter()
                score_rows(model, tokenizer, pairs, knowledge, batch_size=64, closed_sets=closed)
                seconds[kind].append(time.perf_counter() - began)
        best = {kind: min(found) for kind, found in seconds.items()}
        shown = ", ".join(f"{kind} {took:.2f} s ({took / best['bare']:.2f} x bare)" for kind, took in best.items())
        print(f"{name}, {given.num_people:,} texts: {shown}; wanted: token at most 1.15 x")


if __name__ == "__main__":
    main()
