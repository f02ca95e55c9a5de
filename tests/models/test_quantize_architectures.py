"""Every supported architecture at int8 and int4: coverage, each weight against a reference, a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import CONFIGS, GROUP, IDS, rows_of

from knowcap.models import build_model, count_parameters, load_model
from knowcap.models.quantized import quanto
from knowcap.models.quantized.layers import linearize
from knowcap.models.quantized.stage import quantize


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each architecture as a model folder, and its copies by (bits, embeddings)."""
    root = tmp_path_factory.mktemp("architectures")
    found = {}
    for name, config in CONFIGS.items():
        build_model(config(), 0).save_pretrained(root / name)
        found[name] = {
            (bits, embeddings): quantize(
                root / name, root / f"{name}-{bits}-{embeddings}", bits, embeddings=embeddings
            )
            for bits, embeddings in ((8, False), (4, False), (8, True), (4, True))
        } | {"model": root / name}
    return found


loaded = cache(load_model)


def reference(weight: np.ndarray, bits: int) -> np.ndarray:
    """int8: steps of absmax / 127 a row; int4: 16 even steps from least to greatest of each 32 weights of a row."""
    if bits == 8:
        step = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
        return step * np.clip(np.rint(weight / step), -127, 127).astype(np.float32)
    groups = np.ascontiguousarray(weight).reshape(-1, GROUP)
    low = groups.min(axis=1, keepdims=True)
    step = (groups.max(axis=1, keepdims=True) - low) / np.float32(15)
    return (step * np.clip(np.rint((groups - low) / step), 0, 15).astype(np.float32) + low).reshape(weight.shape)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_block_weight_is_quantized_as_an_independent_quantizer_does(name, bits, made):
    original, copy = loaded(made[name]["model"]), loaded(made[name][bits, False])
    rows = rows_of(original)
    inside = {key: weight for key, weight in rows.items() if ".h." in key or ".layers." in key}
    routers = {key for key in inside if key.endswith("mlp.gate.weight")}
    found = {n: p.dequantize().detach().numpy() for n, p in copy.named_parameters() if quanto.is_quantized(p)}
    assert found.keys() == inside.keys() - routers
    for key, weight in found.items():
        assert np.array_equal(weight, reference(inside[key], bits)), key
    record = json.loads((made[name][bits, False] / "quantization.json").read_text())
    blocks = sum(w.size for w in inside.values())
    assert record["quantized_fraction"] == pytest.approx(sum(w.size for w in found.values()) / blocks)
    assert record["quantized_fraction"] >= 0.99
    assert bool(routers) == (name == "mixtral")
    assert {key.removesuffix(".weight") for key in routers} <= set(record["excluded"])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_too_as_an_independent_quantizer_does(name, bits, made):
    original, copy = loaded(made[name]["model"]), loaded(made[name][bits, True])
    found = {n: p.dequantize().detach().numpy() for n, p in copy.named_parameters() if quanto.is_quantized(p)}
    for key, weight in rows_of(original).items():
        if not key.endswith("mlp.gate.weight"):
            assert np.array_equal(found.pop(key), reference(weight, bits)), key
    assert not found
    record = json.loads((made[name][bits, True] / "quantization.json").read_text())
    assert record["quantized_fraction_all"] > 0.95
    assert record["stored_bits_per_parameter"] < (10 if bits == 8 else 8)
    tied = original.config.tie_word_embeddings
    assert (copy.get_output_embeddings().weight is copy.get_input_embeddings().weight) == tied
    assert count_parameters(copy) == count_parameters(original)


def test_unfused_experts_compute_what_fused_ones_do():
    model = build_model(CONFIGS["mixtral"](), 0).eval()
    with torch.no_grad():
        expected = model(IDS).logits
        names = linearize(model)
        assert torch.allclose(model(IDS).logits, expected, atol=1e-6)
    assert names == [f"model.layers.{i}.mlp.experts" for i in range(2)]
    assert not any(p.dim() == 3 for p in model.parameters())


def test_a_fresh_process_without_a_compiler_loads_every_folder_by_the_documented_snippet_to_the_same_bits(
    made, tmp_path
):
    """PATH is empty and torch's extension loader would raise: int4 is unpacked by torch alone."""
    code = """
import sys, torch
import torch.utils.cpp_extension as cpp
def load(*args, **kwargs): raise SystemExit("an extension is built")
cpp.load = load
from knowcap.models import load_model
ids = torch.arange(24).reshape(1, 24) % 61
with torch.no_grad():
    torch.save([load_model(folder)(ids).logits for folder in sys.argv[2:]], sys.argv[1])
"""
    folders = [copies[key] for copies in made.values() for key in ((8, False), (4, False), (4, True))]
    environment = {key: value for key, value in os.environ.items() if key != "PATH"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "logits.pt"), *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, logits in zip(folders, torch.load(tmp_path / "logits.pt", weights_only=True), strict=True):
        with torch.no_grad():
            assert torch.equal(loaded(folder)(IDS).logits, logits), folder.name
