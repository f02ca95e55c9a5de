"""Bits per parameter as a function of exposures: how many passes fill a model (Part 3.3, Results 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.capacity import fit_capacity
from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.terms import logs


_OPTIONS = Options()
_NAMES = ("bits_per_parameter", "half_exposures", "gamma", "saturation")


def capacity_at(constants: Mapping[str, float], exposures: Any) -> np.ndarray:
    """R(e) = R / (1 + (half_exposures / e)^gamma): bits per parameter after e exposures of each fact."""
    e = np.asarray(exposures, dtype=float)
    return constants["bits_per_parameter"] / (1 + (constants["half_exposures"] / e) ** constants["gamma"])


def exposures_needed(constants: Mapping[str, float], bits_per_parameter: Any) -> np.ndarray:
    """Exposures after which a model holds so many bits per parameter; infinite at R and above.

    A model of P parameters that is to hold k bits asks for k / P; see `capacity_at`.
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
    """log bits = min(log R(e) + log P, log s + log M), R(e) as in `capacity_at`, beside R at each number of exposures
    by itself.

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
    fit = _fit(x, m, e, points, starts, options, seen=True)
    if not (_held(fit.constants, points) > fit.constants["saturation"] * max_knowledge_bits).any():
        fit = _fit(x, m, e, points, starts[:, :3], options, seen=False)
    fit.extra["levels"] = [_level(fit, value, options) for value in found]
    _doubt(fit, found)
    return fit


def _held(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
    """Bits were there no end to knowledge."""
    return capacity_at(constants, columns["exposures"]) * np.asarray(columns["num_parameters"], dtype=float)


def _fit(
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
    curve = Curve("exposures", _NAMES[:width], (True, True, False, True)[:width], model, points, predict)
    return fit_curve(curve, starts, options)


def _level(fit: Fit, value: float, options: Options) -> dict[str, Any]:
    """R at one number of exposures by itself; None where its runs are too few or all full."""
    rows = fit.points["exposures"] == value
    columns = (fit.points[k][rows] for k in ("num_parameters", "observed", "max_knowledge_bits"))
    level: dict[str, Any] = {"exposures": float(value), "num_points": int(rows.sum())}
    try:
        own = fit_capacity(*columns, options=options)
    except LawError as error:
        return level | {"bits_per_parameter": None, "interval": [None, None], "why_not": str(error)}
    name = "bits_per_parameter"
    return level | {name: own.constants[name], "interval": list(own.intervals[name])}


def _doubt(fit: Fit, found: np.ndarray) -> None:
    reached = float(capacity_at(fit.constants, found.max()) / fit.constants["bits_per_parameter"])
    fit.derived["bits_per_parameter_at_most_exposures"] = float(capacity_at(fit.constants, found.max()))
    if reached < 0.8:
        fit.warnings.append(
            f"at {found.max():g} exposures, the most there are, models reach {100 * reached:.0f} % of the R of "
            "endless exposures, which is extrapolated; add runs with more exposures"
        )
    if fit.constants["gamma"] <= 0:
        fit.warnings.append("bits do not grow with exposures: gamma is negative")
