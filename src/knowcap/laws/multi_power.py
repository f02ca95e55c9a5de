"""Loss along a learning-rate schedule: the multi-power law (Luo et al. 2025, arXiv 2503.12811).

L(t) = L_0 + A S(t)^-alpha - B sum_k (r_{k-1} - r_k) (1 - (1 + C r_k^-gamma S_k(t))^-beta), with r the learning rate,
S(t) its sum over steps up to t, warm-up included, and S_k(t) that from step k on: the second term is what a constant
rate would reach, the third what each fall of the rate gains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError


LAW = "multi-power"
NAMES: tuple[str, ...] = ("L_0", "A", "alpha", "B", "C", "beta", "gamma")
# The authors' own constants, of GPT models trained with peak rates of 3e-4 (their repository's README).
PUBLISHED: dict[str, dict[str, float]] = {
    "25M": dict(zip(NAMES, (3.040, 0.525, 0.508, 363.788, 2.066, 0.583, 0.641), strict=True)),
    "100M": dict(zip(NAMES, (2.651, 0.601, 0.453, 437.946, 2.132, 0.598, 0.655), strict=True)),
    "400M": dict(zip(NAMES, (2.375, 0.654, 0.429, 523.425, 2.025, 0.594, 0.635), strict=True)),
}
_OPTIONS = Options()
_ROWS, _FALLS = 40, 120  # of a curve: points fitted to, and steps of its schedule
_MOST_BOOTSTRAPS = 100
_PARTS = 5  # of a curve, of consecutive rows


@dataclass(frozen=True)
class _Schedule:
    """A run's rows and the falls of its rate.

    Attributes:
        rows: of the table, of shape (m,).
        total: S at these rows, of shape (m,).
        fall, rate: how far the rate falls at each of k places, and the rate there, of shape (k,).
        since: S_k at each row (m, k), zero for falls that are still to come.
    """

    rows: np.ndarray
    total: np.ndarray
    fall: np.ndarray
    rate: np.ndarray
    since: np.ndarray


def multi_power_loss(constants: Mapping[str, Any], step: Any, learning_rate: Any, run: Any = None) -> np.ndarray:
    """Nats per token at each row of one or more curves, in their order.

    Args:
        constants: of the law; arrays of shape (B, 1) give a result of shape (B, n).
        step: from the start of training, of shape (n,).
        learning_rate: at that step, of shape (n,); between rows it is taken as straight.
        run: labels of the curves, of shape (n,); None is one curve.
    """
    step, rate = np.asarray(step, dtype=float), np.asarray(learning_rate, dtype=float)
    runs = np.zeros(len(step)) if run is None else np.asarray(run)
    schedules = [_schedule(step, rate, np.flatnonzero(runs == name), 10**9) for name in np.unique(runs)]
    values = np.broadcast_arrays(*(np.asarray(constants[name], dtype=float) for name in NAMES))
    theta = np.log(np.stack([value.reshape(-1) for value in values], -1))
    found = np.full((len(theta), len(step)), np.nan)
    for schedule in schedules:
        found[:, schedule.rows] = _losses(theta, schedule)[0]
    return found if values[0].ndim else found[0]


def _schedule(step: np.ndarray, rate: np.ndarray, rows: np.ndarray, most: int) -> _Schedule:
    """Of one curve's rows; the rate before its first row is that row's."""
    rows = rows[np.argsort(step[rows], kind="stable")]
    at, r = step[rows], rate[rows]
    total = np.concatenate([[at[0] * r[0]], np.diff(at) * (r[1:] + r[:-1]) / 2]).cumsum()
    peak = int(np.argmax(r))
    falls = np.flatnonzero((r[1:] < r[:-1]) & (np.arange(1, len(r)) > peak)) + 1
    if len(falls) > _FALLS:
        ends = falls[np.linspace(0, len(falls) - 1, _FALLS).round().astype(int)]
        before = np.concatenate([[falls[0] - 1], ends[:-1]])
    else:
        ends, before = falls, falls - 1
    middle, fall = (total[ends] + total[before]) / 2, r[before] - r[ends]
    kept = np.flatnonzero(np.arange(len(r)) >= peak) if most < len(r) else np.arange(len(r))
    if len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).round().astype(int)]
    since = np.maximum(total[kept, None] - middle, 0.0)
    return _Schedule(rows[kept], total[kept], fall, (r[before] + r[ends]) / 2, since)


def _losses(theta: np.ndarray, schedule: _Schedule) -> tuple[np.ndarray, np.ndarray]:
    """The loss (B, m) and its derivatives (B, m, 7) by the logarithms of the constants (B, 7)."""
    floor, a, alpha, b, c, beta, gamma = (np.exp(np.clip(theta[:, i, None], -30.0, 30.0)) for i in range(7))
    constant = a * np.exp(-alpha * np.log(schedule.total))
    log_rate = np.log(schedule.rate)
    x = (c * np.exp(-gamma * log_rate))[:, None, :] * schedule.since
    left = (1 + x) ** -beta[..., None]
    slope = beta[..., None] * x * left / (1 + x)
    gained = ((1 - left) @ schedule.fall) * b
    jacobian = np.stack(
        [
            floor + 0 * constant,
            constant,
            -alpha * np.log(schedule.total) * constant,
            -gained,
            -b * (slope @ schedule.fall),
            -b * ((beta[..., None] * np.log1p(x) * left) @ schedule.fall),
            b * gamma * ((slope * log_rate) @ schedule.fall),
        ],
        -1,
    )
    return floor + constant - gained, jacobian


def fit_multi_power(
    step: np.ndarray,
    learning_rate: np.ndarray,
    loss: np.ndarray,
    run: np.ndarray | None = None,
    options: Options = _OPTIONS,
) -> Fit:
    """Least squares of log loss after the peak of the rate; 40 rows of each curve, evenly chosen, are points.

    Intervals take whole curves for clusters of shared noise where there are more of them than constants; of fewer,
    the constants take up what the rows of a curve share, and a warning says so.

    Args:
        step, learning_rate: as in `multi_power_loss`.
        loss: nats per token, smoothed or of held-out text, of shape (n,).
        run: labels of the curves, of shape (n,).

    Raises:
        LawError: no fall of the rate, which leaves B, C, beta and gamma without any data.
    """
    runs = np.array(["1"] * len(step)) if run is None else np.asarray(run)
    schedules = [_schedule(step, learning_rate, np.flatnonzero(runs == name), _ROWS) for name in np.unique(runs)]
    falling = sum(schedule.fall.sum() > 0.05 * learning_rate.max() for schedule in schedules)
    if not falling:
        raise LawError(f"{LAW}: the learning rate falls in no run, expected schedules that decay; add such curves")
    rows = np.concatenate([schedule.rows for schedule in schedules])
    points = {"step": step[rows], "learning_rate": learning_rate[rows], "run": runs[rows], "observed": loss[rows]}

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [_losses(theta, schedule) for schedule in schedules]
        value = np.maximum(np.hstack([part[0] for part in parts]), 1e-6)
        return np.log(value), np.concatenate([part[1] for part in parts], 1) / value[..., None]

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        return multi_power_loss(constants, columns["step"], columns["learning_rate"], columns.get("run"))

    options = replace(options, num_bootstraps=min(options.num_bootstraps, _MOST_BOOTSTRAPS))
    curve = Curve(LAW, NAMES, (True,) * 7, model, points, predict)
    options = _resampled(options, rows, runs[rows])
    fit = fit_curve(curve, _starts(schedules, loss[rows], learning_rate), options)
    if options.groups is None:
        fit.warnings.append(
            f"{len(schedules)} curve{'s' * (len(schedules) > 1)} for {len(NAMES)} constants: noise that all rows of a "
            "curve share, such as its seed's, moves the constants unseen, and intervals are of noise within curves "
            f"alone; add schedules or repeats with other seeds, {len(NAMES) + 1} curves or more"
        )
    if falling < 2 or not any(schedule.fall.sum() < 0.05 * learning_rate.max() for schedule in schedules):
        fit.warnings.append(
            "no constant rate, or one schedule that falls: what the sum of rates gains is hardly separated from what "
            "their fall gains; add a run of constant rate and another shape"
        )
    return fit


def _resampled(options: Options, rows: np.ndarray, runs: np.ndarray) -> Options:
    """Curves (or the table's own groups) resampled whole where there are more of them than constants.

    Fewer cannot be: the constants take up what whole curves share. There the rows are, and parts of curves, and curves
    if the residuals go together in them.
    """
    groups = runs if options.groups is None else options.groups[rows]
    shared = {name: column[rows] for name, column in options.shared.items()}
    if len(np.unique(groups)) > len(NAMES):
        return replace(options, groups=groups, shared=shared)
    parts = np.empty(len(runs), dtype=int)
    for number, name in enumerate(np.unique(runs)):
        (own,) = np.nonzero(runs == name)
        parts[own] = _PARTS * number + np.arange(len(own)) * _PARTS // len(own)
    return replace(options, groups=None, shared=shared | {"parts of curves": parts, "curves": groups})


def _starts(schedules: list[_Schedule], loss: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Of shape (s, 7), with A from the first rows and B such that a fall to zero gains a tenth of the loss."""
    least, most = float(loss.min()), float(loss.max())
    early = min(float(schedule.total.min()) for schedule in schedules)
    found = [
        [
            np.log(least * share), np.log(max(most - least * share, 0.1)) + alpha * np.log(max(early, 1e-12)),
            np.log(alpha), np.log(0.1 * least / rate.max()), np.log(c), np.log(beta), np.log(gamma),
        ]
        for share, alpha, c, beta, gamma in itertools.product(
            (0.8, 0.95), (0.3, 0.6), (0.5, 3.0), (0.4, 0.8), (0.4, 0.8)
        )
    ]  # fmt: skip
    return np.array(found)
