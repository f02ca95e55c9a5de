"""Configurations as a recipe names and changes them: what the corpus sets, what stays, sizes, packages, checks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from knowcap.cli import main
from knowcap.models import (
    ModelError,
    architecture_problems,
    architectures,
    build_model,
    check_causal,
    count_active_parameters,
    describe_size,
    description,
    parameters_of,
    recipe_config,
    registration,
    widths_of,
)
from knowcap.recipe import Recipe, RecipeError
from knowcap.recipe_file import RECIPES_DIR, convert, locate_model, read_recipe
from knowcap.run.folder import claim_run_dir, folder_problems
from knowcap.sweep.file import read_sweep


SHIPPED = ("qwen3", "olmo2", "mamba2", "recurrent_gemma", "deepseek_v3")
ROWS, BLOCK = 61, 40


def shipped(name: str, **keys: Any) -> Recipe:
    return Recipe(model_name=str(RECIPES_DIR / "architectures" / f"{name}.json"), block_size=BLOCK, **keys)


@pytest.fixture
def write(tmp_path):
    """Writes a configuration; returns the recipe that names it."""

    def make(content: dict[str, Any], **keys: Any) -> Recipe:
        file = tmp_path / "config.json"
        file.write_text(json.dumps(content))
        return Recipe(model_name=str(file), block_size=BLOCK, **keys)

    return make


@pytest.mark.parametrize("name", SHIPPED)
def test_the_corpus_sets_rows_positions_and_tokens_and_all_else_stays(name):
    recipe = shipped(name)
    config = recipe_config(recipe, ROWS)
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (ROWS, 0, 0, None)
    assert not config.use_cache and getattr(config, "max_position_embeddings", BLOCK) == BLOCK
    source = json.loads(Path(recipe.model_name).read_text())
    kept = {key: value for key, value in source.items() if value is not None}
    assert {key: getattr(config, key) for key in kept} == kept
    model = build_model(config, 0)
    check_causal(model)
    again = build_model(recipe_config(recipe, ROWS), 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert parameters_of(recipe, ROWS).num_parameters == sum(p.numel() for p in model.parameters())


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_go_to():
    sizes = {"hidden": 16, "inner": 16, "experts": 4, "chosen": 2}
    found = parameters_of(shipped("deepseek_v3"), ROWS)
    idle = (sizes["experts"] - sizes["chosen"]) * 3 * sizes["hidden"] * sizes["inner"]  # in one of two layers
    assert found.num_parameters - found.num_active_parameters == idle
    dense = parameters_of(shipped("qwen3"), ROWS)
    assert dense.num_parameters == dense.num_active_parameters
    # The closed form of a named mixture agrees with the count of its model.
    mixture = Recipe(model_name="gpt2-moe-2-2-4", head_dim=16, block_size=BLOCK, num_experts_per_tok=1)
    model = build_model(recipe_config(mixture, ROWS), 0)
    assert count_active_parameters(model) == parameters_of(mixture, ROWS).num_active_parameters


def test_overrides_change_what_they_name_in_its_type(write):
    source = {"model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
              "head_dim": 16, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
              "sliding_window": 8, "use_sliding_window": True}  # fmt: skip
    changes = {"num_hidden_layers": 2, "rms_norm_eps": 1, "intermediate_size": 1e2}
    config = recipe_config(write(source, model_config_overrides=changes), ROWS)
    assert config.layer_types == ["full_attention", "sliding_attention"] and config.sliding_window == 8
    assert isinstance(config.rms_norm_eps, float) and isinstance(config.intermediate_size, int)
    longer = recipe_config(write(source, model_config_overrides={"num_hidden_layers": 4}), ROWS)
    assert longer.layer_types == [*source["layer_types"], "full_attention"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hiden_layers": 2}, "qwen3 has no 'num_hiden_layers'; did you mean 'num_hidden_layers'?"),
        ({"vocab_size": 9}, "vocab_size is set by the corpus"),
        ({"max_position_embeddings": 9}, "max_position_embeddings is set by the corpus"),
        ({"hidden_act": ["relu"]}, "no valid Qwen3Config"),
    ],
)
def test_overrides_that_do_not_fit_are_refused_with_the_nearest_key(changes, message):
    (problem,) = architecture_problems(shipped("qwen3", model_config_overrides=changes))
    assert message in problem


def test_keys_of_named_families_are_refused_with_a_configuration_and_the_other_way_round():
    keys = {"head_dim": 8, "activation": "relu", "initializer_range": 0.1}
    problems = architecture_problems(shipped("qwen3", **keys))
    assert [problem.split("=")[0] for problem in problems] == list(keys)
    (problem,) = architecture_problems(Recipe(model_name="gpt2-2-2", model_config_overrides={"n_layer": 1}))
    assert "model_config_overrides" in problem and "no config.json" in problem
    (problem,) = architecture_problems(Recipe(model_name="gpt2-2-2", head_dim=8, num_parameters=9000))
    assert problem.startswith("head_dim=8 and num_parameters=9000")
    (problem,) = architecture_problems(Recipe(model_name="gpt2-2-2", num_parameters=1, num_active_parameters=1))
    assert problem.startswith("num_parameters and num_active_parameters are both given")


def test_dropout_is_off_and_learned_positions_are_as_many_as_the_block(write):
    recipe = write({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1024})
    config = recipe_config(recipe, ROWS)
    assert (config.n_positions, config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (BLOCK, 0, 0, 0)
    assert build_model(config, 0).transformer.wpe.weight.shape[0] == BLOCK


def test_scaled_rotary_positions_keep_the_length_that_they_are_scaled_to(write):
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}
    source = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, "max_position_embeddings": 512, "rope_parameters": rope}  # fmt: skip
    config = recipe_config(write(source), ROWS)
    assert config.max_position_embeddings == 512 and config.rope_parameters["factor"] == 4.0


def test_a_padding_token_is_trained_like_any_other(write):
    recipe = write({"model_type": "opt", "hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1,
                    "ffn_dim": 16, "num_attention_heads": 2, "pad_token_id": 0})  # fmt: skip
    model = build_model(recipe_config(recipe, ROWS), 0)
    assert all(m.padding_idx is None for m in model.modules() if isinstance(m, torch.nn.Embedding))


def test_the_text_part_of_a_composite_configuration_is_taken(write):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "intermediate_size": 16}  # fmt: skip
    recipe = write({"model_type": "gemma3", "text_config": text, "architectures": ["Gemma3ForConditionalGeneration"]})
    config = recipe_config(recipe, ROWS)
    assert config.model_type == "gemma3_text" and config.hidden_size == 16
    assert parameters_of(recipe, ROWS).num_parameters < 5000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "qwen3", "hidden_size": "wide"}, "no valid Qwen3Config"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"model_type": "my_type", "auto_map": {"AutoConfig": "code.My"}}, "give --import my_package"),
        ({"hidden_size": 8}, "has no model_type"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(write, content, message):
    (problem,) = architecture_problems(write(content))
    assert message in problem


def test_a_configuration_that_is_not_there_is_refused():
    for name in ("/nowhere/config.json", "./nowhere/model", "a/b/c"):
        (problem,) = architecture_problems(Recipe(model_name=name))
        assert "no such file or folder" in problem


def test_a_hub_id_is_read_for_its_configuration_alone(monkeypatch, tmp_path):
    (problem,) = architecture_problems(Recipe(model_name="somebody/model"))  # tests are offline
    assert "model 'somebody/model'" in problem
    asked = []

    def download(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return shipped("olmo2").model_name

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    recipe = Recipe(model_name="somebody/model", block_size=BLOCK)
    assert architecture_problems(recipe) == [] and asked == [("somebody/model", "config.json")]
    assert parameters_of(recipe, ROWS) == parameters_of(shipped("olmo2"), ROWS)
    found = description(recipe, ROWS)
    assert (found["model_name"], found["architecture"]["config"]) == ("olmo2", "somebody/model")


def test_code_of_a_configuration_is_not_run_where_transformers_has_the_class(write):
    source = json.loads(Path(shipped("qwen3").model_name).read_text())
    recipe = write(source | {"auto_map": {"AutoConfig": "nowhere.Config", "AutoModelForCausalLM": "nowhere.Model"}})
    assert type(build_model(recipe_config(recipe, ROWS), 0)) is transformers.Qwen3ForCausalLM


def test_a_model_that_sees_later_tokens_is_refused(write):
    recipe = write({"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "intermediate_size": 16, "is_decoder": False})  # fmt: skip
    with pytest.raises(ModelError, match="is not causal: .*is_decoder"):
        check_causal(build_model(recipe_config(recipe, ROWS), 0))
    causal = replace(recipe, model_config_overrides={"is_decoder": True})
    check_causal(build_model(recipe_config(causal, ROWS), 0))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("target", [12_000, 100_000])
def test_widths_are_picked_near_a_number_of_parameters_in_proportion(name, target):
    recipe = shipped(name, num_parameters=target)
    config = recipe_config(recipe, ROWS)
    model = AutoModelForCausalLM.from_config(config)
    count = sum(p.numel() for p in model.parameters())
    assert abs(count / target - 1) < 0.06 and f"{count:,} parameters" in describe_size(recipe, ROWS)
    check_causal(model)  # the widths can be computed with
    plain = recipe_config(shipped(name), ROWS)
    assert config.num_hidden_layers == plain.num_hidden_layers
    for key in set(widths_of(recipe, ROWS)) - {"hidden_size", "time_step_rank"}:
        ratio = getattr(config, key) / config.hidden_size / (getattr(plain, key) / plain.hidden_size)
        assert 0.6 < ratio < 1.7, key


def test_widths_are_picked_for_the_active_parameters_of_a_mixture():
    recipe = shipped("deepseek_v3", num_active_parameters=50_000)
    found = parameters_of(recipe, ROWS)
    assert abs(found.num_active_parameters / 50_000 - 1) < 0.05 < found.num_parameters / 50_000 - 1


def test_heads_are_merged_where_they_would_be_too_narrow(write):
    source = {"model_type": "olmo2", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16,
              "intermediate_size": 4096, "num_hidden_layers": 2, "tie_word_embeddings": True}  # fmt: skip
    config = recipe_config(write(source, num_parameters=20_000), ROWS)
    assert config.hidden_size / config.num_attention_heads >= 8
    assert config.num_key_value_heads == config.num_attention_heads < 16


def test_a_number_of_parameters_that_no_width_makes_is_refused_with_the_nearest():
    for name, nearest in (("gpt2-rotary-2-2", r"7,984 \(head_dim 8\), 28,256 \(head_dim 16\)"), ("gpt2-2-2", "")):
        recipe = Recipe(model_name=name, block_size=93, num_parameters=12_000 if nearest else 50)
        with pytest.raises(ModelError, match=f"no head_dim of {name} makes about .*{nearest}"):
            parameters_of(recipe, 87)
    with pytest.raises(ModelError, match="no width makes about 100 parameters at this depth: the nearest has"):
        parameters_of(shipped("qwen3", num_parameters=100), ROWS)


def test_a_rotary_fraction_is_held_to_the_width_that_is_picked_not_to_the_default_one():
    recipe = Recipe(model_name="gpt2-rotary-2-2", block_size=93, num_parameters=12_000, rotary_fraction=0.4)
    assert architecture_problems(recipe) == []  # 0.4 of 64 is no even number; of 10 it is
    head_dim = widths_of(recipe, 87)["head_dim"]
    assert (head_dim * 0.4) % 2 == 0
    assert "rotary_fraction" in architecture_problems(replace(recipe, rotary_fraction=1.5))[0]
    assert "activation" in architecture_problems(replace(recipe, activation="gelu_neu"))[0]


def test_head_dim_is_picked_for_names(monkeypatch):
    recipe = Recipe(model_name="gpt2-rotary-2-2", block_size=93, rotary_fraction=1.0, num_parameters=12_000)
    assert widths_of(recipe, 87) == {"head_dim": 10} and parameters_of(recipe, 87).num_parameters == 11_900
    assert recipe_config(recipe, 87).hidden_size == 20
    counts = {d: parameters_of(replace(recipe, num_parameters=None, head_dim=d), 87).num_parameters for d in (8, 12)}
    assert abs(11_900 - 12_000) < min(abs(count - 12_000) for count in counts.values())


@pytest.mark.parametrize(
    "text",
    ["num_hidden_layers=2,rope=[a, 1e-3],tied=true", '{"num_hidden_layers": 2, "rope": ["a", 1e-3], "tied": true}'],
)
def test_overrides_are_read_from_the_command_line(text):
    found = convert(text, dict[str, Any] | None)
    assert found == {"num_hidden_layers": 2, "rope": ["a", 1e-3], "tied": True}
    assert convert("null", dict[str, Any] | None) is None
    with pytest.raises(ValueError, match="expected a mapping"):
        convert("just words", dict[str, Any] | None)


def test_a_path_is_relative_to_its_file_then_to_the_current_folder_then_packaged(tmp_path, monkeypatch):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    monkeypatch.chdir(tmp_path)
    for place in (recipes, tmp_path):
        (place / "mine.json").write_text("{}")
    (tmp_path / "here.json").write_text("{}")
    assert locate_model("mine.json", recipes) == str(recipes / "mine.json")
    assert locate_model("here.json", recipes) == str(tmp_path / "here.json")
    assert locate_model("architectures/qwen3.json", recipes) == str(RECIPES_DIR / "architectures" / "qwen3.json")
    assert locate_model("Qwen/Qwen3-0.6B", recipes) == "Qwen/Qwen3-0.6B"
    (tmp_path / "gpt2-2-2").mkdir()  # a name of a family stays one
    assert locate_model("gpt2-2-2", recipes) == "gpt2-2-2"
    (recipes / "r.yaml").write_text("num_people: 5\nmodel_name: mine.json\n")
    assert read_recipe(recipes / "r.yaml")[0].model_name == str(recipes / "mine.json")
    assert read_recipe(recipes / "r.yaml", {"model_name": "mine.json"})[0].model_name == str(tmp_path / "mine.json")


def test_a_run_folder_keeps_the_configuration_and_belongs_to_it(tmp_path):
    config = tmp_path / "place" / "config.json"
    config.parent.mkdir()
    config.write_text(Path(shipped("qwen3").model_name).read_text())
    recipe = Recipe(model_name=str(config), num_people=9, run_name="run", output_dir=str(tmp_path))
    run_dir = claim_run_dir(recipe)
    there, problems, _ = read_recipe(run_dir / "recipe.yaml")
    assert (
        not problems and Path(there.model_name).parent == run_dir and Path(there.model_name).name.startswith("qwen3-")
    )
    before = (run_dir / "recipe.yaml").stat().st_mtime_ns
    assert claim_run_dir(recipe) == run_dir and (run_dir / "recipe.yaml").stat().st_mtime_ns == before
    moved = replace(recipe, model_name=str(config.rename(tmp_path / "other.json")))
    assert folder_problems(moved) == []
    Path(moved.model_name).write_text(
        json.dumps(json.loads(Path(moved.model_name).read_text()) | {"rms_norm_eps": 1e-5})
    )
    (problem,) = folder_problems(moved)
    assert "belongs to another recipe: model_name is 'qwen3-" in problem


def test_a_sweep_names_cells_by_the_configurations_files(tmp_path):
    for name in ("a.json", "b/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(Path(shipped("qwen3").model_name).read_text())
    (tmp_path / "s.yaml").write_text(
        "base: biod/architecture-cpu\n"
        "grid:\n"
        "  model_name: [a.json, b/config.json, architectures/mamba2.json]\n"
        "  model_config_overrides: [{hidden_size: 16}]\n"
    )
    sweep, problems = read_sweep(tmp_path / "s.yaml")
    assert problems == []
    end = "_model_config_overrides-hidden_size-16".replace("_size", "-size")
    assert [cell.name for cell in sweep.cells] == [f"{name}{end}" for name in ("a", "b", "mamba2")]
    assert sweep.cells[0].recipe.model_name == str(tmp_path / "a.json")


PACKAGE = """
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

class MyConfig(LlamaConfig):
    model_type = "{name}"

class MyForCausalLM(LlamaForCausalLM):
    config_class = MyConfig

AutoConfig.register("{name}", MyConfig)
AutoModelForCausalLM.register(MyConfig, MyForCausalLM)
"""


def test_a_configuration_is_read_once_until_its_file_or_the_overrides_change(write, monkeypatch):
    found, text_part = [], architectures._text_part
    monkeypatch.setattr(architectures, "_text_part", lambda *words: found.append(words) or text_part(*words))
    content = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}
    layers = [recipe_config(write(content), ROWS).n_layer for _ in range(3)]
    assert layers == [1, 1, 1] and len(found) == 1
    assert recipe_config(write(content, model_config_overrides={"n_layer": 3}), ROWS).n_layer == 3
    assert recipe_config(write(content | {"n_layer": 2}), ROWS).n_layer == 2 and len(found) == 3


def test_a_package_registers_a_class_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(registration.IMPORTS, "")
    (tmp_path / "my_llama_package.py").write_text(PACKAGE.format(name="registered_llama"))
    source = {"model_type": "registered_llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32}  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(source))
    recipe = Recipe(model_name=str(tmp_path / "mine.json"), block_size=BLOCK)
    (problem,) = architecture_problems(recipe)
    assert "give --import my_package" in problem
    words = [
        "run",
        "--config",
        "biod/architecture-cpu",
        "--model_name",
        "mine.json",
        "--dry_run",
        "--quantize_bits",
        "[]",
    ]
    assert main([*words, "--import", "no_such_package"]) == 2
    assert "no package or module of that name" in capsys.readouterr().err
    assert main([*words, "--import", "my_llama_package"]) == 0
    out = capsys.readouterr().out
    assert "intermediate_size" in out and "num_parameters" in out
    model = build_model(recipe_config(recipe, ROWS), 0)
    assert type(model).__name__ == "MyForCausalLM"
    model.save_pretrained(tmp_path / "model")
    assert type(registration.read_model_config(tmp_path / "model")).__name__ == "MyConfig"


def test_a_recipe_error_names_the_configuration(tmp_path):
    from knowcap.run.preflight import load_recipe

    with pytest.raises(RecipeError, match="no such file or folder"):
        load_recipe("biod/architecture-cpu", {"model_name": str(tmp_path / "nothing.json")})
