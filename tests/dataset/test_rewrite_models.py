"""bioR's writers with a real, tiny language model: on this machine, and behind a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from tiny import bpe_tokenizer
from tokenizers import decoders
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite import Reply, Request
from knowcap.dataset.rewrite.server import ServerWriter
from knowcap.dataset.rewrite.writers import LocalWriter


HERE = Path(__file__).parents[1]
REQUESTS = [Request((n, 0, 0), f"Write of person {n}{'!' * n}", 100 + n) for n in range(5)]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random GPT2 with its tokenizer."""
    made = tmp_path_factory.mktemp("model") / "tiny-gpt2"
    tokenizer = bpe_tokenizer(["Write of person 1"] * 3, vocab_size=270)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


def texts(writer, requests=REQUESTS) -> dict[Request, Reply]:
    return dict(writer.write(requests))


def test_a_local_model_answers_every_request_and_the_same_again(folder):
    writer = LocalWriter(str(folder), batch_size=2, max_new_tokens=12)
    first = texts(writer)
    assert list(first) == REQUESTS and len({reply.text for reply in first.values()}) == 5
    assert writer.model_name == "tiny-gpt2", "no path is shown"
    assert texts(LocalWriter(str(folder), batch_size=2, max_new_tokens=12)) == first
    assert texts(LocalWriter(str(folder), batch_size=2, max_new_tokens=12), REQUESTS[2:4]) == {
        request: first[request] for request in REQUESTS[2:4]
    }


def test_padding_changes_nothing(folder):
    """Greedy: the continuation of a prompt in a batch of longer ones is the one that it has alone."""
    one, many = (LocalWriter(str(folder), batch_size=n, temperature=0.0, max_new_tokens=8) for n in (1, 5))
    assert texts(one) == texts(many)


def test_a_text_that_the_limit_ends_is_cut_off(folder):
    assert {reply.failed for reply in texts(LocalWriter(str(folder), max_new_tokens=3)).values()} == {"cut_off"}
    writer = LocalWriter(str(folder), max_new_tokens=3)
    ended = torch.tensor([5, writer._tokenizer.eos_token_id, writer._tokenizer.pad_token_id])
    assert writer._reply(ended).failed is None


def test_a_chat_template_is_used_where_there_is_one(folder):
    writer = LocalWriter(str(folder), max_new_tokens=3)
    plain = writer._tokenizer.decode(writer._encode(["Hello"])["input_ids"][0])
    assert plain == "Hello\n\n"
    writer._tokenizer.chat_template = TEMPLATE
    assert writer._tokenizer.decode(writer._encode(["Hello"])["input_ids"][0]) == "<|user|>Hello<|assistant|>"


def test_a_prompt_without_room_is_one_error(folder):
    with pytest.raises(DatasetError, match="a context of 128 tokens, less than a prompt of .* lower --max_new_tokens"):
        texts(LocalWriter(str(folder), max_new_tokens=120))


def test_a_model_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(DatasetError, match="cannot be loaded"):
        LocalWriter(str(tmp_path))


def test_a_model_behind_a_server_answers_every_request_and_the_same_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    command = [sys.executable, str(HERE / "writer_server.py"), "--log", str(tmp_path / "log"), "--model", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            writer = ServerWriter("tiny", base_url=url, concurrency=2, max_new_tokens=12)
            first = texts(writer)
            assert set(first) == set(REQUESTS) and len({reply.text for reply in first.values()}) == 5
            assert texts(writer) == first
        finally:
            process.kill()
    assert len([json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]) == 10
