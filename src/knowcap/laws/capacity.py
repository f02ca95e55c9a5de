"""The laws of knowledge capacity: bits by parameters, and by exposures (Allen-Zhu and Li 2024, Part 3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve, logs, with_intervals
from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import student
from knowcap.laws.law import LawError
from knowcap.laws.repeated import capacity_at
from knowcap.laws.solve import Model, minimize


_OPTIONS = Options()
_EXACT = 16  # partitions whose squares are summed run by run
_LEAST_SHARE = 0.5  # of max_knowledge_bits: saturated runs hold at least this


def fit_capacity(
    num_parameters: np.ndarray, knowledge_bits: np.ndarray, max_knowledge_bits: np.ndarray, options: Options = _OPTIONS
) -> Fit:
    """log bits = min(log R + log P, log s + log M): least squares of the logs, exact over all partitions of the runs.

    R (`bits_per_parameter`) is estimated from the runs that are not saturated; s (`saturation`) is the share of M that
    saturated runs hold, left out if no run is saturated.

    Args:
        num_parameters: P, of shape (n,).
        knowledge_bits: learned, above zero, of shape (n,).
        max_knowledge_bits: M, all bits of the data set, of shape (n,).

    Raises:
        LawError: fewer than 3 runs, or all of them saturated.
    """
    x, y, m = logs(num_parameters, knowledge_bits, max_knowledge_bits)
    if len(y) < 3:
        raise LawError(f"capacity: got {len(y)} runs with bits, expected 3 or more; add runs")
    start = _best_split(x, y, m)
    full = start[0] + x >= start[1] + m
    if full.all():
        least = float(np.exp((y - x).max()))
        raise LawError(
            f"capacity: every run is saturated, so R is only known to be "
            f"{least:.4g} bits per parameter or more; "
            "add smaller models or more knowledge"
        )
    seen = bool(full.any())
    theta = start if seen else start[:1]
    model = _model(x, m, seen)
    found = minimize(model, y, theta[None])
    names = ("bits_per_parameter", "saturation")[: len(theta)]

    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        bits = constants["bits_per_parameter"] * np.asarray(columns["num_parameters"], dtype=float)
        return np.minimum(
            bits, constants.get("saturation", 1.0) * np.asarray(columns["max_knowledge_bits"], dtype=float)
        )

    points = {"num_parameters": num_parameters, "max_knowledge_bits": max_knowledge_bits, "observed": knowledge_bits}
    curve = Curve("capacity", names, (True, True)[: len(theta)], model, points, predict)
    fit = with_intervals(curve, found.best(), float(found.objective.min()), options)
    _add_results(fit, x, y, full)
    return fit


def _model(x: np.ndarray, m: np.ndarray, seen: bool) -> Model:
    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = theta[:, 0, None] + x
        most = (theta[:, 1, None] if seen else 0.0) + m
        grows = (held < most).astype(float)
        parts = [grows, 1.0 - grows] if seen else [np.ones_like(grows)]
        return np.minimum(held, most) if seen else held, np.stack(parts, -1)

    return model


def _best_split(x: np.ndarray, y: np.ndarray, m: np.ndarray) -> np.ndarray:
    """(log R, log s) with the least squares of all.

    Runs fill up in the order of P / M, so there are n partitions, each with a closed form by sums over the first runs
    and the rest; where its bend falls among other runs, the best bend is at a run. Saturation is accepted if the law
    requires it (R P above M) or if it improves the fit by an F of 4; a share below one half is rejected.
    """
    order = np.argsort(x - m, kind="stable")
    x, y, m = x[order], y[order], m[order]
    ratio = float((y - x).mean())
    none = np.array([ratio, max(0.0, float((ratio + x - m).max()))])
    grow, bend = np.arange(1, len(x)), x - m  # as many runs grow; log s - log R at a run
    growing, filled = _Sums(y - x), _Sums((y - m)[::-1])
    own = np.stack([growing.mean(grow), filled.mean(len(x) - grow)], 1)
    under = np.searchsorted(x - m, bend, side="right")
    log_r = (growing.sum[under] + filled.sum[len(x) - under] - (len(x) - under) * bend) / len(x)
    candidates = np.concatenate([own, np.stack([log_r, log_r + bend], 1)])
    candidates = candidates[candidates[:, 1] >= np.log(_LEAST_SHARE)]
    bends = np.searchsorted(x - m, candidates[:, 1] - candidates[:, 0], side="right")
    about = growing.squares(bends, candidates[:, 0]) + filled.squares(len(x) - bends, candidates[:, 1])
    found = np.vstack([candidates[np.argsort(about, kind="stable")[:_EXACT]], none])
    squares = ((np.minimum(found[:, :1] + x, found[:, 1:] + m) - y) ** 2).sum(1)
    if len(found) > 1:  # sums of sums are rounded: the nearest are summed again
        found, squares = found[:-1], squares[:-1]
    best, least = found[int(np.argmin(squares))], float(squares.min())
    without = float(((ratio + x - y) ** 2).sum())
    believed = none[1] > 0 or without - least > 4 * least / max(1, len(x) - 2) + 1e-18 * len(x)
    return best if believed else none


class _Sums:
    """Sums over the first k of some values, of shape (n + 1,) for k from 0 to n."""

    def __init__(self, values: np.ndarray):
        self.number = np.arange(len(values) + 1)
        self.sum = np.concatenate([[0.0], np.cumsum(values)])
        self.square = np.concatenate([[0.0], np.cumsum(values**2)])

    def mean(self, k: np.ndarray) -> np.ndarray:
        """Of the first k values."""
        return self.sum[k] / self.number[k]

    def squares(self, k: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Squared distances of the first k values to `centre`, summed."""
        return self.square[k] - 2 * centre * self.sum[k] + self.number[k] * centre**2


def _add_results(fit: Fit, x: np.ndarray, y: np.ndarray, full: np.ndarray) -> None:
    """Adds the frontier, the sizes at which models saturate, and warnings."""
    ratio, share = fit.constants["bits_per_parameter"], fit.constants.get("saturation", 1.0)
    low, high = fit.intervals["bits_per_parameter"]
    fit.derived["frontier_bits_per_parameter"] = float(np.exp((y - x).max()))
    fit.extra["saturates_at"] = [
        {
            "max_knowledge_bits": float(most),
            "num_parameters": float(share * most / ratio),
            "interval": [
                None if high is None else float(share * most / high),
                None if low is None else float(share * most / low),
            ],
        }
        for most in np.unique(fit.points["max_knowledge_bits"])
    ]
    fit.extra["num_saturated"] = int(full.sum())
    if not full.any():
        fit.notes.append(
            "no run is saturated, so the sizes at which models saturate follow from R alone (saturation 1)"
        )
    if (growing := int((~full).sum())) < 3:
        fit.warnings.append(f"R rests on {growing} unsaturated run{'s' * (growing > 1)}; add smaller models")
    if "saturation" in fit.constants and share > 1.02:
        fit.warnings.append(
            f"saturated runs hold {share:.3f} of max_knowledge_bits, more than all of it; "
            "bits or max_knowledge_bits are in other units"
        )
    fit.warnings += growth_warnings(x[~full], y[~full])


def growth_warnings(x: np.ndarray, y: np.ndarray) -> list[str]:
    """A warning if the bits of unsaturated runs are not proportional to parameters (t test, p < 0.001)."""
    if len(x) < 4 or np.ptp(x) < 0.1:
        return []
    slope, start = np.polyfit(x, y, 1)
    squares = float(((y - slope * x - start) ** 2).sum())
    error = np.sqrt(squares / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    if abs(slope - 1) <= max(1e-6, student(0.999, len(x) - 2) * error):
        return []
    return [
        f"bits grow as parameters to the {slope:.2f} (± {error:.2f}), where the law has 1: "
        "R is the mean over these sizes, not a constant; small models are undertrained or too narrow"
    ]


_EXPOSURE_NAMES = ("bits_per_parameter", "half_exposures", "gamma", "saturation")


def exposures_needed(constants: Mapping[str, float], bits_per_parameter: Any) -> np.ndarray:
    """Exposures after which a model holds `bits_per_parameter`; infinite at R and above.

    A model of P parameters that must hold k bits needs k / P; see `capacity_at`.
    """
    left = constants["bits_per_parameter"] / np.asarray(bits_per_parameter, dtype=float) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            left > 0, constants["half_exposures"] / np.maximum(left, 0) ** (1 / constants["gamma"]), np.inf
        )


def fit_exposures(
    num_parameters: np.ndarray,
    knowledge_bits: np.ndarray,
    max_knowledge_bits: np.ndarray,
    exposures: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """log bits = min(log R(e) + log P, log s + log M), R(e) as in `capacity_at`, and R at each number of exposures
    separately.

    Args:
        num_parameters, knowledge_bits, max_knowledge_bits: as in `fit_capacity`.
        exposures: how often each fact was seen, of shape (n,).

    Raises:
        LawError: fewer than three different numbers of exposures.
    """
    found = np.unique(exposures)
    if len(found) < 3:
        raise LawError(
            f"exposures: got {len(found)} different numbers of exposures ({', '.join(f'{e:g}' for e in found)}), "
            "expected 3 or more; add runs, or use the law capacity"
        )
    x, y, m, e = logs(num_parameters, knowledge_bits, max_knowledge_bits, exposures)
    top = float((y - x).max())
    starts = np.array(
        [
            (top + extra, half, gamma, 0.0)
            for extra, half, gamma in itertools.product(
                (0.0, 0.3, 1.0), np.linspace(e.min() - 2, e.max() + 2, 7), (0.5, 1.0, 2.0)
            )
        ]
    )
    points = {
        "num_parameters": num_parameters, "max_knowledge_bits": max_knowledge_bits, "exposures": exposures,
        "observed": knowledge_bits,
    }  # fmt: skip
    fit = _fit_joint(x, m, e, points, starts, options, seen=True)
    if not (_held(fit.constants, points) > fit.constants["saturation"] * max_knowledge_bits).any():
        fit = _fit_joint(x, m, e, points, starts[:, :3], options, seen=False)
    fit.extra["levels"] = [_level(fit, value, options) for value in found]
    _add_level_warnings(fit, found)
    return fit


def _held(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
    """Bits without saturation."""
    return capacity_at(constants, columns["exposures"]) * np.asarray(columns["num_parameters"], dtype=float)


def _fit_joint(
    x: np.ndarray,
    m: np.ndarray,
    e: np.ndarray,
    points: dict[str, np.ndarray],
    starts: np.ndarray,
    options: Options,
    seen: bool,
) -> Fit:
    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        half, gamma = theta[:, 1, None] - e, theta[:, 2, None]
        held = theta[:, 0, None] + x - np.logaddexp(0.0, gamma * half)
        share = 1 / (1 + np.exp(-np.clip(gamma * half, -700, 700)))
        parts = [np.ones_like(share), -gamma * share, -half * share]
        if not seen:
            return held, np.stack(parts, -1)
        most = theta[:, 3, None] + m
        grows = held < most
        return np.minimum(held, most), np.stack([*(part * grows for part in parts), 1.0 - grows], -1)

    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        most = constants.get("saturation", 1.0) * np.asarray(columns["max_knowledge_bits"], dtype=float)
        return np.minimum(_held(constants, columns), most)

    width = starts.shape[1]
    curve = Curve("exposures", _EXPOSURE_NAMES[:width], (True, True, False, True)[:width], model, points, predict)
    return fit_curve(curve, starts, options)


def _level(fit: Fit, value: float, options: Options) -> dict[str, Any]:
    """R at one number of exposures separately; None if its runs are too few or all saturated."""
    rows = fit.points["exposures"] == value
    columns = (fit.points[k][rows] for k in ("num_parameters", "observed", "max_knowledge_bits"))
    level: dict[str, Any] = {"exposures": float(value), "num_points": int(rows.sum())}
    try:
        own = fit_capacity(*columns, options=options.only(rows))
    except LawError as error:
        return level | {"bits_per_parameter": None, "interval": [None, None], "why_not": str(error)}
    name = "bits_per_parameter"
    return level | {name: own.constants[name], "interval": list(own.intervals[name])}


def _add_level_warnings(fit: Fit, found: np.ndarray) -> None:
    reached = float(capacity_at(fit.constants, found.max()) / fit.constants["bits_per_parameter"])
    fit.derived["bits_per_parameter_at_most_exposures"] = float(capacity_at(fit.constants, found.max()))
    if reached < 0.8:
        fit.warnings.append(
            f"at {found.max():g} exposures, the most in the table, models reach {100 * reached:.0f} % of the R of "
            "unlimited exposures, which is extrapolated; add runs with more exposures"
        )
    if fit.constants["gamma"] <= 0:
        fit.warnings.append("bits do not grow with exposures: gamma is negative")
