"""Paired comparisons: against the capacities they are the difference of, closed forms, and planted mismatches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_facts import CANDIDATES, N, fact, knowledge_json, perfect_facts, uniform_facts, write

from knowcap.capacity import CapacityError, capacity
from knowcap.capacity.comparison import compare, write_comparison
from knowcap.cli import main
from knowcap.report.table import comparison_text
from knowcap.scoring.mode import ScoringError


def noisy(seed: int, scale: float = 1.0, entities: range = range(N)) -> list[dict[str, Any]]:
    """A model that is perfect but for some nats."""
    generator = np.random.default_rng(seed)
    return [f | {"nll": f["nll"] + scale * float(generator.exponential())} for f in perfect_facts(entities)]


def measured(folder: Path, facts: list[dict[str, Any]], **changes: Any) -> Path:
    """A measured model folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    capacity(write(folder, facts, **changes))
    return folder


def test_the_difference_is_that_of_the_two_capacities(tmp_path: Path) -> None:
    a = measured(tmp_path / "a", noisy(0, 0.5))
    b = measured(tmp_path / "b", noisy(1, 2.0), num_parameters=80)
    result = compare(a, b)
    ours, theirs = (json.loads((folder / "capacity.json").read_text()) for folder in (a, b))
    for key in ("bits_per_parameter", "knowledge_bits"):
        assert result["a"][key] == pytest.approx(ours[key])
        assert result["b"][key] == pytest.approx(theirs[key])
        assert result[key]["difference"] == pytest.approx(ours[key] - theirs[key])
        low, high = result[key]["confidence_interval"]
        assert low < result[key]["difference"] < high
    for name, found in result["attributes"].items():
        both = [c["attributes"][name]["bits_per_entity"] for c in (ours, theirs)]
        assert [found["bits_per_entity"]["a"], found["bits_per_entity"]["b"]] == pytest.approx(both)
        assert found["bits_per_entity"]["difference"] == pytest.approx(both[0] - both[1])
    parts = sum(found["bits_per_parameter"]["difference"] for found in result["attributes"].values())
    assert parts == pytest.approx(result["bits_per_parameter"]["difference"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_equal_models_differ_by_exactly_nothing(tmp_path: Path) -> None:
    a, b = (measured(tmp_path / name, noisy(0)) for name in "ab")
    result = compare(a, b)
    nothing = {"difference": 0.0, "confidence_interval": [0.0, 0.0]}
    assert result["bits_per_parameter"] == result["knowledge_bits"] == nothing
    assert all(found["bits_per_parameter"] == nothing for found in result["attributes"].values())
    assert "A minus B = +0.000 ± 0.000 bits per parameter [+0.000, +0.000]" in comparison_text(result)


def test_exchanged_models_differ_by_the_opposite(tmp_path: Path) -> None:
    a, b = measured(tmp_path / "a", noisy(0)), measured(tmp_path / "b", noisy(1))
    there, back = compare(a, b)["bits_per_parameter"], compare(b, a)["bits_per_parameter"]
    assert there["difference"] == pytest.approx(-back["difference"])
    width = there["confidence_interval"][1] - there["confidence_interval"][0]
    assert back["confidence_interval"][1] - back["confidence_interval"][0] == pytest.approx(width, rel=0.1)


def test_what_is_hard_for_both_models_cancels(tmp_path: Path) -> None:
    entities = range(200)
    settings = {"num_entities": 200, "entities_scored": 200, "knowledge": knowledge_json(200)}
    names = math.log(200 / N)  # that a name costs more among 200
    facts = [f | {"nll": f["nll"] + (names if f["attribute"] == "name" else 0.0)} for f in noisy(0, 3.0, entities)]
    worse = [f | {"nll": f["nll"] + (0.1 if f["attribute"] == "employer" else 0.0)} for f in facts]
    a, b = measured(tmp_path / "a", facts, **settings), measured(tmp_path / "b", worse, **settings)
    result = compare(a, b)
    low, high = result["knowledge_bits"]["confidence_interval"]
    assert [low, high] == pytest.approx([200 * 0.1 / math.log(2)] * 2), "the same loss everywhere has no error at all"
    own = json.loads((a / "capacity.json").read_text())["confidence_interval"]
    assert own[1] - own[0] > 0.5
    assert result["attributes"]["pronoun"]["bits_per_entity"]["difference"] == 0.0


def test_the_order_of_the_rows_does_not_matter_and_ids_may_be_strings(tmp_path: Path) -> None:
    facts = [f | {"entity": f"Q{f['entity']}"} for f in noisy(0)]
    order = np.random.default_rng(4).permutation(len(facts))
    a, b = measured(tmp_path / "a", facts), measured(tmp_path / "b", [facts[i] for i in order])
    assert compare(a, b)["bits_per_parameter"]["difference"] == 0.0


def test_facts_may_be_missing_and_entities_silent(tmp_path: Path) -> None:
    def stated(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [f for f in facts if f["entity"] != 5 and not (f["attribute"] == "employer" and f["entity"] > 0)]

    a, b = measured(tmp_path / "a", stated(noisy(0))), measured(tmp_path / "b", stated(noisy(1)))
    result = compare(a, b)
    ours, theirs = (json.loads((folder / "capacity.json").read_text()) for folder in (a, b))
    assert result["knowledge_bits"]["difference"] == pytest.approx(ours["knowledge_bits"] - theirs["knowledge_bits"])
    assert result["attributes"]["employer"]["bits_per_entity"]["confidence_interval"] == [None, None]
    assert comparison_text(result)
    c = measured(tmp_path / "c", [f for f in stated(noisy(2)) if f["entity"] or f["attribute"] != "birth_date"])
    with pytest.raises(CapacityError, match="different facts of the same entities"):
        compare(a, c)


def test_diversity_terms_are_compared_too(tmp_path: Path) -> None:
    term = {"attribute": "employer", "fact": "employer.first_chunk", "diversity": 16, "credited": 8}
    knowledge = knowledge_json() | {"diversity_terms": [term | {"first_chunk": ".", "log2_candidates": 64.0}]}
    folders = []
    for name, seed, parameters in (("a", 0, 100), ("b", 1, 50)):
        nll = np.random.default_rng(seed).exponential(size=N)
        chunks = [
            {**fact(i, "employer", float(nll[i])), "attribute": "employer.first_chunk", "log2_candidates": 4.0}
            for i in range(N)
        ]
        settings = {"knowledge": knowledge, "num_parameters": parameters}
        folders.append(measured(tmp_path / name, [*noisy(seed), *chunks], **settings))
    result = compare(*folders)
    ours, theirs = (json.loads((folder / "capacity.json").read_text()) for folder in folders)
    for key in ("bits_per_parameter", "knowledge_bits"):
        assert result[key]["difference"] == pytest.approx(ours[key] - theirs[key])


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        ({"scoring": "closed_set"}, noisy(1), "scoring is 'token' in .* and 'closed_set' in .*; measure one of them"),
        ({"context": "packed"}, noisy(1), "context is"),
        ({"renderings": 4}, noisy(1), "renderings is 1 in"),
        ({"knowledge": knowledge_json() | {"seed": 1}}, noisy(1), "different knowledge: seed 0 and 1"),
        ({"entities_scored": 4}, noisy(1, 1.0, range(4)), "entities_scored is 8 in"),
        ({}, [f | {"entity": f["entity"] + 1} for f in noisy(1)], r"different entities: 2 are in one only \(0, 8\)"),
        ({}, [f | {"entity": f"Q{f['entity']}"} for f in noisy(1)], "different entities"),
        ({}, [f for f in noisy(1) if f["attribute"] != "pronoun"], "different facts"),
    ],
)
def test_models_scored_on_different_facts_are_refused(
    tmp_path: Path, changes: dict[str, Any], facts: list[dict[str, Any]], message: str
) -> None:
    a, b = measured(tmp_path / "a", noisy(0)), measured(tmp_path / "b", facts, **changes)
    with pytest.raises(CapacityError, match=message):
        compare(a, b)


def test_what_is_not_measured_or_did_not_pass_its_checks_is_refused(tmp_path: Path) -> None:
    a, b = measured(tmp_path / "a", noisy(0)), write(tmp_path / "b", noisy(1))
    with pytest.raises(CapacityError, match=r"b has no capacity\.json.*measure it first"):
        compare(a, b)
    with pytest.raises(ScoringError, match=r"nll\.parquet is missing"):
        compare(a, tmp_path)


def test_every_comparison_has_a_file_of_its_own(tmp_path: Path) -> None:
    a = measured(tmp_path / "runs" / "big" / "model", noisy(0))
    others = []
    for run, digest in (("small", "1"), ("other/small", "2")):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "recipe.yaml").write_text("seed: 0\n")
        others.append(measured(tmp_path / run / "quantized" / "int8", noisy(1), digest=digest, precision="int8"))
    paths = {write_comparison(a, b, compare(a, b)) for b in (*others, others[0])}
    assert len(paths) == 2 and all(path.parent == a for path in paths)
    assert all(path.name.startswith("comparison-small-quantized-int8-") for path in paths)
    content = json.loads(min(paths).read_text())
    assert (content["a"]["model"], content["b"]["model"]) == ("model", "small/quantized/int8")
    assert str(tmp_path) not in min(paths).read_text()


def test_the_command_measures_what_is_not_measured_and_prints_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, alone = tmp_path / "run", tmp_path / "alone"
    measured(run_dir / "model", noisy(0))
    (run_dir / "recipe.yaml").write_text("model_name: gpt2-2-2\nnum_people: 8\nconfidence_level: 0.9\n")
    asked: list[tuple[str, str | None]] = []

    def measure(model: str, dataset_name: str | None, **options: Any) -> Path:
        asked.append((model, dataset_name))
        ways = {"scoring", "context", "start_token", "window", "loading", "prompts"}
        assert options.keys() == {"batch_size", "limit", "overwrite", "launcher"} | ways
        return measured(Path(model), noisy(1))

    monkeypatch.setattr("knowcap.run.compare.measure_model", measure)
    words = ["measure", str(run_dir), "--compare", str(alone)]
    assert main(words) == 0
    assert asked == [(str(alone), str(run_dir / "knowledge"))], "A is measured; B has no data set of its own"
    assert "A minus B = " in (printed := capsys.readouterr().out) and "90 % interval" in printed
    (path,) = (run_dir / "model").glob("comparison-alone-*.json")
    assert json.loads(path.read_text())["confidence_level"] == 0.9
    assert main(words) == 0 and len(asked) == 1
    assert main([*words, "--overwrite", "--dataset_name", str(tmp_path)]) == 0
    assert asked[1:] == [(str(run_dir / "model"), str(tmp_path)), (str(alone), str(tmp_path))]
    capacity(write(alone, noisy(1), context="packed"))
    assert main(words) == 2
    assert "context is 'isolated' in" in capsys.readouterr().err


def test_the_words_say_both_models_the_difference_and_the_attributes(tmp_path: Path) -> None:
    a = measured(tmp_path / "a", perfect_facts())
    b = measured(tmp_path / "b", uniform_facts(range(N)), num_parameters=50)
    text = comparison_text(compare(a, b))
    lines = text.splitlines()
    assert lines[0] == "A: a (gpt2-2-2, fp32, 100 parameters), 2.8800 bits per parameter"
    assert lines[2] == "A minus B = +2.880 ± 0.000 bits per parameter [+2.880, +2.880]"
    assert "95 % interval, paired over 8 entities; without the variation over training seeds" in lines[3]
    assert [line.split()[0] for line in lines[5:]] == ["name", *CANDIDATES]
    assert lines[7].split()[1:3] == ["8.000", "0.000"]
