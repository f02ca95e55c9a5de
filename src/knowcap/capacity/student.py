"""Quantiles of Student's t, for intervals over few seeds or few points."""

from __future__ import annotations

import math
from functools import cache

import numpy as np


_GRID = 20_001  # points on which the density is summed up


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t with one degree of freedom or more, to four digits.

    The density is summed up over the angle whose tangent is t / sqrt(freedom), in which it is the power of a cosine.
    """
    angle = np.linspace(0.0, math.pi / 2, _GRID)[:-1]
    density = np.cos(angle) ** (freedom - 1.0)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    step = angle[1] - angle[0]
    # The whole is half of the beta function B(1/2, freedom / 2), since a power below 1 has a tail in the last step.
    whole = math.exp(math.lgamma(0.5) + math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) / 2
    reached = np.interp(2 * abs(probability - 0.5), below * step / whole, angle)
    return math.copysign(math.sqrt(freedom) * math.tan(reached), probability - 0.5)
