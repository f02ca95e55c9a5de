"""A fitted law: its constants, what is known of them, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.laws.intervals import Interval


class LawError(ValueError):
    """What stands in the way of a fit; the message has all of it, and how to mend it."""

    def __init__(self, problems: str | list[str]):
        problems = [problems] if isinstance(problems, str) else problems
        one = len(problems) == 1
        super().__init__(
            problems[0] if one else f"{len(problems)} problems:\n" + "\n".join(f"  {p}" for p in problems)
        )


@dataclass(frozen=True)
class Options:
    """How intervals are made.

    Attributes:
        confidence_level: the share of intervals that are to hold the truth.
        num_bootstraps: refits on reweighted points.
        seed: of the weights.
    """

    confidence_level: float = 0.95
    num_bootstraps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence_level < 1:
            raise LawError(f"confidence_level: got {self.confidence_level}, expected a share such as 0.95")
        if self.num_bootstraps < 10:
            raise LawError(f"num_bootstraps: got {self.num_bootstraps}, expected 10 or more, such as 1000")


@dataclass
class Fit:
    """A law with its constants.

    Attributes:
        law: its name, as on the command line.
        constants: by name; sizes and tokens in the table's own units.
        intervals: [low, high] of each constant at `confidence_level`; None for an end that the data leave open.
        interval_method: where `intervals` come from: `profile`, `bootstrap` (percentiles), `groups` (Student's t
            with the standard error of a bootstrap over runs), or `regression`.
        profile_intervals, bootstrap_intervals: both kinds, where there are both.
        standard_errors: of the bootstrap.
        objective: what was minimized, as `objective_of` says.
        num_points: rows that the constants were fitted to.
        warnings: why the constants may not be what they seem.
        notes: what was done with the table on the way.
        derived, derived_intervals: what follows from the constants.
        points: the columns fitted to, `observed` and `fitted` among them.
        predict: columns by name → what the law says there.
        samples: constants of the bootstrap, of shape (num_bootstraps, len(constants)).
        extra: more for the JSON, by law.
        non_embedding: the same fit to parameters without embeddings.
    """

    law: str
    constants: dict[str, float]
    intervals: dict[str, Interval]
    objective: float
    objective_of: str
    num_points: int
    points: dict[str, np.ndarray]
    predict: Callable[[Mapping[str, Any]], np.ndarray]
    interval_method: str = "profile"
    confidence_level: float = 0.95
    profile_intervals: dict[str, Interval] = field(default_factory=dict)
    bootstrap_intervals: dict[str, Interval] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    derived: dict[str, float] = field(default_factory=dict)
    derived_intervals: dict[str, Interval] = field(default_factory=dict)
    condition_number: float | None = None
    samples: np.ndarray | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    non_embedding: Fit | None = None

    @property
    def residuals(self) -> np.ndarray:
        """log(observed / fitted) of every point, of shape (num_points,)."""
        return np.log(self.points["observed"] / self.points["fitted"])

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every column that the law was fitted to."""
        return {k: (float(v.min()), float(v.max())) for k, v in self.points.items() if k not in ("fitted", "row")}

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        content: dict[str, Any] = {
            "law": self.law,
            "constants": self.constants,
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "objective": self.objective,
            "num_points": self.num_points,
            "warnings": self.warnings,
            "objective_of": self.objective_of,
            "confidence_level": self.confidence_level,
            "interval_method": self.interval_method,
            "profile_intervals": {k: list(v) for k, v in self.profile_intervals.items()},
            "bootstrap_intervals": {k: list(v) for k, v in self.bootstrap_intervals.items()},
            "standard_errors": self.standard_errors,
            "derived": self.derived,
            "derived_intervals": {k: list(v) for k, v in self.derived_intervals.items()},
            "condition_number": self.condition_number,
            "residual_standard_deviation": float(self.residuals.std()),
            "residuals": [float(r) for r in self.residuals],
            "ranges": {k: list(v) for k, v in self.ranges.items()},
            "samples": self._samples(),
            "notes": self.notes,
        } | self.extra
        if self.non_embedding is not None:
            keys = ("constants", "intervals", "objective", "derived")
            content["non_embedding"] = {k: self.non_embedding.to_dict()[k] for k in keys}
        return finite(content)

    def _samples(self) -> dict[str, list[float]]:
        """Bootstrapped constants by name, those of one refit at one place, without refits that ran off."""
        if self.samples is None:
            return {}
        kept = self.samples[np.isfinite(self.samples).all(1)]
        return {name: [float(f"{v:.8g}") for v in column] for name, column in zip(self.constants, kept.T, strict=True)}

    def write(self, path: str | Path) -> Path:
        """Writes the JSON file, whole or not at all, and returns its path."""
        return write_json(self.to_dict(), path)


def finite(content: Any) -> Any:
    """The same with None for numbers that JSON cannot hold."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(content: dict[str, Any], path: str | Path) -> Path:
    """A JSON file, whole or not at all; returns its path."""
    from knowcap.files import whole_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text + "\n", encoding="utf-8")
    return path
