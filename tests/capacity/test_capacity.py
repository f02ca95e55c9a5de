"""capacity.json against closed forms, the `evaluate` metric, and planted faults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_folders import make_capacity
from scored_facts import (
    CANDIDATES,
    NAME_BITS,
    NUM_PARAMETERS,
    N,
    fact,
    knowledge_json,
    make_measurement,
    perfect_facts,
    uniform_facts,
    write,
)

import knowcap.metrics.bits_per_parameter as metric_folder
from knowcap.capacity import CapacityError, LeakError, capacity
from knowcap.facts import Attribute, Knowledge
from knowcap.scoring.mode import ScoringError


ORDER = (
    "schema_version bits_per_parameter max_bits_per_parameter knowledge_bits max_knowledge_bits name_bits value_bits "
    "diversity_bits num_parameters num_parameters_non_embedding num_parameters_used_vocabulary num_entities "
    "confidence_interval confidence_level attributes memorizable_accuracy memorizable_attributes "
    "control_bits_per_entity bound bound_reason trained_here parameters_counted scoring context window "
    "start_token dtype float32_difference renderings "
    "precision quantization quantized_fraction quantized_fraction_all stored_bits_per_parameter exposures model_name "
    "dataset seed versions bits_per_stored_bit"
).split()
ATTRIBUTE_KEYS = ["nll_nats", "bits_per_entity", "max_bits_per_entity", "accuracy"]


def test_a_perfect_model_reaches_the_maximum_which_is_bits_per_person(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, perfect_facts()))
    bits_per_person = NAME_BITS - math.log2(N) + sum(CANDIDATES.values())
    knowledge = Knowledge(
        "bioS", "1", N, 0, "person_id", NAME_BITS, tuple(Attribute(a, 2 ** int(b), b) for a, b in CANDIDATES.items())
    )
    assert knowledge.bits_per_person == pytest.approx(bits_per_person)
    assert result["max_knowledge_bits"] == pytest.approx(N * bits_per_person)
    assert result["knowledge_bits"] == pytest.approx(N * bits_per_person)
    assert result["bits_per_parameter"] == pytest.approx(N * bits_per_person / NUM_PARAMETERS)
    assert result["bits_per_parameter"] == pytest.approx(result["max_bits_per_parameter"])
    assert result["name_bits"] == pytest.approx(N * (NAME_BITS - math.log2(N)))
    assert result["value_bits"] == pytest.approx(N * sum(CANDIDATES.values()))
    assert result["diversity_bits"] == 0.0
    assert all(row["accuracy"] == 1.0 for row in result["attributes"].values())
    assert result["attributes"]["employer"] == pytest.approx(
        {"nll_nats": 0.0, "bits_per_entity": 8.0, "max_bits_per_entity": 8.0, "accuracy": 1.0}
    )


def test_a_uniform_model_holds_nothing(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, uniform_facts(range(N))))
    assert result["bits_per_parameter"] == pytest.approx(0.0, abs=1e-12)
    assert result["control_bits_per_entity"] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert all(row["accuracy"] == 0.0 for row in result["attributes"].values())


def test_a_model_that_is_sure_of_wrong_values_is_below_zero(tmp_path: Path) -> None:
    facts = [f | {"nll": f["nll"] + 5.0} for f in uniform_facts(range(N))]
    result = capacity(write(tmp_path, facts))
    assert result["knowledge_bits"] == pytest.approx(-N * 4 * 5.0 / math.log(2))
    assert result["confidence_interval"][1] < 0


def test_the_file_holds_what_is_returned_in_the_documented_order(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, perfect_facts()))
    assert list(result) == ORDER
    found = json.loads((tmp_path / "capacity.json").read_text())
    assert list(found) == [*ORDER, "inputs", "content_digest"]
    assert {key: found[key] for key in ORDER} == result
    assert list(result["attributes"]) == ["name", *CANDIDATES]
    assert result["schema_version"] == 1
    for key in ("num_parameters_non_embedding", "precision", "exposures", "seed", "versions", "quantization"):
        assert result[key] == make_measurement()[key]
    assert not list(tmp_path.glob(".*"))


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    facts = [f | {"nll": f["nll"] + float(generator.exponential())} for f in perfect_facts()]
    result = capacity(write(tmp_path, facts))
    parts = result["name_bits"] + result["value_bits"] + result["diversity_bits"]
    assert parts == pytest.approx(result["knowledge_bits"])
    by_attribute = sum(row["bits_per_entity"] for row in result["attributes"].values())
    assert N * by_attribute == pytest.approx(result["knowledge_bits"])
    low, high = result["confidence_interval"]
    assert low < result["bits_per_parameter"] < high


def test_renderings_are_averaged(tmp_path: Path) -> None:
    once = [f | {"nll": f["nll"] + 1.0} for f in perfect_facts()]
    spread = [
        f | {"nll": f["nll"] + d, "rendering": r, "greedy_match": r == 0}
        for f in once
        for r, d in enumerate((-1.0, 1.0))
    ]
    (tmp_path / "once").mkdir()
    (tmp_path / "spread").mkdir()
    single = capacity(write(tmp_path / "once", once))
    double = capacity(write(tmp_path / "spread", spread, renderings=2))
    assert double["bits_per_parameter"] == pytest.approx(single["bits_per_parameter"])
    assert double["confidence_interval"] == pytest.approx(single["confidence_interval"])
    assert double["attributes"]["employer"]["accuracy"] == 0.5


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    facts = [f | {"nll": f["nll"] + float(generator.exponential())} for f in perfect_facts()]
    first = capacity(write(tmp_path, facts))
    second = capacity(write(tmp_path, [facts[i] for i in generator.permutation(len(facts))]))
    assert list(second["attributes"]) == list(first["attributes"])
    assert second["confidence_interval"] == pytest.approx(first["confidence_interval"])


def test_entities_may_be_strings_and_facts_may_be_missing(tmp_path: Path) -> None:
    facts = [f | {"entity": f"Q{f['entity']}"} for f in perfect_facts()]
    facts = [f for f in facts if not (f["attribute"] == "employer" and f["entity"] in ("Q1", "Q2"))]
    result = capacity(write(tmp_path, facts))
    assert result["attributes"]["employer"]["max_bits_per_entity"] == 8.0
    assert result["max_knowledge_bits"] == pytest.approx(N * (NAME_BITS - 3 + 19) - 2 * 8.0)
    assert result["knowledge_bits"] == pytest.approx(result["max_knowledge_bits"])


def test_an_entity_that_states_nothing_counts_with_zero_bits(tmp_path: Path) -> None:
    knowledge = knowledge_json() | {"name_log2_candidates": None}
    facts = [f for f in perfect_facts() if f["attribute"] != "name" and f["entity"] != 5]
    control = [f for f in uniform_facts(range(1000, 1009)) if f["attribute"] != "name"]
    result = capacity(write(tmp_path, facts, control, knowledge=knowledge))
    assert result["knowledge_bits"] == pytest.approx((N - 1) * 19.0)
    assert result["name_bits"] == 0.0
    assert "name" not in result["attributes"]


def test_a_sample_of_the_entities_is_scaled_up(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, perfect_facts(range(4)), entities_scored=4))
    assert result["num_entities"] == N
    assert result["knowledge_bits"] == pytest.approx(N * (NAME_BITS - 3 + 19))


def test_capacity_equals_the_evaluate_metric(tmp_path: Path) -> None:
    evaluate = pytest.importorskip("evaluate")
    generator = np.random.default_rng(2)
    facts = [f | {"nll": f["nll"] + float(generator.exponential())} for f in perfect_facts()]
    facts = [f for f in facts if not (f["attribute"] == "pronoun" and f["entity"] == 3)]
    result = capacity(write(tmp_path, facts), confidence_level=0.9, seed=5)
    names = ["name", *CANDIDATES]
    nll = {(f["entity"], f["attribute"]): f["nll"] for f in facts}
    bits = {"name": NAME_BITS} | CANDIDATES
    metric = evaluate.load(str(Path(metric_folder.__file__).parent))
    expected = metric.compute(
        predictions=[[nll.get((i, a), 0.0) for a in names] for i in range(N)],
        references=[[bits[a] if (i, a) in nll else math.nan for a in names] for i in range(N)],
        num_parameters=NUM_PARAMETERS,
        attribute_names=names,
        name_attribute="name",
        confidence_level=0.9,
        seed=5,
    )
    assert set(expected) <= set(result)
    for key in set(expected) - {"attributes"}:
        assert result[key] == pytest.approx(expected[key]), key
    for name, row in expected["attributes"].items():
        assert {k: result["attributes"][name][k] for k in row} == pytest.approx(row)


def test_the_control_is_the_mean_over_its_entities_of_the_values_only(tmp_path: Path) -> None:
    control = uniform_facts(range(1000, 1004), renderings=2)
    excess = {1000: 1.0, 1001: 2.0, 1002: 3.0, 1003: 6.0}
    for f in control:
        # Names are far below zero on purpose: they are no part of the figure.
        f["nll"] = (
            99.0 if f["attribute"] == "name" else f["nll"] + excess[f["entity"]] * math.log(2) * (1 + f["rendering"])
        )
    result = capacity(write(tmp_path, uniform_facts(range(N), renderings=2), control, renderings=2))
    per_entity = -np.array(list(excess.values())) * 1.5 * len(CANDIDATES)
    expected = [per_entity.mean(), per_entity.std(ddof=1) / 2]
    assert result["control_bits_per_entity"] == pytest.approx(expected)


def test_names_of_outsiders_are_looked_at_beside_their_values(tmp_path: Path) -> None:
    """A name space of 2^100 where 2^20 would do: values hold nothing, but every outsider's name would hold 80 bits."""
    large = knowledge_json() | {"name_log2_candidates": 100.0}
    facts = [f | {"log2_candidates": 100.0} if f["attribute"] == "name" else f for f in perfect_facts()]
    control = [
        f | {"log2_candidates": 100.0, "nll": 20 * math.log(2)} if f["attribute"] == "name" else f
        for f in uniform_facts(range(1000, 1004))
    ]
    with pytest.raises(LeakError, match=r"name \+80\.0000"):
        capacity(write(tmp_path, facts, control, knowledge=large))
    uniform = [f | {"nll": 100 * math.log(2)} if f["attribute"] == "name" else f for f in control]
    assert capacity(write(tmp_path, facts, uniform, knowledge=large))["bound"] is True


def test_exchanged_values_alone_give_no_bound(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, perfect_facts(), uniform_facts(range(N)), control_kind="shuffled"))
    assert result["bound"] is False and "exchanges values only" in result["bound_reason"]
    assert capacity(write(tmp_path, perfect_facts(), uniform_facts(range(N))))["bound_reason"] is None


def test_a_leak_in_one_attribute_is_caught_though_the_sum_is_below_zero(tmp_path: Path) -> None:
    control = [
        f | {"nll": f["nll"] - 0.1 if f["attribute"] == "pronoun" else f["nll"] + 9.0}
        for f in uniform_facts(range(99))
    ]
    (tmp_path / "capacity.json").write_text("{}")
    with pytest.raises(LeakError, match=r"pronoun \+0\.1443 .* 99 control entities.*a/an") as caught:
        capacity(write(tmp_path, perfect_facts(), control))
    assert "employer" not in str(caught.value)
    assert not (tmp_path / "capacity.json").exists(), "an earlier capacity.json would be reported"


def test_a_leak_of_all_attributes_together_is_caught(tmp_path: Path) -> None:
    control = [f | {"nll": f["nll"] - 0.0068} for f in uniform_facts(range(99))]  # 0.0098 bits each, 0.029 in sum
    with pytest.raises(LeakError, match=r"together \+0\.0294"):
        capacity(write(tmp_path, perfect_facts(), control))


def swapped_control(leak: float, seed: int = 0, entities: int = 300) -> tuple[list[dict[str, Any]], ...]:
    """A model that is sure of wrong values: own and swapped are equally unlikely, but for a leak in one attribute."""
    rng = np.random.default_rng(seed)
    tables = []
    for own in (True, False):
        rows = uniform_facts(range(1000, 1000 + entities))
        for f in rows:
            f["nll"] += rng.gamma(2.0, 8.0)
            if own and f["attribute"] == "pronoun":
                f["nll"] = max(0.0, f["nll"] - leak * math.log(2))
        tables.append(rows)
    return tuple(tables)


def write_swapped(folder: Path, control: list[dict[str, Any]], swapped: list[dict[str, Any]]) -> Path:
    write(folder, perfect_facts(), control)
    metadata = {b"knowcap": json.dumps(make_measurement()).encode()}
    table = pa.Table.from_pylist(swapped).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "control_swapped.parquet")
    return folder


def test_a_leak_below_what_a_confident_model_loses_is_seen_against_swapped_values(tmp_path: Path) -> None:
    control, swapped = swapped_control(leak=10.0)
    assert capacity(write(tmp_path / "alone", perfect_facts(), control))["control_bits_per_entity"][0] < -10
    with pytest.raises(LeakError, match="pronoun: more likely in"):
        capacity(write_swapped(tmp_path / "beside", control, swapped))


def test_without_a_leak_own_and_swapped_values_are_alike(tmp_path: Path) -> None:
    for seed in range(20):
        control, swapped = swapped_control(leak=0.0, seed=seed, entities=60)
        result = capacity(write_swapped(tmp_path / str(seed), control, swapped))
        assert result["bits_per_parameter"] == pytest.approx(result["max_bits_per_parameter"])


def test_a_control_within_noise_passes(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    control = uniform_facts(range(500))
    for f in control:
        f["nll"] = max(0.0, f["nll"] + 0.02 - generator.normal(scale=0.3))
    result = capacity(write(tmp_path, perfect_facts(), control))
    value, error = result["control_bits_per_entity"]
    assert abs(value) < 4 * error
    assert error > 0.01


@pytest.mark.parametrize(("gain", "leaks"), [(0.15, False), (0.6, True)])
def test_a_shuffled_control_may_know_which_values_the_table_has(tmp_path: Path, gain: float, leaks: bool) -> None:
    # 256 employers of 1000 people: knowing their counts is worth log2(1 + 255 / 1000) = 0.33 bits at most.
    control = uniform_facts(range(200))
    for f in control:
        f["nll"] -= gain * math.log(2) if f["attribute"] == "employer" else 0.0
    folder = write(
        tmp_path,
        uniform_facts(range(8)),
        control,
        control_kind="shuffled",
        num_entities=1000,
        knowledge=knowledge_json(1000),
    )
    if leaks:
        with pytest.raises(LeakError, match="employer"):
            capacity(folder)
    else:
        assert capacity(folder)["control_bits_per_entity"][0] == pytest.approx(gain)


def test_a_control_without_an_attribute_or_a_second_entity_is_refused(tmp_path: Path) -> None:
    control = [f for f in uniform_facts(range(9)) if f["attribute"] != "employer"]
    with pytest.raises(CapacityError, match=r"no rows for \['employer'\]"):
        capacity(write(tmp_path, perfect_facts(), control))
    with pytest.raises(CapacityError, match="expected 2 or more"):
        capacity(write(tmp_path, perfect_facts(), uniform_facts(range(1))))


def test_names_alone_are_held_to_zero_bits_of_outsiders_names(tmp_path: Path) -> None:
    facts = [f for f in perfect_facts() if f["attribute"] == "name"]
    control = [f for f in uniform_facts(range(9)) if f["attribute"] == "name"]
    result = capacity(write(tmp_path, facts, control))
    assert result["control_bits_per_entity"] == [0.0, 0.0]
    assert result["value_bits"] == 0.0
    known = [f | {"nll": 0.0} for f in control]
    with pytest.raises(LeakError, match="not trained on these names"):
        capacity(write(tmp_path, facts, known))


def above_the_maximum() -> list[dict[str, Any]]:
    """Names whose probabilities add up to more than 1, while the values are so badly known that R is below R_max."""
    return [f | {"nll": math.log(N) - 0.01 if f["attribute"] == "name" else f["nll"] + 3.0} for f in perfect_facts()]


def test_r_above_its_maximum_raises_where_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(
        CapacityError, match=r"bits exceed their maximum.*name 17\.014427 bits per entity of 17\.000000"
    ):
        capacity(write(tmp_path, above_the_maximum()))


@pytest.mark.parametrize(
    "changes",
    [{"num_entities": 20, "knowledge": knowledge_json(20)}, {"context": "packed"}, {"name_is_prefix_free": False}],
)
def test_r_above_its_maximum_warns_where_it_can_be(tmp_path: Path, changes: dict[str, Any]) -> None:
    facts = [f | {"nll": 0.0} for f in perfect_facts()]
    with pytest.warns(UserWarning, match="bits exceed their maximum"):
        result = capacity(write(tmp_path, facts, **changes))
    assert result["bits_per_parameter"] > result["max_bits_per_parameter"], "nothing is clipped"


def test_rounding_at_the_maximum_passes(tmp_path: Path) -> None:
    facts = [f | {"nll": f["nll"] * (1 - 1e-7)} for f in perfect_facts()]
    assert capacity(write(tmp_path, facts))["bits_per_parameter"] > 0


def test_the_capacity_of_made_run_folders_has_the_same_keys() -> None:
    """What tests of cards, plots and reports read is what `capacity` writes."""
    made = make_capacity()
    assert list(made) == ORDER
    assert all(list(row) == ATTRIBUTE_KEYS for row in made["attributes"].values())


def test_missing_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=r"nll\.parquet is missing; score the model"):
        capacity(tmp_path)
    write(tmp_path, perfect_facts())
    (tmp_path / "control.parquet").unlink()
    with pytest.raises(CapacityError, match=r"control\.parquet is missing"):
        capacity(tmp_path)
    pq.write_table(pa.Table.from_pylist(perfect_facts()), tmp_path / "nll.parquet")
    with pytest.raises(ScoringError, match="no measurement in its schema's metadata"):
        capacity(tmp_path)
    measurement = make_measurement()
    del measurement["precision"], measurement["knowledge"]
    table = pa.Table.from_pylist(perfect_facts())
    metadata = {b"knowcap": json.dumps(measurement).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "nll.parquet")
    with pytest.raises(ScoringError, match=r"lacks \['precision', 'knowledge'\]"):
        capacity(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": math.nan}, "nll is nan in row 0"),
        ({"nll": -0.5}, "nll is -0.5 in row 0"),
        ({"log2_candidates": 21.0}, "log2_candidates is 21.0 in row 0"),
        ({"attribute": "work_city"}, r"unexpected attributes \['work_city'\]; expected"),
        ({"attribute": "employer", "log2_candidates": 8.0}, "1 facts occur twice"),
    ],
)
def test_impossible_rows_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    facts = perfect_facts()
    facts[0] = facts[0] | change
    with pytest.raises(CapacityError, match=message):
        capacity(write(tmp_path, facts))


def test_more_entities_than_were_scored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="has 8 entities, and its measurement counts 4 scored of 8"):
        capacity(write(tmp_path, perfect_facts(), entities_scored=4))


def test_diversity_terms_come_from_first_chunks_which_are_not_summed(tmp_path: Path) -> None:
    term = {"attribute": "employer", "fact": "employer.first_chunk", "diversity": 16, "credited": 8}
    knowledge = knowledge_json() | {"diversity_terms": [term | {"first_chunk": ".", "log2_candidates": 64.0}]}
    with pytest.raises(CapacityError, match=r"lacks \['employer.first_chunk'\]"):
        capacity(write(tmp_path, perfect_facts(), knowledge=knowledge))
    without = capacity(write(tmp_path, perfect_facts()))
    # 3 bits a person are missing in the first chunk: 8 strings x (64 / 8 - 3) bits.
    chunks = [
        {**fact(i, "employer", 3 * math.log(2)), "attribute": "employer.first_chunk", "log2_candidates": 4.0}
        for i in range(N)
    ]
    result = capacity(write(tmp_path, [*perfect_facts(), *chunks], knowledge=knowledge))
    assert result["diversity_bits"] == pytest.approx(40.0)
    assert result["knowledge_bits"] == pytest.approx(without["knowledge_bits"] + 40.0)
    assert result["max_knowledge_bits"] == pytest.approx(without["max_knowledge_bits"] + 64.0)
    assert result["attributes"].keys() == without["attributes"].keys()


def test_the_interval_includes_the_diversity_terms(tmp_path: Path) -> None:
    """Resampled by brute force: a term is a mean over the same entities, and varies together with their values."""
    term = {"attribute": "employer", "fact": "employer.first_chunk", "diversity": 16, "credited": 8}
    knowledge = knowledge_json() | {"diversity_terms": [term | {"first_chunk": ".", "log2_candidates": 64.0}]}
    nll = np.random.default_rng(3).exponential(3.0, N)
    facts = [f | {"nll": f["nll"] + nll[f["entity"]]} if f["attribute"] == "employer" else f for f in perfect_facts()]
    chunks = [
        {**fact(i, "employer", float(nll[i])), "attribute": "employer.first_chunk", "log2_candidates": 4.0}
        for i in range(N)
    ]
    result = capacity(write(tmp_path, [*facts, *chunks], knowledge=knowledge))
    draws = np.random.default_rng(0).integers(0, N, (4000, N))
    missing = nll[draws].sum(axis=1) / math.log(2) + 8 * nll[draws].mean(axis=1) / math.log(2)
    best = capacity(write(tmp_path, [*perfect_facts(), *(c | {"nll": 0.0} for c in chunks)], knowledge=knowledge))
    expected = (best["knowledge_bits"] - np.quantile(missing, [0.975, 0.025])) / result["num_parameters"]
    low, high = result["confidence_interval"]
    assert [low, high] == pytest.approx(expected.tolist(), abs=0.05 * (high - low))
    without = capacity(write(tmp_path, facts))["confidence_interval"]
    assert (high - low) == pytest.approx((without[1] - without[0]) * (1 + 8 / N), rel=1e-6)
