"""Bits by frequency band: sums that equal the total, figures known beforehand, names' cost in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_facts import CANDIDATES, NAME_BITS, fact, knowledge_json, perfect_facts, write

from knowcap.capacity import capacity
from knowcap.knowledge.frequencies import Frequencies


N = 203
LAW = Frequencies(num_people=N, exposures=50, seed=3, exponent=1.0)
VALUE_BITS = sum(CANDIDATES.values())


def measured(folder: Path, lost: dict[int, float], law: Frequencies = LAW, **changes: Any) -> dict[str, Any]:
    """capacity.json of people who are known perfectly but for bits that are lost of each one's birth date."""
    facts = [
        fact(i, a, math.log(N) if a == "name" else lost[i] * math.log(2) if a == "birth_date" else 0.0)
        for i in lost
        for a in ("name", *CANDIDATES)
    ]
    changes = {"entities_scored": len(lost), "frequencies": law.content()} | changes
    return capacity(write(folder, facts, num_entities=N, knowledge=knowledge_json(N), **changes))


def test_bands_are_tenths_of_the_people_by_frequency_and_sum_to_the_total(tmp_path: Path) -> None:
    rank = {person: number for number, person in enumerate(LAW.people.tolist())}
    lost = {person: 8.0 * rank[person] / N for person in range(N)}
    result = measured(tmp_path, lost)
    bands = result["bands"]
    assert [b["num_entities"] for b in bands] == [21, 20, 20, 21, 20, 20, 21, 20, 20, 20]
    total = math.fsum(b["num_entities"] * b["bits_per_entity"] for b in bands)
    assert total == pytest.approx(result["name_bits"] + result["value_bits"], rel=1e-12)
    assert total == pytest.approx(result["knowledge_bits"], rel=1e-12)
    for part in ("name", "value"):
        of_part = math.fsum(b["num_entities"] * b[f"{part}_bits_per_entity"] for b in bands)
        assert of_part == pytest.approx(result[f"{part}_bits"], rel=1e-12)
    first = 0
    for band in bands:
        ranks = range(first, first + band["num_entities"])
        expected = VALUE_BITS - np.mean([8.0 * r / N for r in ranks])
        assert band["value_bits_per_entity"] == pytest.approx(expected, rel=1e-12)
        assert band["name_bits_per_entity"] == pytest.approx(NAME_BITS - math.log2(N), rel=1e-12)
        assert band["max_bits_per_entity"] == pytest.approx(VALUE_BITS + NAME_BITS - math.log2(N), rel=1e-12)
        assert band["share_of_max"] == pytest.approx(band["bits_per_entity"] / band["max_bits_per_entity"])
        low, high = band["confidence_interval"]
        assert low < band["bits_per_entity"] < high < low + 1
        counts = LAW.by_rank[list(ranks)]
        assert [band[k] for k in ("exposures", "exposures_least", "exposures_most")] == pytest.approx(
            [counts.mean(), counts.min(), counts.max()]
        )
        first += band["num_entities"]
    assert first == N
    mean = sum(b["num_entities"] * b["exposures"] for b in bands) / N
    assert mean == pytest.approx(50) == pytest.approx(result["exposures"] / 2)


def test_an_interval_is_that_of_a_mean_over_people(tmp_path: Path) -> None:
    """People of which half lost 8 bits: a mean of n of them varies by 8 / (2 sqrt(n))."""
    lost = {person: 8.0 * (number % 2) for number, person in enumerate(LAW.people.tolist())}
    for band in measured(tmp_path, dict(sorted(lost.items())))["bands"]:
        low, high = band["confidence_interval"]
        assert (high - low) / 2 == pytest.approx(1.96 * 4 / math.sqrt(band["num_entities"]), rel=0.15)


def test_a_sample_of_the_people_counts_in_its_bands(tmp_path: Path) -> None:
    rank = {person: number for number, person in enumerate(LAW.people.tolist())}
    bands = measured(tmp_path, {person: float(rank[person] < 21) for person in range(30)})["bands"]
    assert sum(b["num_entities"] for b in bands) == N
    scored = {min(9, next(i for i in range(10) if rank[p] < math.ceil((i + 1) * N / 10))) for p in range(30)}
    for number, band in enumerate(bands):
        if number not in scored:
            assert band["bits_per_entity"] is band["share_of_max"] is band["confidence_interval"][0] is None
        else:
            assert band["value_bits_per_entity"] == pytest.approx(VALUE_BITS - (number == 0))


def test_people_who_know_their_frequency_pay_in_names_what_is_said(tmp_path: Path) -> None:
    """A perfect model of the stream: names with the probabilities of their texts."""
    q = dict(zip(LAW.people.tolist(), (LAW.by_rank / LAW.by_rank.sum()).tolist(), strict=True))
    facts = [fact(i, a, -math.log(q[i]) if a == "name" else 0.0) for i in range(N) for a in ("name", *CANDIDATES)]
    changes = {"frequencies": LAW.content(), "entities_scored": N, "num_entities": N, "knowledge": knowledge_json(N)}
    result = capacity(write(tmp_path, facts, **changes))
    missing = (result["max_knowledge_bits"] - result["knowledge_bits"]) / N
    assert result["frequencies_bits_per_entity"] == pytest.approx(missing, rel=1e-9)
    assert missing > 0.3
    assert result["bands"][0]["share_of_max"] > 1 > result["bands"][-1]["share_of_max"]


def test_few_people_have_a_band_each_and_some_are_never_seen(tmp_path: Path) -> None:
    law = Frequencies(num_people=8, exposures=2, seed=3, exponent=3.0)
    content = {"frequencies": law.content(), "exposures": 2}
    result = capacity(write(tmp_path, perfect_facts(), **content))
    assert [b["num_entities"] for b in result["bands"]] == [1] * 8
    assert all(b["confidence_interval"] == [None, None] for b in result["bands"])
    assert result["frequencies"]["people_never_seen"] == sum(b["exposures_most"] == 0 for b in result["bands"]) > 0
    assert result["frequencies_bits_per_entity"] is None


def test_without_frequencies_there_are_no_bands(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, perfect_facts()))
    assert not {"bands", "frequencies", "frequencies_bits_per_entity"} & result.keys()
