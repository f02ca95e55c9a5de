"""Bits by entity: their sums are the capacity's, their order is that of remembering, and the plot shows them all."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import fails
from figures import texts
from run_folders import make_capacity, make_run
from scored_facts import CANDIDATES, NAME_BITS, N, fact, knowledge_json, perfect_facts, write
from tiny import write_dataset

from knowcap.capacity import capacity
from knowcap.capacity.entities import EntityBits, bits_by_entity
from knowcap.cli import main
from knowcap.facts import Knowledge, Row, Span
from knowcap.report.plots import plot_entities
from knowcap.report.stage import report


def forgetful(folder: Path) -> Path:
    """A measured model that lost 3 bits of an employer per number of the entity, in two texts each; 5 states none."""
    facts = [
        fact(f["entity"], f["attribute"], max(0.0, f["nll"] + d), rendering)
        for f in perfect_facts()
        if not (f["entity"] == 5 and f["attribute"] == "employer")
        for rendering, d in enumerate([2 * 3 * math.log(2) * f["entity"] * (f["attribute"] == "employer"), 0.0])
    ]
    capacity(write(folder, facts, renderings=2))
    return folder


def test_the_sums_are_those_of_the_capacity(tmp_path: Path) -> None:
    found = bits_by_entity(forgetful(tmp_path))
    result = json.loads((tmp_path / "capacity.json").read_text())
    assert found.bits.sum() == pytest.approx(result["knowledge_bits"])
    assert found.most.sum() == pytest.approx(result["max_knowledge_bits"])
    assert found.attributes == ["name", *CANDIDATES]
    assert np.nansum(found.by_attribute, axis=1) == pytest.approx(found.bits)


def test_the_best_known_come_first_and_nothing_is_clipped(tmp_path: Path) -> None:
    found = bits_by_entity(forgetful(tmp_path))
    most = NAME_BITS - math.log2(N) + sum(CANDIDATES.values())
    expected = {i: most - 3.0 * i for i in range(N)} | {5: most - CANDIDATES["employer"]}
    assert dict(zip(found.entities.tolist(), found.bits.tolist(), strict=True)) == pytest.approx(expected)
    assert found.entities.tolist() == [0, 1, 2, 5, 3, 4, 6, 7]
    employer = found.attributes.index("employer")
    assert found.by_attribute[-1, employer] == pytest.approx(CANDIDATES["employer"] - 21.0)
    assert math.isnan(found.by_attribute[3, employer])


def people(folder: Path, **changes: object) -> Path:
    """The data set of `forgetful`: entity i is called Ada i0 in every text, the last entity first in the file."""
    (folder.parent / "content.json").write_text(json.dumps(knowledge_json() | changes))
    names = {i: f"Ada {i}0" for i in range(N)}
    rows = [(Row(f"{names[i]} was.", (Span("name", 0, 6),), i), r) for i in reversed(range(N)) for r in range(2)]
    return write_dataset(folder, Knowledge.load(folder.parent / "content.json"), rows)


def test_the_command_shows_both_ends_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "knowledge")
    forgetful(tmp_path / "model")
    assert main(["entities", str(tmp_path / "model"), "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6].strip() for line in lines] == ["entity", "Ada 00", "Ada 10", "…", "Ada 60", "Ada 70"]
    assert lines[0].split() == ["entity", "bits", "of", "name", *CANDIDATES]
    assert lines[1].split()[2:] == ["36.00", "36.00", "17.00", "10.00", "8.00", "1.00"]
    (tmp_path / "recipe.yaml").write_text("num_people: 8\n")  # now it is a run folder
    assert main(["entities", str(tmp_path), "--count", "100"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == N + 1
    assert "nll.parquet is missing" in fails(capsys, "entities", str(tmp_path / "nowhere"))


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "knowledge")
    forgetful(tmp_path / "model")
    assert main(["entities", str(tmp_path / "model"), "--count", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_entities"] == N
    assert [e["name"] for e in found["best"] + found["least"]] == [
        "Ada 00",
        "Ada 10",
        "Ada 20",
        "Ada 40",
        "Ada 60",
        "Ada 70",
    ]
    fifth = {e["entity"]: e for e in json.loads(whole(tmp_path / "model", capsys))["best"]}[5]
    assert fifth["attributes"]["employer"] is None
    assert fifth["bits"] == fifth["max_bits"] == pytest.approx(36.0 - CANDIDATES["employer"])


def whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The JSON of all entities."""
    main(["entities", str(folder), "--count", str(N), "--json"])
    return capsys.readouterr().out


def test_another_data_set_beside_the_results_gives_no_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people(tmp_path / "knowledge", version="2.0.0")
    forgetful(tmp_path / "model")
    assert main(["entities", str(tmp_path / "model"), "--count", "1"]) == 0
    out = capsys.readouterr().out
    assert "Ada" not in out and "give --dataset_name" in out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0", "…", "7"]
    main(["entities", str(tmp_path / "model"), "--count", "1", "--dataset_name", str(tmp_path / "knowledge")])
    assert "Ada 00" in capsys.readouterr().out


def test_a_table_has_no_names_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forgetful(tmp_path / "model")
    table = tmp_path / "facts.csv"
    table.write_text("prompt,answer,candidates\nThe capital of France is,Paris,195\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["entities", str(tmp_path / "model"), "--dataset_name", str(table)]) == 2
    assert "give a data set folder or a Hub id" in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before


def test_an_entity_whose_id_is_a_text_is_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [fact(f"Ada {f['entity']}", f["attribute"], f["nll"]) for f in perfect_facts()]
    write(tmp_path / "model", texts)
    assert main(["entities", str(tmp_path / "model"), "--count", "1"]) == 0
    out = capsys.readouterr().out
    assert "Ada 0 " in out and "by number" not in out


def some(bits: np.ndarray) -> EntityBits:
    """Entities of so many bits, of 40 each."""
    return EntityBits(np.arange(len(bits)), bits, np.full(len(bits), 40.0), [], np.empty((len(bits), 0)))


def test_the_plot_shows_every_entity_the_mean_and_the_most(tmp_path: Path, drawn: list) -> None:
    bits = np.random.default_rng(0).normal(25, 10, size=500)
    assert plot_entities(some(bits), make_capacity(), tmp_path / "entities.png").is_file()
    (axes,) = drawn[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 500
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([bits.mean(), 40.0, 0.0])
    figure = drawn[0]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = [artist.get_window_extent() for artist in (axes, axes.xaxis.label)]
    assert not any(legend.get_window_extent().overlaps(box) for box in boxes) and axes.get_legend() is None
    for word in (f"mean {bits.mean():.2f}", "maximum 40.00", f"below zero: {(bits < 0).sum()} of 500", "fp32"):
        assert word in texts(drawn[0])


def test_few_who_are_far_below_do_not_squeeze_the_plot_of_many(tmp_path: Path, drawn: list) -> None:
    bits = np.append(np.random.default_rng(0).normal(25, 3, size=9_999), -4000.0)
    plot_entities(some(bits), make_capacity(), tmp_path / "entities.png")
    (axes,) = drawn[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 10_000
    assert axes.get_xlim()[0] > -5
    assert "with fewer bits, down to -4000.0" in texts(drawn[0])
    plot_entities(some(np.full(3, 40.0)), make_capacity(), tmp_path / "equal.png")


def test_the_report_puts_the_plot_on_the_card(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    forgetful(tmp_path / "scored")
    for name in ("model", "quantized/int8"):
        shutil.copyfile(tmp_path / "scored" / "nll.parquet", run_dir / name / "nll.parquet")
    report(run_dir)
    assert (run_dir / "plots" / "entities_int8.png").is_file()
    assert not (run_dir / "plots" / "entities_int4.png").exists()
    assert "](plots/entities.png)" in (run_dir / "model" / "README.md").read_text()
