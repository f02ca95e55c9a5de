"""Bytes of a model in use and in training, with activations where its shape is known, and what its GPUs cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from knowcap.laws.plan.activations import ATTENTION, CHECKPOINTING, Shape
from knowcap.laws.plan.answer import Answer, Step
from knowcap.laws.plan.chart import memory_chart
from knowcap.laws.plan.setting import GPU_BYTES, Hardware, positive
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


def memory_results(num_parameters: float, shape: Shape | None = None, precision: str = "bf16") -> dict[str, float]:
    """Bytes in training, and in use at each precision; with a shape also of activations, logits and the cache."""
    found = {f"inference_bytes_{name}": inference_bytes(num_parameters, name) for name in PRECISIONS}
    found = {"training_bytes": TRAINING_BYTES * num_parameters} | found
    if shape is None:
        return found
    return found | {
        "activation_bytes": shape.activation_bytes,
        "logits_bytes": shape.logits_bytes,
        "peak_bytes": shape.peak_bytes,
        "cache_bytes": shape.cache_bytes(precision),
    }


def memory_steps(num_parameters: float, precision: str, shape: Shape | None = None) -> list[Step]:
    """The same as lines, the weights at the precision in use."""
    each = ", ".join(f"{name} {figure(inference_bytes(num_parameters, name))}" for name in PRECISIONS)
    why = f"weights at {precision}, without the scales of quantized ones; {each}"
    without = "" if shape else "; without activations, the shape not being given: see `knowcap plan memory`"
    training = (
        f"16 for each of {figure(num_parameters)} parameters at every precision: weights, gradients, AdamW (ZeRO, "
        f"section 3.1){without}"
    )
    return [
        Step("memory in training", TRAINING_BYTES * num_parameters, "bytes", training),
        *([] if shape is None else _batch_steps(shape)),
        Step("memory in use", inference_bytes(num_parameters, precision), "bytes", why),
        *([] if shape is None else [_cache_step(shape, precision)]),
    ]


def _batch_steps(shape: Shape) -> list[Step]:
    """What the sequences on a GPU take in training."""
    held = f"{figure(shape.per_device_train_batch_size)} x {figure(shape.block_size)} tokens on a GPU"
    parts = ", ".join(f"{name} {figure(value)}" for name, value in shape.layer_bytes().items() if value)
    kept = f"{figure(shape.num_layers)} layers" if shape.gradient_checkpointing == "none" else "layers' inputs and one"
    how = f"{shape.training_precision}, {shape.attn_implementation}, checkpointing {shape.gradient_checkpointing}"
    steps = [
        Step(
            "activations",
            shape.activation_bytes,
            "bytes",
            f"{held}; {kept}, {how}; a layer: {parts} (Korthikanti et al. 2022, section 4)",
        ),
        Step("logits", shape.logits_bytes, "bytes", f"12 a token for each of {figure(shape.vocab_size)}, in the loss"),
    ]
    if shape.copy_bytes:
        steps.append(Step("autocast's weights", shape.copy_bytes, "bytes", "copies of linear weights in 16 bits"))
    peak = "on each GPU beside the memory above: the largest sum that is there at once"
    return [*steps, Step("= at the peak", shape.peak_bytes, "bytes", peak)]


def _cache_step(shape: Shape, precision: str) -> Step:
    contexts = f"{figure(shape.per_device_train_batch_size)} x {figure(shape.block_size)} tokens"
    why = f"keys and values of {contexts}, {4 if precision == 'fp32' else 2} bytes an element"
    return Step("cache in use", shape.cache_bytes(precision), "bytes", why)


def memory(
    shape: Shape, num_parameters: float | None = None, precision: str = "bf16", hardware: Hardware | None = None
) -> Answer:
    """The memory that a model of a given shape takes in training and in use.

    Args:
        shape: of the model and of what a GPU holds at once.
        num_parameters: all of them; None: by the shape, without biases and norms.
        precision: of the weights in use.
        hardware: what trains; weights, gradients and optimizer states are divided among its GPUs.

    Raises:
        LawError: a number out of range.
    """
    hardware = hardware or Hardware()
    given = num_parameters is not None
    number = positive("num_parameters", shape.num_parameters if num_parameters is None else num_parameters)
    states, each = TRAINING_BYTES * number / hardware.num_gpus, GPU_BYTES[hardware.gpu]
    total = states + shape.peak_bytes
    results = {"num_parameters": number} | memory_results(number, shape, precision)
    results["training_bytes_per_gpu"] = total
    used = inference_bytes(number, precision) + shape.cache_bytes(precision)
    divided = "" if hardware.num_gpus == 1 else f", divided among {figure(hardware.num_gpus)}"
    steps = [
        Step("parameters", number, "", "as given" if given else "by the shape, without biases and norms"),
        *memory_steps(number, precision, shape),
        Step("= training, on a GPU", total, "bytes", f"of {figure(each)} of {hardware.gpu}; 16 a parameter{divided}"),
    ]
    return Answer(
        "memory",
        f"{figure(total)} bytes on a GPU in training, {figure(shape.peak_bytes)} of it for its sequences; "
        f"{figure(used)} in use with cache.",
        results,
        steps=steps,
        table=_ways(shape, states),
        chart=memory_chart(shape, states, each, hardware.gpu),
        warnings=[*memory_warnings(number, hardware, shape), _NOT_COUNTED],
    )


_NOT_COUNTED = (
    "not counted: what the allocator keeps beyond the tensors, kernels' own buffers, and buffers of communication; a "
    "tenth of a GPU is left for them where it is said whether a training fits"
)


def _ways(shape: Shape, states: float) -> list[dict[str, Any]]:
    """The bytes with and without the scores of attention, and with and without checkpointing."""
    rows = []
    for attention in ATTENTION:
        for checkpointing in CHECKPOINTING:
            way = replace(shape, attn_implementation=attention, gradient_checkpointing=checkpointing)
            rows.append(
                {
                    "attention": attention,
                    "checkpointing": checkpointing,
                    "activations": way.activation_bytes,
                    "at_the_peak": way.peak_bytes,
                    "training_on_a_GPU": states + way.peak_bytes,
                }
            )
    return rows


def cost_of(gpu_hours: float, hardware: Hardware) -> tuple[dict[str, float], list[Step]]:
    """What the GPU-hours cost, as results and as steps; nothing without a price."""
    if hardware.price is None:
        return {}, []
    cost = gpu_hours * hardware.price
    why = f"{figure(gpu_hours)} GPU-hours x {figure(hardware.price)}, in the currency of the price"
    return {"cost": cost}, [Step("cost", cost, "", why)]


def memory_warnings(num_parameters: float, hardware: Hardware, shape: Shape | None = None) -> list[str]:
    """A note where the training does not fit on the GPUs, with how many it takes; and a shape's own notes."""
    return [*([] if shape is None else shape.notes(num_parameters)), *_fit_notes(num_parameters, hardware, shape)]


def _fit_notes(num_parameters: float, hardware: Hardware, shape: Shape | None) -> list[str]:
    needed, each = TRAINING_BYTES * num_parameters, _USABLE * GPU_BYTES[hardware.gpu]
    batch = 0.0 if shape is None else shape.peak_bytes
    if needed <= hardware.num_gpus * (each - batch):
        return []
    have = f"{figure(hardware.num_gpus)} {hardware.gpu} of {figure(GPU_BYTES[hardware.gpu])} bytes have"
    if batch >= each:
        return [
            f"the sequences on a GPU take {figure(batch)} bytes, more than {have}: fewer sequences at once, "
            "checkpointing, or a model that is divided within its layers (tensor parallelism)"
        ]
    beside = "beside activations" if shape is None else f"and {figure(batch)} of activations on each GPU"
    return [
        f"training takes {figure(needed)} bytes {beside}, more than {have}: {math.ceil(needed / (each - batch)):,} or "
        "more, with weights and optimizer states divided among them (FSDP, ZeRO-3)"
    ]


def scaled(intervals: Mapping[str, tuple[float, float]], name: str) -> dict[str, tuple[float, float]]:
    """The intervals of all bytes, from that of the parameters under `name`."""
    if name not in intervals:
        return {}
    low, high = (memory_results(end) for end in intervals[name])
    return {key: (low[key], high[key]) for key in low}
