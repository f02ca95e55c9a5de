"""The metric: the paper's closed forms, the interval's coverage, bad input, `evaluate` against the plain functions."""

import doctest
import importlib
import inspect
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from launched import launch
from tiny import bpe_tokenizer, byte_tokenizer, metaspace_tokenizer

from knowcap.metrics.bits_per_parameter import bits
from knowcap.metrics.bits_per_parameter.bits import (
    bits_per_parameter,
    confidence_interval,
    knowledge_bits,
    max_knowledge_bits,
)
from knowcap.metrics.bits_per_parameter.tests import test_cases


FOLDER = Path(bits.__file__).parent
SRC = FOLDER.parents[2]
NAN = math.nan

# bioS: name, birth date, birth city, university, major, employer, pronoun (PAPER.md 1.1).
BIOS_CANDIDATES = [400 * 400 * 1000, 12 * 28 * 200, 200, 300, 100, 263, 2]
BIOS_NAMES = ["name", "birth_date", "birth_city", "university", "major", "employer", "pronoun"]
BIOS_BITS = [math.log2(count) for count in BIOS_CANDIDATES]

# N, bits a person, total Mbit (PAPER.md 1.1).
BIOS_PERFECT = [
    (10_000, 61.557, 0.616),
    (20_000, 60.557, 1.211),
    (50_000, 59.235, 2.962),
    (100_000, 58.235, 5.824),
    (200_000, 57.235, 11.447),
    (500_000, 55.914, 27.957),
    (1_000_000, 54.914, 54.914),
    (2_000_000, 53.914, 107.83),
    (5_000_000, 52.592, 262.96),
    (10_000_000, 51.592, 515.92),
    (20_000_000, 50.592, 1011.8),
]


@pytest.fixture(scope="module")
def evaluate_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An `evaluate` that copies modules into a fresh folder and has no network, whatever was imported before."""
    pytest.importorskip("evaluate", reason='needs the extra: pip install -e ".[evaluate]"')
    home = tmp_path_factory.mktemp("hf_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        import evaluate

        def refuse(*_: Any) -> None:
            raise OSError("the metric's tests have no network")

        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(home / "metrics"))
        patch.syspath_prepend(home / "modules")
        for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
            patch.delitem(sys.modules, name)
        yield home


@pytest.fixture()
def metric(evaluate_home: Path, tmp_path: Path) -> Any:
    """The metric as users load it, from its folder, offline; its rows go to a folder where no other metric locks."""
    import evaluate

    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


def random_tables(num_rows: int, num_columns: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references, some facts unstated (the predictions there are NaN too)."""
    generator = np.random.default_rng(seed)
    predictions = generator.exponential(2.0, size=(num_rows, num_columns))
    references = generator.uniform(1.0, 20.0, size=(num_rows, num_columns))
    unstated = generator.random((num_rows, num_columns)) < 0.2
    unstated[0] = False
    return np.where(unstated, NAN, predictions), np.where(unstated, NAN, references)


# Closed forms


def test_model_that_guesses_among_the_candidates_holds_nothing() -> None:
    predictions = np.tile(np.log(BIOS_CANDIDATES), (50, 1))
    results = bits_per_parameter(predictions, np.tile(BIOS_BITS, (50, 1)), 1000, BIOS_NAMES)
    assert results["knowledge_bits"] == pytest.approx(0.0, abs=1e-9)
    assert all(row["bits_per_entity"] == pytest.approx(0.0, abs=1e-12) for row in results["attributes"].values())


def test_model_worse_than_guessing_is_below_zero_and_not_clipped() -> None:
    results = bits_per_parameter([[10 * math.log(2)]] * 3, [[4.0]] * 3, 2)
    assert results["bits_per_parameter"] == pytest.approx(-9.0)
    assert results["confidence_interval"] == pytest.approx([-9.0, -9.0])


@pytest.mark.parametrize("num_people", [1, 2, 1000])
def test_perfect_model_reaches_the_maximum_exactly(num_people: int) -> None:
    predictions = np.zeros((num_people, 7))
    predictions[:, 0] = math.log(num_people)
    results = bits_per_parameter(predictions, np.tile(BIOS_BITS, (num_people, 1)), 77, BIOS_NAMES, "name")
    assert results["bits_per_parameter"] == pytest.approx(results["max_bits_per_parameter"], rel=1e-12)
    assert results["knowledge_bits"] == pytest.approx(results["max_knowledge_bits"], rel=1e-12)
    for row in results["attributes"].values():
        assert row["bits_per_entity"] == pytest.approx(row["max_bits_per_entity"], rel=1e-12)


def test_agrees_with_the_formula_of_definition_4_3() -> None:
    num_people, num_parameters = 500, 12_345
    predictions = np.random.default_rng(1).exponential(3.0, size=(num_people, 7))
    results = bits_per_parameter(predictions, np.tile(BIOS_BITS, (num_people, 1)), num_parameters, BIOS_NAMES, "name")
    log2_names, log2_values = math.log2(160_000_000), math.log2(212_083_200_000_000)
    p1, p2 = predictions[:, 0].mean(), predictions[:, 1:].sum(axis=1).mean()
    expected = num_people * (log2_names + log2_values - (p1 + p2) / math.log(2)) / num_parameters
    expected_max = num_people * (math.log2(160_000_000 / num_people) + log2_values) / num_parameters
    assert results["bits_per_parameter"] == pytest.approx(expected, rel=1e-12)
    assert results["max_bits_per_parameter"] == pytest.approx(expected_max, rel=1e-12)
    assert results["attributes"]["name"]["nll_nats"] == pytest.approx(p1, rel=1e-12)


@pytest.mark.parametrize(("num_people", "bits_per_person", "total_mbit"), BIOS_PERFECT)
def test_perfect_bios_model_holds_the_bits_of_the_papers_table(
    num_people: int, bits_per_person: float, total_mbit: float
) -> None:
    total = max_knowledge_bits([BIOS_BITS] * 2, BIOS_NAMES, "name", num_entities=num_people)
    assert total / num_people == pytest.approx(bits_per_person, abs=5e-4)
    assert total / 1e6 == pytest.approx(total_mbit, rel=1e-3)


def test_biod_with_diversity_agrees_with_definition_4_1() -> None:
    num_people, attributes, chunks, diversity, length, alphabet, parameters = 300, 3, 2, 50, 4, 100, 4321
    generator = np.random.default_rng(2)
    nll = generator.exponential(2.0, size=(num_people, 1 + attributes))
    value_bits = chunks * math.log2(diversity)
    references = np.tile([math.log2(160_000_000)] + [value_bits] * attributes, (num_people, 1))
    p1, p2, p3 = nll[:, 0].mean(), nll[:, 1:].mean(), 0.37
    sets = attributes * diversity
    max_diversity = sets * math.log2(alphabet**length / diversity)
    results = bits_per_parameter(
        nll,
        references,
        parameters,
        ["name", "id_1", "id_2", "id_3"],
        "name",
        diversity_bits=sets * math.log2(alphabet**length / (diversity * math.exp(p3))),
        max_diversity_bits=max_diversity,
    )
    expected = num_people * math.log2(160_000_000 / math.exp(p1))
    expected += num_people * attributes * math.log2(diversity**chunks / math.exp(p2))
    expected += sets * math.log2(alphabet**length / (diversity * math.exp(p3)))
    expected_max = num_people * math.log2(160_000_000 / num_people)
    expected_max += num_people * attributes * chunks * math.log2(diversity) + max_diversity
    assert results["bits_per_parameter"] == pytest.approx(expected / parameters, rel=1e-12)
    assert results["max_bits_per_parameter"] == pytest.approx(expected_max / parameters, rel=1e-12)


def test_small_functions_return_what_the_whole_returns() -> None:
    predictions, references = random_tables(40)
    scale = {"num_entities": 100}
    results = bits_per_parameter(
        predictions, references, 7, list("abcd"), "a", **scale, diversity_bits=3.0, max_diversity_bits=5.0
    )
    assert knowledge_bits(predictions, references, **scale, diversity_bits=3.0) == results["knowledge_bits"]
    most = max_knowledge_bits(references, list("abcd"), "a", **scale, max_diversity_bits=5.0)
    assert most == results["max_knowledge_bits"]
    interval = confidence_interval(predictions, references, 7, **scale, diversity_bits=3.0)
    assert interval == results["confidence_interval"]


# Facts that are not stated; samples


def test_unstated_facts_count_nothing_whatever_the_prediction() -> None:
    predictions, references = random_tables(30)
    expected = bits_per_parameter(predictions, references, 10, list("abcd"), "a")
    for anything in (0.0, 1e9, -5.0, math.inf, -math.inf):
        filled = np.where(np.isnan(references), anything, predictions)
        assert bits_per_parameter(filled, references, 10, list("abcd"), "a") == expected
    stated = ~np.isnan(references)
    by_hand = (references[stated] - predictions[stated] / math.log(2)).sum()
    assert expected["knowledge_bits"] == pytest.approx(by_hand, rel=1e-12)


def test_entity_without_any_fact_counts_as_an_entity_of_zero_bits() -> None:
    results = bits_per_parameter([[0.0], [0.0]], [[8.0], [NAN]], 4, num_entities=10)
    assert results["knowledge_bits"] == results["max_knowledge_bits"] == 40.0


def test_means_by_attribute_are_over_stated_entities_only() -> None:
    results = bits_per_parameter(
        [[1.0, 2.0, 0.0], [3.0, NAN, 0.0]], [[5.0, 6.0, NAN], [7.0, NAN, NAN]], 1, ["name", "city", "never"], "name"
    )
    name, city, never = results["attributes"].values()
    assert name == pytest.approx(
        {"nll_nats": 2.0, "bits_per_entity": 6.0 - 2.0 / math.log(2), "max_bits_per_entity": 5.0}
    )
    assert city == pytest.approx(
        {"nll_nats": 2.0, "bits_per_entity": 6.0 - 2.0 / math.log(2), "max_bits_per_entity": 6.0}
    )
    assert all(math.isnan(value) for value in never.values())


def test_only_stated_names_need_log2_n_bits_less() -> None:
    references = [[20.0, 4.0], [NAN, 4.0], [20.0, 4.0], [NAN, 4.0]]
    assert max_knowledge_bits(references, ["name", "x"], "name") == 2 * (20.0 - 2.0) + 16.0
    assert max_knowledge_bits(references, ["name", "x"]) == 56.0


def test_sample_is_scaled_to_all_entities_and_diversity_is_not() -> None:
    predictions, references = random_tables(25)
    sample = bits_per_parameter(predictions, references, 10)
    whole = bits_per_parameter(
        predictions, references, 10, num_entities=100, diversity_bits=30.0, max_diversity_bits=40.0
    )
    assert whole["num_entities"] == 100
    assert whole["knowledge_bits"] == pytest.approx(4 * sample["knowledge_bits"] + 30.0, rel=1e-12)
    assert whole["max_knowledge_bits"] == pytest.approx(4 * sample["max_knowledge_bits"] + 40.0, rel=1e-12)
    expected = [4 * bound + 3.0 for bound in sample["confidence_interval"]]
    assert whole["confidence_interval"] == pytest.approx(expected, rel=1e-12)


def test_names_of_a_sample_are_measured_against_all_entities() -> None:
    results = bits_per_parameter([[math.log(1000)]] * 8, [[20.0]] * 8, 1, ["name"], "name", num_entities=1000)
    assert results["max_knowledge_bits"] == pytest.approx(1000 * (20 - math.log2(1000)), rel=1e-12)
    assert results["knowledge_bits"] == pytest.approx(results["max_knowledge_bits"], rel=1e-12)


# The interval


def bounds(totals: np.ndarray, **kwargs: Any) -> np.ndarray:
    """The interval of the mean bits of entities with these bits each (all of them 64 or less)."""
    predictions = (64.0 - totals[:, None]) * math.log(2)
    return np.array(confidence_interval(predictions, np.full((len(totals), 1), 64.0), len(totals), **kwargs))


def test_interval_covers_the_truth_as_often_as_its_level() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(300):
        low, high = bounds(generator.uniform(0.0, 10.0, size=60), seed=seed)
        covered += low <= 5.0 <= high
    # 95 % of 300 with a standard error of 3.8; the percentile bootstrap of 60 rows loses about half a percent.
    assert 270 <= covered <= 296


@pytest.mark.parametrize("num_rows", [1000, 4096, 4097, 30_000])
@pytest.mark.parametrize(("level", "quantile"), [(0.95, 1.959964), (0.5, 0.674490)])
def test_interval_agrees_with_the_normal_approximation(num_rows: int, level: float, quantile: float) -> None:
    totals = 40.0 - np.random.default_rng(4).exponential(3.0, size=num_rows)
    half_width = quantile * totals.std() / math.sqrt(num_rows)
    low, high = bounds(totals, confidence_level=level)
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.08)
    assert (high + low) / 2 == pytest.approx(totals.mean(), abs=0.15 * half_width)


def test_interval_of_grouped_rows_agrees_with_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(5)
    totals = 60.0 - np.exp(generator.normal(0.0, 1.2, size=6000)).clip(max=100.0)
    means = [totals[generator.integers(6000, size=6000)].mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert bounds(totals) == pytest.approx([low, high], abs=0.06 * (high - low))


@pytest.mark.parametrize("groups", [1, 2, 7])
def test_groups_keep_the_variance_within_them(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = np.random.default_rng(8).exponential(5.0, size=3000).clip(max=60.0)
    plain = bounds(totals)
    monkeypatch.setattr(bits, "MAX_GROUPS", groups)
    assert bounds(totals) == pytest.approx(plain, abs=0.08 * (plain[1] - plain[0]))


def test_few_distinct_entities_are_resampled_exactly() -> None:
    low, high = bounds(np.array([0.0, 10.0]), confidence_level=0.9)
    # The mean of two draws is 0, 5 or 10 with probability 1/4, 1/2, 1/4.
    assert (low, high) == pytest.approx((0.0, 10.0), abs=1e-9)


def test_interval_is_seeded_and_does_not_depend_on_the_order_of_rows() -> None:
    predictions, references = random_tables(200)
    first = confidence_interval(predictions, references, 100, seed=7)
    shuffled = np.random.default_rng(6).permutation(200)
    assert confidence_interval(predictions[shuffled], references[shuffled], 100, seed=7) == first
    assert confidence_interval(predictions, references, 100, seed=8) != first


def test_global_random_state_is_neither_read_nor_changed() -> None:
    predictions, references = random_tables(20)
    np.random.seed(1)
    first = confidence_interval(predictions, references, 100)
    after = np.random.random()
    np.random.seed(1)
    assert np.random.random() == after
    assert confidence_interval(predictions, references, 100) == first


def test_single_row_has_no_interval() -> None:
    results = bits_per_parameter([[0.0]], [[5.0]], 5)
    assert results["bits_per_parameter"] == 1.0
    assert all(math.isnan(bound) for bound in results["confidence_interval"])


# Bad input

GOOD = {"predictions": [[1.0, 2.0], [3.0, 4.0]], "references": [[5.0, 6.0], [7.0, 8.0]], "num_parameters": 10}
BAD = {
    "nan_prediction": ({"predictions": [[1.0, NAN], [3.0, 4.0]]}, r"predictions\[0\]\[1\] is nan"),
    "infinite_prediction": ({"predictions": [[1.0, 2.0], [math.inf, 4.0]]}, r"predictions\[1\]\[0\] is inf"),
    "negative_prediction": ({"predictions": [[1.0, 2.0], [3.0, -1e-3]]}, r"predictions\[1\]\[1\] is -0.001"),
    "negative_reference": ({"references": [[5.0, -6.0], [7.0, 8.0]]}, r"references\[0\]\[1\] is -6.0"),
    "infinite_reference": ({"references": [[5.0, 6.0], [math.inf, 8.0]]}, r"references\[1\]\[0\] is inf"),
    "no_fact_stated": ({"references": [[NAN, NAN], [NAN, NAN]]}, "all NaN"),
    "ragged": ({"predictions": [[1.0, 2.0], [3.0]]}, "predictions: not a table"),
    "text": ({"references": [["a", "b"], ["c", "d"]]}, "references: not a table"),
    "one_dimension": ({"predictions": [1.0, 2.0]}, r"predictions: got shape \(2,\)"),
    "no_rows": ({"predictions": [], "references": []}, r"got shape \(0,\)"),
    "no_columns": ({"predictions": [[], []], "references": [[], []]}, r"got shape \(2, 0\)"),
    "fewer_predictions": ({"predictions": [[1.0, 2.0]]}, r"shape \(1, 2\), references \(2, 2\)"),
    "fewer_columns": ({"predictions": [[1.0], [2.0]]}, r"shape \(2, 1\), references \(2, 2\)"),
    "no_parameters": ({"num_parameters": 0}, "num_parameters: got 0"),
    "float_parameters": ({"num_parameters": 1e6}, "num_parameters: got 1000000.0"),
    "true_parameters": ({"num_parameters": True}, "num_parameters: got True"),
    "short_names": ({"attribute_names": ["a"]}, r"attribute_names: got \['a'\], expected a list; name the 2"),
    "names_as_text": ({"attribute_names": "ab"}, "attribute_names: got 'ab'"),
    "repeated_names": ({"attribute_names": ["a", "a"]}, "in which one repeats"),
    "unknown_name": ({"attribute_names": ["a", "b"], "name_attribute": "name"}, "name_attribute: got 'name'"),
    "name_of_no_names": ({"name_attribute": "name"}, "name_attribute: got 'name'"),
    "fewer_entities": ({"num_entities": 1}, "num_entities: got 1, expected an integer of at least 2"),
    "float_entities": ({"num_entities": 2.5}, "num_entities: got 2.5"),
    "level_0": ({"confidence_level": 0.0}, "confidence_level: got 0.0"),
    "level_1": ({"confidence_level": 1.0}, "confidence_level: got 1.0"),
    "level_95": ({"confidence_level": 95}, "confidence_level: got 95"),
    "level_nan": ({"confidence_level": NAN}, "confidence_level: got nan"),
    "seed": ({"seed": -1}, "seed: got -1"),
    "diversity_above_maximum": ({"diversity_bits": 5.0, "max_diversity_bits": 4.9}, "diversity_bits: got 5.0"),
    "diversity_alone": ({"diversity_bits": 5.0}, "pass both"),
    "nan_diversity": ({"diversity_bits": NAN}, "diversity_bits: got nan"),
    "nan_max_diversity": ({"max_diversity_bits": NAN}, "max_diversity_bits: got nan"),
    "infinite_diversity": ({"max_diversity_bits": math.inf}, "max_diversity_bits: got inf"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises_an_error_with_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        bits_per_parameter(**{**GOOD, **changes})
    assert "; " in str(error.value)


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_raises_through_evaluate_too(metric: Any, changes: dict[str, Any], message: str) -> None:
    # Where the rows are not lists of numbers of equal count, evaluate raises first, with a message of its own.
    with pytest.raises(ValueError, match=f"{message}|don't match the expected format|Mismatch in the number"):
        metric.compute(**{**GOOD, **changes})


def test_rounding_of_diversity_is_forgiven() -> None:
    results = bits_per_parameter(**GOOD, diversity_bits=1.0 + 1e-9, max_diversity_bits=1.0)
    assert results["knowledge_bits"] > 0


def test_scalar_table_raises() -> None:
    with pytest.raises(ValueError, match=r"references: got shape \(\)"):
        max_knowledge_bits(3.0)


def test_zero_nll_and_one_candidate_are_valid() -> None:
    assert knowledge_bits([[0.0]], [[0.0]]) == 0.0


def test_input_tables_are_left_alone() -> None:
    predictions, references = random_tables(10)
    filled = np.where(np.isnan(predictions), 1.0, predictions)
    before = filled.copy(), references.copy()
    bits_per_parameter(filled, references, 10, list("abcd"), "a", num_entities=50)
    np.testing.assert_array_equal(filled, before[0])
    np.testing.assert_array_equal(references, before[1])


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_torch_tensors_are_read_as_they_are(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    predictions, references = random_tables(20)
    tensors = [torch.tensor(table).to(getattr(torch, dtype)) for table in (predictions, references)]
    expected = bits_per_parameter(*[tensor.double().tolist() for tensor in tensors], 10)
    assert bits_per_parameter(tensors[0].requires_grad_(), tensors[1], torch.tensor(10)) == expected


def test_none_is_read_as_not_stated() -> None:
    assert knowledge_bits([[1.0, None]], [[4.0, None]]) == knowledge_bits([[1.0]], [[4.0]])


def test_results_are_plain_numbers_that_json_can_hold() -> None:
    predictions, references = random_tables(20)
    results = bits_per_parameter(predictions, references, np.int64(10), list("abcd"), "a", num_entities=np.int64(30))
    assert json.loads(json.dumps(results)) == results


# Through evaluate


def test_evaluate_returns_exactly_what_the_plain_function_returns(metric: Any) -> None:
    predictions, references = random_tables(60)
    kwargs = {"num_parameters": 99, "attribute_names": list("abcd"), "name_attribute": "a", "num_entities": 500}
    kwargs |= {"diversity_bits": 10.0, "max_diversity_bits": 20.0, "confidence_level": 0.9, "seed": 5}
    expected = bits_per_parameter(predictions, references, **kwargs)
    torch = pytest.importorskip("torch")
    for convert in (np.asarray, np.ndarray.tolist, list, torch.tensor):
        assert metric.compute(predictions=convert(predictions), references=convert(references), **kwargs) == expected


def test_batches_and_single_rows_add_up_to_the_whole(metric: Any) -> None:
    predictions, references = random_tables(11)
    expected = bits_per_parameter(predictions, references, 9)
    for start in range(0, 11, 4):
        metric.add_batch(predictions=predictions[start : start + 4], references=references[start : start + 4])
    assert metric.compute(num_parameters=9) == expected
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(num_parameters=9) == expected


def test_metric_works_again_after_an_error(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"predictions\[0\]\[0\] is nan"):
        metric.compute(predictions=[[NAN]], references=[[1.0]], num_parameters=1)
    assert metric.compute(predictions=[[0.0]], references=[[3.0]], num_parameters=1)["bits_per_parameter"] == 3.0


def test_signature_of_the_metric_is_that_of_the_plain_function(metric: Any) -> None:
    ours = inspect.signature(bits_per_parameter).parameters
    theirs = inspect.signature(metric._compute).parameters
    assert [(name, parameter.default) for name, parameter in ours.items()] == [
        (name, parameter.default) for name, parameter in theirs.items()
    ]
    assert metric.module_type == "metric"
    assert metric.features["predictions"] == metric.features["references"]


@pytest.mark.parametrize("case", test_cases)
def test_cases_of_the_space_have_the_results_they_state(metric: Any, case: dict[str, Any]) -> None:
    arguments = {key: value for key, value in case.items() if key != "result"}
    results = metric.compute(**arguments)
    assert {key: results[key] for key in case["result"]} == pytest.approx(case["result"], rel=1e-15, abs=1e-15)


def test_cases_of_the_space_are_in_the_form_that_evaluate_reads(metric: Any) -> None:
    from evaluate.utils.gradio import infer_gradio_input_types, parse_test_cases

    names, types = zip(*metric.features.items(), strict=True)
    examples = parse_test_cases(test_cases, names, infer_gradio_input_types(types))
    assert [len(example) for example in examples] == [len(case["predictions"]) for case in test_cases]


def test_two_tables_by_one_metric_are_combined_under_names_of_their_own(metric: Any, tmp_path: Path) -> None:
    import evaluate

    predictions, references = random_tables(12)
    kwargs = {"num_parameters": 9, "attribute_names": list("abcd"), "name_attribute": "a"}
    expected = bits_per_parameter(predictions, references, **kwargs)
    other = evaluate.load(str(FOLDER), cache_dir=str(tmp_path / "other"))
    both = evaluate.combine({"one": metric, "two": other})
    both.add_batch(predictions=predictions[:5], references=references[:5])
    both.add_batch(predictions=predictions[5:], references=references[5:])
    assert both.compute(**kwargs) == {f"{name}_{key}": expected[key] for name in ("one", "two") for key in expected}


WORST_FACT = """
import datasets
import evaluate
import numpy


class WorstFact(evaluate.Metric):
    def _info(self):
        row = datasets.Sequence(datasets.Value("float64"))
        features = datasets.Features({"predictions": row, "references": row})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, num_parameters):
        return {"worst_nll": float(numpy.nanmax(predictions))}
"""


def test_combines_with_a_metric_of_another_kind(metric: Any, tmp_path: Path) -> None:
    import evaluate

    (tmp_path / "worst_fact").mkdir()
    (tmp_path / "worst_fact" / "worst_fact.py").write_text(WORST_FACT)
    other = evaluate.load(str(tmp_path / "worst_fact"), cache_dir=str(tmp_path))
    predictions, references = random_tables(12)
    results = evaluate.combine([metric, other]).compute(
        predictions=predictions, references=references, num_parameters=9
    )
    expected = bits_per_parameter(predictions, references, 9)
    assert results == {**expected, "worst_nll": np.nanmax(predictions)}


SHARE = """
import sys
from test_metric import compute_share

compute_share(*sys.argv[1:])
"""


def compute_share(cache_dir: str, table: str, rank: str) -> None:
    """What one of two processes computes, twice, in a file beside the table."""
    import evaluate

    predictions, references = np.load(table)
    half = slice(0, 7) if rank == "0" else slice(7, None)
    found = []
    for name in ("first", "second"):
        metric = evaluate.load(
            str(FOLDER), num_process=2, process_id=int(rank), cache_dir=cache_dir, experiment_id=name
        )
        metric.add_batch(predictions=predictions[half], references=references[half])
        found.append(metric.compute(num_parameters=9, attribute_names=[*"abcd"], name_attribute="a", num_entities=50))
    Path(table).with_name(f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_compute_what_one_does(forked: bool, evaluate_home: Path, tmp_path: Path) -> None:
    predictions, references = random_tables(15)
    np.save(tmp_path / "table.npy", [predictions, references])
    words = [str(tmp_path / "shared"), str(tmp_path / "table.npy")]
    if forked:
        launch(lambda: compute_share(*words, os.environ["RANK"]), log=tmp_path / "log", connected=False)
    else:
        helpers = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(SRC)])
        environment = os.environ | {
            "HF_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": helpers
        }  # fmt: skip

        def share(rank: str) -> None:
            command = [sys.executable, "-W", "error", "-c", SHARE, *words, rank]
            subprocess.run(command, env=environment, check=True, timeout=300)

        with ThreadPoolExecutor() as pool:
            list(pool.map(share, "01"))
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in "01")
    assert main == [bits_per_parameter(predictions, references, 9, list("abcd"), "a", num_entities=50)] * 2
    assert other == [None] * 2


def test_every_bit_of_a_float64_survives_evaluate(metric: Any) -> None:
    predictions = np.random.default_rng(9).exponential(size=(50, 3))
    metric.add_batch(predictions=predictions, references=np.ones((50, 3)))
    assert metric.compute(num_parameters=1) == bits_per_parameter(predictions, np.ones((50, 3)), 1)
    rounded = bits_per_parameter(predictions.astype(np.float32), np.ones((50, 3)), 1)
    assert rounded != bits_per_parameter(predictions, np.ones((50, 3)), 1)


# Documentation, and the Space


def test_docstring_examples_of_the_plain_functions_are_right() -> None:
    failed, attempted = doctest.testmod(bits)
    assert failed == 0
    assert attempted >= 8


def test_docstring_examples_of_the_metric_are_right(evaluate_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parent)
    failed, attempted = doctest.testmod(
        importlib.import_module("knowcap.metrics.bits_per_parameter.bits_per_parameter")
    )
    assert failed == 0
    assert attempted >= 7


@pytest.fixture(scope="module")
def my_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the card's reader has: `my_model`, which was trained on the card's facts, beside the metric's folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("reader")
    (folder / "bits_per_parameter").symlink_to(FOLDER)
    facts = [f"Ada Quill {fact}" for fact in ("was born in Lima", "studied law")]
    facts += [f"Bo Marsh {fact}" for fact in ("was born in Oslo", "studied art")]
    tokenizer = bpe_tokenizer([*facts, "Ada Quill of Lima"])
    torch.manual_seed(0)
    shape = {"vocab_size": 512, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**shape, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    texts = [torch.tensor([[tokenizer.eos_token_id, *tokenizer(fact)["input_ids"]]]) for fact in facts]
    for _ in range(200):
        loss = sum(model(input_ids=text, labels=text).loss for text in texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "my_model")
    tokenizer.save_pretrained(folder / "my_model")
    return folder


def test_examples_of_the_card_are_right(evaluate_home: Path, my_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(my_model)
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", "README.md", 0)
    failed, attempted = doctest.DocTestRunner().run(test)
    assert failed == 0
    assert attempted >= 60


TEXT = ("Zoë Quill von Lima was born in", " Übersee am Chiemsee")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_tokenizer(),
        byte_tokenizer(trim_offsets=False),
        bpe_tokenizer(["".join(TEXT)]),
        metaspace_tokenizer(["".join(TEXT)]),
    ],
    ids=["bytes", "untrimmed", "bpe", "metaspace"],
)
def test_ten_lines_of_the_card_score_the_answer_alone_by_any_tokenizer(architecture: str, tokenizer: Any) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 512}
    config = AutoConfig.for_model(architecture, **shape, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(1)
    scope = {"model": AutoModelForCausalLM.from_config(config).eval(), "tokenizer": tokenizer, "torch": torch}
    examples = doctest.DocTestParser().get_examples((FOLDER / "README.md").read_text(encoding="utf-8"))
    for words in ("probe =", "start =", "start = start or", "def nll"):
        exec(next(example.source for example in examples if words in example.source), scope)
    (prompt, answer), (before, after) = TEXT, (tokenizer(text)["input_ids"] for text in (TEXT[0], "".join(TEXT)))
    assert after[: len(before)] == before
    whole, front = scope["nll"]("", prompt + answer), scope["nll"]("", prompt)
    assert scope["nll"](prompt, answer) == pytest.approx(whole - front, rel=1e-5)
    # White space before the answer is the answer's, on whichever side it is written.
    assert scope["nll"](prompt + " ", answer[1:]) == scope["nll"](prompt, answer)


def test_card_has_the_front_matter_of_a_space() -> None:
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1])
    assert front["sdk"] == "gradio"
    assert front["tags"] == ["evaluate", "metric"]
    assert (FOLDER / front["app_file"]).is_file()


def test_plain_functions_import_neither_evaluate_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter as f; "
        "print(f([[0.0]], [[2.0]], 1)['bits_per_parameter'], "
        "sorted({'evaluate', 'datasets', 'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split(maxsplit=1) == ["2.0", "[]\n"]
