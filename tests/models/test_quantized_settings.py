"""Settings of quantizing: what is refused before anything is loaded; packed integers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from knowcap.cli import main
from knowcap.models.names import ModelError
from knowcap.models.quantized import settings as settings_module
from knowcap.models.quantized.layers import PackedLinear
from knowcap.models.quantized.settings import Settings
from knowcap.models.quantized.stage import quantize
from knowcap.recipe import Recipe, RecipeError
from knowcap.run.folder import recipe_yaml
from knowcap.run.preflight import load_recipe
from knowcap.sweep.cells import Cell
from knowcap.sweep.table import SCHEMA
from knowcap.sweep.workers import quantized_dirs


RECIPE = "num_people: 1000\nmodel_name: gpt2-2-2\n"
PIP_GPTQ = 'pip install "gptqmodel==7.6.0"'


@pytest.fixture
def with_gptq(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every package were there."""
    monkeypatch.setattr(settings_module, "find_spec", lambda name: object())


@pytest.fixture
def without_gptq(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if gptqmodel were not installed."""
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None if name == "gptqmodel" else object())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 2}, "bits=2; expected 8 or 4"),
        ({"bits": 3, "method": "gptq"}, "bits=3; expected 8 or 4"),
        ({"bits": True}, "bits=True; expected 8 or 4"),
        ({"bits": 4, "method": "awq"}, "method 'awq': expected quanto or gptq"),
        ({"bits": 4, "group_size": -1}, "group_size=-1; expected"),
        ({"bits": 8, "symmetric": False}, "quanto's int8 is always symmetric"),
        ({"bits": 8, "method": "gptq", "embeddings": True}, "gptq quantizes only transformer blocks"),
    ],
)
def test_what_a_method_cannot_do_is_reported_before_the_folder_is_looked_at(options, words, with_gptq, tmp_path):
    (problem,) = Settings(**options).problems()
    assert words in problem
    with pytest.raises(ModelError, match="expected|symmetric|only"):
        quantize(tmp_path / "none", tmp_path / "q", **options)


def test_all_problems_are_reported_at_once(without_gptq):
    problems = Settings(bits=2, method="gptq", group_size=-1, embeddings=True).problems()
    assert len(problems) == 4 and PIP_GPTQ in problems[-1]


def test_the_extra_that_is_missing_is_reported_with_the_pip_line_before_training(without_gptq, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match="gptqmodel, which is not installed; " + PIP_GPTQ):
        load_recipe(tmp_path / "r.yaml", {"quantization_method": "gptq"})
    with pytest.raises(ModelError, match=PIP_GPTQ):
        quantize(tmp_path / "none", tmp_path / "q", 4, method="gptq")


def test_the_command_reports_it_too_without_loading_a_model(without_gptq, tmp_path, capsys):
    run_dir = tmp_path / "run"
    (run_dir / "model").mkdir(parents=True)
    recipe = Recipe(run_name="run", num_people=1000, model_name="gpt2-2-2")
    (run_dir / "recipe.yaml").write_text(recipe_yaml(recipe, {}, None))
    assert main(["quantize", str(run_dir), "--method", "gptq"]) == 2
    assert PIP_GPTQ in capsys.readouterr().err
    assert main(["quantize", str(run_dir), "--bits", "3", "--bits", "4"]) == 2
    assert "bits=3; expected 8 or 4" in capsys.readouterr().err
    assert main(["quantize", str(run_dir)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "nowhere")]) == 2
    assert "expected a run folder" in capsys.readouterr().err
    assert not (run_dir / "quantized").exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"quantization_group_size": "48"}, "quantization_group_size=48 does not divide rows of 128 and 512 weights"),
        ({"quantization_group_size": "64", "head_dim": "24"}, "rows of 48 weights"),
        (
            {
                "quantization_method": "gptq",
                "model_name": "llama-2-1",
                "head_dim": "16",
                "quantization_group_size": "0",
            },
            "rows of 43 weights .* gptq needs multiples of 2",
        ),
        ({"quantization_method": "gptq", "quantize_embeddings": "true"}, "only transformer blocks"),
        ({"quantization_symmetric": "false"}, "int8 is always symmetric"),
    ],
)
def test_a_recipe_that_could_not_be_quantized_is_reported_before_training(keys, words, with_gptq, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=words):
        load_recipe(tmp_path / "r.yaml", keys)


def test_settings_are_those_of_the_recipe(with_gptq, tmp_path):
    (tmp_path / "r.yaml").write_text(
        RECIPE + "quantization_method: gptq\nquantization_group_size: 64\nquantization_symmetric: false\n"
        "quantization_exclude: ['*.attn.*', '*.c_proj']\nquantize_bits: [4]\n"
    )
    settings = Settings.of(load_recipe(tmp_path / "r.yaml"), 4)
    exclude = ("*.attn.*", "*.c_proj")
    assert settings == Settings(bits=4, method="gptq", group_size=64, symmetric=False, exclude=exclude)
    assert settings.folder == "int4-gptq"
    words = ["--quantization_exclude", "*.attn.*", "*.c_proj"]
    assert load_recipe(tmp_path / "r.yaml", words).quantization_exclude == exclude
    assert Settings(bits=8, embeddings=True).folder == "int8-embeddings"
    defaults = [Settings(bits=8), Settings(bits=4), Settings(bits=8, method="gptq"), Settings(bits=4, method="gptq")]
    assert [s.is_symmetric for s in defaults] == [True, False, True, True]
    assert [s.row_group for s in defaults] == [None, 32, 32, 32]


# Packed integers.


def test_a_recipe_of_both_methods_has_a_copy_of_each_for_all_bits(with_gptq, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", {"quantization_method": "both", "quantize_bits": "8,4"})
    copies = Settings.copies(recipe)
    assert [(copy.bits, copy.method) for copy in copies] == [(8, "quanto"), (8, "gptq"), (4, "quanto"), (4, "gptq")]
    assert [copy.is_symmetric for copy in copies] == [True, True, False, True], "each method's default"
    cell = Cell("run", {}, replace(recipe, output_dir=str(tmp_path)))
    folders = {name: folder.name for name, folder in quantized_dirs(cell).items()}
    assert folders == {"int8": "int8", "int4": "int4", "int8_gptq": "int8-gptq", "int4_gptq": "int4-gptq"}
    for method, folder in (("quanto", "int4"), ("gptq", "int4-gptq")):  # one method has the plain names
        one = replace(cell, recipe=replace(cell.recipe, quantization_method=method, quantize_bits=(4,)))
        assert {name: path.name for name, path in quantized_dirs(one).items()} == {"int4": folder}
    assert {f"{name}_bits_per_parameter" for name in folders} <= set(SCHEMA.names)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 4), (4, None), (4, 4)])
def test_packed_weights_are_scale_times_q_minus_zero(bits, group, symmetric):
    rng = np.random.default_rng(0)
    outputs, inputs, most = 3, 8, 2**bits - 1
    groups = inputs // (group or inputs)
    q = rng.integers(0, most + 1, (outputs, inputs))
    scale = rng.uniform(0.5, 2, (outputs, groups)).astype(np.float32)
    zero = np.full((outputs, groups), 2 ** (bits - 1)) if symmetric else rng.integers(0, most + 1, (outputs, groups))
    weight = (np.repeat(scale, inputs // groups, 1) * (q - np.repeat(zero, inputs // groups, 1))).astype(np.float32)
    packed = PackedLinear(inputs, outputs, False, bits, group, symmetric)
    packed.pack(torch.tensor(weight), torch.tensor(scale), torch.tensor(zero.astype(np.float32)))
    assert np.array_equal(packed.weight.numpy(), weight)
    stored = packed.packed.numpy()
    assert np.array_equal(stored, q if bits == 8 else q[:, ::2] + 16 * q[:, 1::2])
    assert packed.packed_parameters == outputs * inputs
    assert set(packed.state_dict()) == {"packed", "scale"} | (set() if symmetric else {"zero"})
    x = rng.standard_normal((5, inputs)).astype(np.float32)
    assert np.allclose(packed(torch.tensor(x)).numpy(), x @ weight.T, atol=1e-3)


def test_weights_beside_their_steps_are_an_error():
    packed = PackedLinear(4, 1, False, 4, None, True)
    scale, zero = torch.ones(1, 1), torch.full((1, 1), 8.0)
    with pytest.raises(ModelError, match="off their quantization levels"):
        packed.pack(torch.tensor([[0.0, 1.0, 2.0, 2.5]]), scale, zero)
    with pytest.raises(ModelError, match="outside levels 0 … 15"):
        packed.pack(torch.tensor([[0.0, 1.0, 2.0, 8.0]]), scale, zero)
    with pytest.raises(ModelError, match="symmetric quantization needs zeros"):
        packed.pack(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), scale, zero - 1)


def test_a_quantized_folder_records_all_settings(tmp_path: Path):
    content = Settings(bits=4, method="gptq", exclude=("*.mlp.*",)).content()
    assert json.loads(json.dumps(content)) == {
        "method": "gptq", "bits": 4, "group_size": 32, "symmetric": True, "embeddings": False, "exclude": ["*.mlp.*"],
    }  # fmt: skip
