"""Fuzzing: how many examples, and a guard against hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


FEW, MANY = 200, 10_000
MOST_SECONDS = 10.0  # of the processor for one example; one is usual at most, and a hang has no end
examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
slower = pytest.mark.parametrize("examples", [FEW // 4, pytest.param(MANY, marks=pytest.mark.slow)])

numbers = st.one_of(
    st.integers(-3, 10**6),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 1e308, -1e308, 5e-324, 10**400, 2**31 - 1, 2**63, float("nan"), float("inf"), -0.0]),
)
# Of everything that a file can hold, with what has a meaning somewhere: patterns, paths, markup, other types' words.
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from([
        "", " ", "null", "true", "~", "nan", "inf", "1e400", "-1", "0x10", "1_000", "[1", "{a: 1}", "a\nb", "\x00",
        "\u202e", "..", "../x", "/etc/passwd", "a*", "[x]", "con", "<b>", "{{x}}", "${HOME}", "%s", "{0}", "=1+1",
        "x" * 300, "é\ud800",
    ]),
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def check(count: int, holds: Callable[..., None], **strategies: Any) -> None:
    """Calls `holds` with so many examples, the same each time."""

    @settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(**strategies)
    def guarded(**drawn: Any) -> None:
        with no_hang():
            holds(**drawn)

    guarded()


@contextmanager
def no_hang() -> Iterator[None]:
    """Raises where the block takes more than MOST_SECONDS of the processor."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} seconds for one example")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
