"""Activations, logits and the cache: the paper's figures, and what autograd keeps in transformers' models."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from knowcap.laws.law import LawError
from knowcap.laws.plan.activations import Shape, shape_of
from knowcap.laws.plan.questions import ask
from knowcap.laws.quantity import figure


GPT3 = {"num_layers": 96, "hidden_size": 12_288, "num_heads": 96, "block_size": 2048}
MT_NLG = {"num_layers": 105, "hidden_size": 20_480, "num_heads": 128, "block_size": 2048}
PAPER = {"training_precision": "bf16-true", "dropout": 0.1}


@pytest.mark.parametrize(("sizes", "scores"), [(GPT3, 80), (MT_NLG, 64)])
def test_a_layer_keeps_what_korthikanti_counts(sizes: dict[str, int], scores: int) -> None:
    """s b h (34 + 5 a s / h), equation 2; 5 a s / h is 80 for GPT-3 and 64 for MT-NLG (section 5)."""
    found = shape_of(**sizes, **PAPER, attn_implementation="eager", per_device_train_batch_size=3)
    assert found is not None
    sbh = found.tokens * found.hidden_size
    assert sum(found.layer_bytes().values()) == sbh * (34 + scores)
    kernel = shape_of(**sizes, **PAPER, per_device_train_batch_size=3)
    assert kernel is not None
    statistics = 4 * found.num_heads * found.tokens  # one float32 a head and token
    assert sum(kernel.layer_bytes().values()) == sbh * 34 + statistics
    full = shape_of(**sizes, **PAPER, gradient_checkpointing="full", per_device_train_batch_size=3)
    assert full is not None
    layers = full.activation_bytes - sum(kernel.layer_bytes().values())
    assert layers == sbh * (
        2 * found.num_layers + 5
    )  # 2 s b h a layer; embedding's mask, last norm, head: section 4.3


# Against what autograd keeps. Small enough for the CPU, wide enough that norms' statistics do not count.

TINY: dict[str, Any] = {"num_layers": 2, "hidden_size": 256, "num_heads": 4, "vocab_size": 500, "block_size": 160}
TINY |= {"per_device_train_batch_size": 2}


def build(shape: Shape, gelu: str = "gelu_pytorch_tanh") -> PreTrainedModel:
    """transformers' own model of the shape."""
    sizes: dict[str, Any] = {
        "vocab_size": int(shape.vocab_size), "use_cache": False, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    attention = shape.attn_implementation
    torch.manual_seed(0)
    if shape.gated:
        sizes |= {
            "num_hidden_layers": int(shape.num_layers), "hidden_size": int(shape.hidden_size),
            "num_attention_heads": int(shape.num_heads), "num_key_value_heads": int(shape.num_key_value_heads),
            "intermediate_size": int(shape.intermediate_size), "max_position_embeddings": int(shape.block_size),
            "attention_dropout": shape.dropout,
        }  # fmt: skip
        model: Any = LlamaForCausalLM._from_config(LlamaConfig(**sizes), attn_implementation=attention)
    else:
        sizes |= {
            "n_layer": int(shape.num_layers), "n_embd": int(shape.hidden_size), "n_head": int(shape.num_heads),
            "n_inner": int(shape.intermediate_size), "n_positions": int(shape.block_size),
            "activation_function": gelu,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout),
        }  # fmt: skip
        model = GPT2LMHeadModel._from_config(GPT2Config(**sizes), attn_implementation=attention)
    if shape.gradient_checkpointing == "full":
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": True})  # the other kind hides its inputs from hooks
    return model.to(torch.bfloat16 if shape.training_precision == "bf16-true" else torch.float32).train()


def loss_of(model: PreTrainedModel, shape: Shape) -> Any:
    ids = torch.randint(0, int(shape.vocab_size), (int(shape.per_device_train_batch_size), int(shape.block_size)))
    mixed = shape.training_precision == "bf16-mixed"
    with torch.autocast("cpu", dtype=torch.bfloat16) if mixed else nullcontext():
        return model(input_ids=ids, labels=ids)


def saved_bytes(shape: Shape, gelu: str = "gelu_pytorch_tanh") -> int:
    """Of what autograd keeps for the backward pass of transformers' model."""
    return kept_by(build(shape, gelu), shape)


def kept_by(model: PreTrainedModel, shape: Shape) -> int:
    """Of the storages that autograd keeps, each once, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # held, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, shape)
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)


def log_probabilities(shape: Shape) -> float:
    """That the loss keeps, in float32: 4 s b v (section 4.3)."""
    return 4 * shape.tokens * shape.vocab_size


def cpu_masks(shape: Shape) -> float:
    """By how much masks on the CPU, of the activations' type, are larger than those of a byte on a GPU."""
    element = 4 if shape.training_precision == "fp32" else 2
    residual = 0 if shape.gated else shape.hidden_size * (2 * shape.num_layers + 1)
    scores = shape.num_layers * shape.num_heads * shape.block_size
    return (element - 1) * shape.tokens * (residual + scores) if shape.dropout else 0.0


KINDS = {
    "gpt2": {},
    "llama": {"architecture": "llama"},
    "grouped queries": {"architecture": "llama", "num_key_value_heads": 2},
    "quarter MLP": {"architecture": "gpt2-quarter-mlp"},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_autograd_keeps_as_many_bytes(kind: str, attention: str, precision: str) -> None:
    """Within 1.5 %: norms' statistics, rotary tables and the masks of attention are not in the formula."""
    shape = shape_of(**TINY, **KINDS[kind], attn_implementation=attention, training_precision=precision)
    assert shape is not None
    expected = shape.activation_bytes + log_probabilities(shape) + shape.copy_bytes
    assert saved_bytes(shape) == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("precision", ["fp32", "bf16-true"])
def test_dropout_keeps_its_masks(precision: str) -> None:
    shape = shape_of(**TINY, dropout=0.1, attn_implementation="eager", training_precision=precision)
    assert shape is not None
    expected = shape.activation_bytes + log_probabilities(shape) + cpu_masks(shape)
    assert saved_bytes(shape) == pytest.approx(expected, rel=0.015)


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while anything refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def peak_bytes(shape: Shape) -> int:
    """The most that is alive at once in a forward and backward pass, but for parameters and their gradients."""
    model = build(shape)
    live = Live()
    for parameter in model.parameters():  # gradients are counted among the 16 bytes a parameter
        parameter.grad = torch.zeros_like(parameter)
        live.seen.add(parameter.untyped_storage())
        live.seen.add(parameter.grad.untyped_storage())
    with live:
        loss_of(model, shape).loss.backward()
    return live.most


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_checkpointing_keeps_the_inputs_of_the_layers(kind: str, precision: str) -> None:
    """2 s b h L at 16 bits (section 5); between forward and backward pass no layer is whole."""
    options = TINY | KINDS[kind] | {"training_precision": precision, "gradient_checkpointing": "full"}
    shape = shape_of(**options)
    assert shape is not None
    head = 2 * shape.head_weights if precision == "bf16-mixed" else 0
    expected = shape.activation_bytes - sum(shape.layer_bytes().values()) + log_probabilities(shape) + head
    assert saved_bytes(shape) == pytest.approx(expected, rel=0.015)


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "sizes",
    [{"vocab_size": 4000}, {"vocab_size": 64, "num_layers": 4, "per_device_train_batch_size": 5}],
    ids=["wide", "deep"],
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_most_that_is_alive_at_once(kind: str, sizes: dict[str, Any], precision: str, checkpointing: str) -> None:
    """Within 7 %, with checkpointing 12 %: where the logits are more (wide) and where the layers are (deep)."""
    options = {"training_precision": precision, "gradient_checkpointing": checkpointing}
    shape = shape_of(**(TINY | sizes), **KINDS[kind], **options)
    assert shape is not None
    assert peak_bytes(shape) == pytest.approx(shape.peak_bytes, rel=0.07 if checkpointing == "none" else 0.12)


@pytest.mark.parametrize("kind", ["gpt2", "grouped queries"])
def test_the_cache_has_the_bytes_of_transformers(kind: str) -> None:
    shape = shape_of(**TINY, **KINDS[kind], training_precision="fp32")
    assert shape is not None
    with torch.no_grad():
        ids = torch.zeros(int(shape.per_device_train_batch_size), int(shape.block_size), dtype=torch.long)
        cache = build(shape).eval()(input_ids=ids, use_cache=True).past_key_values
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert sum(tensor.nbytes for tensor in kept) == shape.cache_bytes("fp32") == 2 * shape.cache_bytes("int4")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "grouped queries"])
def test_the_shape_has_the_parameters_of_transformers(kind: str) -> None:
    shape = shape_of(**(TINY | {"vocab_size": 4000}), **KINDS[kind])
    assert shape is not None
    assert build(shape).num_parameters() == pytest.approx(shape.num_parameters, rel=0.01)  # without biases and norms


def test_gelu_of_many_operations_keeps_three_more_tensors() -> None:
    shape = shape_of(**TINY, training_precision="fp32")
    assert shape is not None
    (note,) = (note for note in shape.notes() if "gelu_new" in note)
    more = 3 * 4 * shape.intermediate_size * shape.tokens * shape.num_layers
    assert f"{figure(more)} bytes more" in note
    assert saved_bytes(shape, "gelu_new") - saved_bytes(shape) == more


def test_gpt_neox_keeps_three_more_tensors_of_the_hidden_size() -> None:
    shape = shape_of(**TINY, training_precision="fp32")
    assert shape is not None
    config = GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=256, num_attention_heads=4, intermediate_size=1024, vocab_size=500,
        max_position_embeddings=160, hidden_act="gelu_pytorch_tanh", use_cache=False, bos_token_id=None,
        eos_token_id=None, use_parallel_residual=False,
    )  # fmt: skip
    model = GPTNeoXForCausalLM._from_config(config, attn_implementation="sdpa").train()
    more = 3 * 4 * shape.hidden_size * shape.tokens * shape.num_layers
    expected = shape.activation_bytes + log_probabilities(shape) + more
    assert kept_by(model, shape) == pytest.approx(expected, rel=0.015)
    assert any(f"{figure(more)} bytes more, for queries" in note for note in shape.notes())


# Answers.


def test_the_answer_adds_up_and_says_what_was_assumed() -> None:
    answer = ask("memory", num_layers=24, hidden_size=2048, num_gpus=4)
    found, shape = answer.results, shape_of(num_layers=24, hidden_size=2048)
    assert shape is not None
    assert found["training_bytes_per_gpu"] == 16 * found["num_parameters"] / 4 + shape.peak_bytes
    assert found["peak_bytes"] == shape.peak_bytes >= found["activation_bytes"] + found["logits_bytes"]
    assert found["cache_bytes"] == 2 * 24 * 2048 * 512 * 2
    [assumed] = [note for note in answer.warnings if note.startswith("assumed: ")]
    for part in ("32 heads", "8,192 wide", "50,257 tokens", "sequences of 512", "one sequence at a time"):
        assert part in assumed
    (row,) = (r for r in answer.table if (r["attention"], r["checkpointing"]) == ("sdpa", "none"))
    assert row["training_on_a_GPU"] == found["training_bytes_per_gpu"]
    given: dict[str, Any] = {"num_heads": 16, "intermediate_size": 8192, "vocab_size": 32_000, "block_size": 2048}
    full = ask("memory", num_layers=24, hidden_size=2048, per_device_train_batch_size=4, **given)
    assert not any(note.startswith("assumed: ") for note in full.warnings)


def test_a_training_counts_activations_where_the_shape_is_known_and_says_where_it_is_not() -> None:
    options: dict[str, Any] = {"num_parameters": 1.3e9, "num_people": 1e6}
    without = ask("train", **options)
    assert "activation_bytes" not in without.results and "without activations, the shape" in without.text()
    sizes: dict[str, Any] = {
        "num_layers": 24,
        "hidden_size": 2048,
        "block_size": 2048,
        "per_device_train_batch_size": 8,
    }
    known = ask("train", **options, **sizes)
    shape = shape_of(**sizes)
    assert shape is not None and known.results["activation_bytes"] == shape.activation_bytes
    assert known.results["training_bytes"] == without.results["training_bytes"] == 16 * 1.3e9
    assert "without activations" not in known.text()
    sizes["per_device_train_batch_size"] = 12
    more = ask("train", **options, **sizes)
    assert not any("or more, with weights" in note for note in known.warnings)
    assert any("or more, with weights" in note for note in more.warnings)
    sizes["per_device_train_batch_size"] = 64
    most = ask("train", **options, **sizes, num_gpus=64)
    assert any("fewer sequences at once" in note for note in most.warnings)


def test_a_shape_of_another_size_is_told() -> None:
    notes = ask("memory", num_layers=24, hidden_size=2048, num_parameters=7e9).warnings
    assert any("has 1.312 billion parameters, not 7 billion" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "num_layers and hidden_size are missing"),
        ({"num_layers": 2, "num_heads": 3}, "num_layers, num_heads without hidden_size: the shape is not known"),
        ({"hidden_size": 64}, "hidden_size without num_layers"),
        ({"num_layers": 2, "hidden_size": 64, "num_heads": 3}, "num_heads=3: does not divide hidden_size=64"),
        (
            {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads=3: does not divide num_heads=4",
        ),
        ({"num_layers": 2.5, "hidden_size": 64}, "num_layers=2.5, expected a whole number"),
        ({"num_layers": 2, "hidden_size": -64}, "hidden_size=-64, expected a finite number above 0"),
        ({"num_layers": 2, "hidden_size": 64, "dropout": 1}, "dropout=1, expected 0 or more and less than 1"),
        ({"num_layers": 2, "hidden_size": 64, "block_size": 1e308}, "block_size=1e.308, expected at most"),
        (
            {"num_layers": 2, "hidden_size": 64, "attn_implementation": "flash"},
            "attn_implementation='flash', expected sdpa or eager",
        ),
        ({"num_layers": 2, "hidden_size": 64, "gradient_checkpointing": "yes"}, "expected none or full"),
        (
            {"num_layers": 2, "hidden_size": 64, "training_precision": "fp16"},
            "expected bf16-mixed or bf16-true or fp32",
        ),
        ({"num_layers": 2, "hidden_size": 64, "architecture": "moe"}, "architecture=moe: activations are counted for"),
        ({"num_layers": 2, "hidden_size": 64, "num_parameters": 0}, "num_parameters=0, expected a finite number"),
    ],
)
def test_a_bad_shape_is_reported(options: dict, message: str) -> None:
    with pytest.raises(LawError, match=message):
        ask("memory", **options)
