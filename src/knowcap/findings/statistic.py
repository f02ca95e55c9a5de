"""Statistics of a statement: a number for each seed, their mean with a t interval, and the verdict of the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from knowcap.capacity.seeds import t_half_width


HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
LEVEL = 0.95
LEAST_SEEDS = 3
STATISTICS = ("value", "ratio", "difference", "spread", "slope")


@dataclass(frozen=True)
class Estimate:
    """A statistic over seeds.

    Attributes:
        value: its mean over seeds; of a ratio or a spread the geometric mean, if all are positive.
        low, high: the t interval of the mean, of `LEVEL`; None with one seed.
        seeds: in rising order.
        log: whether mean and interval are those of the logarithm.
    """

    value: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    log: bool = False


class Undefined(ValueError):
    """A statistic that its numbers do not have, such as a ratio to zero; the message names seed and numbers."""


def estimate(statistic: str, sides: Mapping[int, Sequence[Sequence[float]]]) -> Estimate:
    """The statistic of numbers by seed.

    Args:
        statistic: of `STATISTICS`.
        sides: by seed; of `value` one list of one number, of `ratio` and `difference` two such lists, of `spread` one
            list of two numbers or more, of `slope` the numbers and those along which they change.

    Raises:
        Undefined: a division by a number that is not positive, or a slope through such numbers.
    """
    seeds = tuple(sorted(sides))
    numbers = [_number(statistic, sides[seed], seed) for seed in seeds]
    log = statistic in ("ratio", "spread") and min(numbers) > 0
    if not log:
        return Estimate(*t_interval(numbers), seeds, log)
    value, *limits = t_interval([math.log(x) for x in numbers])
    low, high = (None if x is None else math.exp(x) for x in limits)
    return Estimate(math.exp(value), low, high, seeds, log)


def _number(statistic: str, sides: Sequence[Sequence[float]], seed: int) -> float:
    """The statistic of one seed."""
    first = sides[0]
    if statistic == "value":
        return first[0]
    if statistic == "difference":
        return first[0] - sides[1][0]
    if statistic == "ratio":
        return _quotient(first[0], sides[1][0], seed)
    if statistic == "spread":
        return _quotient(max(first), min(first), seed)
    if min(*first, *sides[1]) <= 0:
        raise Undefined(f"seed {seed}: {min(first):.4g} is not positive, so there is no slope of logarithms")
    return slope([math.log(x) for x in sides[1]], [math.log(y) for y in first])


def _quotient(numerator: float, denominator: float, seed: int) -> float:
    if denominator <= 0:
        raise Undefined(f"seed {seed}: {numerator:.4g} / {denominator:.4g} is no ratio; expected a divisor above 0")
    return numerator / denominator


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the least-squares line."""
    x, y = fmean(xs), fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def t_interval(numbers: Sequence[float], level: float = LEVEL) -> tuple[float, float | None, float | None]:
    """Mean, and Student's t interval of it; (mean, None, None) of one number."""
    mean = fmean(numbers)
    if len(numbers) == 1:
        return mean, None, None
    half = t_half_width(numbers, level)
    return mean, mean - half, mean + half


def verdict_of(found: Estimate, at_least: float | None, at_most: float | None) -> str:
    """Whether the interval is wholly within the limits (holds), wholly outside (does not hold) or neither (undecided).

    Fewer than `LEAST_SEEDS` seeds decide nothing.
    """
    if len(found.seeds) < LEAST_SEEDS or found.low is None or found.high is None:
        return UNDECIDED
    least, most = -math.inf if at_least is None else at_least, math.inf if at_most is None else at_most
    if least <= found.low and found.high <= most:
        return HOLDS
    return FAILS if found.high < least or found.low > most else UNDECIDED


def together(verdicts: Sequence[str]) -> str:
    """The verdict of a finding from those of its statements."""
    if FAILS in verdicts:
        return FAILS
    alike = set(verdicts)
    return verdicts[0] if alike in ({HOLDS}, {NOT_RUN}) else UNDECIDED
