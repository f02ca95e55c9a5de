"""How a model is trained and kept: what bits per parameter depend on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from knowcap.laws.plan.answer import PlanError
from knowcap.laws.published import ARCHITECTURES, JUNK, PRECISIONS


@dataclass(frozen=True)
class Setting:
    """How a model is trained and kept.

    Attributes:
        exposures: how often each fact is seen; None: as many as the law has runs of, 1000 by Part 3.3.
        architecture: a key of ARCHITECTURES.
        precision: a key of PRECISIONS.
        junk: none, or a key of JUNK: 7/8 of the tokens tell of others.
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
                f"exposures={self.exposures:g}, expected 1 or more: what is not seen once cannot be stored, and no "
                "law here is about part of a pass; raise exposures"
            )
        elif self.exposures is not None and self.junk != "none" and self.exposures < min(JUNK[self.junk][0]):
            problems.append(
                f"exposures={self.exposures:g} with junk={self.junk}: the paper has no figure below "
                f"{min(JUNK[self.junk][0])} exposures; raise exposures, or leave junk out"
            )
        if problems:
            raise PlanError("\n".join(problems))
