"""Sums of positive terms, in logs."""

from __future__ import annotations

import numpy as np


def log_sum(*terms: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """log of the sum of exp of the terms, and each term's share of the sum; safe from overflow.

    Args:
        terms: logarithms, of shapes that broadcast together.
    """
    largest = terms[0]
    for term in terms[1:]:
        largest = np.maximum(largest, term)
    shares = [np.exp(term - largest) for term in terms]
    total = sum(shares[1:], shares[0])
    return largest + np.log(total), [share / total for share in shares]


def logs(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Natural logarithms, as float64."""
    return tuple(np.log(np.asarray(column, dtype=float)) for column in columns)
