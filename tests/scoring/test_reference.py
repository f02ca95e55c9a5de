"""Scoring against a slow reference on every corpus: plain Python, one fact, one token at a time, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from countries import write_table
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.questions import HasQuestions
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.facts import Knowledge, Row
from knowcap.recipe import Recipe
from knowcap.scoring import score_rows


BIOS = Recipe(num_people=12, pools_fraction=0.05, num_templates=3, vocab_size=300, model_name="gpt2-2-2")
BIOD = replace(BIOS, corpus="bioD", num_attributes=3, chunks_per_value=2, diversity=20, chunk_length=2)
RECIPES = {
    "bioS": BIOS,
    "bioS, full names": replace(BIOS, full_name=True, permute=False),
    "bioS among junk": replace(BIOS, junk_people=50, domain_token="x.org", junk_tokens=1),
    "bioD": replace(BIOD, num_templates=None),
    "bioD, compact": replace(BIOD, num_templates=None, compact=True, pools_fraction=1.0),
    "morris": replace(
        BIOS, corpus="morris", string_length=8, alphabet_size=20, num_templates=None, pools_fraction=1.0
    ),
    "table": replace(BIOS, num_people=0, pools_fraction=1.0, num_templates=None),
}
OWN_ALONE = ("bioS among junk", "bioD, compact", "morris")  # symbols and tokens in front of texts need it
PAIRS = [(kind, "its own") for kind in RECIPES]
PAIRS += [(kind, spelled) for kind in RECIPES if kind not in OWN_ALONE for spelled in ("byte", "unigram")]


def slow(model: torch.nn.Module, backend: object, row: Row, knowledge: Knowledge) -> dict[str, float]:
    """nats of each fact by its definition: first mentions, determined values said first joined, the blank before."""
    encoding = backend.encode(row.text, add_special_tokens=False)
    ids, first = [0, *encoding.ids], {}
    for span in row.spans:
        first.setdefault(span.attribute, span)
    determined = {a.name: a.determined_by for a in knowledge.attributes if a.determined_by}
    facts = {}
    for attribute, span in first.items():
        if attribute in determined or (attribute == "name" and knowledge.name_log2_candidates is None):
            continue
        spans = [span]
        spans += [s for a, s in first.items() if determined.get(a) == attribute and s.start < span.start]
        prefix, total = len(knowledge.text_prefix), 0.0
        for t, (start, end) in enumerate(encoding.offsets):
            # A blank before a value counts with it, unless it belongs to what all texts begin with.
            if any(start < s.end and end > max(s.start - 1, prefix) for s in spans):
                with torch.no_grad():
                    logits = model(torch.tensor([ids[: t + 1]])).logits[0, -1].tolist()
                top = max(logits)
                total += top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[ids[t + 1]]
        facts[attribute] = total
    return facts


@pytest.mark.parametrize(("kind", "spelled"), PAIRS)
def test_every_corpus_agrees_with_the_reference_to_nine_digits(kind, spelled, tmp_path):
    recipe = RECIPES[kind]
    if kind == "table":
        recipe = replace(recipe, **write_table(tmp_path))
    corpus = corpus_of(recipe)
    knowledge = corpus.knowledge()
    rows = [(row, e) for e in (0, 1) for row in corpus.rows(np.arange(min(5, corpus.num_people)), e)]
    if spelled == "its own":
        tokenizer = wrap(tokenizer_of(recipe, corpus)[0], 512)
    else:
        texts = [row.text for row, _ in rows] * 3
        tokenizer = tiny.byte_tokenizer() if spelled == "byte" else tiny.unigram_tokenizer(texts, 150)
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=len(tokenizer), n_positions=700, initializer_range=0.4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval()
    found = score_rows(model, tokenizer, rows, knowledge, batch_size=3).to_pylist()
    for row, rendering in rows:
        for attribute, nll in slow(model, tokenizer.backend_tokenizer, row, knowledge).items():
            (fact,) = [
                f for f in found if (f["entity"], f["rendering"], f["attribute"]) == (row.entity, rendering, attribute)
            ]
            assert fact["nll"] == pytest.approx(nll, rel=1e-9), (attribute, row.text)
    assert not isinstance(corpus, HasQuestions) or len(found) > 50
