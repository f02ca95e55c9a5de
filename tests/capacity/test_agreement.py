"""measure_capacity, the metric card's ten lines and `knowcap measure` agree on one model, whatever its tokenizer."""

from __future__ import annotations

import csv
import doctest
import json
import math
from pathlib import Path

import pytest
import tiny
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowcap import cli, measure_capacity
from knowcap.metrics import bits_per_parameter as metric_module
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter
from knowcap.models import ModelError


CARD = Path(metric_module.__file__).parent / "README.md"
CITIES = {"Peru": "Lima", "Italy": "Rome", "France": "Paris", "Norway": "Oslo", "Japan": "Tokyo", "Cuba": "Havana"}
ROWS = [{"prompt": f"The capital of {c} is", "answer": v, "candidates": 195} for c, v in CITIES.items()]
BOS, END = "<s>", "</s>"


def with_template(template: str | None, **special: str | None) -> PreTrainedTokenizerFast:
    made = tiny.byte_tokenizer(trim_offsets=False, **({"bos_token": BOS, "eos_token": END} | special))
    made.add_special_tokens({"additional_special_tokens": [BOS, END]})
    if template is not None:
        ids = [(token, made.convert_tokens_to_ids(token)) for token in (BOS, END)]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return made


def whole_words() -> PreTrainedTokenizerFast:
    """A byte-level BPE with `ignore_merges`, as Llama 3's: a value is one token that no merge leads to."""
    state = json.loads(with_template(None).backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"Ġ{city}": 300 + number for number, city in enumerate(CITIES.values())}
    state["model"]["ignore_merges"] = True
    return tiny.wrap(Tokenizer.from_str(json.dumps(state)), eos_token=END, bos_token=BOS)


TOKENIZERS = {
    "BOS by template": lambda: with_template(f"{BOS} $A"),
    "BOS and EOS by template": lambda: with_template(f"{BOS} $A {END}"),
    "BOS and no template": lambda: with_template(None),
    "EOS alone": lambda: with_template(None, bos_token=None),
    "whole words": whole_words,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def folder(request, tmp_path_factory):
    """A model with learned positions, so that one token more or less before a text changes every figure."""
    place = tmp_path_factory.mktemp("models") / "net"
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": 310, "initializer_range": 0.4}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(place)
    TOKENIZERS[request.param]().save_pretrained(place)
    return place


def by_the_card(folder) -> dict:
    """The results of the card's own lines, from the model's loading to the bits."""
    examples = doctest.DocTestParser().get_examples(CARD.read_text(encoding="utf-8"))
    metric = type("Metric", (), {"compute": staticmethod(bits_per_parameter)})
    scope = {"math": math, "metric": metric}
    words = ("import torch\n", "import AutoModel", "model, tokenizer =", "probe =", "start =", "start = start or")
    words += ("def nll", "nats = [[", "log2_candidates = [[", "results = metric.compute")
    for part in words:
        at = next(number for number, example in enumerate(examples) if part in example.source)
        examples = examples[at:]
        exec(examples[0].source.replace("my_model", str(folder)), scope)
        if part == "model, tokenizer =":
            scope["facts"] = [[(row["prompt"], f" {row['answer']}", row["candidates"])] for row in ROWS]
    return scope["results"]


def test_the_card_the_command_and_the_function_agree(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "facts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    assert cli.main(["measure", str(folder), "--dataset_name", "facts.csv", "--json"]) == 0
    command, function = json.loads(capsys.readouterr().out), measure_capacity(folder, ROWS)
    card = by_the_card(folder)
    for key in ("bits_per_parameter", "max_bits_per_parameter", "knowledge_bits"):
        assert command[key] == pytest.approx(function[key], rel=1e-6)
        assert card[key] == pytest.approx(function[key], rel=1e-6)
    has_bos = AutoTokenizer.from_pretrained(folder).bos_token is not None
    assert function["start_token"] == (BOS if has_bos else END)
    assert (function["trained_here"], function["parameters_counted"], function["exposures"]) == (False, "all", None)
    assert cli.main(["measure", str(folder), "--dataset_name", "facts.csv"]) == 0
    table, card = capsys.readouterr().out, (tmp_path / "measured" / "net" / "README.md").read_text()
    assert f"start token: {function['start_token']}," in table and f"`{function['start_token']}`" in card
    assert "the bits are what the model knew beforehand" in table and "It was not trained on these facts" in card


def test_the_command_prints_the_window(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.csv").write_text("prompt,answer,candidates\nA is,one,8\nB is,two,8\n")
    command = ["measure", str(folder), "--dataset_name", "facts.csv", "--context", "packed", "--window", "48"]
    assert cli.main(command) == 0
    assert "packed texts are scored in windows of 48 tokens, as given (--window)" in capsys.readouterr().err


def test_another_start_token_gives_other_figures(folder):
    plain = measure_capacity(folder, ROWS)
    none = measure_capacity(folder, ROWS, start_token="none")
    assert none["start_token"] == ""
    assert none["knowledge_bits"] != pytest.approx(plain["knowledge_bits"], rel=1e-3)


def test_a_tokenizer_without_any_token_to_begin_with_is_measured_without_one(tmp_path):
    made = tiny.byte_tokenizer(trim_offsets=False, bos_token=None, eos_token=None)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=64, vocab_size=310)).save_pretrained(
        tmp_path
    )
    made.save_pretrained(tmp_path)
    assert measure_capacity(tmp_path, ROWS, start_token="none")["start_token"] == ""
    with pytest.raises(ModelError, match="neither eos_token nor bos_token"):
        measure_capacity(tmp_path, ROWS)


def test_a_whole_word_is_one_token_of_its_value():
    tokenizer = whole_words()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=64, vocab_size=400))
    model.transformer.wte.weight.data.zero_()  # every token is as likely as any other
    found = measure_capacity(model, ROWS, tokenizer=tokenizer)
    assert found["attributes"]["answer"]["nll_nats"] == pytest.approx(math.log(400), rel=1e-6)
    listed = [row | {"candidates": list(CITIES.values())} for row in ROWS]
    closed = measure_capacity(model, listed, tokenizer=tokenizer, scoring="closed_set")
    assert closed["knowledge_bits"] == pytest.approx(0.0, abs=1e-5)
