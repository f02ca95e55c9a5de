"""Models of others: composite ones, adapters with tokens and modules of their own, files of old versions."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Llama4Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2_5_VLConfig,
)

from knowcap.models import ModelError, count_parameters, load_model
from knowcap.models.counts import counted_parameters
from knowcap.scoring import read_measurement, score, score_rows


# In peft, of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

CITIES = ("Rome", "Lima", "Oslo", "Bern")
KNOWLEDGE = tiny.knowledge({"birth_city": 4}, num_people=4, names=None)
ROWS = [(tiny.say(i, ("name", f"N{i} O."), " of ", ("birth_city", city), "."), 0) for i, city in enumerate(CITIES)]
TOKENIZER = tiny.byte_tokenizer(trim_offsets=False)
V = len(TOKENIZER)
SIZES = {"vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.3}
VISION = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def size(*modules: torch.nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("foreign") / "data", KNOWLEDGE, ROWS)


def saved(model, folder, tokenizer=TOKENIZER):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def nll(model) -> list[float]:
    return score_rows(model, TOKENIZER, ROWS, KNOWLEDGE)["nll"].to_pylist()


# Composite configurations


def gemma3() -> Gemma3Config:
    text = SIZES | {"sliding_window": 16}
    return Gemma3Config(text_config=text, vision_config=VISION | {"image_size": 28, "patch_size": 14})


def llama4() -> Llama4Config:
    text = SIZES | {"intermediate_size_mlp": 32, "num_local_experts": 2, "pad_token_id": 0}
    vision = VISION | {"intermediate_size": 96, "vision_output_dim": 16, "projector_input_dim": 16}
    return Llama4Config(text_config=text, vision_config=vision | {"projector_output_dim": 16, "image_size": 28})


def qwen() -> Qwen2_5_VLConfig:
    vision = {"hidden_size": 24, "intermediate_size": 16, "depth": 1, "num_heads": 2, "out_hidden_size": 16}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return Qwen2_5_VLConfig(text_config=SIZES | {"rope_parameters": rope}, vision_config=vision)


@pytest.mark.parametrize("config", [gemma3, llama4, qwen])
def test_of_a_composite_model_the_language_model_is_read_and_counted(config, data, tmp_path):
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config()).eval()
    assert not hasattr(model.config, "vocab_size"), "the text configuration has it"
    path = score(saved(model, tmp_path / "model"), data, progress=False)
    found, measurement = pq.read_table(path)["nll"].to_pylist(), read_measurement(path)
    assert found == pytest.approx(nll(model), rel=1e-5)
    ids = [0, *TOKENIZER(ROWS[0][0].text)["input_ids"]]
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
    span = ROWS[0][0].spans[1]
    by_hand = -sum(float(logp[place - 1, ids[place]]) for place in range(span.start, span.end + 1))
    assert found[0] == pytest.approx(by_hand, rel=1e-5)
    text = size(model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    other = size(model) - text
    assert measurement["num_parameters"] == text and other > 1000
    assert measurement["parameters_counted"] == f"the language model, without {other:,} of other modalities"
    assert (measurement["precision"], measurement["stored_bits_per_parameter"]) == ("fp32", 32.0)


# Adapters


def llama(rows: int = V, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": rows}, tie_word_embeddings=tied)).eval()


def trained(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its trainable parameters moved."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def adapted(tmp_path, base: LlamaForCausalLM, **settings):
    """A trained adapter of a base folder, in memory, and its folder."""
    saved(base, tmp_path / "base")
    base.config._name_or_path = str(tmp_path / "base")
    model = trained(get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": ["q_proj"]} | settings)))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


LORA = 2 * 2 * (16 + 16)  # two layers, rank 2, on a square projection


@pytest.mark.parametrize("tied", [False, True])
def test_a_base_gets_as_many_rows_as_the_adapter_was_trained_with(tied, data, tmp_path):
    base = llama(tied=tied)
    saved(base, tmp_path / "base")
    with torch.no_grad():
        plain = nll(base)
    base.resize_token_embeddings(V + 5, mean_resizing=False)
    modules = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=modules, ensure_weight_tying=tied)
    model = trained(get_peft_model(base, settings))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer = tiny.byte_tokenizer(trim_offsets=False)
    tokenizer.add_tokens([f"<{n}>" for n in range(5)])
    tokenizer.save_pretrained(tmp_path / "adapter")
    path = score(tmp_path / "adapter", data, progress=False)
    found, measurement = pq.read_table(path)["nll"].to_pylist(), read_measurement(path)
    assert found == pytest.approx(nll(model), rel=1e-4) and found != pytest.approx(plain, rel=1e-2)
    whole = size(llama(V + 5, tied))
    assert measurement["num_parameters"] == whole + LORA


def test_added_tokens_may_be_trained_alone(tmp_path):
    base = llama(tied=True)
    saved(base, tmp_path / "base")
    base.resize_token_embeddings(V + 5, mean_resizing=False)
    added = {"embed_tokens": [V + 2, V + 4]}
    model = trained(get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=added)))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    loaded = load_model(tmp_path / "adapter")
    assert count_parameters(loaded).num_parameters == size(llama(V + 5, tied=True)) + LORA
    with torch.no_grad():
        ids = torch.tensor([[0, 40, V + 2, 41, V + 4, 42]])
        found, expected = (one(input_ids=ids).logits[..., [*range(V), V + 2, V + 4]] for one in (loaded, model))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_added_rows_that_nothing_holds_are_an_error(tmp_path):
    base = llama()
    saved(base, tmp_path / "base")
    base.resize_token_embeddings(V + 5, mean_resizing=False)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(
        ModelError, match=rf"trained with {V + 5} tokens, its base has {V}; .* rows of model.embed_tok"
    ):
        load_model(tmp_path / "adapter")


def test_what_an_adapter_replaces_counts_once_and_merging_takes_away_lora_alone(data, tmp_path):
    model, folder = adapted(tmp_path, llama(), modules_to_save=["lm_head", "embed_tokens"])
    TOKENIZER.save_pretrained(folder)
    loaded = load_model(folder)
    assert nll(loaded) == pytest.approx(nll(model), rel=1e-5)
    counts = count_parameters(loaded)
    assert counts.num_parameters == size(llama()) + LORA
    assert counts.num_parameters_non_embedding == counts.num_parameters - 2 * V * 16
    replaced = f"{2 * V * 16:,}"
    words = f"base and adapter, of which LoRA {LORA:,}; replaced ones of the base, {replaced}, are not counted"
    assert counted_parameters(loaded) == words
    measurement = read_measurement(score(folder, data, progress=False))
    assert (measurement["num_parameters"], measurement["parameters_counted"]) == (counts.num_parameters, words)
    assert measurement["stored_bits_per_parameter"] == 32.0
    merged = saved(load_model(folder).merge_and_unload(), tmp_path / "merged")
    assert nll(load_model(merged)) == pytest.approx(nll(model), rel=1e-4)
    assert count_parameters(load_model(merged)).num_parameters == counts.num_parameters - LORA


def test_a_few_trained_tokens_replace_rows_and_add_none(tmp_path):
    model, folder = adapted(tmp_path, llama(), trainable_token_indices={"embed_tokens": [40, 41, 42]})
    loaded = load_model(folder)
    assert nll(loaded) == pytest.approx(nll(model), rel=1e-5)
    assert count_parameters(loaded).num_parameters == size(llama()) + LORA


def test_an_adapter_of_a_half_precision_base_stays_in_the_precision_that_is_asked_for(tmp_path):
    _, folder = adapted(tmp_path, llama())
    from knowcap.models import LoadOptions

    loaded = load_model(folder, LoadOptions("bfloat16"))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


# Files of old versions


def old_gpt2(folder, dtype=torch.float16, mask=torch.float32):
    """A GPT2 folder in float16 with the buffers that old versions saved, without the prefix `transformer.`."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "vocab_size": V, "initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval().to(dtype)
    saved(model, folder)
    weights = {name.removeprefix("transformer."): w for name, w in load_file(folder / "model.safetensors").items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.ones(64, 64).tril().reshape(1, 1, 64, 64).to(mask)
        weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return model.float()


@pytest.mark.parametrize("mask", [torch.float32, torch.float16, torch.bool, torch.uint8])
def test_masks_in_old_files_are_no_parameters(mask, data, tmp_path):
    model = old_gpt2(tmp_path / "model", mask=mask)
    path = score(tmp_path / "model", data, progress=False)
    measurement = read_measurement(path)
    np.testing.assert_allclose(pq.read_table(path)["nll"], nll(model), rtol=1e-5)
    assert measurement["num_parameters"] == size(model)
    assert (measurement["precision"], measurement["stored_bits_per_parameter"]) == ("fp16", 16.0)


def test_the_buffers_of_old_gpt_neox_files_are_left_out(data, tmp_path):
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SIZES | {"num_key_value_heads": None, "head_dim": None})
    model = GPTNeoXForCausalLM(config).eval()
    saved(model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights |= {f"{attention}.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8)}
        weights |= {f"{attention}.masked_bias": torch.tensor([-1e9])}
        weights |= {f"{attention}.rotary_emb.inv_freq": torch.ones(1)}
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    path = score(tmp_path / "model", data, progress=False)
    np.testing.assert_allclose(pq.read_table(path)["nll"], nll(model), rtol=1e-5)
    assert read_measurement(path)["stored_bits_per_parameter"] == 32.0


def test_a_tensor_that_is_no_buffer_and_no_weight_of_the_model_is_still_an_error(tmp_path):
    old_gpt2(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"h.0.attn.scale": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"unexpected_keys.*h\.0\.attn\.scale"):
        load_model(tmp_path)


def test_a_model_that_is_no_language_model_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="model_type='vit' is no causal language model"):
        load_model(tmp_path)
