"""Where cells run side by side on this machine: how many at once, each with a CPU core or a part of a GPU.

On a CPU, one cell a core: a small model is as fast with one thread as with several. On a GPU, a small model leaves
most of it idle, so up to 8 cells share one if their models have at most 10 M parameters, and no more than there are
CPU cores to start their kernels; larger models have one each. (The figures for a GPU are a choice, not measured.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knowcap.models import parameters_of
from knowcap.recipe import Recipe
from knowcap.run.cores import cgroup_limit, cpu_cores
from knowcap.sweep.cells import Cell


_SHARING_PARAMETERS, _CELLS_PER_GPU = 10_000_000, 8
_PROCESS_BYTES = 0.9e9  # of Python, torch and transformers, with the data of a small corpus


@dataclass(frozen=True)
class Places:
    """The workers of a sweep.

    Attributes:
        environments: the variables of each one: its GPU, if it has one.
        why: their number and what it was chosen by, for the log.
    """

    environments: tuple[Mapping[str, str], ...]
    why: str


def places_for(cells: Sequence[Cell], workers: int | None = None, gpus_per_cell: float | None = None) -> Places:
    """Where cells run: on the GPUs that this process sees, else on the CPU cores that it may use.

    Args:
        cells: those to run.
        workers: how many at once at most; None for as many as the machine has room for.
        gpus_per_cell: 0 for the CPU; a fraction lets cells share a GPU; None decides by the models' sizes.
    """
    devices = gpus() if gpus_per_cell is None or gpus_per_cell > 0 else []
    cores, need, free = cpu_cores(), max(map(process_bytes, _recipes(cells)), default=0.0), free_memory()
    fitting = max(1, int(free / need)) if need and math.isfinite(free) else len(cells)
    limit = min(cores, fitting)
    if devices:
        each = cells_per_gpu(cells) if gpus_per_cell is None else int(1 / gpus_per_cell)
        limit = min(limit if gpus_per_cell is None else fitting, each * len(devices))
    count = max(1, min(limit if workers is None else workers, len(cells)))
    room = f", {free / 1e9:.0f} GB of memory free" if math.isfinite(free) else ""
    gpu = f", {len(devices)} GPU{'s' if len(devices) > 1 else ''}" if devices else ""
    why = (
        f"{count} at a time ({cores} CPU core{'s' if cores > 1 else ''}{gpu}{room}; a cell takes about "
        f"{need / 1e9:.1f} GB)"
    )
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if gpus_per_cell == 0 else {}
    own = [{"CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} if devices else hidden for n in range(count)]
    return Places(tuple(own), why)


def place_problems(workers: int | None, gpus_per_cell: float | None) -> list[str]:
    """What of the options cannot be had on this machine."""
    if gpus_per_cell is None or gpus_per_cell == 0:
        return []
    if not 0 < gpus_per_cell <= 1:
        return [
            f"gpus_per_cell={gpus_per_cell:g}: expected 0, a fraction of one GPU such as 0.25, or 1; a cell on "
            "several GPUs needs --accelerate_config multi_gpu"
        ]
    there = len(gpus())
    if not there:
        return [f"gpus_per_cell={gpus_per_cell:g}, but torch finds no GPU here; leave it out to run cells on the CPU"]
    most = there * int(1 / gpus_per_cell)
    if workers is not None and workers > most:
        return [
            f"workers={workers}, but {there} GPU{'s' if there > 1 else ''} at gpus_per_cell={gpus_per_cell:g} hold "
            f"{most}; give --workers {most} or a smaller --gpus_per_cell"
        ]
    return []


def gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; imports torch."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [str(n) for n in range(torch.cuda.device_count())]
    return found if named is None else [name.strip() for name in named.split(",")][: len(found)]


def cells_per_gpu(cells: Iterable[Cell]) -> int:
    """How many cells share a GPU unless it is given: by the largest model."""
    return _CELLS_PER_GPU if max(map(_parameters, _recipes(cells)), default=0) <= _SHARING_PARAMETERS else 1


def free_memory() -> float:
    """Bytes that processes can still take on this machine and in its container; infinite if that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf
    most = cgroup_limit("memory.max")
    if most != "max":
        stat = dict(line.split() for line in cgroup_limit("memory.stat").splitlines() if line != "max")
        free = min(free, int(most) - int(cgroup_limit("memory.current")) + int(stat.get("inactive_file", 0)))
    return max(0.0, free)


def process_bytes(recipe: Recipe) -> float:
    """About how much memory a cell's process takes: libraries, a model with its gradient and moments, logits."""
    micro = recipe.train_batch_size // recipe.gradient_accumulation_steps
    logits = 12.0 * micro * recipe.block_size * recipe.vocab_size  # with softmax and gradient, float32
    return _PROCESS_BYTES + 16.0 * _parameters(recipe) + logits


def work(recipe: Recipe) -> float:
    """A number that grows with a cell's time: parameters x texts trained on."""
    return max(1.0, _parameters(recipe)) * recipe.num_people * recipe.exposures


def _parameters(recipe: Recipe) -> int:
    """About how many parameters a recipe's model has, with all rows of its vocabulary; 0 if that is unknown."""
    try:
        return recipe.num_parameters or parameters_of(recipe, recipe.vocab_size).num_parameters
    except ValueError:
        return 0


def _recipes(cells: Iterable[Cell]) -> list[Recipe]:
    return [cell.recipe for cell in cells]
