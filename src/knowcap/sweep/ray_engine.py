"""Cells as tasks of a Ray cluster, as many at once as fit its nodes; the cells of a node that fails move to others.

All nodes have knowcap installed and share a disk under the same paths. A cell that is moved continues from its newest
checkpoint; the run folder's lock makes it wait while a process of the lost node still writes there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from knowcap.models.registration import IMPORTS
from knowcap.recipe import RecipeError
from knowcap.sweep.cells import Cell
from knowcap.sweep.checks import cluster_problems
from knowcap.sweep.workers import Outcome, run_cell


if TYPE_CHECKING:
    from types import ModuleType


_RETRIES = 3  # of a cell whose process or node fails, before it counts as failed


@dataclass(frozen=True)
class RayEngine:
    """Runs cells on a Ray cluster; an engine for `run_sweep`.

    Attributes:
        address: of the cluster; None for RAY_ADDRESS, or without it for a local cluster, which ends with the sweep.
        cpus_per_cell, gpus_per_cell: resources of a cell; with 0.25 GPUs, four cells share one.
        num_proc: processes that write a cell's data set.
    """

    address: str | None = None
    cpus_per_cell: float = 1.0
    gpus_per_cell: float = 0.0
    num_proc: int = 1

    def problems(self) -> list[str]:
        """Why no cell could start: no ray, no cluster, or no node with the resources. Connects to the cluster."""
        try:
            ray = _connected(self.address)
        except (ImportError, ConnectionError, RuntimeError, ValueError) as error:
            return [" ".join(str(error).split())]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cluster_problems(self.cpus_per_cell, self.gpus_per_cell, nodes)

    def __call__(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """Runs cells; yields outcomes as they come.

        Raises:
            RecipeError: see `problems`.
        """
        problems = self.problems()
        if problems:
            raise RecipeError(problems, "--engine ray")
        ray = _connected(self.address)
        threads = max(1, int(self.cpus_per_cell))
        environment = {
            "TQDM_DISABLE": "1",
            IMPORTS: os.environ.get(IMPORTS, ""),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        task = ray.remote(
            num_cpus=self.cpus_per_cell,
            num_gpus=self.gpus_per_cell,
            max_retries=_RETRIES,
            runtime_env={"env_vars": environment},
        )(_run_there)
        try:
            waiting = {task.remote(cell, os.getcwd(), self.num_proc): cell for cell in cells}
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1)
                yield from (_outcome(ray, ref, waiting.pop(ref)) for ref in done)
        finally:
            ray.shutdown()


def _run_there(cell: Cell, folder: str, num_proc: int) -> Outcome:
    """Runs a cell in a worker; relative paths are relative to the folder of the process that started the sweep."""
    from knowcap.run.launch import set_up_process

    os.chdir(folder)
    set_up_process()
    return run_cell(cell, num_proc=num_proc)


def _outcome(ray: ModuleType, reference: Any, cell: Cell) -> Outcome:
    """The outcome of a task, or of its process or node failing too often."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(cell.name, f"{type(error).__name__}: {' '.join(str(error).split())}", str(error))


def _connected(address: str | None) -> ModuleType:
    """ray, connected to the cluster.

    Raises:
        ImportError: ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # cells log the same lines
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("--engine ray needs ray, which is not installed; `pip install 'knowcap[ray]'`") from error
    if not ray.is_initialized():
        # No code is sent: every node has knowcap installed.
        options: Mapping[str, Any] = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, **options)
    return ray
