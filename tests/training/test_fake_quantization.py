"""Fake quantization: outputs are those of quanto's copy, gradients those at its weights, and it starts on time."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launched import launch
from safetensors.torch import load_file

from knowcap.models import ModelError, build_model, model_config
from knowcap.models.quantized import quanto
from knowcap.models.quantized.fake import FakeQuantization
from knowcap.models.quantized.layers import linearize
from knowcap.models.quantized.settings import Settings
from knowcap.recipe import Recipe
from knowcap.report.card import write_card
from knowcap.run import pipeline
from knowcap.run.folder import claim_run_dir, folder_problems
from knowcap.run.preflight import check_settings
from knowcap.training.arguments import machine_problems
from knowcap.training.stage import train


V = 61
RECIPE = Recipe(
    run_name="tiny", num_people=60, model_name="gpt2-2-2", head_dim=8, pools_fraction=0.05, num_templates=1,
    vocab_size=200, exposures=4, block_size=160, windows="aligned", train_batch_size=8, learning_rate=3e-3,
    warmup_steps=2, save_steps=4, logging_steps=1, quantize_bits=(),
)  # fmt: skip
QUANTIZERS = {
    "int8": ("gpt2-2-2", Settings(bits=8)),
    "conv1d in groups": ("gpt2-2-2", Settings(bits=4, group_size=8)),
    "conv1d whole rows": ("gpt2-2-2", Settings(bits=4, group_size=0)),
    "symmetric": ("gpt2-rotary-2-2", Settings(bits=4, group_size=16, symmetric=True)),
    "linear whole rows": ("llama-2-2", Settings(bits=4, group_size=0)),
    "tied embeddings": ("gpt2-2-2", Settings(bits=4, group_size=16, embeddings=True)),
    "two tables": ("llama-2-2", Settings(bits=8, embeddings=True)),
    "without MLPs": ("gpt2-rotary-2-2", Settings(bits=4, group_size=16, exclude=("*.mlp.*",))),
    "fused experts": ("mixtral-2-2-4", Settings(bits=4, group_size=8)),
    "three experts": ("mixtral-2-2-4", Settings(bits=4, group_size=8, exclude=("*.experts.1.*",))),
}


@pytest.fixture(params=QUANTIZERS)
def case(request):
    """A model in training mode, settings, and the quantized model that the stage would make of it."""
    name, settings = QUANTIZERS[request.param]
    model = build_model(model_config(name, vocab_size=V, block_size=24, head_dim=8, initializer_range=0.2), 0)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = 0.25  # a row of equal weights, whose scale is 0
    quantized = copy.deepcopy(model)
    linearize(quantized)
    quanto.quantize_layers(quantized, settings)
    return model.train(), settings, quantized.eval()


def ids() -> torch.Tensor:
    return torch.randint(V, (3, 20), generator=torch.Generator().manual_seed(1))


def test_the_forward_pass_is_that_of_the_model_that_quanto_makes(case):
    model, settings, quantized = case
    fake, before = FakeQuantization(model, settings), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected, plain = (m(ids(), use_cache=False).logits for m in (quantized, model))
        with fake.applied():
            found = model(ids(), use_cache=False).logits
            measured = model.eval()(ids(), use_cache=False).logits
    largest = expected.abs().max()
    assert (found - expected).abs().max() < 1e-6 * largest < 1e-3 * (plain - expected).abs().max()
    assert torch.equal(measured, plain), "a model that is measured in training has its own weights"
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    done = [p for p in quantized.parameters() if quanto.is_quantized(p)]
    assert fake.num_weights == sum(p.numel() for p in done)


def test_gradients_are_those_of_the_loss_at_the_rounded_weights(case):
    model, settings, quantized = case
    dequantized = copy.deepcopy(model)
    linear = {name: m.weight.detach() for name, m in quantized.named_modules() if hasattr(m, "weight")}
    with torch.no_grad():
        for name, parameter in dequantized.named_parameters():
            path, _, kind = name.rpartition(".")
            if path in linear and kind == "weight" and quanto.is_quantized(linear[path]):
                values = linear[path].dequantize()
                parameter.copy_(values if values.shape == parameter.shape and "c_" not in path else values.t())
            elif path.endswith(".experts"):
                for number, expert in enumerate(parameter):
                    table = linear[f"{path}.{number}.{kind}"]
                    expert.copy_(table.dequantize() if quanto.is_quantized(table) else table)
    with FakeQuantization(model, settings).applied():
        model(ids(), labels=ids(), use_cache=False).loss.backward()
    dequantized(ids(), labels=ids(), use_cache=False).loss.backward()
    for (name, found), expected in zip(model.named_parameters(), dequantized.parameters(), strict=True):
        assert (found.grad - expected.grad).abs().max() <= 1e-5 * expected.grad.abs().max(), name


def test_a_forward_pass_that_fails_leaves_the_weights_as_they_were():
    model = build_model(model_config("gpt2-2-2", vocab_size=V, block_size=24, head_dim=8), 0).train()
    before = dict(model.named_parameters())
    with FakeQuantization(model, Settings(bits=4, group_size=0)).applied(), pytest.raises(IndexError):
        model(torch.full((1, 2), V + 1))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def bits_stored(model, strings: torch.Tensor) -> float:
    """Bits of random strings that a model stores, by its probabilities of all symbols but the first."""
    with torch.no_grad():
        probabilities = model.eval()(strings, use_cache=False).logits[:, :-1].double().log_softmax(-1)
    known = probabilities.gather(-1, strings[:, 1:, None]).sum().item() / math.log(2)
    return known + strings[:, 1:].numel() * math.log2(probabilities.shape[-1])


def test_int4_keeps_more_bits_after_training_with_fake_quantization_than_after_training_without():
    symbols, stored = 16, {}
    strings = torch.randint(symbols, (150, 9), generator=torch.Generator().manual_seed(0))
    settings = Settings(bits=4, group_size=16)
    for active in (False, True):
        config = model_config("gpt2-1-2", vocab_size=symbols, block_size=9, head_dim=8, initializer_range=0.1)
        model = build_model(config, 0).train()
        fake, optimizer = FakeQuantization(model, settings), torch.optim.AdamW(model.parameters(), lr=3e-2)
        fake.active, schedule = active, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
        with fake.applied():
            for _ in range(200):
                model(strings, labels=strings, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        quantized = copy.deepcopy(model)
        linearize(quantized)
        quanto.quantize_layers(quantized, settings)
        stored[active] = bits_stored(quantized, strings)
        if not active:
            assert bits_stored(model, strings) > 1.3 * stored[active] > 0, "rounding costs bits without it"
    assert stored[True] > 1.2 * stored[False]


FAKE = replace(RECIPE, fake_quantization_bits=4, quantization_group_size=16)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def training(run_dir: Path) -> dict:
    return json.loads((run_dir / "model" / "training.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs without fake quantization, and with it in the last part of the steps, with all checkpoints."""
    recipes = {"plain": RECIPE, "late": replace(FAKE, fake_quantization_start=0.6)}
    folders = {name: tmp_path_factory.mktemp(name) for name in recipes}
    for name, recipe in recipes.items():
        train(replace(recipe, save_total_limit=100), folders[name])
    return folders


def test_it_starts_after_its_share_of_the_steps_and_is_recorded(runs):
    plain, late = training(runs["plain"]), training(runs["late"])
    losses = [[entry["loss"] for entry in found["log_history"]] for found in (plain, late)]
    first = next(step for step, pair in enumerate(zip(*losses, strict=True)) if pair[0] != pair[1])
    assert first == round(0.6 * plain["num_steps"]) > 4
    assert (late["fake_quantization_bits"], late["fake_quantization_start"]) == (4, 0.6)
    assert "fake_quantization_bits" not in plain
    assert list(weights(runs["late"])) == list(weights(runs["plain"]))


@pytest.mark.parametrize("checkpoint", [0, -1])
def test_a_run_interrupted_before_or_after_the_start_ends_with_the_same_weights(checkpoint, runs, tmp_path):
    steps = sorted((runs["late"] / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))[:-1]
    step = int(steps[checkpoint].name.split("-")[1])
    assert (step < 0.6 * training(runs["late"])["num_steps"]) == (checkpoint == 0)
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(steps[checkpoint], tmp_path / "checkpoints" / steps[checkpoint].name)
    train(replace(FAKE, fake_quantization_start=0.6), tmp_path)
    whole, resumed = weights(runs["late"]), weights(tmp_path)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_capacities_and_cards_name_it(runs, tmp_path):
    recipe = replace(FAKE, fake_quantization_start=0.6, run_name="late", output_dir=str(tmp_path))
    run = claim_run_dir(recipe)
    shutil.copytree(runs["late"] / "model", run / "model")
    knowledge = pipeline.data(recipe, run)
    for model in (run / "model", pipeline.quantize(run, Settings.of(recipe, 4))):
        content = json.loads(pipeline.measure(model, knowledge, recipe).read_text())
        assert (content["fake_quantization_bits"], content["fake_quantization_start"]) == (4, 0.6)
        text = write_card(model).read_text()
        assert "| bits of the weights in each forward pass (fake quantization) | 4 |" in text
        assert "| share of the steps before that | 0.6 |" in text


def test_a_copy_that_rounds_otherwise_than_training_did_is_warned_of(runs, tmp_path, caplog):
    run = claim_run_dir(replace(FAKE, run_name="late", output_dir=str(tmp_path)))
    shutil.copytree(runs["late"] / "model", run / "model")
    warnings = []
    for bits, group in ((8, 8), (4, 16), (4, 8)):
        caplog.clear()
        pipeline.quantize(run, Settings(bits=bits, group_size=group), overwrite=True)
        warnings.append([record.message for record in caplog.records if record.levelname == "WARNING"])
    assert warnings[:2] == [[], []]
    assert "trained with fake quantization of group_size=16" in warnings[2][0]


@pytest.mark.slow
def test_two_processes_end_with_the_loss_of_one(runs, tmp_path):
    launch(train, replace(FAKE, fake_quantization_start=0.6), tmp_path, log=tmp_path / "log")
    one, two = training(runs["late"]), training(tmp_path)
    assert (one["world_size"], two["world_size"], one["num_steps"]) == (1, 2, two["num_steps"])
    losses = [[entry["loss"] for entry in found["log_history"]] for found in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fake_quantization_bits": 8, "torch_compile": True}, ["fake_quantization_bits=8", "torch_compile"]),
        ({"fake_quantization_bits": 4}, ["quantization_group_size=32 does not divide", "int4"]),
        ({"fake_quantization_bits": 8, "quantization_symmetric": False}, ["int8 is always symmetric"]),
        ({"fake_quantization_bits": 2}, ["fake_quantization_bits=2", "8, 4 or null"]),
        (
            {"fake_quantization_bits": 8, "fake_quantization_start": 1.0},
            ["fake_quantization_start=1.0", "less than 1"],
        ),
        ({"fake_quantization_start": 0.5}, ["fake_quantization_start=0.5", "without fake_quantization_bits"]),
    ],
)
def test_what_cannot_be_is_reported_before_any_work(changed, words):
    (problem,) = check_settings(replace(RECIPE, **changed), set())
    assert all(word in problem for word in words)


def test_sharded_weights_and_patterns_that_match_nothing_are_refused():
    assert "FSDP divides them" in machine_problems(FAKE, fsdp=True)[-1]
    model = build_model(model_config("gpt2-2-2", vocab_size=V, block_size=24, head_dim=8), 0)
    with pytest.raises(ModelError, match=r"no layer matches \*\.mpl\.\*"):
        FakeQuantization(model, Settings(bits=8, exclude=("*.mpl.*",)))


def test_the_quantizer_of_a_run_folder_cannot_change_under_fake_quantization(tmp_path):
    for name, recipe in {"plain": RECIPE, "fake": FAKE}.items():
        recipe = replace(recipe, output_dir=str(tmp_path), run_name=name)
        claim_run_dir(recipe)
        problems = folder_problems(replace(recipe, quantization_group_size=8, quantize_bits=(8,)))
        assert len(problems) == (name == "fake")
    assert "quantization_group_size is 16 there and 8 here" in problems[0]
