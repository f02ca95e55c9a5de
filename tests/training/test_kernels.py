"""What replaces stock operations in training: same losses and gradients, and only where it is the same function."""

from __future__ import annotations

import sys

import pytest
import torch
from architectures import CONFIGS, IDS, SIZES
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, GPTJConfig

from knowcap.models import model_config
from knowcap.training import loss as loss_module
from knowcap.training.kernels import faster_training, rotary, tanh_gelu
from knowcap.training.loss import LinearCrossEntropy


REPLACED = {
    "gpt2": ("loss", "gelu"),
    "gpt2-rotary": ("loss", "gelu", "rotary"),
    **dict.fromkeys(("llama", "llama-tied", "mistral", "mixtral"), ("loss", "rotary")),
}
LABELS = IDS.repeat(3, 1).clone()
LABELS[1, 15:] = LABELS[2, 3:] = -100


def made(config) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).train()


def step(model, **options) -> dict[str, torch.Tensor]:
    """The loss and every gradient of one step."""
    model.zero_grad()
    loss = model(input_ids=LABELS.clamp(min=0), labels=LABELS, **options)["loss"]
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max().clamp(min=1e-3), name


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": torch.tensor(50)}], ids=["mean", "sum"])
@pytest.mark.parametrize("name", REPLACED)
def test_losses_and_gradients_are_the_stock_ones(name, options):
    model = made(CONFIGS[name]())
    expected = step(model, **options)
    with faster_training(model) as replaced:
        assert replaced == REPLACED[name]
        assert_equal(step(model, **options), expected, 1e-5)


@pytest.mark.parametrize("name", ["gpt2-rotary", "llama"])
def test_in_bf16_it_rounds_as_the_stock_step_does(name):
    model = made(CONFIGS[name]())
    exact = step(model)
    with torch.autocast("cpu", torch.bfloat16):
        stock = step(model)
        with faster_training(model):
            found = step(model)
    for key, value in exact.items():
        error, allowed = (found[key] - value).abs().max(), (stock[key] - value).abs().max()
        assert error <= 2 * allowed + 1e-6, key


def test_evaluation_and_everything_afterwards_is_stock():
    model = made(CONFIGS["gpt2-rotary"]())
    module = sys.modules[type(model).__module__]
    before, expected = module.apply_rotary_pos_emb, step(model)
    forwards = {name: m.forward for name, m in model.named_modules() if name}
    logits = model.eval()(IDS).logits
    with faster_training(model):
        assert module.apply_rotary_pos_emb is rotary
        torch.testing.assert_close(model(IDS, labels=IDS).logits, logits)
    assert module.apply_rotary_pos_emb is before
    assert {name: m.forward for name, m in model.named_modules() if name} == forwards
    assert torch.equal(model(IDS).logits, logits)
    assert_equal(step(model.train()), expected, 0.0)


def test_a_model_that_caps_its_logits_keeps_its_loss():
    config = Gemma2Config(**SIZES, head_dim=32, final_logit_softcapping=0.5)
    model = made(config)
    expected = step(model)
    with faster_training(model) as replaced:
        assert "loss" not in replaced
        assert_equal(step(model), expected, 1e-5)


def test_a_head_with_a_bias_keeps_its_loss_and_other_rotary_positions_stay():
    config = GPTJConfig(vocab_size=61, n_positions=24, n_embd=64, n_layer=2, n_head=2, rotary_dim=16)
    model = made(config)
    with faster_training(model) as replaced:
        assert replaced == ("gelu",)


def test_a_compiled_or_sharded_model_is_left_alone(monkeypatch):
    model = made(CONFIGS["gpt2-rotary"]())
    with faster_training(model, compiled=True) as replaced:
        assert replaced == ()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with faster_training(model) as replaced:
        assert replaced == ()


@pytest.mark.parametrize("chunk", [1, 7 * 11, 2**18])
def test_the_loss_is_cross_entropy_whatever_part_is_computed_at_once(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "_CHUNK", chunk)
    made = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*size, generator=made) for size in ((23, 5), (11, 5)))
    targets = torch.randint(0, 11, (23,), generator=made)
    grads = []
    for kind, of in ((torch.float32, LinearCrossEntropy.apply), (torch.float64, stock_sum)):
        h, w = (x.to(kind, copy=True).requires_grad_() for x in (hidden, weight))
        total = of(h, w, targets)
        (total / 7).backward()
        grads.append([total.detach().double(), h.grad.double(), w.grad.double()])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def stock_sum(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


def test_the_loss_of_a_target_that_is_nearly_impossible_is_finite():
    hidden = torch.tensor([[1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = LinearCrossEntropy.apply(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 2000.0
    assert hidden.grad.item() == 2.0


def test_tanh_gelu_is_the_function_and_its_derivative():
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64, requires_grad=True)
    y = tanh_gelu(x)
    expected = nn.functional.gelu(x.detach(), approximate="tanh")
    torch.testing.assert_close(y.detach(), expected, rtol=1e-12, atol=1e-14)
    torch.autograd.gradcheck(tanh_gelu, x[::97].detach().requires_grad_())


def test_rotary_turns_pairs_by_their_angle():
    """A head's dimensions i and i + r/2 are a complex number that is multiplied by exp(i angle)."""
    config = model_config("gpt2-rotary-2-2", vocab_size=8, block_size=8, head_dim=16, rotary_fraction=0.5)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    angles = torch.rand(1, 5, 4, dtype=torch.float64)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    q, k = torch.randn(2, 3, 2, 5, 16, dtype=torch.float64)
    turned = torch.complex(q[..., :4], q[..., 4:8]) * torch.exp(1j * angles)
    found, _ = rotary(q, k, cos, sin)
    torch.testing.assert_close(found, torch.cat([turned.real, turned.imag, q[..., 8:]], -1))
    torch.autograd.gradcheck(lambda q, k: rotary(q, k, cos, sin), (q[:1].requires_grad_(), k[:1].requires_grad_()))
