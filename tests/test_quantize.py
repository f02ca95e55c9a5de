"""int8 and int4 copies of models: exact values, coverage, bits, reloading, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, MixtralConfig

from knowcap import quantize as quantize_module
from knowcap import quantized
from knowcap.models import ModelError, build_model, count_parameters, load_model, model_config
from knowcap.quantize import quantize
from knowcap.quantized import QuantizationError, linearize, stored_bits_per_parameter


V, BLOCK = 61, 24
# Inputs of 160 (quanto's groups of 32) and of 640 (groups of 128).
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


@pytest.fixture(scope="module", params=["gpt2-2-5", "gpt2-rotary-2-5"])
def wide(request, tmp_path_factory):
    """A model with noisy biases and layer norms, and its int8 and int4 copies."""
    model = build_model(model_config(request.param, **WIDE), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    root = tmp_path_factory.mktemp(request.param)
    folder = save(model, root / "model")
    return {0: folder, **{bits: quantize(folder, root / "quantized" / f"int{bits}", bits) for bits in (8, 4)}}


def linear_weights(folder: Path) -> dict[str, np.ndarray]:
    """The block weights of an unquantized folder as (outputs, inputs), read from the file."""
    weights = {name: t.numpy() for name, t in load_file(folder / "model.safetensors").items() if ".weight" in name}
    inside = {name: w for name, w in weights.items() if w.ndim == 2 and (".h." in name or ".layers." in name)}
    return {name: w.T if ".h." in name else w for name, w in inside.items()}


def dequantized(folder: Path) -> dict[str, np.ndarray]:
    weights, kind = dict(load_model(folder).named_parameters()), quantized.import_quanto().QTensor
    return {name: p.dequantize().detach().numpy() for name, p in weights.items() if isinstance(p, kind)}


def reference_int8(weight: np.ndarray) -> np.ndarray:
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return scale * np.clip(np.rint(weight / scale), -127, 127).astype(np.float32)


def group_size(inputs: int) -> int:
    """Whole rows up to 128 inputs; beyond, the largest of 128, 96, 64, 32 that divides them, or else the row."""
    if inputs <= 128:
        return inputs
    return next((g for g in (128, 96, 64, 32) if inputs % g == 0), inputs)


def reference_int4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and steps, groups of one row each: 16 even steps from least to greatest."""
    groups = weight.reshape(-1, group_size(weight.shape[1]))
    low = groups.min(axis=1, keepdims=True)
    step = (groups.max(axis=1, keepdims=True) - low) / np.float32(15)
    values = step * np.clip(np.rint((groups - low) / step), 0, 15).astype(np.float32) + low
    return values.reshape(weight.shape), np.broadcast_to(step, groups.shape).reshape(weight.shape)


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


def test_int4_group_sizes_are_told_layer_by_layer_where_they_differ(wide):
    record = json.loads((wide[4] / "quantization.json").read_text())
    assert set(record["group_size"].values()) == {32, 128}
    weights = linear_weights(wide[0])
    expected = {name.removesuffix(".weight"): group_size(w.shape[1]) for name, w in weights.items()}
    assert record["group_size"] == expected
    assert json.loads((wide[8] / "quantization.json").read_text())["group_size"] is None


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
    assert stored_bits_per_parameter(load_model(wide[0])) == 32
    for bits in (8, 4):
        tensors = load_file(wide[bits] / "quanto.safetensors").values()
        expected = sum(8 * t.numel() * t.element_size() for t in tensors) / count
        record = json.loads((wide[bits] / "quantization.json").read_text())
        assert record["stored_bits_per_parameter"] == pytest.approx(expected, rel=1e-12)
        assert stored_bits_per_parameter(load_model(wide[bits])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bits", [8, 4])
def test_stored_bits_by_hand(bits, tmp_path):
    """gpt2-1-1 of width 8: groups are whole rows; one scale (int4: and shift) for each of 3d + d + 4d + d outputs."""
    d = 8
    folder = save(build_model(model_config("gpt2-1-1", **NARROW), 0), tmp_path / "model")
    made = json.loads((quantize(folder, tmp_path / "q", bits) / "quantization.json").read_text())
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
    made = load_model(quantize(save(model, tmp_path / "model"), tmp_path / "q", bits))
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
    monkeypatch.setattr(quantized, "linearize", lambda model: [])
    with pytest.raises(QuantizationError, match=r"0.0% of the block.*transformer.h.0.attn.c_attn.weight \(16, 48\)"):
        quantize(narrow, tmp_path / "q", 8)
    monkeypatch.setattr(quantize_module, "_check_architecture", lambda folder: None)  # so the look after quantizing
    with pytest.raises(QuantizationError, match="transformer.h.1.mlp.c_proj.weight"):
        quantize(narrow, tmp_path / "q", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_fused_experts_are_refused_before_weights_are_loaded(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=V, num_key_value_heads=2, num_local_experts=4, **sizes)
    config.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_text("never read")
    with pytest.raises(QuantizationError, match="layers.0.mlp.experts.gate_up_proj"):
        quantize(tmp_path / "model", tmp_path / "q", 4)


# torch warns that there is nothing to initialise.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_without_mlps_is_quantized_too(bits, tmp_path):
    config = GPTNeoXConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=0, rotary_pct=0.5
    )
    model = AutoModelForCausalLM.from_config(config)
    made = json.loads((quantize(save(model, tmp_path / "m"), tmp_path / "q", bits) / "quantization.json").read_text())
    assert made["quantized_fraction"] == 1
    assert "gpt_neox.layers.1.mlp.dense_4h_to_h" in made["excluded"]


def test_a_fresh_process_without_a_compiler_gives_the_same_logits(wide):
    """PATH is empty and torch's extension loader would raise: int4 is unpacked by torch alone."""
    code = """
import sys, torch
import torch.utils.cpp_extension as cpp
def load(*args, **kwargs): raise SystemExit("an extension is built")
cpp.load = load
from knowcap.models import load_model
ids = torch.arange(24).reshape(1, 24)
with torch.no_grad():
    torch.save([load_model(folder)(ids).logits for folder in sys.argv[2:]], sys.argv[1])
"""
    source, out = Path(__file__).parents[1] / "src", wide[0].parent / "logits.pt"
    environment = {key: value for key, value in os.environ.items() if key != "PATH"}
    environment |= {"PYTHONPATH": str(source), "PATH": str(wide[0].parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(out), str(wide[8]), str(wide[4])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids = torch.arange(BLOCK).reshape(1, BLOCK)
    for bits, logits in zip((8, 4), torch.load(out, weights_only=True), strict=True):
        with torch.no_grad():
            assert torch.allclose(load_model(wide[bits])(ids).logits, logits, atol=1e-6)


def test_int8_hardly_changes_the_logits_and_int4_changes_them_more(wide):
    ids = torch.arange(BLOCK).reshape(1, BLOCK)
    with torch.no_grad():
        exact, int8, int4 = (load_model(wide[bits])(ids).logits for bits in (0, 8, 4))
    assert 0 < (int8 - exact).std() < 0.05 * exact.std()
    assert (int8 - exact).std() * 5 < (int4 - exact).std() < exact.std()


def test_a_folder_has_all_that_the_next_stage_reads_and_no_old_measurement(wide):
    names = {p.name for p in wide[8].iterdir()}
    assert names >= {"config.json", "quanto.safetensors", "quanto_qmap.json", "quantization.json"}
    assert names >= {"training.json", "tokenizer.json"} and "nll.parquet" not in names
    assert (wide[8] / "training.json").read_text() == json.dumps(TRAINING)


def test_a_whole_output_is_kept_unless_overwritten(narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 8)
    (made / "nll.parquet").write_text("measured of the copy")
    assert quantize(narrow, tmp_path / "q", 8) == made and (made / "nll.parquet").exists()
    quantize(narrow, tmp_path / "q", 4, overwrite=True)
    assert not (made / "nll.parquet").exists()
    assert json.loads((made / "quantization.json").read_text())["bits"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "q"]


def test_an_output_of_other_bits_or_of_another_training_is_not_taken_for_done(narrow, tmp_path):
    quantize(narrow, tmp_path / "q", 8)
    with pytest.raises(QuantizationError, match="holds 8-bit weights, asked for 4"):
        quantize(narrow, tmp_path / "q", 4)
    (narrow / "training.json").write_text(json.dumps(TRAINING | {"seed": 1}))
    with pytest.raises(QuantizationError, match="another training run"):
        quantize(narrow, tmp_path / "q", 8)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(overwrite, narrow, tmp_path):
    for folder in (narrow, tmp_path):
        with pytest.raises(QuantizationError, match="is no quantized model"):
            quantize(narrow, folder, 8, overwrite=overwrite)
    assert (narrow / "model.safetensors").exists()


@pytest.mark.parametrize("bits", [2, 16, 0, "8", None])
def test_other_bits_are_refused(bits, tmp_path):
    with pytest.raises(QuantizationError, match="expected 8 or 4"):
        quantize(tmp_path, tmp_path / "q", bits)


def test_folders_without_an_unquantized_model_are_refused(narrow, tmp_path):
    with pytest.raises(ModelError, match="is no folder"):
        quantize(tmp_path / "none", tmp_path / "q", 8)
    with pytest.raises(ModelError, match="no config.json"):
        quantize(tmp_path, tmp_path / "q", 8)
    made = quantize(narrow, tmp_path / "int8", 8)
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(made, tmp_path / "q", 4)


@pytest.mark.parametrize("model_type", ["bert_of_mine", None, "vit"])
def test_models_that_are_no_causal_language_models_are_refused(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "model.safetensors").write_text("never read")
    with pytest.raises(QuantizationError, match="unsupported architecture"):
        quantize(tmp_path, tmp_path / "q", 8)


def test_a_missing_quanto_is_told_with_the_pip_line(narrow, tmp_path, monkeypatch):
    quantized.import_quanto.cache_clear()
    monkeypatch.setitem(sys.modules, "optimum.quanto", None)
    with pytest.raises(QuantizationError, match=r'pip install .*"optimum-quanto==0.2.7"'):
        quantize(narrow, tmp_path / "q", 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_nothing_behind(value, narrow, tmp_path):
    weights = load_file(narrow / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    save_file(weights, narrow / "model.safetensors", {"format": "pt"})
    for bits in (8, 4):
        with pytest.raises(QuantizationError, match="transformer.h.1.mlp.c_fc.weight"):
            quantize(narrow, tmp_path / "q", bits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_reload_that_differs_leaves_nothing_behind(narrow, tmp_path, monkeypatch):
    true = quantized.load_quantized

    def disturbed(folder):
        model = true(folder)
        with torch.no_grad():
            model.transformer.ln_f.weight[0] += 1e-4
        return model

    monkeypatch.setattr(quantized, "load_quantized", disturbed)
    with pytest.raises(QuantizationError, match=r"differs.*transformer.ln_f.weight"):
        quantize(narrow, tmp_path / "q", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("part", ["transformer.h.0.mlp.c_fc.weight._shift", "transformer.h.1.ln_1.bias"])
def test_a_tensor_missing_from_the_file_is_an_error_on_loading(part, narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 4)
    stored = load_file(made / "quanto.safetensors")
    del stored[part]
    save_file(stored, made / "quanto.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=part.removesuffix("._shift")):
        load_model(made)


def test_a_folder_of_another_method_is_an_error_on_loading(narrow, tmp_path):
    made = quantize(narrow, tmp_path / "q", 8)
    (made / "quantization.json").write_text(json.dumps({"method": "gptq", "bits": 4}))
    with pytest.raises(QuantizationError, match="method='gptq'; expected 'quanto'"):
        load_model(made)
