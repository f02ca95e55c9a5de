"""Durations: the largest unit of which there are two, rounded without loss at the limits between units."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest

from knowcap.report.duration import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (75, "75 s"),
        (116, "116 s"),
        (119.6, "2.0 min"),
        (120, "2.0 min"),
        (7_000, "116.7 min"),
        (7_100, "2.0 h"),
        (7_199, "2.0 h"),
        (7_200, "2.0 h"),
        (2 * 86_400 - 1, "2.0 days"),
        (46 * 3600, "46.0 h"),
        (90_000_000, "1,041.7 days"),
    ],
)
def test_a_duration_has_the_largest_unit_of_which_there_are_two(seconds, text):
    assert duration(seconds) == text


def test_no_number_is_long_and_none_is_off_by_more_than_its_last_digit():
    lengths = {"s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), "days": Fraction(86_400)}
    for power in range(1, 400):
        seconds = 1.05**power
        number, unit = duration(seconds).split(" ")
        digits = number.replace(",", "")
        step = Fraction(1, 10) if "." in digits else Fraction(1)
        assert abs(Fraction(digits) * lengths[unit] - Fraction(seconds)) <= step * lengths[unit] / 2
        assert unit == "days" or len(re.sub(r"\D", "", digits)) <= 4


def test_a_duration_that_is_not_known_is_no_number():
    assert duration(None) == duration(math.nan) == "?"
    assert duration(None, "not measured") == "not measured"
