"""int8 and int4 copies of models: exact values, coverage, bits, reloading, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MixtralConfig

from knowcap.files import FileError
from knowcap.models import ModelError, build_model, count_parameters, load_model, model_config
from knowcap.models.quantized import layers, quanto
from knowcap.models.quantized import stage as quantize_module
from knowcap.models.quantized.format import stored_bits
from knowcap.models.quantized.layers import linearize
from knowcap.models.quantized.stage import quantize
from knowcap.sealed import read_result


V, BLOCK, GROUP = 61, 24, 32
# Inputs of 160, which quanto itself would cut into groups of 32, and of 640, which it would into groups of 128.
WIDE_MODELS = ("gpt2-2-5", "gpt2-rotary-2-5")
WIDE = {"vocab_size": V, "block_size": BLOCK, "head_dim": 32, "initializer_range": 0.2}
NARROW = {"vocab_size": V, "block_size": BLOCK, "head_dim": 8, "initializer_range": 0.2}
TRAINING = {"model_name": "tiny", "used_token_ids": 50}


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(TRAINING))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "nll.parquet").write_text("measured of the original")
    return folder


@pytest.fixture
def narrow(tmp_path):
    return save(build_model(model_config("gpt2-2-2", **NARROW), 0), tmp_path / "model")


@pytest.fixture(scope="module")
def wides(tmp_path_factory):
    """Models with noisy biases and layer norms, and their int8 and int4 copies."""
    return {name: copies_of(name, tmp_path_factory.mktemp(name)) for name in WIDE_MODELS}


@pytest.fixture(params=WIDE_MODELS)
def wide(request, wides):
    """One of these models, and its copies."""
    return wides[request.param]


def copies_of(name: str, root: Path) -> dict[int, Path]:
    """A model's folder, and those of its copies by bits."""
    model = build_model(model_config(name, **WIDE), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    folder = save(model, root / "model")
    return {0: folder, **{bits: quantize(folder, root / "quantized" / f"int{bits}", bits) for bits in (8, 4)}}


def linear_weights(folder: Path) -> dict[str, np.ndarray]:
    """The block weights of an unquantized folder as (outputs, inputs), read from the file."""
    weights = {name: t.numpy() for name, t in load_file(folder / "model.safetensors").items() if ".weight" in name}
    inside = {name: w for name, w in weights.items() if w.ndim == 2 and (".h." in name or ".layers." in name)}
    return {name: w.T if ".h." in name else w for name, w in inside.items()}


def dequantized(folder: Path) -> dict[str, np.ndarray]:
    weights = dict(load_model(folder).named_parameters())
    return {name: p.dequantize().detach().numpy() for name, p in weights.items() if quanto.is_quantized(p)}


def reference_int8(weight: np.ndarray) -> np.ndarray:
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return scale * np.clip(np.rint(weight / scale), -127, 127).astype(np.float32)


def reference_int4(weight: np.ndarray, group: int = GROUP) -> tuple[np.ndarray, np.ndarray]:
    """Values and steps, groups of one row each: 16 even steps from least to greatest."""
    groups = weight.reshape(-1, group)
    low = groups.min(axis=1, keepdims=True)
    step = (groups.max(axis=1, keepdims=True) - low) / np.float32(15)
    values = step * np.clip(np.rint((groups - low) / step), 0, 15).astype(np.float32) + low
    return values.reshape(weight.shape), np.broadcast_to(step, groups.shape).reshape(weight.shape)


def reference_symmetric_int4(weight: np.ndarray) -> np.ndarray:
    """Steps of absmax / 7 around zero, -8 to 7 of them, whole rows."""
    step = np.abs(weight).max(axis=1, keepdims=True) / np.float32(7)
    return step * np.clip(np.rint(weight / step), -8, 7).astype(np.float32)


def test_int8_weights_are_those_of_an_independent_quantizer(wide):
    original, found = linear_weights(wide[0]), dequantized(wide[8])
    assert len(found) == 8 and found.keys() == original.keys()
    for name, weight in original.items():
        assert np.array_equal(found[name], reference_int8(weight)), name
        step = np.abs(weight).max(axis=1, keepdims=True) / 127
        assert (np.abs(found[name] - weight) <= 0.501 * step).all()


def test_int4_weights_are_those_of_an_independent_quantizer(wide):
    original, found = linear_weights(wide[0]), dequantized(wide[4])
    assert len(found) == 8 and found.keys() == original.keys()
    for name, weight in original.items():
        values, step = reference_int4(weight)
        assert np.array_equal(found[name], values), name
        assert (np.abs(found[name] - weight) <= 0.501 * step).all()


def test_one_int4_group_size_holds_for_layers_of_all_widths(wide):
    record = json.loads((wide[4] / "quantization.json").read_text())
    assert record["group_size"] == GROUP and record["symmetric"] is False
    modules = [m for m in load_model(wide[4]).modules() if hasattr(m, "weight_group_size")]
    assert {m.in_features for m in modules} == {160, 640}
    assert {m.weight_group_size for m in modules} == {GROUP}
    record = json.loads((wide[8] / "quantization.json").read_text())
    assert record["group_size"] is None and record["symmetric"] is True


@pytest.mark.parametrize(("asked", "group"), [(0, None), (20, 20), (160, 160)])
def test_any_group_size_that_divides_rows_can_be_had(asked, group, wide, tmp_path):
    made = quantize(wide[0], tmp_path / "q", 4, group_size=asked)
    for name, weight in linear_weights(wide[0]).items():
        values, _ = reference_int4(weight, group or weight.shape[1])
        assert np.array_equal(dequantized(made)[name], values), name
    assert json.loads((made / "quantization.json").read_text())["group_size"] == group


def test_a_group_size_that_does_not_divide_is_an_error_that_names_the_layers(wide, tmp_path):
    (wide[0] / "model.safetensors").rename(tmp_path / "kept.safetensors")
    (wide[0] / "model.safetensors").write_text("never read")
    try:
        with pytest.raises(ModelError, match=r"group_size=128 does not divide the rows of .*\(160\).*or 0 for"):
            quantize(wide[0], tmp_path / "q", 4, group_size=128)
    finally:
        (tmp_path / "kept.safetensors").rename(wide[0] / "model.safetensors")


def test_symmetric_int4_weights_are_those_of_an_independent_quantizer(wide, tmp_path):
    made = quantize(wide[0], tmp_path / "q", 4, symmetric=True, group_size=0)
    for name, values in dequantized(made).items():
        expected = reference_symmetric_int4(linear_weights(wide[0])[name])
        assert np.mean(np.isclose(values, expected, atol=1e-6)) > 0.9999, name  # a tie may round either way
        assert np.allclose(values, expected, atol=np.abs(expected).max() / 6)
    assert json.loads((made / "quantization.json").read_text())["symmetric"] is True


@pytest.mark.parametrize("bits", [8, 4])
def test_embeddings_are_quantized_if_asked_for_and_a_tied_head_shares_them(bits, wide, tmp_path):
    made = quantize(wide[0], tmp_path / "q", bits, embeddings=True)
    model, before = load_model(made), load_model(wide[0])
    tables = {n: m.weight.detach().numpy() for n, m in before.named_modules() if isinstance(m, torch.nn.Embedding)}
    found = dequantized(made)
    assert len(tables) in (1, 2) and len(found) == 8 + len(tables)
    for name, table in tables.items():
        expected = reference_int8(table) if bits == 8 else reference_int4(table)[0]
        assert np.array_equal(found[f"{name}.weight"], expected)
        ids = torch.arange(5)
        assert np.array_equal(model.get_submodule(name)(ids).detach().numpy(), expected[:5])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    record = json.loads((made / "quantization.json").read_text())
    assert record["embeddings"] is True and record["excluded"] == []
    quantized_numbers = sum(w.size for w in found.values())
    assert record["quantized_fraction_all"] == pytest.approx(
        quantized_numbers / count_parameters(before).num_parameters
    )
    assert count_parameters(model) == count_parameters(before)


def test_layers_left_out_by_wish_stay_as_they_were(wide, tmp_path):
    made = quantize(wide[0], tmp_path / "q", 4, exclude=("*.mlp.*",))
    record, original = json.loads((made / "quantization.json").read_text()), linear_weights(wide[0])
    mlp = {name for name in original if ".mlp." in name}
    assert dequantized(made).keys() == original.keys() - mlp
    assert record["quantized_fraction"] == pytest.approx(1 / 3)  # 4 d^2 of 12 d^2
    assert {name.removesuffix(".weight") for name in mlp} <= set(record["excluded"])
    with pytest.raises(ModelError, match="no layer matches \\*.mpl"):
        quantize(wide[0], tmp_path / "p", 4, exclude=("*.mpl",))


def test_all_but_block_weights_is_stored_as_it_was(wide):
    original = load_file(wide[0] / "model.safetensors")
    blocks = linear_weights(wide[0]).keys()
    for bits in (8, 4):
        stored = load_file(wide[bits] / "quanto.safetensors")
        kept = [name for name in original if name not in blocks]
        assert all(torch.equal(stored[name], original[name]) for name in kept)
        parts = {"_data", "_scale"} if bits == 8 else {"_data._data", "_scale", "_shift"}
        assert set(stored) == set(kept) | {f"{name}.{part}" for name in blocks for part in parts}
        model = load_model(wide[bits])
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_stored_bits_are_those_of_the_file(wide):
    count = count_parameters(load_model(wide[0])).num_parameters
    assert stored_bits(load_model(wide[0])) == 32 * count
    for bits in (8, 4):
        tensors = load_file(wide[bits] / "quanto.safetensors").values()
        expected = sum(8 * t.numel() * t.element_size() for t in tensors) / count
        record = json.loads((wide[bits] / "quantization.json").read_text())
        assert record["stored_bits_per_parameter"] == pytest.approx(expected, rel=1e-12)
        assert stored_bits(load_model(wide[bits])) / count == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bits", [8, 4])
def test_stored_bits_by_hand(bits, tmp_path):
    """gpt2-1-1 of width 8: groups are whole rows; one scale (int4: and shift) for each of 3d + d + 4d + d outputs."""
    d = 8
    folder = save(build_model(model_config("gpt2-1-1", **NARROW), 0), tmp_path / "model")
    made = json.loads((quantize(folder, tmp_path / "q", bits, group_size=0) / "quantization.json").read_text())
    weights, outputs, norms, embeddings = 12 * d * d, 9 * d, 6 * d, (V + BLOCK) * d
    stored = bits * weights + 32 * (outputs * (1 if bits == 8 else 2) + outputs + norms + embeddings)
    total = weights + outputs + norms + embeddings
    assert made["stored_bits_per_parameter"] == pytest.approx(stored / total, rel=1e-12)
    assert made["quantized_fraction"] == 1
    assert made["quantized_fraction_all"] == pytest.approx(weights / total)
    assert made["num_parameters"] == total == 12 * d * d + 13 * d + 2 * d + (V + BLOCK) * d
    assert made["num_parameters_non_embedding"] == total - embeddings
    assert made["num_parameters_used_vocabulary"] == total - (V - 50) * d
    assert made["excluded"] == ["transformer.wte", "transformer.wpe", "lm_head"]
    assert (made["method"], made["bits"], made["symmetric"]) == ("quanto", bits, bits == 8)


def test_a_quantized_model_counts_the_parameters_of_its_original(wide):
    counts = [count_parameters(load_model(wide[bits]), 50) for bits in (0, 8, 4)]
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_on_the_grid_survive_exactly(bits, tmp_path):
    """Weights k / 128 with an absmax of 127 / 128 (int4: k / 16 from -8 to 7) lose nothing, nor do constant rows."""
    model = build_model(model_config("gpt2-rotary-2-2", **NARROW), 0)
    generator = torch.Generator().manual_seed(0)
    low, high, unit = (-127, 127, 1 / 128) if bits == 8 else (-8, 7, 1 / 16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layers" in name and p.dim() == 2:
                p.copy_(unit * torch.randint(low, high + 1, p.shape, generator=generator))
                p[:, 0], p[:, 1] = unit * low, unit * high
                p[1] = 0  # a dead output: scale 0
                p[2] = unit * 3 if bits == 4 else 0  # a constant one, which only an affine grid holds exactly
    made = load_model(quantize(save(model, tmp_path / "model"), tmp_path / "q", bits, group_size=0))
    ids = torch.arange(V).reshape(1, V)[:, :BLOCK]
    with torch.no_grad():
        expected, found = model.eval()(ids).logits, made(ids).logits
    assert expected.std() > 0.1 and torch.allclose(found, expected, atol=1e-5)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2}
    assert all(np.array_equal(w, weights[name]) for name, w in dequantized(tmp_path / "q").items())


def test_linearize_keeps_what_the_model_computes():
    model = build_model(model_config("gpt2-2-2", **NARROW), 0).eval()
    ids = torch.randint(V, (3, BLOCK), generator=torch.Generator().manual_seed(0))
    conv = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        expected = model(ids).logits
        names = linearize(model)
        assert torch.allclose(model(ids).logits, expected, atol=1e-6)
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert sorted(names) == [f"transformer.h.{i}.{layer}" for i in range(2) for layer in layers]
    assert all(torch.equal(model.get_submodule(name).weight, conv[f"{name}.weight"].T) for name in names)
    assert linearize(model) == []


def test_layers_that_quanto_would_leave_out_are_an_error_that_names_them(narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize_module, "linearize", lambda model: [])
    with pytest.raises(ModelError, match=r"0.0% of the block.*transformer.h.0.attn.c_attn.weight \(768\)"):
        quantize(narrow, tmp_path / "q", 8)
    monkeypatch.setattr(quantize_module, "_check_architecture", lambda *_: None)  # so the look after quantizing
    with pytest.raises(ModelError, match="transformer.h.1.mlp.c_proj.weight"):
        quantize(narrow, tmp_path / "q", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_fused_experts_of_another_layout_are_refused_before_weights_are_loaded(tmp_path, monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=V, num_key_value_heads=2, num_local_experts=4, **sizes)
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_text("never read")
    monkeypatch.setattr(layers, "_fused", lambda module: False)
    with pytest.raises(ModelError, match="layers.0.mlp.experts.gate_up_proj"):
        quantize(tmp_path / "model", tmp_path / "q", 4, group_size=0)


def test_a_rewrite_that_computes_something_else_is_an_error(narrow, tmp_path, monkeypatch):
    true = layers._linear
    monkeypatch.setattr(layers, "_linear", lambda weight, bias=None: true(weight * 1.01, bias))
    with pytest.raises(ModelError, match="GPT2LMHeadModel: its layers give other outputs as nn.Linear"):
        quantize(narrow, tmp_path / "q", 8)


# torch warns that there is nothing to initialise.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_without_mlps_is_quantized_too(bits, tmp_path):
    config = GPTNeoXConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=0, rotary_pct=0.5
    )
    model = AutoModelForCausalLM.from_config(config)
    made = json.loads(
        (quantize(save(model, tmp_path / "m"), tmp_path / "q", bits, group_size=0) / "quantization.json").read_text()
    )
    assert made["quantized_fraction"] == 1
    assert made["excluded"] == ["gpt_neox.embed_in", "lm_head"], "an empty layer has no weights to leave out"


def test_int8_hardly_changes_the_logits_and_int4_changes_them_more(wide):
    ids = torch.arange(BLOCK).reshape(1, BLOCK)
    with torch.no_grad():
        exact, int8, int4 = (load_model(wide[bits])(ids).logits for bits in (0, 8, 4))
    assert 0 < (int8 - exact).std() < 0.05 * exact.std()
    assert (int8 - exact).std() * 5 < (int4 - exact).std() < exact.std()


def test_a_folder_has_all_that_the_next_stage_reads_and_no_old_measurement(wide):
    names = {p.name for p in wide[8].iterdir()}
    assert names >= {"config.json", "quanto.safetensors", "quantization.json"}
    assert names >= {"training.json", "tokenizer.json"} and "nll.parquet" not in names
    assert (wide[8] / "training.json").read_text() == json.dumps(TRAINING)


def test_a_whole_output_is_kept_unless_overwritten(narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 8)
    (made / "nll.parquet").write_text("measured of the copy")
    assert quantize(narrow, tmp_path / "q", 8) == made and (made / "nll.parquet").exists()
    quantize(narrow, tmp_path / "q", 4, group_size=0, overwrite=True)
    assert not (made / "nll.parquet").exists()
    assert json.loads((made / "quantization.json").read_text())["bits"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "q"]


def test_an_output_of_other_bits_or_of_another_training_is_not_taken_for_done(narrow, tmp_path):
    quantize(narrow, tmp_path / "q", 8)
    with pytest.raises(ModelError, match="bits=8, expected 4; group_size=None, expected 16"):
        quantize(narrow, tmp_path / "q", 4, group_size=16)
    with pytest.raises(ModelError, match="embeddings=False, expected True; .*--overwrite"):
        quantize(narrow, tmp_path / "q", 8, embeddings=True)
    (narrow / "training.json").write_text(json.dumps(TRAINING | {"seed": 1}))
    with pytest.raises(ModelError, match="another training run"):
        quantize(narrow, tmp_path / "q", 8)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(overwrite, narrow, tmp_path):
    for folder in (narrow, tmp_path):
        with pytest.raises(ModelError, match="is not a quantized model"):
            quantize(narrow, folder, 8, overwrite=overwrite)
    assert (narrow / "model.safetensors").exists()


@pytest.mark.parametrize("bits", [2, 16, 0, "8", None])
def test_other_bits_are_refused(bits, tmp_path):
    with pytest.raises(ModelError, match="expected 8 or 4"):
        quantize(tmp_path, tmp_path / "q", bits)


def test_folders_without_an_unquantized_model_are_refused(narrow, tmp_path):
    with pytest.raises(ModelError, match="is not a folder"):
        quantize(tmp_path / "none", tmp_path / "q", 8)
    with pytest.raises(ModelError, match="no config.json"):
        quantize(tmp_path, tmp_path / "q", 8)
    made = quantize(narrow, tmp_path / "int8", 8)
    with pytest.raises(ModelError, match="already quantized"):
        quantize(made, tmp_path / "q", 4)


@pytest.mark.parametrize("model_type", ["bert_of_mine", None, "vit"])
def test_models_that_are_no_causal_language_models_are_refused(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "model.safetensors").write_text("never read")
    with pytest.raises(ModelError, match="unsupported architecture"):
        quantize(tmp_path, tmp_path / "q", 8)


def test_a_missing_quanto_is_reported_with_the_pip_line(narrow, tmp_path, monkeypatch):
    quanto.import_quanto.cache_clear()
    monkeypatch.setitem(sys.modules, "optimum.quanto", None)
    with pytest.raises(ModelError, match=r'pip install .*"optimum-quanto==0.2.7"'):
        quantize(narrow, tmp_path / "q", 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_nothing_behind(value, narrow, tmp_path):
    weights = load_file(narrow / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    save_file(weights, narrow / "model.safetensors", {"format": "pt"})
    for bits in (8, 4):
        with pytest.raises(ModelError, match="transformer.h.1.mlp.c_fc.weight"):
            quantize(narrow, tmp_path / "q", bits, group_size=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_logits_that_are_not_finite_are_an_error(narrow, tmp_path):
    weights = load_file(narrow / "model.safetensors")
    weights["transformer.ln_f.weight"] *= 3e38
    save_file(weights, narrow / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="logits are not finite"):
        quantize(narrow, tmp_path / "q", 8)


def test_a_reload_that_differs_leaves_nothing_behind(narrow, tmp_path, monkeypatch):
    true = quantize_module.load_quantized

    def disturbed(folder):
        model = true(folder)
        with torch.no_grad():
            model.transformer.ln_f.weight[0] += 1e-4
        return model

    monkeypatch.setattr(quantize_module, "load_quantized", disturbed)
    with pytest.raises(ModelError, match=r"differs.*transformer.ln_f.weight"):
        quantize(narrow, tmp_path / "q", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("part", ["transformer.h.0.mlp.c_fc.weight._shift", "transformer.h.1.ln_1.bias"])
def test_a_tensor_missing_from_the_file_is_an_error_on_loading(part, narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 4, group_size=0)
    stored = load_file(made / "quanto.safetensors")
    del stored[part]
    save_file(stored, made / "quanto.safetensors", {"format": "pt"})
    with pytest.raises(FileError, match=r"quanto\.safetensors is not the file that quantization\.json"):
        load_model(made)
    without_digests(made)
    with pytest.raises(ModelError, match=part.removesuffix("._shift")):
        load_model(made)


def without_digests(made: Path) -> dict[str, Any]:
    """Makes quantization.json one of the version before; returns its content."""
    record = read_result(made / "quantization.json")
    record.pop("files")
    (made / "quantization.json").write_text(json.dumps(record))
    return record


def test_a_folder_of_another_method_or_version_is_an_error_on_loading(narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 8)
    record = without_digests(made)
    (made / "quantization.json").write_text(json.dumps({"method": "awq", "bits": 4}))
    with pytest.raises(ModelError, match="method='awq'; expected quanto or gptq"):
        load_model(made)
    (made / "quantization.json").write_text(json.dumps({k: v for k, v in record.items() if k != "exclude"}))
    with pytest.raises(ModelError, match="lacks exclude; quantize the model again"):
        load_model(made)
    (made / "quantization.json").write_text(json.dumps(record | {"method": "gptq", "group_size": 16}))
    with pytest.raises(ModelError, match="no gptq.safetensors"):
        load_model(made)
