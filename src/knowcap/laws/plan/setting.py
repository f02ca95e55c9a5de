"""How a model is trained and stored, and on which GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from knowcap.laws.law import LawError
from knowcap.laws.published import ARCHITECTURES, JUNK, PRECISIONS


@dataclass(frozen=True)
class Setting:
    """How a model is trained and kept.

    Attributes:
        exposures: exposures of each fact; None: the largest number of the law's runs, 1000 by Part 3.3.
        architecture: a key of ARCHITECTURES.
        precision: a key of PRECISIONS.
        junk: none, or a key of JUNK: 7/8 of the tokens are about other people.
    """

    exposures: float | None = None
    architecture: str = "gpt2"
    precision: str = "bf16"
    junk: str = "none"

    def __post_init__(self) -> None:
        problems = [
            f"{key}={value!r}, expected {' or '.join(known)}; choose one"
            for key, value, known in (
                ("architecture", self.architecture, tuple(ARCHITECTURES)),
                ("precision", self.precision, tuple(PRECISIONS)),
                ("junk", self.junk, ("none", *JUNK)),
            )
            if value not in known
        ]
        if self.exposures is not None and not (math.isfinite(self.exposures) and self.exposures >= 1):
            problems.append(
                f"exposures={self.exposures:g}, expected 1 or more: no law here covers less than one "
                "exposure; raise exposures"
            )
        elif self.exposures is not None and self.junk != "none" and self.exposures < min(JUNK[self.junk][0]):
            problems.append(
                f"exposures={self.exposures:g} with junk={self.junk}: the paper has no figure below "
                f"{min(JUNK[self.junk][0])} exposures; raise exposures, or leave junk out"
            )
        if problems:
            raise LawError(problems)


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


@dataclass(frozen=True)
class Hardware:
    """`num_gpus` of a GPU (a key of GPUS) at `utilisation`, the share of its peak that is reached."""

    gpu: str = "h100-sxm"
    utilisation: float = 0.4
    num_gpus: float = 1

    def __post_init__(self) -> None:
        gpu_hours(0.0, self.gpu, self.utilisation)
        positive("num_gpus", self.num_gpus)


def gpu_hours(flops: float, gpu: str, utilisation: float) -> float:
    """Hours on one GPU for `flops` at `utilisation` of its peak.

    Raises:
        LawError: an unknown GPU, or a utilisation outside (0, 1].
    """
    if gpu not in GPUS:
        raise LawError(f"gpu={gpu!r}, expected {', '.join(GPUS)}; choose one")
    if not 0 < utilisation <= 1:
        raise LawError(f"utilisation={utilisation:g}, expected above 0 and at most 1, such as 0.4; correct it")
    return flops / (GPUS[gpu][0] * utilisation * 3600)


def positive(name: str, value: float) -> float:
    """The value. Raises LawError unless it is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise LawError(f"{name}={value:g}, expected a finite number above 0; correct it")
    return value
