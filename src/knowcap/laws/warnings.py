"""Warnings about a table of runs and about a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from knowcap.laws.columns import LEAST, MOST
from knowcap.laws.fit import Fit
from knowcap.laws.law import LawError
from knowcap.laws.predict import inputs
from knowcap.laws.quantity import parse_number
from knowcap.laws.runs import Taken
from knowcap.laws.table import LABELS, some


_NARROW = 4.0  # a column that spans less than this factor hardly bends a law
_LOOSE = 0.5  # half of an exponent's interval, as a share of it
_WIDE = 1e3  # ratio of the ends of a coefficient's interval
_STIFF = 1e9  # condition number
_OUTLIER = 12.0  # residuals beyond this many times the median size
_POOR = 0.2  # standard deviation of log residuals
_OF_BITS = ("capacity", "exposures", "factors")
_OF_REPEATS = (*_OF_BITS, "data-constrained")
_ROUNDING = 1e-9  # residuals of a law without noise


def check_even(law: str, given: Mapping[str, Any]) -> None:
    """Raises LawError if a law of bits is to be fitted to runs in which some people are seen more often than others.

    The law's exposures are those of every fact. A sweep's table has those of its top and bottom band where people have
    frequencies.
    """
    ends = [given.get(f"{end}_band_exposures", ()) if law in _OF_BITS else () for end in ("top", "bottom")]
    pairs = [[parse_number(end) for end in pair] for pair in zip(*ends, strict=False)]
    if rows := [row for row, (top, bottom) in enumerate(pairs, 1) if top > bottom]:
        raise LawError(
            f"{law}: rows {some(rows)} have people that are seen more often than others (top_band_exposures is above "
            "bottom_band_exposures), expected equal exposures of all facts; leave them out, as by --where "
            "exposures_exponent=0"
        )


def add_table_warnings(law: str, taken: Taken, given: Mapping[str, object]) -> None:
    """Adds warnings about units, which are doubts too, duplicate rows, and data that the law does not cover."""
    doubts = unit_warnings(taken.values, given)
    taken.doubts += doubts
    taken.warnings += doubts
    numbers = np.stack([column for name, column in taken.values.items() if name not in LABELS], 1)
    if repeats := len(numbers) - len(np.unique(numbers, axis=0)):
        text = f"{repeats} of {len(numbers)} rows are duplicates, so intervals are too narrow; remove them"
        taken.warnings.append(text)
    if law not in _OF_REPEATS:
        for name in ("exposures", "epochs", "num_epochs"):
            most = _largest(given.get(name))
            if most > 4:
                taken.warnings.append(
                    f"{name} is up to {most:g}: this law is about fresh data and has no term "
                    "for repeated ones, so it holds at best for runs that repeat data in the same way"
                )
                break


def _largest(column: Any) -> float:
    """The largest number of a column; zero for no number."""
    return max((number for cell in column or () if (number := parse_number(cell)) > 0), default=0.0)


def add_fit_warnings(fit: Fit) -> None:
    """Adds warnings about narrow ranges, loose constants, a stiff fit, outliers and poor residuals."""
    outputs = ("observed", "fitted", "max_knowledge_bits")
    inputs = {k: v for k, v in fit.points.items() if k not in outputs and v.dtype.kind in "fiu"}
    for name, column in inputs.items():
        span = float(column.max() / column.min())
        if 1 < span < _NARROW and name != "loss":
            fit.warnings.append(
                f"{name} spans a factor of {span:.2g} only: predictions outside it are extrapolated far"
            )
    fit.warnings += [text for name in fit.constants if (text := _loose(fit, name))]
    if fit.condition_number is not None and fit.condition_number > _STIFF:
        fit.warnings.append(
            f"constants trade off against one another (condition number {fit.condition_number:.1g}): "
            "trust predictions within the range, not single constants"
        )
    fit.warnings += misfit_warnings(fit)
    _outliers(fit)
    if (deviation := float(fit.residuals.std())) > _POOR:
        fit.warnings.append(
            f"residuals have a standard deviation of {100 * deviation:.0f} %: the law describes these runs poorly"
        )


_TREND = 0.3  # share of the residuals' variance that a parabola may explain
_SURE = 1e-4  # probability of such a share by chance
_EXCESS = 2.0  # rollout error, as a multiple of what noise and uncertain constants explain
_SMALL = 0.005  # a rollout error that is no fault of a law


def misfit_warnings(fit: Fit) -> list[str]:
    """Warnings about residuals with a trend, and about larger runs that the smaller ones do not predict."""
    warnings = [text for text in (_trend(fit), _missed(fit)) if text]
    if warnings:
        warnings[-1] += "; `knowcap fit best` ranks the laws that the table allows"
    return warnings


def _trend(fit: Fit) -> str | None:
    """About the input with whose log the residuals change most, as a parabola."""
    found, residuals = [], fit.residuals - fit.residuals.mean()
    columns = inputs(fit.points)
    for name, x in columns.items():
        if (name == "size" and len(columns) == 2) or len(np.unique(x)) < 4 or len(x) < 8:
            continue
        basis = np.stack([np.ones_like(x), x - x.mean(), (x - x.mean()) ** 2], 1)
        left = residuals - basis @ np.linalg.lstsq(basis, residuals, rcond=None)[0]
        share = 1 - float((left**2).sum() / max((residuals**2).sum(), 1e-300))
        ratio = share / 2 / max(1 - share, 1e-12) * (len(x) - 3)
        if share > _TREND and scipy.stats.f.sf(ratio, 2, len(x) - 3) < _SURE:
            found.append((share, name))
    if not found or fit.residuals.std() < _ROUNDING:
        return None
    share, name = max(found)
    name = "the size of runs" if name == "size" else name
    return (
        f"residuals have a trend with {name}: a parabola in its log explains {100 * share:.0f} % of their variance, "
        "so the law misfits and its constants depend on the range of runs"
    )


def _missed(fit: Fit) -> str | None:
    """About a rollout whose errors are far above what the law's own uncertainty explains, or above the differences
    among the runs that it predicts."""
    rollout = fit.rollout
    if rollout is None or (error := rollout.root_mean_square) < _SMALL:
        return None
    noise = fit.band.noise
    times = error / math.sqrt(float(np.mean(noise**2 + rollout.spread**2)))
    share = rollout.explained
    if times < _EXCESS and not (share < 0 and error > _EXCESS * noise):
        return None
    below = f"; R² {share:.2g}, so the mean of those runs predicts them better" if share < 0 else ""
    return (
        f"fitted to its smaller runs, the law misses the larger ones by {100 * error:.2g} % (root mean square of "
        f"{len(rollout.largest)} steps{below}), where residuals in the table are {100 * noise:.2g} %: beyond the "
        "table its errors are larger, and so are the intervals of predictions"
    )


def _loose(fit: Fit, name: str) -> str | None:
    low, high = fit.intervals[name]
    value = fit.constants[name]
    if low is None or high is None:
        ends = f"[{'-' if low is None else f'{low:.3g}'}, {'-' if high is None else f'{high:.3g}'}]"
        return f"the data do not determine {name}: its interval {ends} is open"
    if name.startswith(("alpha", "beta", "exponent", "gamma")):
        if high - low > 2 * _LOOSE * abs(value):
            return f"the data hardly determine {name}: {low:.3g} to {high:.3g}"
    elif low > 0 and high / low > _WIDE:
        return f"the data determine {name} to a factor of 1e{math.log10(high / low):.0f} only: {low:.2g} to {high:.2g}"
    return None


def _outliers(fit: Fit) -> None:
    size = np.abs(fit.residuals)
    limit = _OUTLIER * float(np.median(size))
    far = np.flatnonzero(size > limit) if limit > 1e-9 and len(size) >= 10 else np.array([], dtype=int)
    if len(far):
        shown = ", ".join(f"{fit.points['observed'][i]:.4g} for {fit.points['fitted'][i]:.4g}" for i in far[:3])
        fit.warnings.append(
            f"{len(far)} of {len(size)} points have residuals of over {_OUTLIER:g} times the median "
            f"(observed {shown}{'…' * (len(far) > 3)}); fit the law without them too"
        )


_NAMES = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
_PF_DAY = 8.64e19
_TINY = 0.01  # of the least: runs of which parameters, tokens and FLOPs agree may be that small
_OFF = 30.0  # FLOPs per parameter and token lie within this factor of 6
_USUAL_TOKENS, _FEW_TOKENS, _MANY_TOKENS = 20.0, 1e-2, 1e6  # per parameter
_MOST_BITS, _LEAST_BITS, _USUAL_BITS = 64.0, 1e-4, 2.0  # per parameter


def unit_warnings(values: Mapping[str, np.ndarray], given: Mapping[str, object]) -> list[str]:
    """Columns that seem to be in other units, with a guess at the unit.

    Args:
        values: columns by name.
        given: the names of the table's own columns, not computed from others.
    """
    warnings = []
    tiny = _TINY if _agree(values, given) else 1.0
    for name, (low, high) in ((name, (LEAST[name] * tiny, MOST[name])) for name in LEAST):
        if name not in values or name not in given:
            continue
        most = float(values[name].max())
        if most < low:
            warnings.append(f"{name} is {most:g} at most: {_guess_small(name, most)}")
        elif most > high:
            warnings.append(f"{name} is {most:g} at most, more than in any known run: is it in other units?")
    if "loss" in values and (middle := float(np.median(values["loss"]))) > 15:
        warnings.append(
            f"loss is {middle:.4g} in the median, above the loss of random guessing (ln of the vocabulary, about 11): "
            "is it a perplexity? Laws need nats per token, its logarithm"
        )
    if warnings:
        return warnings
    for flops in ("flops", "budget"):
        if not warnings and all(n in values and n in given for n in ("num_parameters", "num_tokens", flops)):
            warnings = _flops_warnings(values, flops)
    if not warnings and "num_parameters" in values:
        warnings = _per_parameter_warnings(values)
    return warnings


def _agree(values: Mapping[str, np.ndarray], given: Mapping[str, object]) -> bool:
    """Whether parameters, tokens and FLOPs are given, all as counts of over 100, and 6 N D is about C."""
    names = ("num_parameters", "num_tokens", "flops")
    if not all(name in values and name in given and values[name].min() > 100 for name in names):
        return False
    size, tokens, flops = (values[name] for name in names)
    return 1 / _OFF < float(np.median(flops / (6 * size * tokens))) < _OFF


def _guess_small(name: str, most: float) -> str:
    if name in ("flops", "budget"):
        return f"is {name} in PF-days (8.64e19 FLOP), units of 1e18, or a logarithm? expected plain FLOPs"
    if 4 < most < 15:
        return f"given in millions or billions? as log10? expected a plain count, such as {10**most:.4g}"
    return f"given in millions or billions? expected a plain count, such as {most * 1e6:.4g} or {most * 1e9:.4g}"


def _flops_warnings(values: Mapping[str, np.ndarray], flops: str) -> list[str]:
    """FLOPs, or budgets, that are far from 6 N D."""
    off = float(np.median(values[flops] / (6 * values["num_parameters"] * values["num_tokens"])))
    if 1 / _OFF < off < _OFF:
        return []
    text = f"{flops} are {off:.2g} times 6 x num_parameters x num_tokens"
    if 1 / 3 < off * _PF_DAY < 3:
        return [f"{text}: {flops} seem to be in PF-days, expected FLOPs"]
    power = 3 * round(math.log10(off) / 3)
    if power == 0 or abs(math.log10(off) - power) > 1.0:
        return [f"{text}, expected about 1; is one of the three in other units?"]
    if power < 0:
        return [
            f"{text}: {flops} seem to be in {_unit(-power)}, or one of the others {10.0**-power:.0e} times too large"
        ]
    ratio = float(np.median(values["num_tokens"] / values["num_parameters"]))
    name = "num_parameters" if ratio > _USUAL_TOKENS else "num_tokens"
    return [f"{text}: {name} seems to be in {_unit(power)}, or {flops} {10.0**power:.0e} times too large"]


def _per_parameter_warnings(values: Mapping[str, np.ndarray]) -> list[str]:
    """Implausible tokens or bits per parameter."""
    warnings = []
    size = values["num_parameters"]
    for name, low, high, usual in (
        ("num_tokens", _FEW_TOKENS, _MANY_TOKENS, _USUAL_TOKENS),
        ("knowledge_bits", _LEAST_BITS, _MOST_BITS, _USUAL_BITS),
    ):
        if name not in values or low < (ratio := float(np.median(values[name] / size))) < high:
            continue
        power = 3 * round(abs(math.log10(ratio / usual)) / 3)
        column = name if ratio < usual else "num_parameters"
        warnings.append(
            f"{ratio:.2g} {name} per parameter, where {usual:g} is usual: is {column}, or a column it was computed "
            f"from, in {_unit(power)}?"
        )
    return warnings


def _unit(power: int) -> str:
    return _NAMES.get(power, f"units of 1e{power}")
