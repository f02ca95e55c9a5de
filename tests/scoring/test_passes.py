"""Forward passes: logits of the scored positions only, packed windows of other models, and half precision."""

from __future__ import annotations

import logging
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM

from knowcap.capacity import capacity
from knowcap.models import LoadOptions, ModelError, load_model
from knowcap.report.card import write_card
from knowcap.scoring import ScoringError, ScoringMode, TextError, batches, read_measurement, score, score_rows
from knowcap.scoring.mode import DEFAULT_MODE


CITIES = ("Rome", "Lima", "Oslo", "Bern", "Kyiv", "Baku", "Doha", "Riga")
KNOWLEDGE = tiny.knowledge({"birth_city": 8}, num_people=8, names=None)
ROWS = [(tiny.say(i, ("name", f"N{i} O."), " of ", ("birth_city", city), "."), 0) for i, city in enumerate(CITIES)]
BOS, END = "<s>", "</s>"
PACKED = ScoringMode(context="packed")


def tokenizer_of(template: str = f"{BOS} $A"):
    """Single bytes, after a BOS that the tokenizer itself puts first, as Llama's does."""
    made = tiny.byte_tokenizer(trim_offsets=False, eos_token=END, bos_token=BOS)
    ids = [(token, made.convert_tokens_to_ids(token)) for token in (BOS, END)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return made


TOKENIZER = tokenizer_of()
BOS_ID, END_ID = TOKENIZER.convert_tokens_to_ids([BOS, END])


def llama(**sizes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made |= {"vocab_size": len(TOKENIZER), "max_position_embeddings": 96, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**made | sizes)).eval()


def by_hand(model: LlamaForCausalLM, ids: list[int], first: int, last: int) -> float:
    """nats of ids[first:last] by one pass over all ids."""
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return -sum(float(logp[place - 1, ids[place]]) for place in range(first, last))


def encoded(row) -> tuple[list[int], int, int]:
    """The bytes of a text, and where its city, with the space before it, begins and ends."""
    ids = TOKENIZER(row.text, add_special_tokens=False)["input_ids"]
    return ids, row.spans[1].start - 1, row.spans[1].end


@pytest.mark.parametrize("start", [(BOS_ID,), (END_ID,), ()], ids=["bos", "eos", "none"])
def test_each_text_is_read_after_its_start_token(start):
    model, name = llama(), {(BOS_ID,): "auto", (END_ID,): "eos", (): "none"}[start]
    found = score_rows(model, TOKENIZER, ROWS, KNOWLEDGE, start_token=name)["nll"].to_pylist()
    for (row, _), nll in zip(ROWS, found, strict=True):
        ids, first, last = encoded(row)
        assert nll == pytest.approx(by_hand(model, [*start, *ids], first + len(start), last + len(start)), rel=1e-5)


def test_without_a_start_token_a_fact_that_begins_the_text_is_an_error():
    knowledge = tiny.knowledge({"birth_city": 8}, num_people=8)
    with pytest.raises(TextError, match=r"entity 0: name begins with the first token .* with start_token none"):
        score_rows(llama(), TOKENIZER, ROWS, knowledge, start_token="none")


@pytest.mark.parametrize(
    ("template", "between"), [(f"{BOS} $A", []), (f"{BOS} $A {END}", [END_ID]), (f"$A {END}", [])]
)
def test_packed_texts_are_separated_as_the_tokenizer_does(template, between):
    tokenizer, model = tokenizer_of(template), llama()
    if not template.startswith(BOS):
        tokenizer.bos_token = None
    before = [BOS_ID] if template.startswith(BOS) else [END_ID]
    found = score_rows(model, tokenizer, ROWS, KNOWLEDGE, packed=48)["nll"].to_pylist()
    read, windows = list[int](), 1
    for (row, _), nll in zip(ROWS, found, strict=True):
        ids, first, last = encoded(row)
        if len(read) + len(before) + len(ids) + len(between) > 48:
            read, windows = [], windows + 1
        read += before
        assert nll == pytest.approx(by_hand(model, read + ids, len(read) + first, len(read) + last), rel=1e-5)
        read += ids + between
    assert windows == 3


def kept(model) -> list[int]:
    """The number of logits of each forward pass, as they are computed."""
    counts: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *call: counts.append(call[2][..., 0].numel()))
    return counts


@pytest.mark.parametrize("keeps", ["mask", "index", None])
def test_logits_are_computed_at_the_scored_positions_only(keeps, monkeypatch):
    model, reference = llama(), score_rows(llama(), TOKENIZER, ROWS, KNOWLEDGE)
    of_model = batches._Passes.__init__

    def older(passes, model):
        of_model(passes, model)
        assert passes.keeps == "mask"
        passes.keeps = keeps

    monkeypatch.setattr(batches._Passes, "__init__", older)
    counts = kept(model)
    found = score_rows(model, TOKENIZER, ROWS, KNOWLEDGE)
    np.testing.assert_allclose(found["nll"], reference["nll"], rtol=1e-5)
    targets = sum(len(city) + 1 for city in CITIES)
    assert sum(counts) == targets if keeps == "mask" else sum(counts) >= targets
    if keeps is None:
        assert sum(counts) == len(ROWS) * max(last for _, _, last in (encoded(row) for row, _ in ROWS))


def test_a_batch_and_a_softmax_are_limited_by_their_logits(monkeypatch):
    model = llama()
    whole = score_rows(model, TOKENIZER, ROWS, KNOWLEDGE)
    monkeypatch.setattr(batches, "MOST_LOGITS", 12 * len(TOKENIZER))  # two texts of five scored tokens, or three rows
    counts = kept(model)
    found = score_rows(model, TOKENIZER, ROWS, KNOWLEDGE)
    np.testing.assert_allclose(found["nll"], whole["nll"], rtol=1e-5)
    assert max(counts) <= 12 and len(counts) == len(ROWS) // 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model in bfloat16 and one in float32, and a data set."""
    place = tmp_path_factory.mktemp("passes")
    for name, dtype in (("half", torch.bfloat16), ("full", torch.float32)):
        llama(max_position_embeddings=4096).to(dtype).save_pretrained(place / name)
        TOKENIZER.save_pretrained(place / name)
    return place, tiny.write_dataset(place / "data", KNOWLEDGE, ROWS)


def test_windows_are_at_most_2048_tokens_unless_another_is_passed_and_are_printed(folders, caplog):
    place, data = folders
    caplog.set_level(logging.INFO)
    options = {"mode": PACKED, "output_dir": place / "windows", "progress": False}
    path = score(place / "full", data, **options)
    assert read_measurement(path)["window"] == 2048
    assert "windows of 2048 tokens, by default, of 4096 positions (--window)" in caplog.text
    with pytest.raises(ScoringError, match="measured with window=None, expected 64; score again"):
        score(place / "full", data, **options, window=64)
    assert read_measurement(score(place / "full", data, **options, window=64, overwrite=True))["window"] == 64
    with pytest.raises(ScoringError, match="window=5000, but the model has 4096 positions"):
        score(place / "full", data, **options, window=5000, overwrite=True)
    with pytest.raises(TextError, match=r"a window has 12; .* larger window \(--window\), or context isolated"):
        score(place / "full", data, **options, window=12, overwrite=True)
    with pytest.raises(ScoringError, match="window=64 has an effect on packed texts only"):
        score(place / "full", data, progress=False, window=64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_records_how_far_it_is_from_float32(folders, tmp_path, dtype):
    place, data = folders
    full, half = (
        score(place / "full", data, output_dir=tmp_path / name, progress=False, loading=LoadOptions(name))
        for name in ("float32", dtype)
    )
    assert read_measurement(full)["float32_difference"] is None
    measurement, tables = read_measurement(half), [pq.read_table(path)["nll"] for path in (full, half)]
    bits = (tables[0].to_numpy() - tables[1].to_numpy()) / math.log(2)
    near = measurement["float32_difference"]
    assert (measurement["dtype"], measurement["precision"], near["facts"]) == (dtype, "fp32", len(ROWS))
    assert near["bits_per_fact"] == pytest.approx(bits.mean(), abs=1e-5)
    assert abs(near["largest"]) == pytest.approx(np.abs(bits).max(), abs=1e-5)
    assert 0 < abs(near["largest"]) < {"bfloat16": 0.25, "float16": 0.05}[dtype]
    capacity(half.parent)
    card = write_card(half.parent).read_text(encoding="utf-8")
    assert f"The model computed in {dtype}, with logarithms of probabilities in float32." in card
    assert f"On the first 8 facts this gives {near['bits_per_fact']:+.4f} bits a fact more than float32" in card


def test_logarithms_of_a_half_precision_model_are_computed_in_float32(folders):
    place, _ = folders
    model = load_model(place / "half", LoadOptions("auto"))
    assert next(model.parameters()).dtype == torch.bfloat16
    found = score_rows(model, TOKENIZER, ROWS, KNOWLEDGE, batch_size=1)["nll"].to_pylist()
    rounded = []
    for (row, _), nll in zip(ROWS, found, strict=True):
        ids, first, last = encoded(row)
        assert nll == pytest.approx(by_hand(model, [BOS_ID, *ids], first + 1, last + 1), rel=1e-5)
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([[BOS_ID, *ids]])).logits[0], dim=-1)
        rounded.append(-sum(float(logp[place, ids[place]]) for place in range(first, last)))
    assert np.abs(np.array(found) - rounded).max() > 1e-3, "a softmax in bfloat16 gives other figures"


def test_a_model_is_loaded_onto_the_devices_and_attention_that_are_passed(folders):
    place, data = folders
    loading = LoadOptions("float32", "cpu", "eager")
    model = load_model(place / "full", loading)
    assert model.config._attn_implementation == "eager"
    plain = score(place / "full", data, output_dir=place / "plain", progress=False)
    mapped = score(place / "full", data, output_dir=place / "mapped", progress=False, loading=loading)
    np.testing.assert_allclose(*(pq.read_table(path)["nll"] for path in (plain, mapped)), rtol=1e-5)
    with pytest.raises(ModelError, match="dtype='int8'; expected auto, float32, bfloat16, float16"):
        LoadOptions("int8")
    with pytest.raises(ModelError, match="cannot be loaded with .*attn_implementation='quick'"):
        load_model(place / "full", LoadOptions(attn_implementation="quick"))
    with pytest.raises(ScoringError, match="are for model folders; load the model with them"):
        score(None, data, output_dir=place / "x", loaded=(model, TOKENIZER), loading=loading, mode=DEFAULT_MODE)
