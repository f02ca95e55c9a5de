"""Named GPUs and their peak: dense bf16 matrix FLOP/s, as the vendors' datasheets have them (half of "with sparsity").

A datasheet's figure is reached by no training; the share that is, the utilisation, is for the user to say.
"""

from __future__ import annotations

from knowcap.laws.plan.answer import PlanError


_NVIDIA, _AMD = "NVIDIA datasheet", "AMD datasheet"
GPUS: dict[str, tuple[float, str]] = {
    "a10": (125e12, f"{_NVIDIA}, A10"),
    "a100": (312e12, f"{_NVIDIA}, A100 (40 and 80 GB)"),
    "b200": (2250e12, f"{_NVIDIA}, HGX B200, a GPU"),
    "h100-pcie": (756e12, f"{_NVIDIA}, H100 PCIe"),
    "h100-sxm": (989.4e12, f"{_NVIDIA}, H100 SXM"),
    "h200": (989.4e12, f"{_NVIDIA}, H200 SXM"),
    "l4": (121e12, f"{_NVIDIA}, L4"),
    "l40s": (362e12, f"{_NVIDIA}, L40S"),
    "mi250x": (383e12, f"{_AMD}, Instinct MI250X"),
    "mi300x": (1307.4e12, f"{_AMD}, Instinct MI300X"),
    "rtx-4090": (165.2e12, "NVIDIA Ada whitepaper, RTX 4090, float32 accumulation"),
}


def gpu_hours(flops: float, gpu: str, utilisation: float) -> float:
    """Hours on one GPU that does so many FLOPs at `utilisation` of its peak.

    Raises:
        PlanError: an unknown GPU (the known ones are told), or a utilisation outside (0, 1].
    """
    if gpu not in GPUS:
        raise PlanError(f"gpu={gpu!r}, expected {', '.join(GPUS)}; choose one")
    if not 0 < utilisation <= 1:
        raise PlanError(f"utilisation={utilisation:g}, expected above 0 and at most 1, such as 0.4; mend it")
    return flops / (GPUS[gpu][0] * utilisation * 3600)
