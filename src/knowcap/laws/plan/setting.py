"""How a model is trained and stored, and on which GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from knowcap.laws.law import LawError
from knowcap.laws.published import ARCHITECTURES, BIOS_NAMES, JUNK, PRECISIONS


# The least and the most of each quantity that a question takes; where the least is None, anything above zero.
LIMITS: dict[str, tuple[float | None, float]] = {
    "bits": (1, 1e24),
    "num_people": (1, BIOS_NAMES),
    "num_parameters": (1, 1e18),
    "exposures": (1, 1e9),
    "tokens_per_exposure": (1, 1e24),
    "num_gpus": (1, 1e7),
    "flops": (1, 1e36),
    "unique_tokens": (1, 1e24),
    "entity_space": (1, 1e30),
    "price": (None, 1e6),
    "passes": (1, 1e9),
    "num_layers": (1, 1e6),
    "hidden_size": (1, 1e7),
    "num_heads": (1, 1e6),
    "num_key_value_heads": (1, 1e6),
    "intermediate_size": (1, 1e8),
    "vocab_size": (1, 1e9),
    "block_size": (1, 1e9),
    "per_device_train_batch_size": (1, 1e7),
}
_WHOLE = (
    "num_people", "num_gpus", "num_layers", "hidden_size", "num_heads", "num_key_value_heads", "intermediate_size",
    "vocab_size", "block_size", "per_device_train_batch_size",
)  # fmt: skip


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
        elif self.exposures is not None and self.exposures > LIMITS["exposures"][1]:
            problems += _problems("exposures", self.exposures)
        elif self.exposures is not None and self.junk in JUNK and self.exposures < min(JUNK[self.junk][0]):
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


GPU_BYTES = {
    "a10": 24e9, "a100": 80e9, "b200": 180e9, "h100-pcie": 80e9, "h100-sxm": 80e9, "h200": 141e9, "l4": 24e9,
    "l40s": 48e9, "mi250x": 128e9, "mi300x": 192e9, "rtx-4090": 24e9,
}  # fmt: skip


@dataclass(frozen=True)
class Hardware:
    """What trains.

    Attributes:
        gpu: a key of GPUS.
        utilisation: the share of its peak that is reached.
        num_gpus: how many of them.
        price: of one for an hour, in any currency; None: unknown.
    """

    gpu: str = "h100-sxm"
    utilisation: float = 0.4
    num_gpus: float = 1
    price: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.gpu not in GPUS:
            problems.append(f"gpu={self.gpu!r}, expected {', '.join(GPUS)}; choose one")
        if not 0 < self.utilisation <= 1:
            text = f"utilisation={self.utilisation:g}, expected above 0 and at most 1, such as 0.4 or 40%; correct it"
            problems.append(text)
        problems += _problems("num_gpus", self.num_gpus)
        if self.price is not None:
            problems += _problems("price", self.price)
        if problems:
            raise LawError(problems)

    def gpu_hours(self, flops: float) -> float:
        """Hours of one GPU for FLOPs."""
        return flops / (GPUS[self.gpu][0] * self.utilisation * 3600)


def positive(name: str, value: float) -> float:
    """The value. Raises LawError unless it is finite and within the quantity's limits."""
    if problems := _problems(name, value):
        raise LawError(problems)
    return value


def _problems(name: str, value: float) -> list[str]:
    """What is wrong with a quantity's value, if anything."""
    least, most = LIMITS[name]
    if not (math.isfinite(value) and value > 0):
        return [f"{name}={value:g}, expected a finite number above 0; correct it"]
    if name == "num_people" and not 1 <= value <= most:
        return [f"num_people={value:g}, expected 1 to {BIOS_NAMES:,}, the number of names; correct it"]
    if least is not None and value < least:
        return [f"{name}={value:g}, expected {least:g} or more; correct it"]
    if value > most:
        return [f"{name}={value:g}, expected at most {most:g}, beyond which no law says anything; correct it"]
    if name in _WHOLE and value != int(value):
        return [f"{name}={value:g}, expected a whole number; correct it"]
    return []
