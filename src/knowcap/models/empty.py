"""Weights without elements: those of a block without an MLP."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def empty_weights_are_meant() -> Iterator[None]:
    """Without torch's warning that there is nothing to initialise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors is a no-op", category=UserWarning)
        yield
