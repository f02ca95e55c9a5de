"""Tables of runs as people have them: other names, gaps, words, wrong units; problems are reported with their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulated import SIMULATED, kaplan_nd, noise_of, parametric, silence

from knowcap.laws import LAWS, LawError, fit_law, fitting, read_runs
from knowcap.laws.table import read_all_runs


FEW = {"num_bootstraps": 20}
N = np.geomspace(1e6, 1e9, 6)
LOSS = (8.8e13 / N) ** 0.076


def failure(law: str, table: dict, **options: object) -> str:
    """The message of a table that cannot be fitted."""
    with pytest.raises(LawError) as error:
        fit_law(law, table, **FEW, **options)
    return str(error.value)


@pytest.mark.parametrize("law", LAWS)
def test_all_missing_columns_are_named_with_those_found(law: str) -> None:
    make, *_ = SIMULATED[law]
    message = failure(law, {"eval_loss": [1.0], "size": [2.0]})
    assert "Found: eval_loss, size" in message
    assert "--columns loss=eval_loss" in message
    derived = ("flops", "budget", "num_tokens", "step", "run", *fitting._LAWS[law].optional)
    assert all(f"column {name} " in message for name in make(silence)[0] if name not in derived)


def test_a_missing_column_is_made_from_others_and_reported() -> None:
    table, constants = parametric(silence)
    flops = 6 * table["num_parameters"] * table["num_tokens"]
    fit = fit_law(
        "chinchilla-parametric",
        {"num_parameters": table["num_parameters"], "flops": flops, "loss": table["loss"]},
        **FEW,
    )
    assert fit.constants == pytest.approx(constants, rel=1e-5)
    assert any("num_tokens: computed as flops / (6 num_parameters)" in note for note in fit.notes)
    steps = {
        "step": table["num_tokens"] / 1e5,
        "batch_tokens": np.full(64, 1e5),
        "num_parameters": table["num_parameters"],
    }
    assert fit_law("kaplan-d", steps | {"loss": table["loss"]}, **FEW).num_points == 64


def test_values_of_zero_or_less_are_an_error_with_rows_and_all_columns_at_once() -> None:
    message = failure("kaplan-n", {"num_parameters": [1e6, -3, 1e7, 1e8], "loss": [3, 2.9, 0, 2.5]})
    assert "num_parameters (parameters of the model) must be above zero: got -3 in rows 2" in message
    assert "loss (nats per token) must be above zero: got 0 in rows 3" in message


def test_a_model_that_knows_less_than_nothing_is_left_out_of_capacity_and_reported() -> None:
    p = np.geomspace(1e4, 1e6, 6)
    bits = np.where(p < 2e4, -500.0, 2 * p)
    fit = fit_law("capacity", {"num_parameters": p, "knowledge_bits": bits, "max_knowledge_bits": 1e9 + 0 * p}, **FEW)
    assert fit.num_points == 5
    assert fit.constants["bits_per_parameter"] == pytest.approx(2.0)
    assert any("knowledge_bits is zero or less in 1 of 6 rows" in text for text in fit.warnings)


@pytest.mark.parametrize(
    ("rows", "words"),
    [(1, "got 1 point, expected 3"), (2, "got 2 points, expected 3")],
)
def test_too_few_points_are_an_error(rows: int, words: str) -> None:
    assert words in failure("kaplan-n", {"num_parameters": N[:rows], "loss": LOSS[:rows]})


def test_one_size_is_an_error_and_so_are_as_many_points_as_constants() -> None:
    assert "num_parameters is 1e+06 in all 5 rows" in failure(
        "kaplan-n", {"num_parameters": [1e6] * 5, "loss": [3, 2, 3, 2, 1]}
    )
    table = {name: column[:4] for name, column in kaplan_nd(silence)[0].items()}
    assert "num_parameters" in failure("kaplan-nd", table | {"num_parameters": np.full(4, 1e6)})
    assert "4 constants: got 4 points, expected 5" in failure(
        "kaplan-nd", {k: v[:4] for k, v in kaplan_nd(silence)[0].items()} | {"num_tokens": [1e7, 2e7, 3e7, 1e9]}
    )


def test_gaps_and_words_are_left_out_and_reported_with_their_rows() -> None:
    table = {"num_parameters": [*N, 2e6, "3e6", 5e6], "loss": [*LOSS, "diverged", "", float("inf")], "note": ["x"] * 9}
    fit = fit_law("kaplan-n", table, **FEW)
    assert fit.num_points == 6
    assert any("rows 7, 8, 9 of 9" in text and "diverged" in text for text in fit.warnings)
    assert fit.constants["alpha_N"] == pytest.approx(0.076)


def test_numbers_may_be_text_with_separators_and_suffixes() -> None:
    text = ["1,000,000", "4M", "1.6e7", "64_000_000", "0.25B", "1b"]
    sizes = np.array([1e6, 4e6, 1.6e7, 6.4e7, 2.5e8, 1e9])
    fit = fit_law("kaplan-n", {"num_parameters": text, "loss": (8.8e13 / sizes) ** 0.076}, **FEW)
    assert fit.constants == pytest.approx({"N_c": 8.8e13, "alpha_N": 0.076})


def test_files_of_either_kind_and_any_delimiter_give_the_same_fit(tmp_path: Path) -> None:
    table, _ = kaplan_nd(noise_of(0.01, seed=0))
    names = list(table)
    expected = fit_law("kaplan-nd", table, **FEW).constants
    for delimiter in ",;\t":
        lines = [
            delimiter.join(names),
            *(delimiter.join(repr(float(v)) for v in row) for row in zip(*table.values(), strict=True)),
        ]
        path = tmp_path / "runs.csv"
        path.write_text("\ufeff" + "\r\n".join(lines) + "\n\n", encoding="utf-8")
        assert fit_law("kaplan-nd", path, **FEW).constants == pytest.approx(expected)
    pq.write_table(pa.table(table), tmp_path / "runs.parquet")
    assert fit_law("kaplan-nd", tmp_path / "runs.parquet", **FEW).constants == pytest.approx(expected)


def test_several_tables_are_one_with_empty_cells_where_a_column_is_missing(tmp_path: Path) -> None:
    table, _ = kaplan_nd(noise_of(0.01, seed=0))
    rows = len(next(iter(table.values())))
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for part, kept, more in ((parts[0], slice(0, 7), {}), (parts[1], slice(7, None), {"note": ["x"] * (rows - 7)})):
        pq.write_table(pa.table({name: list(values[kept]) for name, values in table.items()} | more), part)
    together = read_all_runs(parts)
    assert {name: list(values) for name, values in table.items()} == {name: together[name] for name in table}
    assert together["note"] == [None] * 7 + ["x"] * (rows - 7)
    expected = fit_law("kaplan-nd", table, **FEW).constants
    assert fit_law("kaplan-nd", together, **FEW).constants == pytest.approx(expected)
    with pytest.raises(LawError, match="given twice"):
        read_all_runs([parts[0], parts[0]])
    with pytest.raises(LawError, match="several tables are read from cells.json and Parquet files only"):
        read_all_runs([parts[0], tmp_path / "c.csv"])


def test_files_that_are_no_tables_are_reported(tmp_path: Path) -> None:
    for name, content, words in (
        ("empty.csv", b"", "got 0 lines"),
        ("head.csv", b"loss,flops\n", "got 1 lines"),
        ("uneven.csv", b"loss,flops\n1,2\n1\n", "rows 2 do not have 2 cells"),
        ("double.csv", b"loss,loss\n1,2\n", "two columns are named loss"),
        ("bytes.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("no.parquet", b"loss,flops\n1,2\n", "expected an undamaged Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LawError, match=words):
            read_runs(tmp_path / name)
    with pytest.raises(LawError, match="no such file"):
        read_runs(tmp_path / "none.csv")


def test_columns_go_by_other_names_and_wrong_ones_are_reported() -> None:
    table = {"Model Size": N, "eval_loss": LOSS}
    fit = fit_law("kaplan-n", table, columns={"num_parameters": "Model Size", "loss": "eval_loss"}, **FEW)
    assert fit.constants["alpha_N"] == pytest.approx(0.076)
    message = failure("kaplan-n", table, columns={"size": "Model Size", "loss": "eval_los"})
    assert "size is none of num_parameters" in message
    assert "no column 'eval_los', did you mean 'eval_loss'?" in message
    assert "did you mean kaplan-nd?" in failure("kaplan_nd", table)


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [
        ("num_parameters", 1e-6, "num_parameters seems to be in millions"),
        ("num_tokens", 1e-6, "num_tokens is 300000 at most: given in millions"),
        ("flops", 1e-6, "flops seem to be in millions"),
        ("flops", 1 / 8.64e19, "PF-days"),
        ("num_tokens", 3e-4, "num_tokens seems to be in thousands"),
        ("num_parameters", 1e-9, "num_parameters is 10 at most: given in millions or billions?"),
        ("loss", 100.0, "is it a perplexity?"),
    ],
)
def test_units_off_by_powers_of_ten_are_a_warning_with_a_guess(column: str, factor: float, words: str) -> None:
    table, _ = parametric(silence)
    table["flops"] = 6 * table["num_parameters"] * table["num_tokens"]
    fit = fit_law("kaplan-nd", table | {column: table[column] * factor}, **FEW)
    assert any(words in text for text in fit.warnings), fit.warnings
    assert not any("seem" in text or "given in" in text for text in fit_law("kaplan-nd", table, **FEW).warnings)


def test_units_are_guessed_without_flops_too() -> None:
    table, _ = parametric(silence)
    few = table | {"num_tokens": table["num_tokens"] / 1e6}
    assert any(
        "is num_tokens in millions" in t or "num_tokens is" in t for t in fit_law("kaplan-nd", few, **FEW).warnings
    )
    p = np.geomspace(1e6, 1e8, 6)
    bits = {"num_parameters": p / 1e6, "knowledge_bits": 2 * p, "max_knowledge_bits": 1e10 + 0 * p}
    assert any("num_parameters" in t and "millions" in t for t in fit_law("capacity", bits, **FEW).warnings)


def test_the_last_row_of_each_curve_is_a_point_where_a_law_is_about_whole_runs() -> None:
    table, constants = kaplan_nd(silence)
    runs = len(table["loss"])
    curves = {name: np.repeat(column, 3) for name, column in table.items()}
    curves |= {"run": np.repeat(np.arange(runs), 3), "step": np.tile([1, 2, 3], runs)}
    curves["loss"] = curves["loss"] * np.tile([2.0, 1.5, 1.0], runs)
    fit = fit_law("kaplan-nd", curves, **FEW)
    assert fit.num_points == runs
    assert fit.constants == pytest.approx(constants, rel=1e-5)
    assert any(f"the last of each of {runs} runs" in note for note in fit.notes)


def test_the_law_of_compute_takes_the_front_of_curves() -> None:
    c = np.geomspace(1e16, 1e20, 40)
    front = {"run": np.repeat(np.arange(8), 5), "flops": c, "loss": (1e27 / c) ** 0.05}
    behind = {"run": np.repeat(np.arange(8), 5), "flops": c * 1.5, "loss": (1e27 / c) ** 0.05 * 1.2}
    both = {name: np.concatenate([front[name], behind[name]]) for name in front}
    fit = fit_law("kaplan-c", both, **FEW)
    assert fit.constants == pytest.approx({"C_c": 1e27, "alpha_C": 0.05})
    assert fit.num_points == 40
    assert fit.derived["C_c_pf_days"] == pytest.approx(1e27 / 8.64e19)


def test_what_the_data_cannot_pin_is_a_warning() -> None:
    close = {"num_parameters": np.linspace(1e6, 1.4e6, 6), "loss": LOSS.mean() * noise_of(0.02, seed=0)(6)}
    fit = fit_law("kaplan-n", close, **FEW)
    warnings = " | ".join(fit.warnings)
    assert "num_parameters spans a factor of 1.4 only" in warnings
    assert "the data do not determine N_c" in warnings or "the data hardly determine alpha_N" in warnings
    bent = {"num_parameters": np.geomspace(1e6, 1e9, 9), "loss": 2 + 300 / np.geomspace(1e6, 1e9, 9) ** 0.4}
    assert any("flattens" in text for text in fit_law("kaplan-n", bent, **FEW).warnings)
    endless = kaplan_nd(silence)[0] | {"num_tokens": np.tile(np.geomspace(1e15, 1e18, 5), 5)}
    endless["loss"] = (6.4e13 / endless["num_parameters"]) ** 0.076 * noise_of(0.005, seed=1)(25)
    assert any("D_c" in text for text in fit_law("kaplan-nd", endless, **FEW).warnings)


@pytest.mark.parametrize("law", ["capacity", "exposures"])
def test_runs_with_unequal_exposures_are_no_points_of_a_law_of_bits(law) -> None:
    sizes = np.geomspace(1e4, 1e6, 6)
    exposures = np.array([30, 30, 100, 100, 1000, 1000]) if law == "exposures" else np.full(6, 1000)
    bits = 2 * sizes / (1 + 100 / exposures)
    runs = {"num_parameters": sizes, "knowledge_bits": bits, "max_knowledge_bits": np.full(6, 1e8)}
    runs |= {"exposures": exposures, "top_band_exposures": [None, "", 5, None, None, 7]}
    runs |= {"bottom_band_exposures": [None, "", 5, None, None, 7]}
    fit_law(law, runs, **FEW)
    unequal = runs | {"top_band_exposures": [None, 200.0, 5, "", 5, np.nan]}
    unequal |= {"bottom_band_exposures": [None, 0.0, 5, "", 4, np.nan]}
    with pytest.raises(LawError, match=rf"{law}: rows 2, 5 have people that are seen more often than others"):
        fit_law(law, unequal, **FEW)


def test_repeated_data_repeated_rows_and_outliers_are_a_warning() -> None:
    table, _ = kaplan_nd(noise_of(0.003, seed=0))
    warned = fit_law("kaplan-nd", table | {"exposures": np.full(25, 100.0)}, **FEW).warnings
    assert any("exposures is up to 100: this law is about fresh data" in text for text in warned)
    double = {name: np.concatenate([column, column[:2]]) for name, column in table.items()}
    assert any("2 of 27 rows are duplicates" in text for text in fit_law("kaplan-nd", double, **FEW).warnings)
    far = table | {"loss": np.where(np.arange(25) == 7, 3 * table["loss"], table["loss"])}
    runs, _ = parametric(noise_of(0.002, seed=0))
    runs["loss"][5] *= 1.3
    assert any(
        "1 of 64 points have residuals of over" in text
        for text in fit_law("chinchilla-parametric", runs, **FEW).warnings
    )
    assert any("describes these runs poorly" in text for text in fit_law("kaplan-nd", far, **FEW).warnings)
