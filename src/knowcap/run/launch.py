"""Starting a stage through accelerate's launcher, with one of its configuration files; logging in its processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcap.processes import is_main_process
from knowcap.processes.signals import held, noted
from knowcap.recipe import Recipe
from knowcap.recipe.yaml_reader import load_mapping
from knowcap.recipe_file import RECIPES_DIR


# Values of distributed_type. Of the first two accelerate starts one process, whatever num_processes is.
_ONE_PROCESS, _GPUS = ("NO", "MULTI_CPU"), ("MULTI_GPU", "FSDP")


class LaunchError(RuntimeError):
    """The launched processes failed; they have printed the reason.

    Attributes:
        status: their exit status.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message, status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Launcher:
    """accelerate's launcher with one of its configuration files."""

    config_file: Path
    num_processes: int | None = None
    num_threads: int | None = None  # of each process on a CPU; by default accelerate's choice

    @classmethod
    def named(cls, name: str, num_processes: int | None = None, num_threads: int | None = None) -> Launcher:
        """From a packaged configuration's name, such as `cpu_2`, or the path of a file.

        Raises:
            ValueError: with the names that exist.
        """
        packaged = {path.stem: path for path in sorted((RECIPES_DIR / "accelerate").glob("*.yaml"))}
        path = packaged.get(name, Path(name))
        if not path.is_file():
            raise ValueError(f"accelerate_config={name!r}: expected a file or one of {', '.join(packaged)}")
        return cls(path, num_processes, num_threads)

    @property
    def world_size(self) -> int:
        """How many processes it starts, over all machines."""
        return self.num_processes or int(self._configuration().get("num_processes", 1))

    @property
    def fsdp(self) -> bool:
        """Whether the processes shard the model."""
        return self._configuration().get("distributed_type") == "FSDP"

    @property
    def gpus_here(self) -> int:
        """How many GPUs per machine it asks for; 0 for processes on the CPU, and for one process on `all` GPUs, which
        takes one if there is one.
        """
        found, ids = self._configuration(), self._gpu_ids()
        if found.get("use_cpu") or "-1" in ids:
            return 0
        if found.get("distributed_type") not in _GPUS:
            return int(bool(ids))
        return -(-self.world_size // int(str(found.get("num_machines", 1))))

    def problems(self) -> list[str]:
        """Why the processes cannot train here: GPUs that are not here, one process for several, an unsupported kind;
        imports torch.
        """
        name, found, asked = self.config_file.name, self._configuration(), self.gpus_here
        kind = found.get("distributed_type") or "NO"  # False, too, is an unquoted NO
        if self.world_size > 1 and kind in _ONE_PROCESS and not found.get("mpirun_config"):
            return [
                f"{name} starts one process, since its distributed_type is {kind}, but num_processes is "
                f"{self.world_size}; give --accelerate_config cpu_2 or multi_gpu, which start as many as are asked for"
            ]
        if kind not in (*_ONE_PROCESS, *_GPUS):
            return [f"{name} has distributed_type {kind}, which is not supported; expected NO, MULTI_GPU or FSDP"]
        if not asked:
            return []
        import torch

        there = torch.cuda.device_count()
        if self._gpu_ids():
            there = min(there, len(self._gpu_ids()))
        if asked <= there:
            return []
        return [
            f"{name} asks for {asked} GPU{'s' if asked > 1 else ''} on this machine, but it has {there}; give "
            f"{f'--num_processes {there}' if there else '--accelerate_config cpu_2'}, or run it on a machine that has "
            "them"
        ]

    def _gpu_ids(self) -> list[str]:
        """The GPUs that processes are restricted to; none for all of them."""
        ids = str(self._configuration().get("gpu_ids", "all"))
        return [] if ids in ("all", "None", "") else ids.split(",")

    def _configuration(self) -> dict[str, Any]:
        return load_mapping(self.config_file)

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `python -m module arguments` in every process."""
        options = ["--config_file", str(self.config_file), "--quiet"]
        if self.num_processes is not None:
            options += ["--num_processes", str(self.num_processes)]
        if self.num_threads is not None:
            options += ["--num_cpu_threads_per_process", str(self.num_threads)]
        return [sys.executable, "-m", "knowcap.run.agent", *options, "-m", module, *arguments]

    def launch(self, module: str, arguments: Sequence[str]) -> None:
        """Runs a module and waits for it. A signal is passed on to its processes, which end their step first.

        Raises:
            ValueError: this machine cannot start the processes.
            LaunchError: it ended with another status than 0.
            Interrupted: a signal ended it.
        """
        if problems := self.problems():
            raise ValueError("; ".join(problems))
        with held():
            # close_fds=False passes the run folder's lock on: it holds as long as the launched processes live. In a
            # group of its own, Ctrl-C does not reach the launcher, which would kill its processes after 30 seconds.
            process = subprocess.Popen(
                self.command(module, arguments), close_fds=False, process_group=0, preexec_fn=_without_usr1
            )
            status = _ended(process, module)
        if status:
            raise LaunchError(
                f"{module}, started by accelerate with {self.config_file}, ended with status {status}; its message is "
                "above",
                status,
            )


def _without_usr1() -> None:
    """Before the launcher starts: a scheduler sends the signal to all processes, and would end it."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _ended(process: subprocess.Popen[bytes], module: str) -> int:
    """The exit status of a launcher, once it has ended; the first signal is passed on to the processes it started."""
    asked = False
    try:
        while True:
            if noted() is not None and not asked:
                asked = True
                _ask_to_end(process.pid, module)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.3)
    except BaseException:
        for one in [*_descendants(process.pid), process]:
            with contextlib.suppress(Exception):  # it has ended
                one.kill()
        process.wait()
        raise


def _ask_to_end(launcher: int, module: str) -> None:
    """Sends SIGTERM to the processes that run a module, or to their launcher if it has not started them."""
    import psutil

    found = [psutil.Process(launcher)]
    with contextlib.suppress(psutil.Error):
        found = [one for one in _descendants(launcher) if module in one.cmdline()] or found
    for one in found:
        with contextlib.suppress(psutil.Error):
            one.terminate()


def _descendants(pid: int) -> list[Any]:
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def process_problems(recipe: Recipe, launcher: Launcher | None) -> list[str]:
    """Why this machine cannot train a recipe, in this process or those that are launched; imports torch."""
    from knowcap.training.arguments import machine_problems

    if launcher is None:
        return machine_problems(recipe)
    return launcher.problems() or machine_problems(recipe, launcher.world_size, launcher.fsdp)


def set_up_process() -> None:
    """Sets up a process before torch is imported: how threads wait, and where log lines are written.

    The main process logs to stderr; the other processes log errors only.
    """
    # OpenMP's waiting threads spin by default: on a busy machine that makes small models 10 to 100 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logger = logging.getLogger("knowcap")
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    for name in ("scoring", "capacity", "models.quantized", "report"):
        logger.getChild(name).setLevel(logging.WARNING)  # the stage's own line replaces theirs
    if not any(isinstance(handler, _BesideBars) for handler in logger.handlers):
        logger.addHandler(_BesideBars())


class _BesideBars(logging.Handler):
    """Writes to the current stderr, without breaking tqdm's bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
