"""How a run's training uses the cores of a CPU: threads of one process, or several processes of their own threads.

A few steps are timed and the fastest is chosen, unless OMP_NUM_THREADS says how many threads; a run keeps the choice,
so that it resumes to the same weights.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.files import CORES_FILE, read_json, write_json
from knowcap.recipe import Recipe
from knowcap.run.estimate import sample_counts, seconds_per_pass


if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WORTH = 10.0  # seconds of training; shorter ones use one thread
_START = 20.0  # seconds that further processes must save, as they start
_GAIN = 0.9  # of the time that one process takes: the most that several may take
_MOST = 8  # processes
_SYNC = 2e-3  # seconds that gloo and DDP add to a step, and …
_BYTES = 1e9  # … the bytes of gradients that they add up a second
_CGROUP = Path("/sys/fs/cgroup")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cores:
    """What the training of a run uses.

    Attributes:
        num_processes, num_threads: processes, and threads of each.
        step_milliseconds: of forward and backward passes, by processes and threads; empty where nothing was timed.
    """

    num_processes: int = 1
    num_threads: int = 1
    step_milliseconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return _name(self.num_processes, self.num_threads)


def cores_of(recipe: Recipe, run_dir: Path) -> Cores:
    """What a run uses, timed at its first call; with a GPU, one process and torch's threads.

    Raises:
        ValueError: OMP_NUM_THREADS is not a number of 1 or more.
    """
    import torch

    from knowcap.models.devices import uses_gpu

    if uses_gpu():
        return Cores(1, torch.get_num_threads())
    if "OMP_NUM_THREADS" in os.environ:
        return Cores(1, threads_set())
    file = run_dir / "checkpoints" / CORES_FILE
    if file.is_file():
        return Cores(**read_json(file))
    found = _fastest(recipe)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(found))
    if found.step_milliseconds:
        timed = ", ".join(f"{name} {value:.1f} ms" for name, value in found.step_milliseconds.items())
        logger.info("[cores] %s; a step took: %s", found, timed)
    return found


def threads_set() -> int:
    """The threads that OMP_NUM_THREADS sets; 1 without it. Raises ValueError if that is not a number of 1 or more."""
    text = os.environ.get("OMP_NUM_THREADS", "1")
    first = text.split(",")[0]  # OpenMP allows a list, for nested regions
    if not first.isdecimal() or int(first) < 1:
        raise ValueError(f"OMP_NUM_THREADS={text!r}, expected a number of threads, 1 or more; correct or unset it")
    return int(first)


def _fastest(recipe: Recipe) -> Cores:
    """The fastest choice, for a training that is long enough to be worth it."""
    cores = cpu_cores()
    if cores == 1:
        return Cores()
    if recipe.torch_compile:
        return Cores(1, cores)
    from knowcap.dataset.corpora import knowledge_of
    from knowcap.models import build_model, recipe_config

    counts, people = sample_counts(recipe), knowledge_of(recipe).num_people
    micro_steps = recipe.gradient_accumulation_steps * counts.windows * people * recipe.exposures
    micro_steps /= recipe.train_batch_size
    model = build_model(recipe_config(recipe, counts.rows), recipe.seed).train()
    windows = recipe.train_batch_size // recipe.gradient_accumulation_steps
    sync = _SYNC + 4 * model.num_parameters() / _BYTES
    times = {(1, 1): _seconds(model, recipe, windows, 1)}
    alone = micro_steps * times[1, 1]
    if alone >= _WORTH:
        times[1, cores] = _seconds(model, recipe, windows, cores)
        for processes in (n for n in range(2, min(cores, _MOST) + 1) if cores % n == 0 and windows % n == 0):
            if alone * (1 - 1 / cores) >= _START:  # the most that all cores can save
                threads = cores // processes
                times[processes, threads] = _seconds(model, recipe, windows // processes, threads) + sync
    return choose(times, micro_steps)


def choose(times: Mapping[tuple[int, int], float], steps: float) -> Cores:
    """The fastest of (processes, threads), by seconds a step; several processes only if they are clearly faster."""
    single = min((key for key in times if key[0] == 1), key=lambda key: times[key])
    best = min(times, key=lambda key: times[key])
    saved = times[single] - times[best]
    if times[best] > _GAIN * times[single] or saved * steps < _START:
        best = single
    return Cores(*best, {_name(*key): round(1e3 * value, 2) for key, value in times.items()})


def _name(processes: int, threads: int) -> str:
    return f"{processes} process{'es' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}"


def _seconds(model: PreTrainedModel, recipe: Recipe, windows: int, threads: int) -> float:
    with threads_used(threads):
        return seconds_per_pass(model, recipe, windows)


@contextmanager
def threads_used(threads: int) -> Iterator[None]:
    """Within it, torch uses so many threads on the CPU."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_cores() -> int:
    """The CPU cores that this process may use, by its affinity and by its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota, *period = cgroup_limit("cpu.max").split()
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period[0])))


def cgroup_limit(name: str) -> str:
    """A file of the container's limits (version 2); "max" if there is none."""
    try:
        return (_CGROUP / name).read_text(encoding="utf-8").strip() or "max"
    except OSError:
        return "max"
