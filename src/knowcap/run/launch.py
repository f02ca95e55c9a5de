"""Starting a stage through accelerate's launcher, with one of its configuration files; logging in its processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcap.processes import is_main_process
from knowcap.recipe_file import RECIPES_DIR


class LaunchError(RuntimeError):
    """The launched processes failed; they have printed the reason."""


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
        """How many GPUs per machine it uses; 0 for processes on the CPU."""
        found = self._configuration()
        hidden = "-1" in str(found.get("gpu_ids", "all"))
        if found.get("use_cpu") or hidden or found.get("distributed_type") not in ("MULTI_GPU", "FSDP"):
            return 0
        return -(-self.world_size // int(str(found.get("num_machines", 1))))

    def _configuration(self) -> dict[str, Any]:
        import yaml

        return yaml.safe_load(self.config_file.read_text(encoding="utf-8")) or {}

    def command(self, module: str, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `python -m module arguments` in every process."""
        options = ["--config_file", str(self.config_file), "--quiet"]
        if self.num_processes is not None:
            options += ["--num_processes", str(self.num_processes)]
        if self.num_threads is not None:
            options += ["--num_cpu_threads_per_process", str(self.num_threads)]
        return [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", module, *arguments]

    def launch(self, module: str, arguments: Sequence[str]) -> None:
        """Runs a module and waits for it.

        Raises:
            LaunchError: it ended with another status than 0.
        """
        # close_fds=False passes the run folder's lock on: it holds as long as the launched processes live.
        done = subprocess.run(self.command(module, arguments), close_fds=False)
        if done.returncode:
            raise LaunchError(
                f"{module}, started by accelerate with {self.config_file}, ended with status {done.returncode}; "
                "its message is above"
            )


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
