"""Bits by exposures, architecture and precision at once: against ratios taken by hand, and what tables cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import factors, noise_of, silence

from knowcap.laws import LawError, factored_bits, fit_law


FEW: dict[str, Any] = {"num_bootstraps": 30}


def test_a_finding_gives_the_ratios_of_its_best_runs(tmp_path: Path) -> None:
    """Each setting once at each precision: least squares of the logs are means of log ratios, taken here by hand."""
    generator = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for model, bits in (("gpt2-2-2", 0.9), ("llama-2-2", 0.7)):
        for seed in (10, 11, 12):
            for learning_rate in (5e-3, 1e-2, 2e-2):
                ours, int8, int4 = np.exp(0.1 * generator.standard_normal(3)) * (bits, 0.99 * bits, 0.5 * bits)
                rows.append(
                    {
                        "model_name": model,
                        "num_parameters": 12_000,
                        "num_entities": 500,
                        "exposures": 100,
                        "seed": seed,
                        "learning_rate": learning_rate,
                        "bits_per_parameter": ours,
                        "max_bits_per_parameter": 2.5,
                        "knowledge_bits": 12_000 * ours,
                        "max_knowledge_bits": 30_000,
                        "int8_bits_per_parameter": int8,
                        "int4_bits_per_parameter": int4,
                    }  # fmt: skip
                )
    file = tmp_path / "cells.json"
    cells = {f"cell-{i}": {"row": row, "settings": {}} for i, row in enumerate(rows)}
    file.write_text(json.dumps({"schema_version": 1, "sweep": "06", "cells": cells}))
    best: dict[tuple[str, int], dict] = {}
    for row in rows:
        key = (row["model_name"], row["seed"])
        if row["bits_per_parameter"] > best.get(key, {"bits_per_parameter": 0})["bits_per_parameter"]:
            best[key] = row
    fit = fit_law("factors", file, **FEW)
    for precision in ("int8", "int4"):
        ratios = [row[f"{precision}_bits_per_parameter"] / row["bits_per_parameter"] for row in best.values()]
        assert fit.constants[f"kept[{precision}]"] == pytest.approx(np.exp(np.mean(np.log(ratios))), rel=1e-6)
    assert fit.num_points == 3 * len(best)
    assert any(f"{len(best)} of {len(rows)}" in note for note in fit.notes)
    for kind in {row["model_name"].rsplit("-", 2)[0] for row in rows}:
        assert f"bits_per_parameter[{kind}]" in fit.constants


def test_columns_of_precisions_are_rows_of_runs_that_are_resampled_whole() -> None:
    """A run's own luck is the same at both precisions, so the share that is kept is known far better than the bits."""
    generator = np.random.default_rng(0)
    n = np.geomspace(1e4, 1e6, 12)
    luck = np.exp(0.2 * generator.standard_normal(12))
    table = {"num_parameters": n, "knowledge_bits": 2 * n * luck, "max_knowledge_bits": np.full(12, 1e9)}
    table["int4_bits_per_parameter"] = 2 * luck * 0.6 * np.exp(0.01 * generator.standard_normal(12))
    fit = fit_law("factors", table, num_bootstraps=200)
    low, high = (float(end or np.nan) for end in fit.intervals["kept[int4]"])
    assert low < 0.6 < high < 0.65
    low, high = (float(end or np.nan) for end in fit.intervals["bits_per_parameter[one architecture]"])
    assert high > 1.15 * low


def test_equal_halves_are_one_constant_and_different_ones_are_two() -> None:
    table, _ = factors(noise_of(0.02, 4))
    fit = fit_law("factors", table, **FEW)
    assert {"half_exposures[gpt2]", "half_exposures[llama]"} < fit.constants.keys()
    for name in ("gpt2", "llama"):
        table["architecture"] = np.full(len(table["exposures"]), name)
        one = fit_law("factors", table, **FEW)
        assert "half_exposures" in one.constants
    generator = np.random.default_rng(1)
    table["architecture"] = generator.choice(["gpt2", "llama"], len(table["exposures"]))
    assert "half_exposures" in fit_law("factors", table, **FEW).constants


def test_predictions_take_labels_and_refuse_unknown_ones() -> None:
    fit = fit_law("factors", factors(silence)[0], **FEW)
    new = {"num_parameters": [1e5, 1e5], "exposures": [200, 200], "architecture": ["gpt2", "llama"]}
    assert fit.predict(new) == pytest.approx([2.2e5 / 1.5, 1.1e5], rel=1e-4)
    assert fit.predict(new | {"precision": ["int4", "fp32"]})[0] == pytest.approx(0.7 * 2.2e5 / 1.5, rel=1e-4)
    with pytest.raises(LawError, match="mamba"):
        fit.predict(new | {"architecture": ["gpt2", "mamba"]})
    assert factored_bits(fit.constants, new | {"max_knowledge_bits": [1e3, 1e3]}).max() == pytest.approx(1e3)


def test_factors_that_change_together_are_refused() -> None:
    table, _ = factors(silence)
    e = table["exposures"]
    table["architecture"] = np.array([f"depth-{value:g}-x" for value in e])  # one architecture at each exposure
    with pytest.raises(LawError, match="cannot be separated"):
        fit_law("factors", table, **FEW)


def test_shares_that_differ_by_architecture_are_warned_of() -> None:
    table, _ = factors(noise_of(0.02, 2))
    assert not any("do not multiply" in text for text in fit_law("factors", table, **FEW).warnings)
    worse = (table["architecture"] == "llama") & (table["precision"] == "int4")
    table["knowledge_bits"] = np.where(worse, 0.6 * table["knowledge_bits"], table["knowledge_bits"])
    assert any("do not multiply" in text for text in fit_law("factors", table, **FEW).warnings)


def test_few_levels_of_exposures_leave_their_factor_out() -> None:
    table, _ = factors(silence)
    few = table["exposures"] > 500
    fit = fit_law("factors", {k: v[few] for k, v in table.items()}, **FEW)
    assert "gamma" not in fit.constants
    assert any("2 numbers of exposures" in note for note in fit.notes)
    kinds = (table["architecture"] == "gpt2") | (table["exposures"] > 2000)
    fit = fit_law("factors", {k: v[kinds] for k, v in table.items()}, **FEW)
    assert any(text.startswith("llama was trained at 3000 exposures alone") for text in fit.warnings)
