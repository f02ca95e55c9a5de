"""Loss along a learning-rate schedule: the multi-power law (Luo et al. 2025, arXiv 2503.12811).

L(t) = L_0 + A S(t)^-alpha - B sum_k (r_{k-1} - r_k) (1 - (1 + C r_k^-gamma S_k(t))^-beta), with r the learning rate,
S(t) its sum over steps up to t, warm-up included, and S_k(t) that from step k on: the second term is what a constant
rate would reach, the third what each fall of the rate gains. The rises of a warm-up are falls below zero, as in the
authors' code: without them their constants miss their own curves by 0.13 nats.
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
_ROWS, _FALLS, _RISES = 40, 120, 30  # of a curve: points fitted to; steps of its schedule after and up to its peak
_MOST_BOOTSTRAPS = 100
_PARTS = 5  # of a curve, of consecutive rows
_FALLEN = 0.05  # of the largest rate, above which a schedule falls


@dataclass(frozen=True)
class _Schedule:
    """A run's rows and the changes of its rate.

    Attributes:
        rows: of the table, of shape (m,).
        total: S at these rows, of shape (m,).
        fall, rate: how far the rate falls at each of k places, below zero where it rises, and the rate there, of shape
            (k,).
        since: S_k at each row (m, k), zero for changes that are still to come.
    """

    rows: np.ndarray
    total: np.ndarray
    fall: np.ndarray
    rate: np.ndarray
    since: np.ndarray


def multi_power_loss(
    constants: Mapping[str, Any], step: Any, learning_rate: Any, run: Any = None, warmup_steps: Any = None
) -> np.ndarray:
    """Nats per token at each row of one or more curves, in their order.

    Args:
        constants: of the law; arrays of shape (B, 1) give a result of shape (B, n).
        step: from the start of training, of shape (n,).
        learning_rate: at that step, of shape (n,); between rows it is taken as straight.
        run: labels of the curves, of shape (n,); None is one curve.
        warmup_steps: over how many steps the rate rose from zero to that of the first row, a number or of shape (n,);
            None where the rows show it, or where there was none: before the first row the rate is that row's.
    """
    step, rate = np.asarray(step, dtype=float), np.asarray(learning_rate, dtype=float)
    warm = np.broadcast_to(np.asarray(0.0 if warmup_steps is None else warmup_steps, dtype=float), step.shape)
    runs = np.zeros(len(step)) if run is None else np.asarray(run)
    schedules = [_schedule(step, rate, warm, np.flatnonzero(runs == name), 10**9) for name in np.unique(runs)]
    values = np.broadcast_arrays(*(np.asarray(constants[name], dtype=float) for name in NAMES))
    theta = np.log(np.stack([value.reshape(-1) for value in values], -1))
    found = np.full((len(theta), len(step)), np.nan)
    for schedule in schedules:
        found[:, schedule.rows] = _losses(theta, schedule)[0]
    return found if values[0].ndim else found[0]


def _schedule(step: np.ndarray, rate: np.ndarray, warm: np.ndarray, rows: np.ndarray, most: int) -> _Schedule:
    """Of one curve's rows, at most so many of them, from the peak of the rate on; or all, without a limit."""
    rows = rows[np.argsort(step[rows], kind="stable")]
    risen, peak = min(float(warm[rows[0]]), float(step[rows[0]])), int(np.argmax(rate[rows]))
    share = np.linspace(0.0, 1.0, _RISES + 1) if risen > 0 else np.ones(1)
    rise = risen * share if risen > 0 else np.zeros(1)  # steps before the first row: of the warm-up, or the start
    at, r = np.concatenate([rise, step[rows]]), np.concatenate([rate[rows[0]] * share, rate[rows]])
    total = np.concatenate([[0.0], np.diff(at) * (r[1:] + r[:-1]) / 2]).cumsum()
    before, ends = _changes(r, len(rise) + peak)
    kept = np.flatnonzero(np.arange(len(rows)) >= peak) if most < len(rows) else np.arange(len(rows))
    if len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).round().astype(int)]
    own, middle = total[len(rise) :][kept], (total[ends] + total[before]) / 2
    since = np.maximum(own[:, None] - middle, 0.0)
    return _Schedule(rows[kept], own, r[before] - r[ends], (r[before] + r[ends]) / 2, since)


def _changes(rate: np.ndarray, peak: int) -> tuple[np.ndarray, np.ndarray]:
    """Between which points the rate changes, first and last (k,): few, for many are put together."""
    changed = np.flatnonzero(np.diff(rate)) + 1
    before, ends = [], []
    for places, most in ((changed[changed <= peak], _RISES), (changed[changed > peak], _FALLS)):
        if not len(places):
            continue
        last = places if len(places) <= most else places[np.linspace(0, len(places) - 1, most).round().astype(int)]
        ends.append(last)
        before.append(last - 1 if len(places) <= most else np.concatenate([[places[0] - 1], last[:-1]]))
    empty = [np.zeros(0, dtype=int)]
    return np.concatenate(before or empty), np.concatenate(ends or empty)


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
    *,
    warmup_steps: np.ndarray | None = None,
) -> Fit:
    """Least squares of log loss after the peak of the rate; 40 rows of each curve, evenly chosen, are points.

    Intervals take whole curves for clusters of shared noise where there are more of them than constants; of fewer,
    the constants take up what the rows of a curve share, and a warning says so.

    Args:
        step, learning_rate, warmup_steps: as in `multi_power_loss`, of shape (n,).
        loss: nats per token, smoothed or of held-out text, of shape (n,).
        run: labels of the curves, of shape (n,).

    Raises:
        LawError: no fall of the rate, which leaves B, C, beta and gamma without any data.
    """
    runs = np.array(["1"] * len(step)) if run is None else np.asarray(run)
    warm = np.zeros(len(step)) if warmup_steps is None else warmup_steps
    schedules = [_schedule(step, learning_rate, warm, np.flatnonzero(runs == name), _ROWS) for name in np.unique(runs)]
    falling = sum(np.maximum(schedule.fall, 0.0).sum() > _FALLEN * learning_rate.max() for schedule in schedules)
    if not falling:
        raise LawError(f"{LAW}: the learning rate falls in no run, expected schedules that decay; add such curves")
    rows = np.concatenate([schedule.rows for schedule in schedules])
    points = {"step": step[rows], "learning_rate": learning_rate[rows], "run": runs[rows], "observed": loss[rows]}
    if warmup_steps is not None:
        points["warmup_steps"] = warmup_steps[rows]

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [_losses(theta, schedule) for schedule in schedules]
        value = np.maximum(np.hstack([part[0] for part in parts]), 1e-6)
        return np.log(value), np.concatenate([part[1] for part in parts], 1) / value[..., None]

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        schedule = columns["step"], columns["learning_rate"], columns.get("run")
        # As in the fit: its constants rest on the rise of the warm-up, or have taken it up.
        warm = None if warmup_steps is None else columns["warmup_steps"]
        return multi_power_loss(constants, *schedule, warm)

    options = replace(options, num_bootstraps=min(options.num_bootstraps, _MOST_BOOTSTRAPS))
    curve = Curve(LAW, NAMES, (True,) * 7, model, points, predict)
    options = _resampled(options, rows, runs[rows])
    fit = fit_curve(curve, _starts(schedules, loss[rows], learning_rate), options)
    fit.warnings += _doubts(len(schedules), falling, options.groups is None)
    return fit


def _doubts(curves: int, falling: int, few: bool) -> list[str]:
    """Too few curves for whole ones to be resampled, or no shapes that tell apart what the law adds up."""
    doubts = []
    if few:
        doubts.append(
            f"{curves} curve{'s' * (curves > 1)} for {len(NAMES)} constants: noise that all rows of a "
            "curve share, such as its seed's, moves the constants unseen, and intervals are of noise within curves "
            f"alone; add schedules or repeats with other seeds, {len(NAMES) + 1} curves or more"
        )
    if falling < 2 or falling == curves:
        doubts.append(
            "no constant rate, or one schedule that falls: what the sum of rates gains is hardly separated from what "
            "their fall gains; add a run of constant rate and another shape"
        )
    return doubts


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
