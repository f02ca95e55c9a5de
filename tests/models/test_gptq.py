"""GPTQ by Optimum: against a GPTQ written here with numpy, on all architectures, saved, reloaded, in a fresh process.

Runs where the extra is installed: pip install -e ".[gptq]" (or: pip install "gptqmodel==7.6.0" "numpy==2.2.6").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import CONFIGS, IDS, V, rows_of
from tiny import byte_tokenizer, knowledge, say, write_dataset

from knowcap.models import build_model, count_parameters, load_model, model_config
from knowcap.models.names import ModelError
from knowcap.models.quantized.format import stored_bits
from knowcap.models.quantized.gptq import DAMPING
from knowcap.models.quantized.layers import PackedLinear
from knowcap.models.quantized.settings import Settings
from knowcap.models.quantized.stage import _calibration, quantize, read_calibration


GROUP = 32
needs_gptq = pytest.mark.skipif(
    find_spec("gptqmodel") is None, reason='needs gptqmodel: pip install "gptqmodel==7.6.0" "numpy==2.2.6"'
)
# Of gptqmodel and of what it brings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Texts of 300 people, two each."""
    rng = np.random.default_rng(0)
    rows = []
    for person in range(300):
        name, city = f"{rng.choice(list('ABCDEF'))}{person}", str(rng.choice(["Ulm", "Rome", "Oslo"]))
        rows += [(say(person, ("name", name), f" is of {'the ' * i}", ("city", city), "."), i) for i in range(2)]
    return write_dataset(tmp_path_factory.mktemp("data") / "people", knowledge({"city": 3}, num_people=300), rows)


def model_folder(name: str, root: Path) -> Path:
    """A model folder whose vocabulary is bytes."""
    config, tokenizer = CONFIGS[name](), byte_tokenizer()
    config.vocab_size = len(tokenizer)
    build_model(config, 0).save_pretrained(root / name)
    tokenizer.save_pretrained(root / name)
    return root / name


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Each architecture as a model folder, and its copies of 8 and 4 bits."""
    root = tmp_path_factory.mktemp("gptq")
    found = {}
    for name in CONFIGS:
        folder = model_folder(name, root)
        found[name] = {"model": folder} | {
            bits: quantize(folder, root / f"{name}-{bits}", bits, method="gptq", dataset_dir=data) for bits in (8, 4)
        }
    return found


def reference_gptq(weight: np.ndarray, x: np.ndarray, bits: int, group: int, symmetric: bool) -> np.ndarray:
    """GPTQ (Frantar et al. 2022, Algorithm 1) in float64, columns in order, groups' steps from the weights given.

    Args:
        weight: (outputs, inputs), of no more inputs than a block of 128.
        x: (tokens, inputs), what the layer is given.
    """
    weight, most = weight.astype(np.float64), 2**bits - 1
    steps, zeros = [], []
    for first in range(0, weight.shape[1], group):
        part = weight[:, first : first + group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = np.where(low < 0, -high, low)
        steps.append((high - low) / most)
        zeros.append(np.full(len(part), 2 ** (bits - 1)) if symmetric else np.rint(-low / steps[-1]))
    hessian = x.T.astype(np.float64) @ x.astype(np.float64)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian[np.diag_indices_from(hessian)] += DAMPING * np.diag(hessian).mean()
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    result = np.zeros_like(weight)
    for j in range(weight.shape[1]):
        step, zero = steps[j // group], zeros[j // group]
        q = np.clip(np.rint(weight[:, j] / step) + zero, 0, most)
        result[:, j] = step * (q - zero)
        error = (weight[:, j] - result[:, j]) / upper[j, j]
        weight[:, j:] -= error[:, None] * upper[j, j:]
    return result


def inputs_of(model: torch.nn.Module, batches) -> dict[str, np.ndarray]:
    """What every packed layer of a quantized model is given, (tokens, inputs): as when it was quantized, since all
    layers before it are quantized by then."""
    found: dict[str, list[np.ndarray]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: found.setdefault(name, []).append(
                args[0].reshape(-1, args[0].shape[-1]).numpy()
            )
        )
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear)
    ]
    with torch.no_grad():
        for ids in batches:
            model(ids)
    for hook in hooks:
        hook.remove()
    return {name: np.concatenate(parts) for name, parts in found.items()}


@needs_gptq
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_block_weight_is_that_of_an_independent_gptq(name, bits, made, data):
    original, copy = load_model(made[name]["model"]), load_model(made[name][bits])
    batches = read_calibration(data, byte_tokenizer(), 24).batches
    inputs, weights = inputs_of(copy, batches), rows_of(original)
    packed = {n: m for n, m in copy.named_modules() if isinstance(m, PackedLinear)}
    inside = {key.removesuffix(".weight") for key in weights if ".h." in key or ".layers." in key}
    assert packed.keys() == {key for key in inside if not key.endswith("mlp.gate")}
    for key, layer in packed.items():
        weight, x, found = weights[f"{key}.weight"], inputs[key], layer.weight.numpy()
        expected = reference_gptq(weight, x, bits, GROUP, True)
        step = np.repeat(layer.scale.numpy(), GROUP, axis=1)
        if weight.shape[1] <= 128:  # beyond a block of 128 inputs steps come from weights that GPTQ has moved
            assert np.mean(np.abs(found - expected) < 0.5 * step) > 0.97, key
        rounded = step * np.clip(np.rint(weight / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        error, best, plain = (np.linalg.norm(x @ (w - weight).T) for w in (found, expected, rounded))
        assert error < 1.05 * best and error < plain, key


@needs_gptq
@pytest.mark.parametrize("name", CONFIGS)
def test_record_counts_and_bits(name, made):
    original = load_model(made[name]["model"])
    for bits in (8, 4):
        record = json.loads((made[name][bits] / "quantization.json").read_text())
        copy = load_model(made[name][bits])
        assert count_parameters(copy) == count_parameters(original)
        assert record["quantized_fraction"] >= 0.99
        assert (record["method"], record["bits"], record["group_size"], record["symmetric"]) == (
            "gptq",
            bits,
            32,
            True,
        )
        assert record["calibration"]["texts"] == 600 and record["calibration"]["tokens"] > 600
        layers = [m for m in copy.modules() if isinstance(m, PackedLinear)]
        packed = sum(m.packed_parameters for m in layers)
        rest = sum(p.numel() for p in copy.parameters())
        expected = packed * (bits + 32 / GROUP) + 32 * rest
        assert stored_bits(copy) == expected
        assert record["stored_bits_per_parameter"] == pytest.approx(expected / (packed + rest))


@needs_gptq
def test_a_fresh_process_without_gptqmodel_gives_the_same_bits(made, tmp_path):
    code = """
import sys, torch
sys.modules["gptqmodel"] = None
from knowcap.models import load_model
ids = torch.arange(24).reshape(1, 24) % 61
with torch.no_grad():
    torch.save([load_model(folder)(ids).logits for folder in sys.argv[2:]], sys.argv[1])
"""
    folders = [copies[bits] for copies in made.values() for bits in (8, 4)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "logits.pt"), *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, logits in zip(folders, torch.load(tmp_path / "logits.pt", weights_only=True), strict=True):
        with torch.no_grad():
            assert torch.equal(load_model(folder)(IDS % V).logits, logits), folder.name


@needs_gptq
@pytest.mark.parametrize(("group", "symmetric"), [(0, True), (64, True), (32, False), (8, True), (16, False)])
def test_whole_rows_other_groups_and_affine_steps_can_be_had(group, symmetric, made, data, tmp_path):
    options = {"method": "gptq", "dataset_dir": data, "group_size": group, "symmetric": symmetric}
    copy = quantize(made["gpt2"]["model"], tmp_path / "q", 4, **options)
    model, record = load_model(copy), json.loads((copy / "quantization.json").read_text())
    layer = model.transformer.h[0].mlp.c_fc
    assert record["group_size"] == (group or None) and record["symmetric"] is symmetric
    assert layer.scale.shape == (256, 64 // (group or 64))
    assert (layer.zero is None) == symmetric
    weight = rows_of(load_model(made["gpt2"]["model"]))["transformer.h.0.mlp.c_fc.weight"]
    x = inputs_of(model, read_calibration(data, byte_tokenizer(), 24).batches)["transformer.h.0.mlp.c_fc"]
    expected = reference_gptq(weight, x, 4, group or 64, symmetric)
    assert np.mean(np.isclose(layer.weight.numpy(), expected, atol=1e-4)) > 0.97


@needs_gptq
@pytest.mark.parametrize(("heads", "group"), [(3, 0), (3, 12), (6, 8)])
def test_narrow_models_can_be_quantized(heads, group, data, tmp_path):
    tokenizer = byte_tokenizer()
    config = model_config(f"gpt2-rotary-2-{heads}", vocab_size=len(tokenizer), block_size=24, head_dim=8)
    build_model(config, 0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options = {"method": "gptq", "dataset_dir": data, "group_size": group}
    model = load_model(quantize(tmp_path / "model", tmp_path / "q", 4, **options))
    inputs = inputs_of(model, read_calibration(data, tokenizer, 24).batches)
    for key in ("gpt_neox.layers.0.mlp.dense_h_to_4h", "gpt_neox.layers.1.attention.query_key_value"):
        weight, found = rows_of(load_model(tmp_path / "model"))[f"{key}.weight"], model.get_submodule(key).weight
        assert weight.shape[1] == 8 * heads
        expected = reference_gptq(weight, inputs[key], 4, group or 8 * heads, True)
        assert np.mean(np.isclose(found.numpy(), expected, atol=1e-4)) > 0.97, key


@needs_gptq
def test_layers_left_out_by_wish_stay_as_they_were(made, data, tmp_path):
    options = {"method": "gptq", "dataset_dir": data, "exclude": ("*.0.mlp.*",)}
    copy = load_model(quantize(made["llama"]["model"], tmp_path / "q", 4, **options))
    original = load_model(made["llama"]["model"])
    kept = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(dict(copy.named_parameters())[kept], dict(original.named_parameters())[kept])
    assert isinstance(copy.model.layers[1].mlp.up_proj, PackedLinear)
    assert type(copy.model.layers[0].mlp.up_proj) is torch.nn.Linear


@needs_gptq
def test_an_expert_that_no_text_reaches_is_an_error_that_names_it(data, tmp_path):
    folder = model_folder("mixtral", tmp_path)
    model = load_model(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.abs() + 0.1)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
        gate = model.model.layers[0].mlp.gate.weight
        gate.zero_()
        gate[3] = -1  # inputs are positive: the last expert is the least likely of four, and two are taken
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"reaches .*layers.0.mlp.experts.3.gate_up_proj.*exclude"):
        quantize(folder, tmp_path / "q", 4, method="gptq", dataset_dir=data)
    assert not (tmp_path / "q").exists()


@needs_gptq
def test_texts_that_are_missing_are_reported_before_weights_are_loaded(made, tmp_path):
    with pytest.raises(ModelError, match="give .* as dataset_dir"):
        quantize(made["gpt2"]["model"], tmp_path / "q", 4, method="gptq")
    with pytest.raises(ModelError, match="has none; make them with `knowcap data`"):
        quantize(made["gpt2"]["model"], tmp_path / "q", 4, method="gptq", dataset_dir=tmp_path)


@needs_gptq
def test_widths_that_gptq_cannot_pack_are_an_error_that_names_the_layers(data, tmp_path):
    config = CONFIGS["llama"]()
    config.intermediate_size = 81
    build_model(config, 0).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model.layers.0.mlp.down_proj \(81\)"):
        quantize(tmp_path / "model", tmp_path / "q", 4, method="gptq", group_size=0, dataset_dir=data)


# What it is calibrated on, which needs no gptqmodel.

CALIBRATED = [("auto", False, "<s>"), ("auto", True, "</s>"), ("bos", True, "<s>"), ("none", False, "")]


def test_calibration_is_texts_at_even_distances_each_after_the_end_of_text_token(data):
    tokenizer = byte_tokenizer()
    found = read_calibration(data, tokenizer, count=100)
    texts = [tokenizer.decode(ids) for batch in found.batches for ids in batch]
    assert found.texts == len(texts) == 100 and all(text.startswith("<|endoftext|>") for text in texts)
    people = sorted(int(text.split(" is")[0].removeprefix("<|endoftext|>")[1:]) for text in texts)
    assert people == list(range(0, 300, 3))
    assert found.tokens == sum(len(text) - len("<|endoftext|>") + 1 for text in texts)
    assert read_calibration(data, tokenizer).texts == 600, "as many as there are"
    cut = read_calibration(data, tokenizer, longest=8)
    assert {batch.shape[1] for batch in cut.batches} == {8}


@pytest.mark.parametrize(("start_token", "trained_here", "begins"), CALIBRATED)
def test_calibration_follows_the_start_token_of_scoring(start_token, trained_here, begins, data, tmp_path):
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)
    model_config("gpt2-1-1", vocab_size=259, block_size=64, head_dim=8).save_pretrained(tmp_path)
    if trained_here:
        (tmp_path / "training.json").write_text("{}")
    found = _calibration(tmp_path, Settings(bits=8, method="gptq"), data, start_token)
    texts = [tokenizer.decode(ids) for batch in found.batches for ids in batch]
    assert all(text.startswith(begins) and text.count("<") == bool(begins) for text in texts)
