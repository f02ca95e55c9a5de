"""What devices cells may ask for: GPUs of this machine through accelerate, parts of a node's through Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from knowcap.run.launch import Launcher


def launcher_problems(launcher: Launcher | None) -> list[str]:
    """A problem where accelerate is to start more GPU processes on this machine than it has GPUs; imports torch."""
    if launcher is None or not launcher.gpus_here:
        return []
    import torch

    there = torch.cuda.device_count()
    if launcher.gpus_here <= there:
        return []
    return [
        f"{launcher.config_file.name} asks for {launcher.gpus_here} GPUs on this machine, but there are {there}; give "
        f"{f'--num_processes {there}' if there else '--accelerate_config cpu_2'}, or run it where they are"
    ]


def cluster_problems(cpus: float, gpus: float, nodes: Iterable[Mapping[str, float]]) -> list[str]:
    """A problem where no node of a Ray cluster has what one cell asks for.

    Args:
        cpus, gpus: of one cell; a GPU may be shared by fractions.
        nodes: what each node has, by Ray's names (`CPU`, `GPU`).
    """
    nodes = list(nodes)
    problems = []
    if cpus <= 0 or gpus < 0:
        return [f"cpus_per_cell={cpus:g}, gpus_per_cell={gpus:g}: expected more than 0 CPUs and 0 GPUs or more"]
    if gpus > 1 and gpus != int(gpus):
        problems.append(f"gpus_per_cell={gpus:g}: expected a part of one GPU (0.25, say), or a whole number")
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        problems.append(
            f"a cell asks for {cpus:g} CPUs and {gpus:g} GPUs, but no node of the cluster has them "
            f"({most or 'none'}); lower --cpus_per_cell or --gpus_per_cell"
        )
    return problems
