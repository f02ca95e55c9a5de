"""Bytes of a model in use and in training, and what its GPUs cost."""

from __future__ import annotations

import math
from collections.abc import Mapping

from knowcap.laws.plan.answer import Step
from knowcap.laws.plan.setting import GPU_BYTES, Hardware
from knowcap.laws.published import PRECISIONS
from knowcap.laws.quantity import figure


# Bytes a parameter in training with AdamW, beside activations (Rajbhandari et al. 2020, ZeRO, section 3.1): weights
# and gradients of 2 bytes, float32 copies of 4, two moments of 4 each. In float32: 4 + 4 + 8. Quantized models are
# trained in bf16 and quantized afterwards.
TRAINING_BYTES = 16.0
_USABLE = 0.9  # of a GPU's memory; the rest is the libraries' own


def inference_bytes(num_parameters: float, precision: str) -> float:
    """Of the weights, without the cache of a context and without the scales of quantized weights."""
    return num_parameters * PRECISIONS[precision][1] / 8


def memory_results(num_parameters: float) -> dict[str, float]:
    """Bytes in training, and in use at each precision."""
    found = {f"inference_bytes_{name}": inference_bytes(num_parameters, name) for name in PRECISIONS}
    return {"training_bytes": TRAINING_BYTES * num_parameters} | found


def memory_steps(num_parameters: float, precision: str) -> list[Step]:
    """The same as two lines, the weights at the precision in use."""
    each = ", ".join(f"{name} {figure(inference_bytes(num_parameters, name))}" for name in PRECISIONS)
    why = f"weights at {precision}, without the scales of quantized ones; {each}"
    training = (
        f"16 for each of {figure(num_parameters)} parameters at every precision: weights, gradients, AdamW; without "
        "activations (ZeRO, section 3.1)"
    )
    return [
        Step("memory in training", TRAINING_BYTES * num_parameters, "bytes", training),
        Step("memory in use", inference_bytes(num_parameters, precision), "bytes", why),
    ]


def cost_of(gpu_hours: float, hardware: Hardware) -> tuple[dict[str, float], list[Step]]:
    """What the GPU-hours cost, as results and as steps; nothing without a price."""
    if hardware.price is None:
        return {}, []
    cost = gpu_hours * hardware.price
    why = f"{figure(gpu_hours)} GPU-hours x {figure(hardware.price)}, in the currency of the price"
    return {"cost": cost}, [Step("cost", cost, "", why)]


def memory_warnings(num_parameters: float, hardware: Hardware) -> list[str]:
    """A note where the training does not fit on the GPUs, with how many it takes."""
    needed, each = TRAINING_BYTES * num_parameters, _USABLE * GPU_BYTES[hardware.gpu]
    if needed <= hardware.num_gpus * each:
        return []
    return [
        f"training takes {figure(needed)} bytes beside activations, more than {figure(hardware.num_gpus)} "
        f"{hardware.gpu} of {figure(GPU_BYTES[hardware.gpu])} bytes have: {math.ceil(needed / each):,} or more, with "
        "weights and optimizer states divided among them (FSDP, ZeRO-3)"
    ]


def scaled(intervals: Mapping[str, tuple[float, float]], name: str) -> dict[str, tuple[float, float]]:
    """The intervals of all bytes, from that of the parameters under `name`."""
    if name not in intervals:
        return {}
    low, high = (memory_results(end) for end in intervals[name])
    return {key: (low[key], high[key]) for key in low}
