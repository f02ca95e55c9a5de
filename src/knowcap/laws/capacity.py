"""The capacity law: bits = R x parameters, up to the knowledge there is (Allen-Zhu and Li 2024, Part 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.capacity.student import t_quantile
from knowcap.laws.curve import Curve, with_intervals
from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.solve import Model, minimize
from knowcap.laws.terms import logs


_OPTIONS = Options()
_LEAST_SHARE = 0.5  # of the knowledge there is, that full runs hold


def fit_capacity(
    num_parameters: np.ndarray, knowledge_bits: np.ndarray, max_knowledge_bits: np.ndarray, options: Options = _OPTIONS
) -> Fit:
    """log bits = min(log R + log P, log s + log M): least squares of the logs, exact over all ways to part the runs.

    R (`bits_per_parameter`) is told by the runs that are not full; s (`saturation`) is the share of the knowledge
    there is that full ones hold, left out where no run is full.

    Args:
        num_parameters: P, of shape (n,).
        knowledge_bits: learned, above zero, of shape (n,).
        max_knowledge_bits: M, all that there is to learn, of shape (n,).

    Raises:
        LawError: fewer than 3 runs, or all of them full.
    """
    x, y, m = logs(num_parameters, knowledge_bits, max_knowledge_bits)
    if len(y) < 3:
        raise LawError(f"capacity: got {len(y)} runs with bits, expected 3 or more; add runs")
    start = _best_split(x, y, m)
    full = start[0] + x >= start[1] + m
    if full.all():
        least = float(np.exp((y - x).max()))
        raise LawError(
            f"capacity: every run holds about all there is, so R is only known to be "
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
    _tell(fit, x, y, full)
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

    Runs fill up in the order of P / M, so there are n ways to part them, each with a closed form; where its bend falls
    among other runs, the best bend is at a run. That some are full at all is believed where the law asks for it (R P
    beyond M) or where it fits better than none by an F of 4; a share of less than half is not.
    """
    order = np.argsort(x - m, kind="stable")
    x, y, m = x[order], y[order], m[order]
    ratio = float((y - x).mean())
    none = np.array([ratio, max(0.0, float((ratio + x - m).max()))])
    candidates = []
    for grow in range(1, len(x)):
        candidates.append((float((y - x)[:grow].mean()), float((y - m)[grow:].mean())))
    for bend in x - m:  # log s - log R
        log_r = float((y - np.minimum(x, m + bend)).mean())
        candidates.append((log_r, log_r + bend))
    found = np.array([c for c in candidates if c[1] >= np.log(_LEAST_SHARE)] or [none])
    squares = ((np.minimum(found[:, :1] + x, found[:, 1:] + m) - y) ** 2).sum(1)
    best, least = found[int(np.argmin(squares))], float(squares.min())
    without = float(((ratio + x - y) ** 2).sum())
    believed = none[1] > 0 or without - least > 4 * least / max(1, len(x) - 2) + 1e-18 * len(x)
    return best if believed else none


def _tell(fit: Fit, x: np.ndarray, y: np.ndarray, full: np.ndarray) -> None:
    """The frontier, where models fill up, and what is doubtful."""
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
        fit.notes.append("no run holds all there is, so where models fill up is told by R alone (saturation 1)")
    if (growing := int((~full).sum())) < 3:
        fit.warnings.append(f"R rests on {growing} run{'s' * (growing > 1)} that is not full; add smaller models")
    if "saturation" in fit.constants and share > 1.02:
        fit.warnings.append(
            f"full runs hold {share:.3f} of max_knowledge_bits, more than there is; "
            "bits or max_knowledge_bits are in other units"
        )
    fit.warnings += growth_doubts(x[~full], y[~full])


def growth_doubts(x: np.ndarray, y: np.ndarray) -> list[str]:
    """Says where log bits of runs that are not full grow unlike log parameters (t test at 1 in 1000)."""
    if len(x) < 4 or np.ptp(x) < 0.1:
        return []
    slope, start = np.polyfit(x, y, 1)
    squares = float(((y - slope * x - start) ** 2).sum())
    error = np.sqrt(squares / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    if abs(slope - 1) <= max(1e-6, t_quantile(0.9995, len(x) - 2) * error):
        return []
    return [
        f"bits grow as parameters to the {slope:.2f} (± {error:.2f}), where the law has 1: "
        "R is the mean over these sizes, not a constant; small models are short of training or of width"
    ]
