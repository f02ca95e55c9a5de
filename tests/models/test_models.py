"""Names, parameter counts, initialisation and loading of models."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from knowcap.models import (
    ACTIVATIONS,
    MODEL_FAMILIES,
    ModelError,
    ModelName,
    build_model,
    closed_form_parameters,
    count_parameters,
    load_model,
    load_tokenizer,
    model_config,
    model_problems,
    parse_model_name,
)


TINY = {"vocab_size": 61, "block_size": 24, "head_dim": 8}


def meta_model(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(params=["gpt2-2-2", "gpt2-rotary-2-2"])
def config(request):
    return model_config(request.param, **TINY)


def test_names_say_family_layers_and_heads():
    assert parse_model_name("gpt2-12-16") == ModelName("gpt2", 12, 16)
    assert parse_model_name("gpt2-rotary-2-3") == ModelName("gpt2-rotary", 2, 3)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("gpt2-rotay-2-4", "gpt2-rotary-2-4"),
        ("GPT2-2-4", "gpt2-2-4"),
        ("gpt2_2_4", "gpt2-2-4"),
        ("gpt2-02-4", "gpt2-2-4"),
        ("gpt-2-4", "gpt2-2-4"),
        ("gpt2-0-4", "gpt2-1-4"),
        ("gpt2-2-4-8", "gpt2-2-4"),
        ("mixtral-2-4", "mixtral-2-4-E"),
        ("mixtral-2-4-0", "mixtral-2-4-1"),
        ("mixtral", "mixtral-L-H-E"),
        ("lama-2-4", "llama-2-4"),
        ("gpt2-rotary-3-0", "gpt2-rotary-3-1"),
        ("gpt2", "gpt2-L-H"),
        ("gpt2-4", "gpt2-L-H"),
        ("rotary", "gpt2-rotary-L-H"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_one_and_all_known(wrong, meant):
    with pytest.raises(ModelError, match="did you mean") as raised:
        parse_model_name(wrong)
    assert f"did you mean {meant}?" in str(raised.value)
    assert all(f"{family}-L-H" in str(raised.value) for family in MODEL_FAMILIES)


def test_all_problems_of_a_model_are_reported_at_once():
    problems = model_problems(model_name="gpt2-rotary-2-2", head_dim=6, rotary_fraction=0.5, activation="gelu_neu")
    assert len(problems) == 2
    assert "3 rotating dimensions" in problems[0] and "rotary_fraction=0.666667 rotates 4" in problems[0]
    assert "did you mean gelu_new" in problems[1]
    assert len(model_problems(model_name="gtp2-2", head_dim=0, activation="none")) == 3
    assert model_problems(model_name="gpt2-rotary-2-2", head_dim=64) == []


def test_the_rotary_fraction_that_a_problem_proposes_is_accepted_and_rotates_what_it_says():
    for head_dim in range(2, 129):
        for fraction in (0.3, 0.5, 0.7, 0.999):
            for problem in model_problems(model_name="gpt2-rotary-2-2", head_dim=head_dim, rotary_fraction=fraction):
                proposed, dimensions = re.search(r"rotary_fraction=(\S+) rotates (\d+)$", problem).groups()
                assert int(head_dim * float(proposed)) == int(dimensions)  # as transformers truncates
                assert not model_problems(
                    model_name="gpt2-rotary-2-2", head_dim=head_dim, rotary_fraction=float(proposed)
                )


@pytest.mark.parametrize(
    ("head_dim", "fraction", "good"),
    [(64, 0.25, True), (16, 0.25, True), (8, 1.0, True), (48, 0.125, True), (60, 0.1, True), (8, 0.125, False)]
    + [(8, 0.01, False), (12, 0.25, False), (7, 0.5, False), (1, 1.0, False)]
    + [(8, 1.25, False), (8, -0.25, False), (8, 0.0, False), (8, float("nan"), False)],
)
def test_a_rotary_head_rotates_an_even_number_of_dimensions(head_dim, fraction, good):
    settings = {"head_dim": head_dim, "rotary_fraction": fraction}
    assert (model_problems(model_name="gpt2-rotary-2-2", **settings) == []) is good
    assert model_problems(model_name="gpt2-2-2", **settings) == []


def test_the_suggested_rotary_fraction_is_accepted():
    for head_dim in range(2, 70):
        for fraction in (0.01, 0.3, 0.99):
            problems = model_problems(model_name="gpt2-rotary-2-2", head_dim=head_dim, rotary_fraction=fraction)
            dims = [int(problem.split(" rotates ")[1]) for problem in problems]
            assert all(d % 2 == 0 and 2 <= d <= head_dim for d in dims)


def test_sizes_without_a_model_are_reported_together():
    with pytest.raises(ModelError, match=r"vocab_size=0.*block_size=-1.*initializer_range=0"):
        model_config("gpt2-2-2", vocab_size=0, block_size=-1, initializer_range=0)


def test_the_known_activations_are_those_of_transformers_that_have_no_parameters():
    without = {name for name in ACT2FN if name not in ("prelu", "xielu")}
    assert set(ACTIVATIONS) == without
    assert not any(list(ACT2FN[name].parameters()) for name in without)


@pytest.mark.parametrize(
    ("model_name", "paper"),  # sizes of the paper's Figure 1(a), 3275 tokens in use
    [("2-2", 816_000), ("3-2", 1_014_272), ("2-3", 1_518_912), ("8-4", 7_156_992), ("12-12", 87_571_200)],
)
def test_sizes_are_the_papers(model_name, paper):
    name = f"gpt2-rotary-{model_name}"
    assert closed_form_parameters(name, vocab_size=3275, block_size=512) == paper
    model = meta_model(model_config(name, vocab_size=3275, block_size=512))
    assert count_parameters(model).num_parameters == paper


@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("model_name", ["gpt2-1-1", "gpt2-3-2", "gpt2-rotary-1-3", "gpt2-rotary-2-5"])
def test_the_closed_form_is_the_size_of_the_model(model_name, head_dim):
    sizes = {"vocab_size": 997, "block_size": 96, "head_dim": head_dim}
    counts = count_parameters(meta_model(model_config(model_name, **sizes)))
    assert counts.num_parameters == closed_form_parameters(model_name, **sizes)


def test_counts_leave_out_embeddings_and_unused_rows():
    d, v, positions = 16, 61, 24
    blocks = 2 * (12 * d * d + 13 * d) + 2 * d
    learned = count_parameters(meta_model(model_config("gpt2-2-2", **TINY)), used_vocabulary=50)
    assert learned.num_parameters_non_embedding == blocks
    assert learned.num_parameters_used_vocabulary == blocks + 50 * d + positions * d
    rotary = count_parameters(meta_model(model_config("gpt2-rotary-2-2", **TINY)))
    assert rotary.num_parameters_non_embedding == blocks
    assert rotary.num_parameters_used_vocabulary == rotary.num_parameters == blocks + v * d


def test_an_untied_head_counts_as_embedding_and_loses_its_unused_rows_too():
    d, v = 16, 61
    sizes = {"hidden_size": d, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    counts = count_parameters(meta_model(LlamaConfig(vocab_size=v, **sizes)), used_vocabulary=41)
    blocks = 4 * d * d + 3 * 32 * d + 2 * d + d
    assert counts.num_parameters == blocks + 2 * v * d
    assert counts.num_parameters_non_embedding == blocks
    assert counts.num_parameters_used_vocabulary == blocks + 2 * 41 * d


@pytest.mark.parametrize("used", [0, 62])
def test_used_vocabulary_must_be_rows_of_the_model(config, used):
    with pytest.raises(ModelError, match="expected 1 to 61"):
        count_parameters(meta_model(config), used_vocabulary=used)


def test_building_is_deterministic_and_leaves_the_global_random_state_alone(config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build_model(config, 3), build_model(config, 3), build_model(config, 4)
    assert torch.equal(before, torch.get_rng_state())
    pairs = [(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_models_are_stock_tied_without_dropout_and_end_texts_with_token_0(config):
    model = build_model(config, 0)
    assert type(model).__module__.startswith("transformers.models.")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    assert config.attn_pdrop == 0 if config.model_type == "gpt2" else config.attention_dropout == 0
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 0)
    assert config.use_cache is False
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_quarter_of_each_head_rotates_unless_asked_otherwise():
    model = build_model(model_config("gpt2-rotary-1-2", vocab_size=7, block_size=8, head_dim=16), 0)
    assert model.gpt_neox.rotary_emb.inv_freq.shape == (2,)
    whole = model_config("gpt2-rotary-1-2", vocab_size=7, block_size=8, head_dim=16, rotary_fraction=1.0)
    assert build_model(whole, 0).gpt_neox.rotary_emb.inv_freq.shape == (8,)


@pytest.mark.parametrize("family", ["gpt2", "gpt2-rotary"])
def test_projections_into_the_residual_stream_start_smaller_by_the_root_of_twice_the_layers(family):
    sizes = {"vocab_size": 61, "block_size": 24, "head_dim": 64, "initializer_range": 0.1}
    model = build_model(model_config(f"{family}-8-2", **sizes), 0)
    stds = {name: p.std().item() for name, p in model.named_parameters() if p.dim() == 2}
    residual = {name: s for name, s in stds.items() if any(k in name for k in ("c_proj", "dense.w", "dense_4h_to_h"))}
    assert len(residual) == 16
    assert all(s == pytest.approx(0.1 / 4, rel=0.03) for s in residual.values())
    assert all(s == pytest.approx(0.1, rel=0.05) for name, s in stds.items() if name not in residual)


def test_the_rotary_model_is_gpt2_but_for_the_positions():
    """The same weights, GPT2's positions zero and no rotation (all tokens at position 0): the same logits.

    The mask is given because transformers takes position ids that don't rise for several packed texts.
    """
    sizes = {"vocab_size": 61, "block_size": 24, "head_dim": 8, "initializer_range": 0.3}
    gpt2 = build_model(model_config("gpt2-2-2", **sizes), 0).eval()
    rotary = build_model(model_config("gpt2-rotary-2-2", **sizes), 1).eval()
    names = {"attn.c_proj": "attention.dense", "mlp.c_fc": "mlp.dense_h_to_4h", "mlp.c_proj": "mlp.dense_4h_to_h"}
    with torch.no_grad():
        gpt2.transformer.wpe.weight.zero_()
        rotary.gpt_neox.embed_in.weight.copy_(gpt2.transformer.wte.weight)
        for block, layer in zip(gpt2.transformer.h, rotary.gpt_neox.layers, strict=True):
            for conv, linear in names.items():
                layer.get_submodule(linear).weight.copy_(block.get_submodule(conv).weight.T)
            # c_attn holds all q, all k, all v; query_key_value holds q, k, v of head 0, then of head 1
            qkv = block.attn.c_attn.weight.T.reshape(3, 2, 8, 16).transpose(0, 1).reshape(48, 16)
            layer.attention.query_key_value.weight.copy_(qkv)
        ids = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(0))
        found = rotary(ids, attention_mask=torch.ones_like(ids), position_ids=torch.zeros_like(ids)).logits
        assert torch.allclose(found, gpt2(ids).logits, atol=1e-5)
        assert found.std() > 0.1


def test_a_saved_model_is_loaded_in_float32_for_evaluation(config, tmp_path):
    model = build_model(config, 0)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training and loaded.config.use_cache is False
    expected = model.to(torch.float32).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_the_error_for_a_folder_without_a_model_lists_what_it_holds(tmp_path):
    with pytest.raises(ModelError, match="is not a folder"):
        load_model(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"no config.json and no \*.safetensors; it has notes.txt"):
        load_model(tmp_path)


def test_missing_weights_are_an_error_and_never_random(config, tmp_path):
    build_model(config, 0).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.endswith(("c_fc.weight", "dense_h_to_4h.weight")))
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=lost):
        load_model(tmp_path)


def test_weights_of_more_layers_than_the_config_has_are_an_error(config, tmp_path):
    build_model(config, 0).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["n_layer" if config.model_type == "gpt2" else "num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match="unexpected_keys"):
        load_model(tmp_path)


def test_the_tokenizer_comes_back_as_it_was_beside_any_models_config(config, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1, "b": 2, "-": 3}, unk_token="-"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("b", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    with pytest.raises(ModelError, match="no tokenizer.json; it has no files"):
        load_tokenizer(tmp_path)
    config.save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast) and loaded.is_fast
    encoded = loaded("abba", return_offsets_mapping=True)
    assert encoded["input_ids"] == [1, 2, 2, 1] and encoded["offset_mapping"][1] == (1, 2)


def test_checking_names_and_sizes_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from knowcap.models import model_problems, closed_form_parameters as size;"
        "model_problems(model_name='gpt2-2-2', head_dim=64); size('gpt2-2-2', vocab_size=9, block_size=8);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    source = Path(__file__).parents[2] / "src"
    environment = {"PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
