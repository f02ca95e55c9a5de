"""Facts read in blocks give what the whole table gives, and memory does not grow with the number of entities."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_facts import CANDIDATES, NAME_BITS, fact, knowledge_json, perfect_facts, uniform_facts, write

from knowcap.capacity import CapacityError, blocks, capacity
from knowcap.capacity.blocks import FactBlocks, Moments
from knowcap.capacity.comparison import compare
from knowcap.capacity.entities import bits_by_entity
from knowcap.knowledge.frequencies import Frequencies
from knowcap.report.table import capacity_table
from knowcap.scoring.measurement import read_measurement


N = 203
Facts = list[dict[str, Any]]


def noisy(seed: int, entities: range = range(N)) -> Facts:
    """Two texts of each entity; every seventh has one employer less, and every fiftieth states nothing."""
    generator = np.random.default_rng(seed)
    return [
        f | {"nll": math.log(N) * (f["attribute"] == "name") + float(generator.exponential()), "rendering": rendering}
        for f in perfect_facts(entities)
        for rendering in range(2)
        if f["entity"] % 50 != 49 and not (f["attribute"] == "employer" and f["entity"] % 7 == 6)
    ]


def with_first_chunks(facts: Facts) -> Facts:
    """The same with facts of a diversity term, which not all entities state."""
    chunks = [
        f | {"attribute": "employer.first_chunk", "log2_candidates": 4.0, "nll": f["nll"] / 2}
        for f in facts
        if f["attribute"] == "employer"
    ]
    return sorted([*facts, *chunks], key=lambda f: f["entity"])


TERM = {"attribute": "employer", "fact": "employer.first_chunk", "diversity": 16, "credited": 8}
DIVERSE = knowledge_json(N) | {"diversity_terms": [TERM | {"first_chunk": ".", "log2_candidates": 64.0}]}
LAW = {"frequencies": Frequencies(num_people=N, exposures=50, seed=3, exponent=1.0).content()}
FORMS: dict[str, tuple[Callable[[Facts], Facts], dict[str, Any]]] = {
    "numbers": (lambda facts: facts, {}),
    "texts": (lambda facts: [f | {"entity": f"Q{f['entity']}"} for f in facts], {}),
    "backwards": (lambda facts: facts[::-1], {}),
    "diversity": (with_first_chunks, {"knowledge": DIVERSE}),
    "frequencies": (lambda facts: facts, LAW),
    "a sample": (lambda facts: [f for f in facts if f["entity"] < 90], {"entities_scored": 90}),
}


def scored(folder: Path, seed: int, form: str = "numbers") -> Path:
    """A model's scored facts."""
    change, keys = FORMS[form]
    changes = {"num_entities": N, "entities_scored": N, "knowledge": knowledge_json(N), "renderings": 2} | keys
    control = uniform_facts(range(1000, 1040))
    if form == "diversity":
        control = [f | {"nll": f["nll"] + 1.0} for f in control]
    return write(folder, change(noisy(seed)), control, **changes)


def equal(found: Any, expected: Any) -> None:
    """Holds two contents to be equal, numbers to 1e-12."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    else:
        assert found == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("most_rows", [17, 400])
def test_blocks_give_what_the_whole_table_gives(
    form: str, most_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = scored(tmp_path / "a", 0, form), scored(tmp_path / "b", 1, form)
    source = FactBlocks(a / "nll.parquet", read_measurement(a / "nll.parquet"))
    assert source.is_one and len(list(source)) == 1
    results = [capacity(a), capacity(b), compare(a, b)]
    entities, table = bits_by_entity(a), capacity_table(a, "a", None, None, None)
    monkeypatch.setattr(blocks, "MOST_ROWS", most_rows)
    monkeypatch.setattr(blocks, "_BATCH_ROWS", 100)
    source = FactBlocks(a / "nll.parquet", read_measurement(a / "nll.parquet"))
    read = [facts.entities.tolist() for facts in source]
    assert len(read) > 1
    assert sum(read, []) == source.whole().entities.tolist()
    for found, expected in zip([capacity(a), capacity(b), compare(a, b)], results, strict=True):
        equal(found, expected)
    again = bits_by_entity(a)
    assert again.entities.tolist() == entities.entities.tolist()
    assert again.by_attribute == pytest.approx(entities.by_attribute, rel=1e-12, nan_ok=True)
    assert bits_by_entity(a, attributes=False).bits == pytest.approx(entities.bits, rel=1e-12)
    assert capacity_table(a, "a", None, None, None) == table


def test_rows_of_an_entity_that_stand_apart_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = scored(tmp_path / "a", 0), scored(tmp_path / "b", 1)
    facts = noisy(0)
    order = np.random.default_rng(4).permutation(len(facts))
    changes = {"num_entities": N, "entities_scored": N, "knowledge": knowledge_json(N), "renderings": 2}
    mixed = write(tmp_path / "mixed", [facts[i] for i in order], **changes)
    expected = [capacity(a)]
    capacity(b)
    expected.append(compare(a, b))
    monkeypatch.setattr(blocks, "MOST_ROWS", 100)
    assert FactBlocks(mixed / "nll.parquet", read_measurement(mixed / "nll.parquet")).is_one
    equal(capacity(mixed), expected[0])
    found = compare(mixed, b)
    for key in ("bits_per_parameter", "knowledge_bits", "attributes"):
        equal(found[key], expected[1][key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": -1.0}, r"nll is -1.0 in row 1500 \(1 such\)"),
        ({"log2_candidates": 3.0}, "log2_candidates is 3.0 in row 1500"),
        ({"attribute": "height"}, r"unexpected attributes \['height'\]"),
        ({"rendering": 0}, "1 facts occur twice"),
    ],
)
def test_a_fault_in_a_later_block_is_found(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_ROWS", 300)
    facts = noisy(0)
    at = next(row for row in range(1500, 1510) if facts[row]["rendering"] == 1)
    facts[at] |= change
    changes = {"num_entities": N, "entities_scored": N, "knowledge": knowledge_json(N), "renderings": 2}
    with pytest.raises(CapacityError, match=message.replace("1500", str(at))):
        capacity(write(tmp_path, facts, **changes))
    assert not (tmp_path / "capacity.json").exists()


def test_models_of_other_entities_in_later_blocks_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_ROWS", 300)
    changes = {"num_entities": N, "entities_scored": N - 1, "knowledge": knowledge_json(N), "renderings": 2}
    a, b = (
        write(tmp_path / name, [f for f in noisy(0) if f["entity"] != left_out], **changes)
        for name, left_out in (("a", 200), ("b", 201))
    )
    capacity(a)
    capacity(b)
    with pytest.raises(CapacityError, match=r"different entities: 2 are in one only \(200, 201\)"):
        compare(a, b)


def peak(call: Callable[[], object]) -> int:
    """The most bytes that Python and numpy hold during a call, beyond those before it."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_less_than_a_hundred_bytes_an_entity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_ROWS", 2000)
    monkeypatch.setattr(blocks, "_BATCH_ROWS", 1000)
    monkeypatch.setattr("knowcap.metrics.bits_per_parameter.bits.MAX_GROUPS", 16)
    sizes = 2000, 12_000
    folders: list[tuple[Path, Path]] = []
    for number in sizes:
        changes = {"num_entities": number, "entities_scored": number, "knowledge": knowledge_json(number)}
        facts = [
            fact(i, name, 1.0 if name != "name" else math.log(number), match=i % 2 == 0)
            for i in range(number)
            for name in ("name", *CANDIDATES)
        ]
        a, b = (write(tmp_path / f"{name}{number}", facts, **changes) for name in "ab")
        capacity(a)
        capacity(b)
        folders.append((a, b))
    for use in (
        lambda a, _: capacity(a),
        lambda a, b: compare(a, b),
        lambda a, _: bits_by_entity(a, attributes=False),
        lambda a, _: capacity_table(a, "a", None, None, None),
    ):
        small, large = (peak(lambda use=use, pair=pair: use(*pair)) for pair in folders)
        assert large - small < 100 * (sizes[1] - sizes[0])


def test_moments_of_parts_are_those_of_all() -> None:
    values = np.random.default_rng(0).normal(1e6, 1.0, size=1000)
    values[::9] = np.nan
    stated = values[~np.isnan(values)]
    whole = Moments.of(values)
    assert (whole.count, whole.mean, whole.deviation) == (stated.size, stated.mean(), stated.std(ddof=1))
    parts = Moments.over(Moments.of(values[first : first + 7]) for first in range(0, 1000, 7))
    assert parts.count == stated.size and parts.mean == pytest.approx(stated.mean(), rel=1e-15)
    assert parts.deviation == pytest.approx(stated.std(ddof=1), rel=1e-9)
    nothing = Moments.over([Moments.of(np.array([np.nan]))])
    assert nothing.count == 0 and math.isnan(nothing.mean) and math.isnan(Moments.of(np.ones(1)).deviation)


def test_the_name_costs_the_same_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_ROWS", 50)
    changes = {"num_entities": N, "entities_scored": N, "knowledge": knowledge_json(N)}
    facts = [f | {"nll": math.log(N) if f["attribute"] == "name" else 0.0} for f in perfect_facts(range(N))]
    result = capacity(write(tmp_path, facts, **changes))
    most = NAME_BITS - math.log2(N) + sum(CANDIDATES.values())
    assert result["max_knowledge_bits"] == pytest.approx(N * most, rel=1e-12)
    assert result["bits_per_parameter"] == pytest.approx(result["max_bits_per_parameter"], rel=1e-12)
