"""One training of a model on knowledge: its tokens, FLOPs and hours, and what doubling the model asks of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from knowcap.laws.plan.allocation import tokens_exponent
from knowcap.laws.plan.answer import Step
from knowcap.laws.plan.capacity import exposures_for
from knowcap.laws.plan.content import positive
from knowcap.laws.plan.gpus import GPUS, gpu_hours
from knowcap.laws.plan.quantity import figure
from knowcap.laws.plan.setting import Setting
from knowcap.laws.published import (
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_PARAMETRIC,
    KAPLAN_ALLOCATION,
    MOE_ACTIVE_SHARE,
    USEFUL_SHARE,
    Law,
)


LOSS_LAWS = (
    (HOFFMANN_ENVELOPE, "Hoffmann et al. 2022, approach 1"),
    (HOFFMANN_ISOFLOP, "Hoffmann et al. 2022, approach 2"),
    (HOFFMANN_PARAMETRIC, "Hoffmann et al. 2022, approach 3"),
    (KAPLAN_ALLOCATION, "Kaplan et al. 2020"),
)


@dataclass(frozen=True)
class Hardware:
    """What trains: `num_gpus` of a GPU (a key of GPUS) at `utilisation`, the share of its peak that is reached."""

    gpu: str = "h100-sxm"
    utilisation: float = 0.4
    num_gpus: float = 1

    def __post_init__(self) -> None:
        gpu_hours(0.0, self.gpu, self.utilisation)
        positive("num_gpus", self.num_gpus)


@dataclass(frozen=True)
class Training:
    """A training at `setting`, whose exposures are settled; `tokens_once` tell all of the knowledge once."""

    num_parameters: float
    tokens_once: float
    setting: Setting

    @property
    def exposures(self) -> float:
        """How often each fact is seen."""
        return self.setting.exposures or 1.0

    @property
    def tokens(self) -> float:
        """Of all exposures, junk included."""
        return self.exposures * self.tokens_once / (1.0 if self.setting.junk == "none" else USEFUL_SHARE)

    @property
    def flops(self) -> float:
        """6 x parameters that a token passes through x tokens."""
        active = MOE_ACTIVE_SHARE if self.setting.architecture == "moe" else 1.0
        return 6 * active * self.num_parameters * self.tokens

    def gpu_hours(self, hardware: Hardware) -> float:
        """On one GPU."""
        return gpu_hours(self.flops, hardware.gpu, hardware.utilisation)

    def steps(self, hardware: Hardware) -> list[Step]:
        """From exposures to hours."""
        junk = "" if self.setting.junk == "none" else f" / {USEFUL_SHARE:g}, the useful share"
        active = f" x {MOE_ACTIVE_SHARE:g} active" if self.setting.architecture == "moe" else ""
        peak, source = GPUS[hardware.gpu]
        hours = self.gpu_hours(hardware)
        rate = f"{hardware.utilisation:.4g} of {figure(peak)} FLOP/s, {source}"
        steps = [
            Step("tokens", self.tokens, "", f"exposures x tokens once{junk}"),
            Step("FLOPs", self.flops, "", f"6 x parameters{active} x tokens; attention's own are left out"),
            Step("GPU-hours", hours, "", rate),
        ]
        if hardware.num_gpus != 1:
            steps.append(Step("hours", hours / hardware.num_gpus, "", f"on {figure(hardware.num_gpus)} GPUs"))
        return steps


def doubled(training: Training, needed: float, laws: Mapping[str, Law]) -> list[dict[str, Any]]:
    """What a model of twice the parameters asks of the data, by several laws: factors of tokens and of FLOPs.

    Args:
        training: of the model as it is.
        needed: bits per parameter that it holds.
        laws: fitted ones by name.
    """
    rows = []
    again = None
    if "exposures" in laws or "capacity" not in laws:
        again = exposures_for(needed / 2, replace(training.setting, exposures=None), laws)
    if again is not None:
        rows.append(_row(f"the same knowledge, {figure(again)} exposures", again / training.exposures))
    rows.append(_row("twice the knowledge, as many exposures", 2.0))
    for law, label in LOSS_LAWS:
        fit = laws.get(law.law)
        rows.append(_row(f"least loss: {label if fit is None else fit.source}", 2 ** tokens_exponent(fit or law)))
    return rows


def _row(what: str, factor: float) -> dict[str, Any]:
    return {"twice_the_parameters": what, "tokens_x": factor, "FLOPs_x": 2 * factor}
