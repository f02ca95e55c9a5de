"""Sweep files: cells are the product of their lists; all problems come at once, before the first cell starts."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_cells import BASE, write_sweep

from knowcap.cli import main, make_parser
from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import corpus_of
from knowcap.models import build_model, count_parameters, model_config
from knowcap.recipe import KEYS, RecipeError
from knowcap.recipe_file import RECIPES_DIR
from knowcap.run.estimate import estimate
from knowcap.run.preflight import load_recipe
from knowcap.sweep import dry_run, load_sweep, packaged_sweeps
from knowcap.sweep.checks import (
    CORPUS_KEYS,
    TEXTS_KEYS,
    cluster_problems,
    corpus_key,
    start_problems,
    texts_key,
)
from knowcap.sweep.dry_run import count_cells
from knowcap.training.windows import stream_of


GRID = "grid: {model_name: [gpt2-2-2, gpt2-rotary-2-2], learning_rate: [1e-3, 2e-3, 3e-3]}"
LIST = "list: [{num_people: 50, train_batch_size: 4}, {num_people: 80}]"


def sweep_of(folder: Path, text: str):
    return load_sweep(write_sweep(folder, f"base: base.yaml\n{text}\n"), folder / "runs")


def test_a_grid_makes_the_product_of_its_lists_in_their_order(tmp_path):
    sweep = sweep_of(tmp_path, GRID)
    expected = list(itertools.product(["gpt2-2-2", "gpt2-rotary-2-2"], [1e-3, 2e-3, 3e-3]))
    assert [(cell.recipe.model_name, cell.recipe.learning_rate) for cell in sweep.cells] == expected
    assert [cell.name for cell in sweep.cells] == [f"{model}_lr{rate}" for model, rate in expected]
    assert sweep.folder == tmp_path / "runs" / "sweeps" / "grid"
    assert [cell.run_dir for cell in sweep.cells] == [sweep.folder / cell.name for cell in sweep.cells]


def test_every_item_of_a_list_meets_every_combination_of_the_grid(tmp_path):
    sweep = sweep_of(tmp_path, f"{GRID}\n{LIST}")
    assert len(sweep.cells) == 12
    for n, cell in enumerate(sweep.cells):
        people, batch = ((50, 4), (80, 8))[n // 6]  # 8 is the base's
        assert (cell.recipe.num_people, cell.recipe.train_batch_size) == (people, batch)
        assert cell.name.startswith("N50_batch4_" if n < 6 else "N80_gpt2")


def test_a_cell_is_the_recipe_that_the_same_overrides_make_on_the_command_line(tmp_path):
    sweep = sweep_of(tmp_path, f"{GRID}\n{LIST}")
    for cell in sweep.cells:
        words = [f"--{key}={value}" for key, value in cell.overrides.items()]
        words += [f"--run_name={cell.name}", f"--output_dir={sweep.folder}"]
        assert cell.recipe == load_recipe(tmp_path / "base.yaml", words)


def test_a_run_name_stands_for_its_item_and_a_lone_item_is_left_out_of_names(tmp_path):
    named = "list: [{run_name: few, num_people: 50}, {run_name: many, num_people: 80}]\ngrid: {seed: [0, 1]}"
    assert [c.name for c in sweep_of(tmp_path, named).cells] == ["few_seed0", "few_seed1", "many_seed0", "many_seed1"]
    lone = "list: [{num_people: 50, quantize_bits: []}]\ngrid: {seed: [0, 1]}"
    sweep = sweep_of(tmp_path, lone)
    assert [cell.name for cell in sweep.cells] == ["seed0", "seed1"]
    assert {(cell.recipe.num_people, cell.recipe.quantize_bits) for cell in sweep.cells} == {(50, ())}


def test_the_base_may_lack_what_every_cell_gives(tmp_path):
    base = BASE.replace("model_name: gpt2-2-2\n", "")
    write_sweep(tmp_path, "base: base.yaml\ngrid: {model_name: [gpt2-2-2]}", base)
    assert len(load_sweep(tmp_path / "grid.yaml").cells) == 1
    write_sweep(tmp_path, "base: base.yaml\ngrid: {seed: [0, 1]}", base)
    with pytest.raises(RecipeError, match="model_name is missing"):
        load_sweep(tmp_path / "grid.yaml")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grid: {learning_rat: [1]}", ["grid: unknown key 'learning_rat'; did you mean 'learning_rate'?"]),
        ("list: [{num_peple: 5}]", ["list: unknown key 'num_peple'; did you mean 'num_people'?"]),
        ("grid: {seed: []}", ["grid: seed: an empty list makes no cells"]),
        ("grid: {}", ["grid: empty"]),
        ("list: []", ["list: empty"]),
        ("", ["grid and list are missing"]),
        ("grid: {seed: 1}", ["expected a list of values, such as [1]"]),
        ("grid: {learning_rate: [1e-3, 0.001]}", ["2 cells are named 'lr0.001'"]),
        ("list: [{run_name: a, seed: 0}, {run_name: a, seed: 1}]", ["2 cells are named 'a'"]),
        ("grid: {seed: [0, x]}", ["grid: seed: got 'x', expected a whole number"]),
        ("grid: {seed: [0]}\nlist: [{seed: 1}]", ["seed is in grid and in list"]),
        ("grid: {seed: [0]}\nbest_of: learning_rte", ["best_of: 'learning_rte' is not a key that every cell changes"]),
        ("grid: {seed: [0]}\nbest_off: seed", ["unknown key 'best_off'; did you mean 'best_of'?"]),
        ("grid: {output_dir: [a]}", ["output_dir cannot be overridden; pass --output_dir"]),
        ("grid: {seed: [0], seed: [1]}", ["seed: given twice (line 2)"]),
        ("grid: {model_name: [gpt2-2-2, gtp2-2-2]}", ["gtp2-2-2: model_name='gtp2-2-2'", "did you mean gpt2-2-2"]),
        ("grid: {vocab_size: [10], seed: [0, 1]}", ["vocab_size=10 is too small"]),
        ("grid: {block_size: [20]}", ["block_size=20"]),
        ("grid: {precision: [fp16]}", ["fp16 needs a GPU"]),
    ],
)  # fmt: skip
def test_bad_input_is_reported_before_the_first_cell_starts(tmp_path, capsys, text, parts):
    file = write_sweep(tmp_path, f"base: base.yaml\n{text}\n")
    assert main(["sweep", str(file), "--output_dir", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in parts), message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "grid.yaml"]


def test_all_problems_are_reported_at_once_and_equal_ones_once(tmp_path):
    text = "base: base.yaml\ngrid: {sed: [0], learning_rate: [fast], windows: []}\nbest_of: x"
    with pytest.raises(RecipeError) as error:
        load_sweep(write_sweep(tmp_path, text))
    assert len(error.value.problems) == 3
    with pytest.raises(RecipeError) as error:
        sweep_of(tmp_path, "grid: {head_dim: [0], seed: [0, 1, 2, 3]}")
    (problem,) = [p for p in error.value.problems if "expected 1 or more" in p and "heads" not in p]
    assert problem.startswith("head_dim-0_seed0 and 3 others: ")


def test_an_unknown_base_or_sweep_is_reported_with_the_names_that_exist(tmp_path, capsys):
    with pytest.raises(RecipeError, match=r"did you mean 'quickstart'\?"):
        load_sweep(write_sweep(tmp_path, "base: quikstart\ngrid: {seed: [0]}"))
    assert main(["sweep", "quikstart"]) == 2
    assert "did you mean 'quickstart'?" in capsys.readouterr().err


def test_the_packaged_quickstart_is_found_by_its_name(tmp_path, capsys):
    sweep = load_sweep("quickstart", tmp_path)
    assert sweep.file == packaged_sweeps()["quickstart"] and len(sweep.cells) == 4
    found = count_cells(sweep.cells)
    assert len({round(found[cell.name].max_bits_per_parameter, 3) for cell in sweep.cells}) == 2
    assert main(["ls", "sweeps"]) == 0
    assert "\nquickstart  " in "\n" + capsys.readouterr().out


def test_a_cell_that_no_node_of_a_cluster_can_hold_is_reported():
    nodes = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 32.0}]
    assert cluster_problems(1, 0.25, nodes) == cluster_problems(32, 0, nodes) == []
    for cpus, gpus in ((9, 0.25), (16, 1), (64, 0)):
        (problem,) = cluster_problems(cpus, gpus, nodes)
        assert f"needs {cpus:g} CPUs and {gpus:g} GPUs" in problem
        assert "8 CPUs and 1 GPUs, 32 CPUs and 0 GPUs" in problem
    for gpus in (1.5, 2):
        assert "a cell is one process, which uses one GPU" in cluster_problems(1, gpus, [{"CPU": 8.0, "GPU": 4.0}])[0]
    assert "more than 0 CPUs" in cluster_problems(0, 0, nodes)[0]


def test_cells_that_fit_the_disk_one_by_one_but_not_together_are_reported(tmp_path, monkeypatch):
    sweep = sweep_of(tmp_path, "grid: {seed: [0, 1, 2, 3, 4, 5, 6, 7]}")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 0, 10**6))
    (problem,) = start_problems(sweep.cells)
    assert "1 MB free, the 8 cells need about" in problem
    assert start_problems(sweep.cells[:1]) == []


def test_a_run_folder_of_another_recipe_is_reported(tmp_path):
    sweep = sweep_of(tmp_path, "grid: {seed: [0, 1]}")
    from knowcap.run.folder import claim_run_dir

    claim_run_dir(replace(sweep.cells[1].recipe, num_people=61))
    (problem,) = start_problems(sweep.cells)
    assert "belongs to another recipe: num_people is 61 there and 60 here" in problem


@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        ("base.yaml", "{exposures: 5, windows: cut}"),
        ("biod/compact-cpu", "{num_people: 300, windows: cut}, {num_people: 200, model_name: gpt2-2-2}"),
        ("morris/cpu", "{exposures: 7}"),
    ],
)
def test_what_a_cell_counts_is_what_its_estimate_counts(tmp_path, base, overrides):
    sweep = load_sweep(write_sweep(tmp_path, f"base: {base}\nlist: [{overrides}]"))
    found = count_cells(sweep.cells)
    for cell in sweep.cells:
        e, got = estimate(cell.recipe, measure_speed=False), found[cell.name]
        assert (got.num_parameters, got.num_tokens, got.num_steps) == (e.num_parameters, e.num_tokens, e.num_steps)
        assert got.max_bits_per_parameter == e.max_bits_per_parameter
        assert got.flops == 6 * e.num_parameters * e.num_tokens


@pytest.mark.parametrize(
    "changed",
    ["", "questions: true, qa_share: 0.5", "junk_people: 200, useful_share: 0.25"],
    ids=["plain", "questions", "junk"],
)
def test_the_tokens_of_a_dry_run_are_those_of_the_run(tmp_path, changed):
    """Within a per cent, counted by training's own packing of all people and exposures."""
    (cell,) = sweep_of(tmp_path, f"list: [{{num_people: 1500, exposures: 4{', ' if changed else ''}{changed}}}]").cells
    recipe = cell.recipe
    corpus = corpus_of(recipe)
    tokenizer, _ = tokenizer_of(recipe, corpus)
    _, tokens = stream_of(recipe, corpus, tokenizer).count()
    assert count_cells([cell])[cell.name].num_tokens == pytest.approx(tokens, rel=0.01)


def test_a_mixtures_flop_are_those_of_the_experts_that_a_token_goes_to(tmp_path):
    sweep = sweep_of(tmp_path, "grid: {model_name: [mixtral-2-2-4, mixtral-2-2-8], num_experts_per_tok: [1, 2]}")
    found = [count_cells(sweep.cells)[cell.name] for cell in sweep.cells]
    assert [c.num_parameters for c in found[:2]] == [found[0].num_parameters] * 2
    active = [round(c.flops / 6 / c.num_tokens) for c in found]
    assert active[0] < active[1] < found[1].num_parameters
    router = 2 * 4 * 16  # of two layers, four experts more, d = 2 heads of 8
    assert active[3] - active[1] == router and found[3].num_parameters > 1.5 * found[1].num_parameters


def test_parameters_are_those_of_the_built_model(tmp_path):
    sweep = sweep_of(tmp_path, "grid: {model_name: [gpt2-2-2, gpt2-rotary-3-2]}")
    for name, got in count_cells(sweep.cells).items():
        r = next(cell.recipe for cell in sweep.cells if cell.name == name)
        sizes = {"vocab_size": got.rows, "block_size": r.block_size, "head_dim": r.head_dim}
        model = build_model(model_config(r.model_name, **sizes), 0)
        assert count_parameters(model).num_parameters == got.num_parameters


def test_a_thousand_cells_are_counted_by_counting_each_kind_of_text_once(tmp_path, monkeypatch):
    called = []
    sampled = dry_run.sample_counts
    monkeypatch.setattr(dry_run, "sample_counts", lambda recipe: called.append(recipe) or sampled(recipe))
    rates = ", ".join(f"{n}e-4" for n in range(1, 51))
    text = (
        f"grid: {{num_people: [50, 60], learning_rate: [{rates}], seed: [0, 1, 2, 3, 4, 5], vocab_size: [200, 210]}}"
    )
    sweep = sweep_of(tmp_path, text)
    assert len(count_cells(sweep.cells)) == 1200
    assert [recipe.vocab_size for recipe in called] == [200, 210]


def test_a_dry_run_makes_nothing_and_needs_no_torch(tmp_path):
    file = write_sweep(tmp_path)
    code = (
        "import sys; from knowcap.cli import main; "
        f"status = main(['sweep', {str(file)!r}, '--dry_run', '--output_dir', {str(tmp_path / 'runs')!r}]); "
        "print(status, {'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 set()"
    assert [line.split()[1] for line in lines[1:5]] == [
        f"{m}_seed{s}" for m in ("gpt2-2-2", "gpt2-rotary-2-2") for s in (0, 1)
    ]
    assert "4 cells, 4 to run" in done.stdout and "FLOP" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_missing_ray_is_reported_before_the_first_cell(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write_sweep(tmp_path)
    assert main(["sweep", str(file), "--output_dir", str(tmp_path / "runs"), "--engine", "ray"]) == 2
    assert "pip install 'knowcap[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_slurm_array_runs_the_cell_of_its_job(tmp_path):
    script = RECIPES_DIR / "slurm" / "sweep.slurm"
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "7"}
    command = ["bash", str(script), "my.yaml", "--output_dir", "/shared/runs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert words == ["knowcap", "sweep", "my.yaml", "--output_dir", "/shared/runs", "--cell", "7"]
    args = make_parser().parse_args(words[1:])
    assert args.cell == [7] and args.file == "my.yaml"
    missing = subprocess.run(command, env={"PATH": environment["PATH"]}, capture_output=True, text=True)
    assert missing.returncode == 2 and "--array" in missing.stderr


# Keys that texts, tokens and windows do not depend on.
OTHER_KEYS = (
    "run_name output_dir seed model_name model_config_overrides num_parameters num_active_parameters head_dim "
    "rotary_fraction activation initializer_range num_experts_per_tok "
    "router_aux_loss_coef optimizer learning_rate lr_scheduler_type min_learning_rate_ratio warmup_steps "
    "learning_rate_decay_share learning_rate_decay_type weight_decay adam_beta1 adam_beta2 adam_epsilon "
    "muon_learning_rate muon_momentum optim_args max_grad_norm train_batch_size train_sampling_strategy "
    "gradient_accumulation_steps precision torch_compile "
    "dataloader_num_workers logging_steps save_steps save_total_limit report_to measure_every measure_limit "
    "eval_batch_size start_token confidence_level quantize_bits quantization_method "
    "quantization_group_size "
    "quantization_symmetric quantization_exclude quantize_embeddings fake_quantization_bits fake_quantization_start "
    "extract extract_rank extract_embedding_rank "
    "extract_steps extract_batch_size extract_learning_rate extract_weight_decay"
).split()


def test_all_keys_but_those_after_the_texts_are_compared_before_texts_are_shared():
    assert [key for key in KEYS if key not in CORPUS_KEYS] == OTHER_KEYS
    amounts = {"num_people", "exposures", "control_people", "holdout_entities", "renderings", "shard_size"}
    amounts |= {"exposures_exponent", "warmup_exposures", "warmup_people_share"}
    assert set(CORPUS_KEYS) - set(TEXTS_KEYS) == amounts


def test_cells_that_differ_in_extraction_or_quantization_share_one_tokenization(tmp_path, monkeypatch):
    counted = []
    sampled = dry_run.sample_counts
    monkeypatch.setattr(dry_run, "sample_counts", lambda recipe: counted.append(recipe) or sampled(recipe))
    text = "grid: {extract_rank: [2, 4, 8], quantization_group_size: [16, 32], learning_rate: [1e-3, 2e-3]}"
    sweep = sweep_of(tmp_path, text)
    assert len(count_cells(sweep.cells)) == 12 and len(counted) == 1
    assert len({texts_key(cell.recipe) for cell in sweep.cells}) == 1
    assert len({corpus_key(cell.recipe) for cell in sweep.cells}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--gpus_per_cell", "2"],
        ["--cpus_per_cell", "2"],
        ["--workers", "2", "--engine", "ray"],
        ["--workers", "2", "--accelerate_config", "cpu_2"],
        ["--workers", "auto", "--cell", "0"],
        ["--engine", "ray", "--accelerate_config", "cpu_2"],
        ["--measure_speed"],
        ["--cell", "4"],
        ["--cell", "-1"],
    ],
)
def test_options_that_cannot_be_are_reported(tmp_path, capsys, words):
    assert main(["sweep", str(write_sweep(tmp_path)), "--output_dir", str(tmp_path / "runs"), *words]) == 2
    assert words[0].lstrip("-") in capsys.readouterr().err.replace("no cell", "cell")
    assert not (tmp_path / "runs").exists()
