"""Every family of models: its sizes by the paper's formulas, its stock parts, what its settings may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from knowcap.cli import main
from knowcap.models import (
    MODEL_FAMILIES,
    ModelError,
    ModelName,
    build_model,
    closed_form_active_parameters,
    closed_form_parameters,
    count_parameters,
    load_model,
    model_config,
    model_problems,
    parse_model_name,
)
from knowcap.models.quiet import quiet_empty_weights


V = 3275  # GPT2's tokens that bioS uses (Part 3.3, App. A)
SIZES = {"vocab_size": V, "block_size": 512}
MIXTURES = [family for family, entry in MODEL_FAMILIES.items() if entry.experts]


def named(family: str, shape: str = "2-2", experts: int = 4) -> str:
    return f"{family}-{shape}-{experts}" if family in MIXTURES else f"{family}-{shape}"


def meta_model(name: str, **settings):
    with torch.device("meta"), quiet_empty_weights():
        return AutoModelForCausalLM.from_config(model_config(name, **(SIZES | settings)))


# PAPER: Part 3.3, sections 2.3, 7 and 9, appendices A, B and D, in d = 64 h; embeddings and norms are added here.
def gpt2_size(layers: int, d: int, mlp: int, biases: int) -> int:
    return layers * (4 * d * d + mlp + biases * d) + 2 * d + V * d


def llama_size(layers: int, d: int, attention: int, mlp: int, rows: int) -> int:
    return layers * (attention + mlp + 2 * d) + d + rows * d


@pytest.mark.parametrize(("layers", "heads"), [(1, 3), (2, 3), (4, 6), (12, 12), (20, 3)])
def test_sizes_are_the_papers_where_three_divides_the_heads(layers, heads):
    d = 64 * heads
    papers = {
        "gpt2-rotary": gpt2_size(layers, d, 8 * d * d, 13),
        "gpt2-rotary-quarter-mlp": gpt2_size(layers, d, 2 * d * d, 10),
        "gpt2-rotary-no-mlp": gpt2_size(layers, d, 0, 9),  # 6 d without what the stock layer keeps
        "llama": llama_size(layers, d, 4 * d * d, 8 * d * d, 2 * V),
        "llama-tied": llama_size(layers, d, 4 * d * d, 8 * d * d, V),
        "llama-plain-mlp": llama_size(layers, d, 4 * d * d, 8 * d * d, V),
        "gpt2-moe": llama_size(layers, d, 4 * d * d, 64 * d * d + 32 * d, V),
    }
    for family, size in papers.items():
        name = named(family, f"{layers}-{heads}", 32)
        assert closed_form_parameters(name, **SIZES) == size, family
        assert count_parameters(meta_model(name)).num_parameters == size, family


@pytest.mark.parametrize(
    ("heads", "keys"), [(1, 1), (2, 1), (3, 3), (4, 1), (5, 5), (6, 3), (7, 7), (8, 2), (10, 5), (12, 3), (20, 5)]
)
def test_mistral_groups_queries_by_the_papers_rule(heads, keys):
    """4 query heads a key head where 4 divides H, one where H is odd, 2 otherwise; an MLP of 10.5 d²."""
    d = 64 * heads
    attention = 2 * d * d + 2 * d * 64 * keys
    assert meta_model(f"mistral-2-{heads}").config.num_key_value_heads == keys
    mistral = count_parameters(meta_model(f"mistral-2-{heads}")).num_parameters
    assert mistral == closed_form_parameters(f"mistral-2-{heads}", **SIZES)
    assert mistral == llama_size(2, d, attention, 21 * d * d // 2, 2 * V)
    mixtral = closed_form_parameters(f"mixtral-2-{heads}-5", **SIZES)
    assert mixtral == llama_size(2, d, attention, 5 * 21 * d * d // 2 + 5 * d, 2 * V)


@pytest.mark.parametrize("family", MODEL_FAMILIES)
@pytest.mark.parametrize("head_dim", [8, 24])
def test_the_closed_form_is_the_size_of_the_model(family, head_dim):
    for heads in (1, 4):
        name = named(family, f"2-{heads}")
        found = count_parameters(meta_model(name, head_dim=head_dim)).num_parameters
        assert found == closed_form_parameters(name, **SIZES, head_dim=head_dim)


@pytest.mark.parametrize(
    ("shape", "millions"),  # Part 3.3, App. A, and its Figure 1
    [("16-8", 52.1), ("6-20", 122.3), ("20-16", 255.3), ("25-20", 496.1), ("12-32", 611.0), ("1-2", 0.618)],
)
def test_gpt2s_sizes_are_those_of_the_figure(shape, millions):
    assert closed_form_parameters(f"gpt2-rotary-{shape}", **SIZES) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_a_small_share_of_the_papers_mixture_is_active():
    """Part 3.3, section 9: (4 + 2) / (4 + 64) of the blocks, 8.8 %, with one expert a token."""
    sizes = {"vocab_size": 1, "block_size": 512}
    active = closed_form_active_parameters("gpt2-moe-8-12-32", **sizes, num_experts_per_tok=1)
    share = active / closed_form_parameters("gpt2-moe-8-12-32", **sizes)
    assert share == pytest.approx(6 / 68, rel=0.01)  # it has norms and routers in it
    two = closed_form_active_parameters("gpt2-moe-8-12-32", **sizes)
    assert two - active == 8 * 2 * 768 * 768
    dense = {"vocab_size": 7, "block_size": 8}
    assert closed_form_active_parameters("llama-2-2", **dense) == closed_form_parameters("llama-2-2", **dense)


@pytest.mark.parametrize("family", MODEL_FAMILIES)
def test_every_family_is_stock_without_dropout_ends_texts_with_token_0_and_trains_all_of_itself(family):
    config = model_config(named(family), vocab_size=61, block_size=24, head_dim=8)
    model = build_model(config, 0)
    assert type(model).__module__.startswith("transformers.models.")
    head, tokens = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is tokens) == (family not in ("llama", "mistral", "mixtral"))
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    assert (config.bos_token_id, config.eos_token_id) == (0, 0)
    assert tokens.shape[0] == 61 and getattr(model.get_input_embeddings(), "padding_idx", None) is None
    assert config.use_cache is False and getattr(config, "sliding_window", None) is None
    ids = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or (p.numel() and not p.grad.any())]
    norm = [f"gpt_neox.layers.{n}.post_attention_layernorm.{part}" for n in (0, 1) for part in ("weight", "bias")]
    assert unused == (norm if family == "gpt2-rotary-no-mlp" else [])


@pytest.mark.parametrize("family", MODEL_FAMILIES)
def test_every_family_is_loaded_as_it_was_saved(family, tmp_path):
    model = build_model(model_config(named(family), vocab_size=61, block_size=24, head_dim=8), 0).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(24).reshape(1, 24)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(ids).logits, model(ids).logits)


def test_rotary_families_but_gpt2s_rotate_whole_heads_with_one_base():
    for family, entry in MODEL_FAMILIES.items():
        if entry.stock not in ("GPT2", "GPTNeoX"):
            model = build_model(model_config(named(family), vocab_size=7, block_size=8, head_dim=16), 0)
            expected = 10_000.0 ** -(torch.arange(0, 16, 2) / 16)
            assert torch.allclose(model.model.rotary_emb.inv_freq, expected)


def test_the_plain_mlp_is_llamas_without_the_gate():
    """The same attention and norms by name and shape; the MLP is down(silu(up(x)))."""
    plain = build_model(model_config("llama-plain-mlp-1-2", vocab_size=7, block_size=8), 0)
    gated = build_model(model_config("llama-tied-1-2", vocab_size=7, block_size=8), 0)
    shapes = [{n: p.shape for n, p in m.named_parameters() if ".mlp." not in n} for m in (plain, gated)]
    assert shapes[0] == shapes[1]
    mlp, x = plain.model.layers[0].mlp, torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    expected = functional.silu(x @ mlp.up_proj.weight.T) @ mlp.down_proj.weight.T
    assert torch.allclose(mlp(x), expected, atol=1e-6)


def test_a_block_without_an_mlp_adds_attention_and_a_bias_alone():
    model = build_model(model_config("gpt2-rotary-no-mlp-1-2", vocab_size=7, block_size=8), 0).eval()
    layer = model.gpt_neox.layers[0]
    with torch.no_grad():
        layer.mlp.dense_4h_to_h.bias.fill_(0.5)
        before = torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
        assert torch.equal(layer.mlp(before), torch.full((1, 8, 128), 0.5))


@pytest.mark.parametrize(
    ("family", "activation"),
    [
        ("gpt2-rotary", "gelu_new"),
        ("gpt2-moe", "gelu_new"),
        ("llama", "silu"),
        ("mistral", "silu"),
        ("mixtral", "silu"),
    ],
)
def test_the_activation_is_the_familys_unless_another_is_asked_for(family, activation):
    assert model_config(named(family), **SIZES).hidden_act == activation
    assert model_config(named(family), **SIZES, activation="relu").hidden_act == "relu"


def test_names_of_mixtures_say_experts():
    assert parse_model_name("mixtral-2-4-8") == ModelName("mixtral", 2, 4, 8)
    assert parse_model_name("gpt2-moe-2-4-32") == ModelName("gpt2-moe", 2, 4, 32)


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"model_name": "mixtral-2-2-4", "num_experts_per_tok": 5}, "expected 1 to 4, the experts of mixtral-2-2-4"),
        ({"model_name": "mixtral-2-2-4", "num_experts_per_tok": 0}, "expected 1 to 4"),
        ({"model_name": "mixtral-2-2-4", "router_aux_loss_coef": -1.0}, "expected 0 or more"),
        ({"model_name": "mixtral-2-3-4", "head_dim": 4}, "hidden size of 12; expected a multiple of 8"),
        ({"model_name": "llama-2-2", "head_dim": 7}, "head_dim=7; expected an even number"),
    ],
)
def test_what_a_family_cannot_be_is_reported(settings, reported):
    (problem,) = model_problems(**({"head_dim": 64} | settings))
    assert reported in problem
    with pytest.raises(ModelError, match=reported):
        model_config(**(SIZES | settings))


def test_the_command_lists_every_family_with_its_parameters(capsys):
    assert main(["ls", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for family in MODEL_FAMILIES:
        (line,) = [line for line in lines if line.startswith(f"{family}-L-H")]
        name = named(family, "12-12", 32)
        assert f"{count_parameters(meta_model(name)).num_parameters:,}" in line
    assert sum("in the paper: " in line for line in lines) == len(MODEL_FAMILIES)
