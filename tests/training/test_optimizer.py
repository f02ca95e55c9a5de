"""Optimizers and schedules: the learning rate of each step, what Muon updates and by how much, resumed or not."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launched import launch
from run_folders import make_run, make_training, read_card
from safetensors.torch import load_file
from transformers import Mamba2Config, RecurrentGemmaConfig
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from knowcap.cli import main
from knowcap.models import build_model, recipe_config
from knowcap.recipe import KEYS, Recipe
from knowcap.recipe.optimizer import MUON, OPTIMIZERS, REFUSED_OPTIMIZERS, REFUSED_SCHEDULES, SCHEDULES, WSD
from knowcap.run.preflight import check_settings
from knowcap.training.arguments import machine_problems
from knowcap.training.muon import StackedMuon, muon_parameters
from knowcap.training.optimizer import muon_of, set_steps, unusual_settings
from knowcap.training.stage import train, training_arguments_of
from knowcap.training.trainer import StreamTrainer


RECIPE = Recipe(
    run_name="tiny", num_people=60, model_name="gpt2-2-2", head_dim=8, pools_fraction=0.05, num_templates=1,
    vocab_size=200, exposures=4, block_size=160, windows="aligned", train_batch_size=8, learning_rate=3e-3,
    warmup_steps=2, save_steps=4, logging_steps=1, quantize_bits=(),
)  # fmt: skip
PEAK, WARMUP, STEPS, LEAST = 0.5, 7, 40, 0.2
RATES = replace(RECIPE, learning_rate=PEAK, warmup_steps=WARMUP, min_learning_rate_ratio=LEAST)


def trainer_of(recipe: Recipe, folder: Path, steps: int = STEPS) -> StreamTrainer:
    """The trainer of the training stage, with its optimizer and schedule."""
    args = training_arguments_of(recipe, folder)
    set_steps(args, recipe, steps)
    model = build_model(recipe_config(recipe, 50), 0)
    trainer = StreamTrainer(model=model, args=args, optimizer_cls_and_kwargs=muon_of(recipe))
    trainer.create_optimizer_and_scheduler(steps)
    return trainer


def cosine(share: float, least: float = 0.0) -> float:
    return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2


def warmed(fall):
    """Rises from 0 in WARMUP steps; then the share of the other steps that are done is given to `fall`."""
    return lambda s: s / WARMUP if s < WARMUP else fall((s - WARMUP) / (STEPS - WARMUP))


def rise_and_stay(fall):
    """warmup_stable_decay: rises from LEAST, and falls to it in the last quarter of the steps."""
    decay = STEPS // 4

    def rate(s: int) -> float:
        if s < WARMUP:
            return LEAST + (1 - LEAST) * s / WARMUP
        return 1.0 if s < STEPS - decay else LEAST + (1 - LEAST) * fall((s - STEPS + decay) / decay)

    return rate


CLOSED_FORMS = {
    "cosine_with_min_lr": warmed(lambda share: cosine(share, LEAST)),
    "cosine_warmup_with_min_lr": lambda s: (
        (s + 1) / WARMUP if s < WARMUP else cosine((s + 1 - WARMUP) / (STEPS - WARMUP), LEAST)
    ),
    "cosine": warmed(cosine),
    "linear": warmed(lambda share: 1 - share),
    "inverse_sqrt": lambda s: s / WARMUP if s < WARMUP else math.sqrt(WARMUP / s),
    "constant_with_warmup": warmed(lambda share: 1.0),
    "constant": lambda s: 1.0,
    WSD: rise_and_stay(lambda share: 1 - share),
    f"{WSD} cosine": rise_and_stay(cosine),
    f"{WSD} 1-sqrt": rise_and_stay(lambda share: 1 - math.sqrt(share)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_learning_rate_of_each_step_is_the_closed_forms(name, tmp_path):
    kind, fall = (*name.split(), "linear")[:2]
    recipe = replace(
        RATES, lr_scheduler_type=kind, learning_rate_decay_type=fall, learning_rate_decay_share=0.25, optimizer=MUON,
        muon_learning_rate=3 * PEAK,
    )  # fmt: skip
    trainer = trainer_of(recipe, tmp_path)
    found = []
    for _ in range(STEPS):
        found.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    expected = np.array([PEAK * CLOSED_FORMS[name](s) for s in range(STEPS)])
    adamw, muon = np.array(found)[:, 0], np.array(found)[:, -1]
    np.testing.assert_allclose(adamw, expected, rtol=1e-12)
    np.testing.assert_allclose(muon, 3 * expected, rtol=1e-12)


def test_every_schedule_and_optimizer_of_the_trainer_is_offered_or_refused_with_a_reason():
    assert {name.split()[0] for name in CLOSED_FORMS} == set(SCHEDULES)
    assert sorted([*SCHEDULES, *REFUSED_SCHEDULES]) == sorted(kind.value for kind in SchedulerType)
    assert sorted([*OPTIMIZERS, *REFUSED_OPTIMIZERS]) == sorted([MUON, *(name.value for name in OptimizerNames)])
    (problem,) = check_settings(replace(RECIPE, optimizer="lion_32bit"), set())
    assert problem.startswith("optimizer='lion_32bit': it needs the package bitsandbytes") and "or sgd" in problem
    for key, other, name in (("optimizer", "adamw", "adamw_torch_fused"), ("lr_scheduler_type", "wsd", WSD)):
        (problem,) = check_settings(replace(RECIPE, **{key: other}), set())
        assert problem.startswith(f"{key}={other!r}: the Trainer's name of it is {name}; expected ")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_a_step_on_the_cpu(name, tmp_path):
    recipe = replace(RECIPE, optimizer=name, lr_scheduler_type="constant", optim_args=None)
    trainer = trainer_of(recipe, tmp_path)
    before = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
    ids = torch.arange(20).reshape(2, 10)
    trainer.model(input_ids=ids, labels=ids).loss.backward()
    trainer.optimizer.step()
    still = [key for key, p in trainer.model.named_parameters() if torch.equal(p, before[key])]
    assert not still, still


def test_further_settings_reach_the_trainers_optimizer_and_wrong_ones_are_reported(tmp_path):
    trainer = trainer_of(replace(RECIPE, optimizer="sgd", optim_args="momentum=0.8,nesterov=true"), tmp_path)
    assert {(g["momentum"], g["nesterov"]) for g in trainer.optimizer.param_groups} == {(0.8, True)}
    for optimizer, given, part in (
        ("sgd", "momentun=0.9", "did you mean 'momentum'"),
        ("sgd", "momentum", "expected momentum=…"),
        ("rmsprop", "alpha=much", "alpha=much, expected a number"),
        ("sgd", "nesterov=1", "expected true or false"),
    ):
        (problem,) = check_settings(replace(RECIPE, optimizer=optimizer, optim_args=given), set())
        assert part in problem


@pytest.mark.parametrize(
    "changed",
    [
        {"optim_args": "momentum=0.9"},
        {"muon_momentum": 0.9},
        {"muon_learning_rate": 0.1, "optimizer": "adamw_torch"},
        {"adam_beta2": 0.98, "optimizer": "sgd"},
        {"min_learning_rate_ratio": 0.2, "lr_scheduler_type": "cosine"},
        {"warmup_steps": 3, "lr_scheduler_type": "constant"},
        {"learning_rate_decay_share": 0.3},
        {"learning_rate_decay_type": "cosine", "lr_scheduler_type": "linear"},
    ],
)
def test_settings_of_another_optimizer_or_schedule_are_reported(changed):
    recipe = replace(RECIPE, warmup_steps=1000) if "warmup_steps" not in changed else RECIPE
    (problem,) = check_settings(replace(recipe, **changed), set())
    key = next(iter(changed))
    assert problem.startswith(f"{key}=") and f"(its default, {KEYS[key].default}, is accepted)" in problem
    assert check_settings(replace(recipe, **changed | {key: KEYS[key].default}), set()) == []


def test_the_paper_s_optimizer_is_the_default_and_is_not_named(tmp_path):
    trainer = trainer_of(RATES, tmp_path)
    assert trainer.args.optim == "adamw_torch_fused" and type(trainer.optimizer) is torch.optim.AdamW
    assert trainer.args.lr_scheduler_type == "cosine_with_min_lr"
    assert unusual_settings(RATES) == {}
    assert unusual_settings(replace(RATES, optimizer=MUON, lr_scheduler_type=WSD)) == {
        "optimizer": "muon", "muon_learning_rate": PEAK, "muon_momentum": 0.95, "lr_scheduler_type": WSD,
        "learning_rate_decay_share": 0.2, "learning_rate_decay_type": "linear",
    }  # fmt: skip


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five steps of the quintic iteration in float64 (Jordan et al. 2024), of the matrix over its Frobenius norm."""
    x = matrix / np.sqrt((matrix**2).sum())
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def expected_matrix(start: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float, mu: float):
    """The weights after Muon's steps, with Nesterov momentum and updates of AdamW's size."""
    w, buffer = start.copy(), np.zeros_like(start)
    for g in gradients:
        buffer = mu * buffer + (1 - mu) * g
        update = newton_schulz((1 - mu) * g + mu * buffer)
        w = w * (1 - rate * decay) - rate * 0.2 * math.sqrt(max(w.shape)) * update
    return w


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16), (3, 12, 20)])
def test_muons_update_of_a_matrix_is_that_of_a_newton_schulz_iteration_in_numpy(shape):
    generator = np.random.default_rng(0)
    start, *gradients = generator.standard_normal((4, *shape))
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    square = torch.nn.Parameter(torch.eye(2))  # an optimizer has a first group
    rate, decay, mu = 0.1, 0.3, 0.9
    muon = StackedMuon([square, parameter], lr=rate, weight_decay=decay, momentum=mu, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        muon.step()
    stacked = (start, *gradients) if len(shape) == 3 else (start[None], *(g[None] for g in gradients))
    expected = np.stack(
        [expected_matrix(w, list(gs), rate, decay, mu) for w, *gs in zip(*stacked, strict=True)]
    ).reshape(shape)
    moved = np.abs(expected - start).mean()
    error = np.abs(parameter.detach().numpy() - expected).mean()
    assert error < 0.02 * moved, (error, moved)  # torch iterates in bfloat16
    without_nesterov = np.abs(expected_matrix(stacked[0][0], [g[0] for g in stacked[1:]], rate, decay, 0.0) - expected)
    assert without_nesterov.mean() > 0.1 * moved, "another momentum would be seen"


MATRICES = {
    "gpt2-2-2": {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)},
    "gpt2-rotary-2-2": {
        "attention.query_key_value": (48, 16), "attention.dense": (16, 16), "mlp.dense_h_to_4h": (64, 16),
        "mlp.dense_4h_to_h": (16, 64),
    },
    "llama-2-2": {
        "self_attn.q_proj": (16, 16), "self_attn.k_proj": (16, 16), "self_attn.v_proj": (16, 16),
        "self_attn.o_proj": (16, 16), "mlp.gate_proj": (43, 16), "mlp.up_proj": (43, 16), "mlp.down_proj": (16, 43),
    },
    "mixtral-2-2-4": {
        "self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
        "self_attn.o_proj": (16, 16), "mlp.gate": (4, 16), "mlp.experts.gate_up_proj": (4, 112, 16),
        "mlp.experts.down_proj": (4, 16, 56),
    },
}  # fmt: skip


@pytest.mark.parametrize("model_name", MATRICES)
def test_muon_updates_the_matrices_of_the_blocks_and_adamw_all_else_once(model_name, tmp_path):
    recipe = replace(RECIPE, model_name=model_name, optimizer=MUON, weight_decay=0.3)
    trainer = trainer_of(recipe, tmp_path)
    found = {name: tuple(p.shape) for name, p in muon_parameters(trainer.model).items()}
    in_layers = {}
    for name, shape in found.items():
        layer, rest = name.split(".", 3)[2], name.split(".", 3)[3].removesuffix(".weight")
        in_layers.setdefault(layer, {})[rest] = shape
    assert in_layers == {"0": MATRICES[model_name], "1": MATRICES[model_name]}
    assert trainer.args.to_dict()["optim"] == "muon"  # what trackers show
    adamw, muon = trainer.optimizer.parts.values()
    of = {id(p): name for name, p in trainer.model.named_parameters()}
    names = [[of[id(p)] for group in part.param_groups for p in group["params"]] for part in (adamw, muon)]
    assert sorted(names[0] + names[1]) == sorted(of.values()) and set(names[1]) == set(found)
    undecayed = {of[id(p)] for group in adamw.param_groups if not group["weight_decay"] for p in group["params"]}
    assert undecayed == {name for name in of.values() if "bias" in name or "norm" in name or ".ln_" in name}
    assert {group["weight_decay"] for group in muon.param_groups} == {0.3}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Trained by Muon on a warmup_stable_decay schedule, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("muon")
    train(MUON_RECIPE, folder)
    return folder


MUON_RECIPE = replace(
    RECIPE, optimizer=MUON, lr_scheduler_type=WSD, exposures=8, learning_rate=1e-2, muon_learning_rate=2e-2,
    save_total_limit=100,
)  # fmt: skip


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def test_a_model_learns_by_muon_and_its_folder_names_optimizer_and_schedule(once):
    training = json.loads((once / "model" / "training.json").read_text())
    log, steps = training["log_history"], training["num_steps"]
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert training["optimizer"] == "muon" and training["lr_scheduler_type"] == WSD
    assert (training["muon_learning_rate"], training["muon_momentum"]) == (2e-2, 0.95)
    assert training["learning_rate_decay_share"] == 0.2
    rates = [entry["learning_rate"] for entry in log]
    assert max(rates) == 1e-2 and rates.index(1e-2) == 2, "of AdamW, after the warm-up"
    assert sum(rate < 1e-2 for rate in rates[2:]) == pytest.approx(0.2 * steps, abs=1)


def test_a_run_interrupted_under_muon_ends_with_the_same_weights(once, tmp_path):
    steps = sorted((once / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(steps[1], tmp_path / "checkpoints" / steps[1].name)
    train(MUON_RECIPE, tmp_path)
    whole, resumed = weights(once), weights(tmp_path)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_micro_batches_change_a_model_of_muon_by_rounding_only(once, tmp_path):
    train(replace(MUON_RECIPE, gradient_accumulation_steps=4), tmp_path)
    losses = [json.loads((f / "model" / "training.json").read_text())["final_loss"] for f in (once, tmp_path)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    whole, parts = weights(once), weights(tmp_path)
    start = build_model(recipe_config(MUON_RECIPE, whole["transformer.wte.weight"].shape[0]), 0).state_dict()
    for key in whole:
        moved = (whole[key] - start[key]).norm()
        assert (parts[key] - whole[key]).norm() < 0.1 * moved, key


def test_two_processes_end_with_the_loss_of_one_under_muon(once, tmp_path):
    launch(train, MUON_RECIPE, tmp_path, log=tmp_path / "log")
    one, two = (json.loads((f / "model" / "training.json").read_text()) for f in (once, tmp_path))
    assert (one["world_size"], two["world_size"], one["num_steps"]) == (1, 2, two["num_steps"])
    losses = [[entry["loss"] for entry in training["log_history"]] for training in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


def test_the_card_and_a_dry_run_name_optimizer_and_schedule(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "run")
    training = run / "model" / "training.json"
    _, plain = read_card(run / "model")
    assert "| optimizer |" not in plain and "| learning-rate schedule |" not in plain
    training.write_text(json.dumps(make_training(**unusual_settings(MUON_RECIPE))))
    _, text = read_card(run / "model")
    assert "| optimizer | muon |" in text and f"| learning-rate schedule | {WSD} |" in text
    assert "of Muon, for the matrices of the blocks (AdamW for the rest) | 0.02 |" in text
    monkeypatch.setattr("knowcap.run.estimate.seconds_per_step", lambda *_: 0.1)
    words = ["--optimizer=muon", f"--lr_scheduler_type={WSD}", f"--output_dir={tmp_path}", "--dry_run"]
    assert main(["run", "--config", "quickstart", *words]) == 0
    lines = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:7])
    assert lines["optimizer"] == "muon" and lines["lr scheduler type"] == WSD and lines["muon learning rate"] == "0.02"


def test_gates_are_stacks_of_matrices_and_a_state_space_has_matrices_beside_adamws_parameters():
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3}
    hybrid = RecurrentGemmaConfig(
        **sizes, intermediate_size=48, num_attention_heads=2, lru_width=16, attention_window_size=8
    )
    mamba = Mamba2Config(**sizes, num_heads=4, head_dim=8, state_size=8, n_groups=1)
    found = []
    for config in (hybrid, mamba):
        model = build_model(config, 0)
        names = {name for name in muon_parameters(model) if "layers.0." in name}
        found.append({name.split("layers.0.")[1].removesuffix(".weight") for name in names})
    assert {"temporal_block.rg_lru.input_gate_weight", "temporal_block.rg_lru.recurrent_gate_weight"} < found[0]
    assert {"temporal_block.linear_x", "temporal_block.linear_out", "mlp_block.gate_proj"} < found[0]
    assert not any("conv" in name or "bias" in name or "norm" in name for name in found[0])
    assert found[1] == {"mixer.in_proj", "mixer.out_proj"}


def test_a_decay_that_does_not_fit_beside_the_warm_up_is_cut_and_reported(tmp_path, caplog):
    recipe = replace(RATES, lr_scheduler_type=WSD, warmup_steps=30, learning_rate_decay_share=0.5)
    trainer = trainer_of(recipe, tmp_path)
    assert "the decay has the last 10" in caplog.text
    assert trainer.args.lr_scheduler_kwargs["num_decay_steps"] == 10


def test_muon_with_fsdp_is_a_problem():
    problems = machine_problems(replace(RECIPE, optimizer=MUON), 2, fsdp=True)
    assert any("muon" in problem and "adamw_torch_fused" in problem for problem in problems)
    assert not any("muon" in problem for problem in machine_problems(RECIPE, 2, fsdp=True))
    assert not any("muon" in problem for problem in machine_problems(replace(RECIPE, optimizer=MUON), 2))
