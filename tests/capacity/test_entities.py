"""Bits by entity: their sums are the capacity's, their order is that of remembering, and the plot shows them all."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from figures import texts
from run_folders import make_capacity, make_run
from scored_facts import CANDIDATES, NAME_BITS, N, fact, perfect_facts, write

from knowcap.capacity import capacity
from knowcap.capacity.entities import EntityBits, bits_by_entity, main
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


def test_the_table_shows_both_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(forgetful(tmp_path)), "--count", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["entity", "0", "1", "…", "6", "7"]
    assert lines[1].split() == ["0", "36.00", "36.00", "17.00", "10.00", "8.00", "1.00"]
    assert len(bits_by_entity(tmp_path).table(100).splitlines()) == N + 1
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere")])
    assert "nll.parquet is missing" in capsys.readouterr().err


def some(bits: np.ndarray) -> EntityBits:
    """Entities of so many bits, of 40 each."""
    return EntityBits(np.arange(len(bits)), bits, np.full(len(bits), 40.0), [], np.empty((len(bits), 0)))


def test_the_plot_shows_every_entity_the_mean_and_the_most(tmp_path: Path, drawn: list) -> None:
    bits = np.random.default_rng(0).normal(25, 10, size=500)
    assert plot_entities(some(bits), make_capacity(), tmp_path / "entities.png").is_file()
    (axes,) = drawn[0].axes
    assert sum(patch.get_height() for patch in axes.patches) == 500
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([bits.mean(), 40.0, 0.0])
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
