"""The device that a process computes on, and what accelerate's launcher asked for it.

A process without a launcher uses one GPU, the first visible one, however many there are. What a launcher asked for is
in the environment only: its variables are read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def world_size() -> int:
    """The number of processes that were launched together, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def uses_gpu() -> bool:
    """Whether this process computes on a GPU: one is visible, and the launcher's configuration has no use_cpu."""
    import torch

    return torch.cuda.is_available() and not _is_true("ACCELERATE_USE_CPU", os.environ)


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of a GPU, such as `NVIDIA H200`."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def unused_gpus(device: torch.device) -> str:
    """A sentence about the GPUs that one process without a launcher leaves unused; "" if there are none."""
    import torch

    count = torch.cuda.device_count() if uses_gpu() else 0
    if count < 2 or world_size() > 1:
        return ""
    return (
        f"{count} GPUs are visible, and this process uses one of them ({device}); to train on all of them, give "
        f"--accelerate_config multi_gpu --num_processes {count}"
    )


def launch_problems() -> list[str]:
    """A problem if accelerate's launcher started this process for a GPU that this machine does not have, or with
    DeepSpeed, whose sharded weights training does not gather.
    """
    import torch

    if _is_true("ACCELERATE_USE_DEEPSPEED", os.environ):
        return [
            "the launcher's configuration asks for DeepSpeed, which is not supported; use multi_gpu.yaml or fsdp2.yaml"
        ]
    asked, there = launched_gpus(os.environ), torch.cuda.device_count()
    if asked <= there:
        return []
    return [
        f"the launcher's configuration asks for {asked} GPU{'s' if asked > 1 else ''} on this machine, but it has "
        f"{there or 'none'}; launch {f'{there} processes' if there else 'with cpu.yaml or cpu_2.yaml'}, or on a "
        "machine that has them"
    ]


def launched_gpus(environment: Mapping[str, str]) -> int:
    """The number of GPUs of this machine that accelerate's launcher asked for; 0 for the CPU or without a launcher.

    accelerate sets ACCELERATE_MIXED_PRECISION always, ACCELERATE_USE_CPU only for one process, and
    CUDA_VISIBLE_DEVICES to gpu_ids unless they are `all`; -1 hides all GPUs. One process with gpu_ids `all` takes
    a GPU if there is one, so it does not ask for it.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    on_cpu = "-1" in visible or _is_true("ACCELERATE_USE_CPU", environment)
    if on_cpu or "ACCELERATE_MIXED_PRECISION" not in environment:
        return 0
    if "ACCELERATE_USE_CPU" in environment:
        return int(bool(visible))
    return int(environment.get("LOCAL_WORLD_SIZE", "0"))


def _is_true(name: str, environment: Mapping[str, str]) -> bool:
    return environment.get(name, "false").lower() in ("1", "true", "yes", "on", "y", "t")
