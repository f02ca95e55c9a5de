"""Chinchilla's approach 1, the envelope of training curves, and the line through optima (Hoffmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import Interval, interval, percentiles, student
from knowcap.laws.law import LawError
from knowcap.laws.predict import Refit, Refitted


_OPTIONS = Options()
NAMES: tuple[str, ...] = ("exponent_parameters", "exponent_tokens", "coefficient_parameters", "coefficient_tokens")
_ENOUGH = 4  # budgets from which on the line's own scatter is judged


@dataclass(frozen=True)
class Optima:
    """The best sizes found for some budgets.

    Attributes:
        flops, num_parameters, num_tokens: of shape (k,).
        drawn: logs of the same three under the bootstrap, of shape (B, 3, k), NaN where a budget had no optimum.
    """

    flops: np.ndarray
    num_parameters: np.ndarray
    num_tokens: np.ndarray
    drawn: np.ndarray


def line_fit(
    law: str,
    optima: Optima,
    num_points: int,
    options: Options,
    extra: dict[str, Any],
    groups: np.ndarray | None = None,
) -> Fit:
    """N = coefficient x C^exponent and the same for D, by least squares of the logs.

    Intervals are those of the regression (Student's t, k - 2 degrees of freedom: how far budgets lie off the line)
    from four budgets on, of the bootstrap over points or runs below that. With groups, whose noise several budgets
    share, the wider of the two, the bootstrap's by Student's t with two degrees less than there are groups.
    """
    c = np.log(optima.flops)
    columns = (np.log(optima.num_parameters), np.log(optima.num_tokens))
    drawn = [_slopes(optima.drawn[:, 0], optima.drawn[:, i]) for i in (1, 2)]
    lines = [_slopes(c[None], column[None])[0] for column in columns]
    own = [_regression(c, column, options.confidence_level) for column in columns]
    with np.errstate(over="ignore"):
        scales = [np.exp(line[:, 1]) for line in drawn]
    samples = np.stack([drawn[0][:, 0], drawn[1][:, 0], *scales], -1)
    samples = samples[np.isfinite(samples).all(1)]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = samples.std(0) if len(samples) > 1 else ()
    values = [lines[0][0], lines[1][0], np.exp(lines[0][1]), np.exp(lines[1][1])]
    regression = dict(zip(NAMES, [own[0][0], own[1][0], _exp(own[0][1]), _exp(own[1][1])], strict=True))
    ends = percentiles(samples, options.confidence_level) if len(samples) > 1 else np.full((4, 2), np.nan)
    boot = {name: interval(*pair) for name, pair in zip(NAMES, ends, strict=True)}
    enough = len(c) >= _ENOUGH
    constants = {name: float(v) for name, v in zip(NAMES, values, strict=True)}
    fitted = np.exp(lines[0][1] + lines[0][0] * c)
    intervals = regression if enough else boot
    if groups is not None and enough:
        shared = _of_groups(boot, constants, len(np.unique(groups)), options.confidence_level)
        intervals = {n: max(regression[n], shared[n], key=_width) for n in NAMES}
    return Fit(
        law=law,
        constants=constants,
        intervals=intervals,
        objective=float((np.log(fitted / optima.num_parameters) ** 2).sum()),
        objective_of="sum of squared log residuals of the optimal sizes",
        num_points=num_points,
        points={
            "flops": optima.flops,
            "num_tokens": optima.num_tokens,
            "observed": optima.num_parameters,
            "fitted": fitted,
        },
        formula=_predict,
        refit=Refit(2, lambda weights: _refitted(c, columns[0], weights)),
        interval_method="regression" if enough else "bootstrap",
        clusters=("budgets",) if groups is None else ("budgets", "groups"),
        confidence_level=options.confidence_level,
        profile_intervals=regression,
        bootstrap_intervals=boot,
        standard_errors={n: float(s) for n, s in zip(NAMES, errors, strict=False)},
        samples=samples,
        extra=extra,
    )


def _of_groups(
    boot: Mapping[str, Interval], constants: Mapping[str, float], groups: int, level: float
) -> dict[str, Interval]:
    """Percentiles moved away from the constants by Student's t, of two degrees less than groups, over the normal's."""
    factor = float(student(level, max(1, groups - 2)) / student(level, np.inf))

    def moved(end: float | None, value: float) -> float | None:
        return None if end is None else value + factor * (end - value)

    return {name: (moved(low, constants[name]), moved(high, constants[name])) for name, (low, high) in boot.items()}


def _width(ends: Interval) -> float:
    low, high = ends
    return np.inf if low is None or high is None else high - low


def _predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
    flops = np.asarray(columns["flops"], dtype=float)
    return constants["coefficient_parameters"] * flops ** constants["exponent_parameters"]


def _refitted(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Refitted:
    """What weighted lines predict for all points, with the standard errors of a regression: weights (B, k)."""
    total = weights.sum(1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    squares = (weights * dx * dx).sum(1)
    lines = mean_y[:, None] + ((weights * dx * dy).sum(1) / squares)[:, None] * dx
    variance = (weights * (y - lines) ** 2).sum(1) / np.maximum(1, total - 2)
    return Refitted(lines, np.sqrt(variance[:, None] * (1 / total[:, None] + dx * dx / squares[:, None])))


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slope and intercept of each row's line through its finite points, NaN for fewer than two: (B, k) → (B, 2)."""
    there = np.isfinite(x) & np.isfinite(y)
    number = there.sum(1)
    x, y = np.where(there, x, 0.0), np.where(there, y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x.sum(1) / number, y.sum(1) / number
        dx, dy = np.where(there, x - mean_x[:, None], 0.0), np.where(there, y - mean_y[:, None], 0.0)
        spread = (dx * dx).sum(1)
        slope = np.where((number > 1) & (spread > 1e-12), (dx * dy).sum(1) / spread, np.nan)
    return np.stack([slope, mean_y - slope * mean_x], -1)


def _regression(x: np.ndarray, y: np.ndarray, level: float) -> tuple[Interval, Interval]:
    """Intervals of slope and intercept; open where two points make the line."""
    if len(x) < 3:
        return (None, None), (None, None)
    slope, start = _slopes(x[None], y[None])[0]
    spread = float(((x - x.mean()) ** 2).sum())
    error = np.sqrt(float(((y - start - slope * x) ** 2).sum()) / (len(x) - 2))
    half = float(student(level, len(x) - 2)) * error
    wide = half * np.sqrt(1 / len(x) + x.mean() ** 2 / spread)
    half /= np.sqrt(spread)
    return interval(slope - half, slope + half), interval(start - wide, start + wide)


def _exp(ends: Interval) -> Interval:
    with np.errstate(over="ignore"):
        low, high = (None if end is None else float(np.exp(end)) for end in ends)
    return (low or None, high if high is None or np.isfinite(high) else None)


_VALUES = 1500  # log-spaced FLOPs at which curves are compared, as in the paper
_ENVELOPE_SIZES = 4  # different sizes: two of them between others


@dataclass(frozen=True)
class Curves:
    """Training curves on common FLOP values.

    Attributes:
        log_flops: of shape (v,).
        loss, log_tokens: of shape (runs, v); loss is infinite outside a curve.
        log_size: of shape (runs,).
        points: rows of the table in them.
    """

    log_flops: np.ndarray
    loss: np.ndarray
    log_tokens: np.ndarray
    log_size: np.ndarray
    points: int


def fit_envelope(
    runs: np.ndarray,
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    flops: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """The size with the lowest loss for each compute, and a power law through those.

    Hoffmann et al. fit the line to 1,500 FLOP values, over which the best size is a staircase; a line through a
    staircase of k steps is too flat by 1 - 1 / k². Here each size counts once, in the (geometric) middle of the
    stretch of compute in which it is best; the smallest and the largest size, whose stretches have no outer end, are
    left out.

    Args:
        runs: which curve a row belongs to, of shape (n,); several curves may have one size.
        num_parameters, num_tokens, flops: at the row, of shape (n,).
        loss: smoothed training or test loss, nats per token, of shape (n,).

    Raises:
        LawError: no curves, fewer than four sizes, or fewer than two that are best somewhere.
    """
    curves = _curves(runs, num_parameters, num_tokens, flops, loss)
    sizes = np.unique(curves.log_size)
    if len(sizes) < _ENVELOPE_SIZES:
        raise LawError(
            f"chinchilla-envelope: got curves of {len(sizes)} sizes, expected {_ENVELOPE_SIZES} or more; add runs"
        )
    found = _middles(curves, np.ones(len(curves.log_size), dtype=bool), sizes)
    there = np.isfinite(found[0])
    if there.sum() < 2:
        raise LawError(
            f"chinchilla-envelope: {int(there.sum())} of {len(sizes)} sizes are best at some compute between others, "
            "expected 2 or more: the curves do not cross, or too late; add sizes, or train the larger ones longer"
        )
    random = np.random.Generator(np.random.Philox(options.seed))
    number = len(curves.log_size)
    draws = random.integers(number, size=(options.num_bootstraps, number))
    drawn = np.full((options.num_bootstraps, 3, len(sizes)), np.nan)
    for i, draw in enumerate(draws):
        drawn[i] = _middles(curves, np.isin(np.arange(number), draw), sizes)
    flops_at, size_at, tokens_at = np.exp(found[:, there])
    optima = Optima(flops_at, size_at, tokens_at, drawn)
    middles = [
        {"flops": float(c), "num_parameters": float(n), "num_tokens": float(d)}
        for c, n, d in zip(flops_at, size_at, tokens_at, strict=True)
    ]
    fit = line_fit("chinchilla-envelope", optima, curves.points, options, {"best_at": middles})
    _envelope_warnings(fit, curves, sizes, there)
    return fit


def _curves(
    runs: np.ndarray, num_parameters: np.ndarray, num_tokens: np.ndarray, flops: np.ndarray, loss: np.ndarray
) -> Curves:
    """Interpolates each run's loss in log FLOPs, between its own first and last row."""
    names, member = np.unique(runs, return_inverse=True)
    log_c, log_d = np.log(flops), np.log(num_tokens)
    long = [np.flatnonzero(member == i) for i in range(len(names))]
    long = [rows[np.argsort(log_c[rows], kind="stable")] for rows in long if len(rows) >= 3]
    if not long:
        raise LawError(
            f"chinchilla-envelope: got {len(names)} runs of fewer than 3 rows each, expected curves: several rows "
            "(steps) for each value of the column run"
        )
    values = np.linspace(min(log_c[r[0]] for r in long), max(log_c[r[-1]] for r in long), _VALUES)
    losses = np.stack([np.interp(values, log_c[r], loss[r], left=np.inf, right=np.inf) for r in long])
    tokens = np.stack([np.interp(values, log_c[r], log_d[r]) for r in long])
    mixed = [str(names[member[r[0]]]) for r in long if np.ptp(np.log(num_parameters[r])) > 1e-9]
    if mixed:
        raise LawError(
            f"chinchilla-envelope: runs of more than one size: {', '.join(mixed[:5])}; expected one size a run"
        )
    return Curves(values, losses, tokens, np.log(np.array([num_parameters[r[0]] for r in long])), sum(map(len, long)))


def _middles(curves: Curves, used: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """log FLOPs, log size and log tokens in the middle of each size's range: (3, sizes), NaN if it is best nowhere."""
    found = np.full((3, len(sizes)), np.nan)
    losses = curves.loss[used]
    winner = np.flatnonzero(used)[np.argmin(losses, axis=0)]
    best = np.where(np.isfinite(losses.min(0)), curves.log_size[winner], np.nan)
    inner = np.unique(curves.log_size[used])[1:-1]
    for i in np.flatnonzero(np.isin(sizes, inner)):
        at = np.flatnonzero(best == sizes[i])
        if len(at) and at[0] > 0 and at[-1] < _VALUES - 1 and best[at[-1] + 1] > sizes[i]:
            middle = at[np.argmin(np.abs(at - at.mean()))]  # noise makes neighbours alternate where they cross
            tokens = curves.log_tokens[winner[middle], middle]
            found[:, i] = (curves.log_flops[at].mean(), sizes[i], tokens)
    return found


def _envelope_warnings(fit: Fit, curves: Curves, sizes: np.ndarray, there: np.ndarray) -> None:
    fit.extra["num_sizes"], fit.extra["num_runs"] = len(sizes), len(curves.log_size)
    if there.sum() < 3:
        fit.warnings.append("two sizes always lie on a line; add a third")
    if lost := len(sizes) - 2 - int(there.sum()):
        fit.warnings.append(
            f"{lost} of {len(sizes)} sizes between others are compute-optimal nowhere in the curves' range"
        )
    if len(curves.log_size) == len(sizes):
        fit.notes.append(
            "one run per size: before a learning rate schedule ends, losses are too high; "
            "Hoffmann et al. trained every size with four schedule lengths"
        )
