"""Packed scoring: windows of whole texts, each fact once, the model's view of it held against a plain forward pass."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import tiny
import torch
from scored_texts import biographies, full_knowledge, gpt2

from knowcap.scoring import TextError, encode_rows, score_rows
from knowcap.scoring.spans import by_rendering, packed_rows


PAIRS = biographies(num_people=10, renderings=2)
TOKENIZER = tiny.bpe_tokenizer([row.text for row, _ in PAIRS], 330)
MODEL = gpt2(len(TOKENIZER), positions=256)
BLOCK = 250


def encoded_in_order():
    """What is packed, in the order in which it is."""
    rows = [PAIRS[place][0] for place in by_rendering([rendering for _, rendering in PAIRS])]
    return rows, encode_rows(rows, TOKENIZER, full_knowledge())


def test_windows_hold_whole_texts_as_many_as_fit_and_no_entity_twice():
    rows, encoded = encoded_in_order()
    contexts = packed_rows(encoded, rows, BLOCK)
    sizes = np.diff(encoded.row_starts)
    assert contexts.rows[0] == 0 and contexts.rows[-1] == len(rows) and (np.diff(contexts.rows) > 0).all()
    for a, b in zip(contexts.rows[:-1], contexts.rows[1:], strict=True):
        inside = [row.entity for row in rows[a:b]]
        assert sizes[a:b].sum() <= BLOCK and len(set(inside)) == len(inside)
        full = b < len(rows) and sizes[a : b + 1].sum() > BLOCK
        assert full or b == len(rows) or rows[b].entity in inside
    assert len(contexts.starts) < len(rows)


def test_packed_facts_are_what_a_plain_pass_over_the_window_gives():
    rows, encoded = encoded_in_order()
    contexts = packed_rows(encoded, rows, BLOCK)
    exact = copy.deepcopy(MODEL).double().eval()
    expected = {}
    for a, b in zip(contexts.rows[:-1], contexts.rows[1:], strict=True):
        ids = encoded.ids[encoded.row_starts[a] : encoded.row_starts[b]]
        with torch.no_grad():
            logp = torch.log_softmax(exact(torch.from_numpy(ids)[None]).logits[0], dim=-1)
        for fact in np.flatnonzero((encoded.fact_rows >= a) & (encoded.fact_rows < b)):
            places = encoded.targets[encoded.target_facts == fact] - encoded.row_starts[a]
            nll = -sum(float(logp[p - 1, ids[p]]) for p in places)
            row = rows[encoded.fact_rows[fact]]
            expected.setdefault((row.entity, encoded.facts[fact].attribute), []).append(nll)
    for batch_size in (1, 3, 64):
        table = score_rows(MODEL, TOKENIZER, PAIRS, full_knowledge(), packed=BLOCK, batch_size=batch_size).to_pylist()
        alone = score_rows(MODEL, TOKENIZER, PAIRS, full_knowledge()).to_pylist()
        key = ("entity", "attribute", "rendering", "log2_candidates")
        assert [[f[k] for k in key] for f in table] == [[f[k] for k in key] for f in alone]
        for fact in table:
            nll = expected[fact["entity"], fact["attribute"]][fact["rendering"]]
            assert fact["nll"] == pytest.approx(nll, rel=1e-4, abs=1e-4)
        assert any(abs(a["nll"] - b["nll"]) > 0.1 for a, b in zip(table, alone, strict=True))


class Forgetful(tiny.TinyModel):
    """Looks back to the last end of text and no further."""

    def logits_after(self, prefix):
        """Logits of what came since."""
        since = prefix[len(prefix) - 1 - prefix[::-1].index(0) :]
        return {t: math.sin(1 + 3.1 * t + sum((i + 1) * x for i, x in enumerate(since))) for t in range(0, 300, 3)}


def test_a_model_that_forgets_at_the_end_of_a_text_is_scored_alike_in_any_context():
    model, pairs = Forgetful(len(TOKENIZER)), PAIRS[:6]
    alone, packed = (score_rows(model, TOKENIZER, pairs, full_knowledge(), packed=size) for size in (0, BLOCK))
    assert packed.drop_columns(["nll"]).equals(alone.drop_columns(["nll"]))
    np.testing.assert_allclose(packed["nll"].to_numpy(), alone["nll"].to_numpy(), rtol=1e-6)


def test_a_text_longer_than_a_window_is_reported():
    with pytest.raises(TextError, match="expected windows that hold every text"):
        score_rows(MODEL, TOKENIZER, PAIRS, full_knowledge(), packed=20)
