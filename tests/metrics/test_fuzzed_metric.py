"""The metric and its page with any input: the number of a plain sum, or an error of our own."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fuzzing import check, examples, numbers, texts, values
from hypothesis import strategies as st

from knowcap.metrics.bits_per_parameter import bits
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter


FOLDER = Path(bits.__file__).parent


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """app.py with its folder's modules by their plain names."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("app", "bits", "table_text"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("app")
    for name in ("app", "bits", "table_text"):
        monkeypatch.delitem(sys.modules, name)
    return module


def by_hand(nll: list[list[float]], most: list[list[float]], num_parameters: int, num_entities: int | None) -> float:
    """R, exactly but for the logarithm of 2."""
    total = Fraction(0)
    for costs, candidates in zip(nll, most, strict=True):
        for cost, bits_of in zip(costs, candidates, strict=True):
            if bits_of is not None and not math.isnan(bits_of):
                total += Fraction(bits_of) - Fraction(cost) / Fraction(math.log(2))
    return float(total * Fraction(num_entities or len(nll), len(nll)) / num_parameters)


cell = st.one_of(
    st.floats(0, 50), st.sampled_from([0, 1e308, 5e-324, math.nan, math.inf, -1.0, 10**400, None, "1", True])
)
sizes = st.integers(1, 10**6) | st.sampled_from([0, -1, 1.5, math.nan, 10**50, 10**400, None, "7", True])


@st.composite
def tables(draw, of=cell):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 3)))
    return [[[draw(of) for _ in range(shape[1])] for _ in range(shape[0])] for _ in range(2)]


@examples
def test_any_table(examples):
    def holds(pair, num_parameters, num_entities, names, name_attribute, level, extra):
        try:
            found = bits_per_parameter(
                *pair, num_parameters, attribute_names=names, name_attribute=name_attribute,
                num_entities=num_entities, confidence_level=level, diversity_bits=extra, max_diversity_bits=extra,
            )  # fmt: skip
        except ValueError as error:
            assert 0 < len(str(error)) < 2000
            return
        plain = [[math.nan if value is None else float(value) for value in row] for row in pair[1]]
        costs = [[0.0 if value is None else float(value) for value in row] for row in pair[0]]
        expected = by_hand(costs, plain, num_parameters, num_entities) + float(extra) / num_parameters
        scale = max(abs(found["max_bits_per_parameter"]), sum(map(sum, costs)) / num_parameters, 1e-300)
        assert found["bits_per_parameter"] == pytest.approx(expected, rel=1e-9, abs=1e-9 * scale)
        assert all(
            math.isfinite(found[key]) for key in ("knowledge_bits", "max_knowledge_bits", "max_bits_per_parameter")
        )
        assert all(math.isfinite(end) for end in found["confidence_interval"]) or len(plain) == 1

    check(
        examples,
        holds,
        pair=tables() | tables(st.floats(0, 50)),
        num_parameters=sizes,
        num_entities=st.none() | sizes,
        names=st.none()
        | st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"], ["a", "a"], 5, {"a": 1}, [["a"]], "ab"]),
        name_attribute=st.none() | st.sampled_from(["a", "x"]),
        level=st.just(0.95) | numbers | texts,
        extra=st.just(0.0) | numbers | texts,
    )


@examples
def test_no_value_of_any_kind_is_another_error(examples):
    def holds(first, second, size):
        try:
            bits_per_parameter(first, second, size)
        except ValueError:
            return

    check(examples, holds, first=values, second=values, size=values)


@examples
def test_json_of_the_page(examples, app):
    def holds(pair, size, names):
        given = [json.dumps(table) for table in pair]
        try:
            found = app.measure(*given, size, names)
        except ValueError:
            return
        filled = [[[math.nan if v is None else v for v in row] for row in table] for table in map(json.loads, given)]
        assert found["bits_per_parameter"] == bits_per_parameter(*filled, int(size))["bits_per_parameter"]
        app.headline(found)
        app.by_attribute(found)

    check(
        examples,
        holds,
        pair=tables() | tables(st.floats(0, 50)),
        size=st.just(10.0) | numbers,
        names=st.just("") | texts,
    )


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 10, "[[1" + "0" * 5000 + "]]", "\ud800", "[[1e999]]", "[[]]", "1", "null"]
)
def test_json_that_is_no_table_is_a_sentence(text, app):
    with pytest.raises(ValueError, match="predictions|references"):
        app.measure(text, "[[1.0]]", 10)


rows = st.lists(
    st.tuples(
        st.sampled_from(["Ada", "Bo", "=x", "<b>"]), st.sampled_from(["name", "date", "a|b"]), st.floats(0, 50),
        st.floats(0, 30),
    ),
    min_size=1, max_size=8, unique_by=lambda row: row[:2],
)  # fmt: skip


@examples
def test_tables_of_the_page(examples, app):
    def holds(found, cut, put):
        made = io.StringIO(newline="")
        csv.writer(made).writerows([app.COLUMNS, *found])
        text = made.getvalue()
        if cut is not None:
            text = text[:cut] + put + text[cut:]
        try:
            result = app.measure_table(text, 10.0)
        except (ValueError, csv.Error):
            assert cut is not None
            return
        if cut is None:
            total = math.fsum(most - nll / math.log(2) for *_, nll, most in found)
            assert result["bits_per_parameter"] == pytest.approx(total / 10, abs=1e-9)

    check(examples, holds, found=rows, cut=st.none() | st.integers(0, 80), put=texts)


def test_a_table_whose_cells_are_more_than_fit_is_a_sentence(app):
    lines = [f"e{n},a{n},1,2" for n in range(3000)]
    with pytest.raises(ValueError, match="3,000 entities times 3,000 attributes"):
        app.measure_table("\n".join([",".join(app.COLUMNS), *lines]), 10.0)


def test_arrays_of_other_kinds(app):
    for wrong in (
        np.array([["x"]]),
        np.array([[1j]]),
        np.zeros((1, 1, 1)),
        np.array([[{}]], dtype=object),
        iter([[1.0]]),
    ):
        with pytest.raises(ValueError, match="predictions"):
            bits_per_parameter(wrong, [[1.0]], 1)
