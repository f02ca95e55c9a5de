"""A fitted law: its constants, their intervals, its text and its JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from knowcap.files import write_json
from knowcap.laws.intervals import Interval
from knowcap.laws.law import LawError, optimum
from knowcap.laws.predict import Band, Prediction, Refit, Rollout, inputs, learn_band, roll_out, spread_of
from knowcap.report.text_table import text_table


_DIGITS = 5
UNITS_WITHHELD = (
    "no answer to --flops: a column seems to be in other units, see the warnings; give plain FLOPs, parameters and "
    "tokens, or state the unit in the header, such as flops_in_EFLOPs, params (B) or log10_flops"
)


@dataclass(frozen=True)
class Options:
    """How intervals are computed.

    Attributes:
        confidence_level: the share of intervals that contain the true value.
        num_bootstraps: refits on reweighted points.
        seed: of the weights.
        groups: of shape (n,): points of equal value belong together, such as those of one run, and are resampled
            whole.
        shared: columns of shape (n,), by name, whose equal values may have noise in common, such as training seeds;
            those whose residuals show it are resampled whole too. Sizes are always considered.
    """

    confidence_level: float = 0.95
    num_bootstraps: int = 1000
    seed: int = 0
    groups: np.ndarray | None = None
    shared: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.confidence_level < 1:
            raise LawError(f"confidence_level: got {self.confidence_level}, expected a share such as 0.95")
        if self.num_bootstraps < 10:
            raise LawError(f"num_bootstraps: got {self.num_bootstraps}, expected 10 or more, such as 1000")

    def only(self, rows: np.ndarray) -> Options:
        """The same for the points that `rows` (booleans or indices) selects."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, groups=groups, shared={name: column[rows] for name, column in self.shared.items()})


class _Asked(dict[str, Any]):
    """Columns that remember which of them were read."""

    def __init__(self, columns: Mapping[str, Any]):
        super().__init__(columns)
        self.names: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.names.append(name)
        return super().__getitem__(name)


@dataclass
class Fit:
    """A law with its constants.

    Attributes:
        law: its name, as on the command line.
        constants: by name; sizes and tokens in the table's own units.
        intervals: [low, high] of each constant at `confidence_level`; None for an end that the data do not bound.
        interval_method: where `intervals` come from: `sandwich` (profiles, as wide as the sandwich variance asks),
            `bootstrap` (percentiles, corrected for leverage and few clusters), or `regression`.
        clusters: what was taken for a cluster of shared noise: `points`, `groups` (of the table), `sizes`, or a name
            in `Options.shared`, such as `seeds`; an interval is the widest of these, without `points` for constants
            that clusters determine whose residuals surely go together.
        stretch: what the distance of the samples' percentiles is multiplied by in intervals from a bootstrap.
        profile_intervals: profiles of equal and independent noise.
        bootstrap_intervals: percentiles.
        standard_errors: of the bootstrap.
        objective: what was minimized, described by `objective_of`.
        num_points: rows that the constants were fitted to.
        warnings: why the constants may be wrong.
        notes: how the table was changed before the fit.
        derived, derived_intervals: quantities computed from the constants.
        points: the columns fitted to, `observed` and `fitted` among them.
        formula: (constants, columns by name) → the law's prediction; constants may be arrays of shape (B, 1).
        samples: constants of the bootstrap, of shape (num_bootstraps, len(constants)).
        extra: more for the JSON, by law.
        non_embedding: the same fit to parameters without embeddings.
        refit: how the law is fitted to some of the points again; None for a law that cannot.
    """

    law: str
    constants: dict[str, float]
    intervals: dict[str, Interval]
    objective: float
    objective_of: str
    num_points: int
    points: dict[str, np.ndarray]
    formula: Callable[[Mapping[str, Any], Mapping[str, Any]], np.ndarray]
    interval_method: str = "sandwich"
    clusters: tuple[str, ...] = ("points",)
    stretch: float = 1.0
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
    refit: Refit | None = None

    @property
    def kind(self) -> str:
        """The law without its form: kaplan-d of `kaplan-d (with a floor)`."""
        return self.law.split(" (")[0]

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The columns that the law predicts from."""
        asked = _Asked(self.points)
        self.formula(self.constants, asked)
        return tuple(dict.fromkeys(asked.names))

    @cached_property
    def rollout(self) -> Rollout | None:
        """The law's errors on the larger runs of its own table; None where that has too few."""
        return None if self.refit is None else roll_out(self.points, self.refit)

    @cached_property
    def band(self) -> Band:
        """What the intervals of predictions are made of."""
        constants = len(self.constants) if self.refit is None else self.refit.num_constants
        return learn_band(self.points, constants, self.rollout)

    @overload
    def predict(self, columns: Mapping[str, Any], interval: None = None) -> np.ndarray: ...

    @overload
    def predict(self, columns: Mapping[str, Any], interval: float) -> Prediction: ...

    def predict(self, columns: Mapping[str, Any], interval: float | None = None) -> np.ndarray | Prediction:
        """What the law predicts for new runs.

        An interval covers a new run of its own noise: it has the spread of the law's constants, the noise of the runs,
        and the misfit beyond the table that a rollout has shown (`knowcap.laws.predict`).

        Args:
            columns: of the runs, by name, of shape (rows,).
            interval: confidence level, such as 0.9.

        Returns:
            The values, of shape (rows,); with `interval` also the ends, as (value, low, high).

        Raises:
            LawError: a level that is no share, or a law without a bootstrap.
        """
        value = self.formula(self.constants, columns)
        if interval is None:
            return value
        if not 0 < interval < 1:
            raise LawError(f"interval: got {interval}, expected a confidence level such as 0.9")
        value = np.atleast_1d(value)
        half = self.band.half_width(self.spread(columns), self.band.reach.beyond(inputs(columns)), interval)
        with np.errstate(over="ignore"):
            return Prediction(value, value * np.exp(-half), value * np.exp(half))

    def spread(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Standard deviation of the predicted logarithms under the bootstrap, of shape (rows,)."""
        if self.samples is None or len(self.samples) < 2:
            raise LawError(
                f"{self.law}: no bootstrap, so a prediction has no interval; set num_bootstraps to 100 or more"
            )
        rows = {name: np.atleast_1d(column) for name, column in columns.items()}
        constants = {name: self.samples[:, [i]] for i, name in enumerate(self.constants)}
        with np.errstate(all="ignore"):
            drawn = np.log(self.formula(constants, rows))
        return spread_of(drawn[np.isfinite(drawn).all(1)])

    @property
    def residuals(self) -> np.ndarray:
        """log(observed / fitted) of every point, of shape (num_points,)."""
        return np.log(self.points["observed"] / self.points["fitted"])

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every column of numbers that the law was fitted to."""
        numbers = {k: v for k, v in self.points.items() if k not in ("fitted", "row") and v.dtype.kind in "fiu"}
        return {k: (float(v.min()), float(v.max())) for k, v in numbers.items()}

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
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
            "clusters": list(self.clusters),
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
            "prediction": self.band.to_dict(),
            "notes": self.notes,
        } | self.extra
        if self.non_embedding is not None:
            keys = ("constants", "intervals", "objective", "derived")
            content["non_embedding"] = {k: self.non_embedding.to_dict()[k] for k in keys}
        return finite(content)

    def _samples(self) -> dict[str, list[float]]:
        """Bootstrapped constants by name, those of one refit at one place, without refits that diverged."""
        if self.samples is None:
            return {}
        kept = self.samples[np.isfinite(self.samples).all(1)]
        return {name: [float(f"{v:.8g}") for v in column] for name, column in zip(self.constants, kept.T, strict=True)}

    def text(self, budgets: Sequence[float] = (), interval: float = 0.9) -> str:
        """Constants with their intervals, what follows from them, and all notes and warnings.

        Args:
            budgets: FLOPs whose optimal allocation is included, with the prediction there; for Chinchilla's laws and
                kaplan-nd.
            interval: confidence level of the predictions.
        """
        percent = f"{100 * self.confidence_level:g} %"
        lines = [f"{self.law}: {self.num_points} points, {self.objective_of} {number(self.objective)}", ""]
        rows = [["constant", "value", percent, "bootstrap", "standard error"]]
        for name, value in self.constants.items():
            ends = [span(self.intervals[name]), span(self.bootstrap_intervals.get(name, (None, None)))]
            rows.append([name, number(value), *ends, self._standard_error(name, value)])
        for name, value in self.derived.items():
            ends = span(self.derived_intervals[name]) if name in self.derived_intervals else ""
            rows.append([name, number(value), ends, "", self._standard_error(name, value)])
        lines.append(text_table(rows))
        lines += [
            "",
            f"Intervals: {self.interval_method} over {', '.join(self.clusters)}. "
            f"Residuals: {100 * self.residuals.std():.2g} % (standard deviation).",
        ]
        lines += _details(self)
        if budgets and self.extra.get("doubtful_units"):
            lines += ["", UNITS_WITHHELD]
        elif budgets:
            lines += [
                "",
                text_table(_budget_rows(self, budgets, interval)),
            ]
        lines += [f"note: {note}" for note in self.notes] + [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def _standard_error(self, name: str, value: float) -> str:
        """In the table; a dash where it is far above the value: some resamples do not determine the constant."""
        error = self.standard_errors.get(name)
        return number(None if error is None or error > 100 * abs(value) > 0 else error)

    def write(self, path: str | Path) -> Path:
        """Writes the JSON file, whole or not at all, and returns its path."""
        return write_law(path, self.to_dict())


def write_law(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes the JSON file of a fit or a comparison, whole or not at all, and its folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def finite(content: Any) -> Any:
    """The same with None for numbers that JSON cannot hold."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _details(fit: Fit) -> list[str]:
    """Lines about a law's own results."""
    lines = []
    for place in fit.extra.get("saturates_at", ()):
        at = f"{number(place['num_parameters'])} parameters {span(tuple(place['interval']))}"
        lines.append(f"{number(place['max_knowledge_bits'])} bits saturate a model of {at}.")
    passes = fit.extra.get("passes", {})
    for value in passes.get("values", ()):
        lines.append(
            f"after {value['passes']} passes over {number(passes['unique_tokens'])} tokens, one more is worth "
            f"{100 * value['fresh_share']:.3g} % of fresh ones: loss {number(value['loss_before'])} to "
            f"{number(value['loss_after'])} at {number(passes['num_parameters'])} parameters"
        )
    for level in fit.extra.get("levels", ()):
        value = level["bits_per_parameter"]
        shown = (
            level["why_not"]
            if value is None
            else f"{number(value)} {span(tuple(level['interval']))} bits per parameter"
        )
        lines.append(f"{level['exposures']:g} exposures: {shown}")
    return lines


def _budget_rows(fit: Fit, budgets: Sequence[float], interval: float) -> list[list[str]]:
    """The best allocation of each budget, with the interval of what the law predicts: the loss there, or the size."""
    sizes = fit.reads == ("flops",)
    heading = f"{'parameters' if sizes else 'loss'}, {100 * interval:g} %"
    rows = [["FLOPs", "parameters", "tokens", "tokens per parameter", heading, ""]]
    for budget in budgets:
        found = optimum(fit.law, fit.constants, budget)
        ratio = number(found.num_tokens / found.num_parameters)
        run = {"flops": budget, "num_parameters": found.num_parameters, "num_tokens": found.num_tokens}
        value, low, high = (ends[0] for ends in fit.predict({name: run[name] for name in fit.reads}, interval))
        shown = f"{'' if sizes else number(value) + ' '}{span((float(low), float(high)))}"
        allocated = [f"{budget:.3g}", number(found.num_parameters), number(found.num_tokens), ratio]
        rows.append([*allocated, shown, beyond(fit, budget)])
    return rows


def beyond(fit: Fit, budget: float) -> str:
    """How far a budget lies outside the FLOPs that a law was fitted to; empty inside."""
    if "flops" in fit.points:
        low, high = fit.ranges["flops"]
    else:
        flops = 6 * fit.points["num_parameters"] * fit.points["num_tokens"]
        low, high = float(flops.min()), float(flops.max())
    if budget > 1.001 * high:
        return f"extrapolated: {budget / high:.2g} times the largest run"
    return f"extrapolated: {budget / low:.2g} of the smallest run" if budget < 0.999 * low else ""


def number(value: float | None) -> str:
    """Five digits, with an exponent where the number is far from 1."""
    return "-" if value is None else f"{value:.{_DIGITS}g}"


def span(ends: Interval) -> str:
    """[low, high] in four digits; a dash for an open end."""
    return "[{}, {}]".format(*("-" if end is None else f"{end:.4g}" for end in ends))
