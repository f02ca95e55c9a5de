"""Numbers, units and zeros of tables as people write them: one meaning a column, and the same fit as plain numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated import isoflop, noise_of, noisy, parametric, silence

from knowcap.laws import LawError, fit_law, read_runs
from knowcap.laws.columns import decimals_of, numbers, same_columns, unit_of
from knowcap.laws.compare import compare_approaches
from knowcap.laws.fit import Fit
from knowcap.laws.quantity import parse_number, read_number


FEW = {"num_bootstraps": 10}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,5B", 1.5e9), ("1.5B", 1.5e9), ("7B params", 7e9), ("~70M", 70e6), ("≈ 1.4 billion tokens", 1.4e9),
        ("1 000 000", 1e6), ("1\u00a0000\u202f000", 1e6), ("1,000,000", 1e6), ("1.000.000", 1e6), ("1'000'000", 1e6),
        ("1.000,5", 1000.5), ("1,000.5", 1000.5), ("1,500", 1500), ("0,500", 0.5), ("3,12", 3.12), ("1,5e9", 1.5e9),
        ("6 x 10^23", 6e23), ("6×10²³", 6e23), ("10^21", 1e21), ("5 EFLOPs", 5e18), ("2 GFLOPs", 2e9),
        ("2 PF-days", 2 * 8.64e19), ("40%", 0.4), ("40 per cent", 0.4), ("−5", -5), ("-1.5e3", -1500), ("300k", 3e5),
        ("3.2 nats/token", 3.2),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    assert parse_number(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["8x7B", "7b-instruct", "1_5", "1,00,000", "1.2.3", "2 GB", "<3", "$5", "1e400", "nan", "inf", "", "B", "1-2"],
)
def test_what_could_mean_something_else_is_no_number(text: str) -> None:
    assert np.isnan(parse_number(text))


def test_every_way_to_write_a_number_has_one_value() -> None:
    random = np.random.default_rng(0)
    for value in 10 ** random.uniform(-2, 9, 300):
        english = f"{value:,.3f}"
        german = english.translate(str.maketrans(",.", ".,"))
        exact = float(english.replace(",", ""))
        assert read_number(english, ".") == read_number(german, ",") == exact
        assert read_number(german.replace(".", " "), ",") == exact
        assert np.isnan(read_number(english, ",")) or "," not in english or "." not in english


def test_a_column_has_one_decimal_sign() -> None:
    loss = ["4,012", "3,551", "3,12"]
    found = decimals_of({"loss": loss})
    assert numbers(loss, found.signs["loss"]) == pytest.approx([4.012, 3.551, 3.12])
    found = decimals_of({"loss": loss[:2], "num_tokens": ["1,000,000", "2,000"]})  # by what a loss can be
    assert found.signs == {"loss": ",", "num_tokens": "."} and "decimal sign" in found.notes["loss"]
    found = decimals_of({"size": ["1.000", "2.500"], "loss": loss})  # by the other columns
    assert found.signs["size"] == "," and "thousands separator" in found.notes["size"]
    found = decimals_of({"rate": ["0.001", "0.002"], "loss": loss})  # by its own
    assert found.signs["rate"] == "."
    assert "1.5 and 1,5" in decimals_of({"x": ["1,5", "1.5"]}).problems["x"]


def test_a_semicolon_file_with_decimal_commas_gives_the_same_fit(tmp_path: Path) -> None:
    table, _ = parametric(noise_of(0.01, seed=0))
    lines = [";".join(table)]
    for row in zip(*table.values(), strict=True):
        lines.append(
            ";".join(f"{v:.6f}".replace(".", ",") if v < 1e3 else f"{round(v):,}".replace(",", ".") for v in row)
        )
    path = tmp_path / "runs.csv"
    path.write_text("sep=;\n" + "\n".join(lines), encoding="utf-8")
    plain = {name: np.where(c < 1e3, np.round(c, 6), np.round(c)) for name, c in table.items()}
    expected = fit_law("chinchilla-parametric", plain, **FEW).constants
    assert fit_law("chinchilla-parametric", path, **FEW).constants == pytest.approx(expected, rel=1e-6)
    path.write_text("num_parameters,loss\n1000000,3,12\n2000000,3,05\n", encoding="utf-8")
    with pytest.raises(LawError, match="decimal commas in a file with commas"):
        read_runs(path)


def test_two_meanings_in_a_column_stop_only_a_law_that_needs_it() -> None:
    n = np.geomspace(1e6, 1e9, 4)
    table = {"num_parameters": n, "loss": (8.8e13 / n) ** 0.076, "flops": ["1,5e18", "1.5e19", "1e20", "2e21"]}
    fit = fit_law("kaplan-n", table, **FEW)
    assert any("flops has numbers of two kinds" in note for note in fit.notes)
    with pytest.raises(LawError, match=r"flops has numbers of two kinds, such as 1.5e19 and 1,5e18"):
        fit_law("kaplan-c", table, **FEW)


@pytest.mark.parametrize(
    ("header", "name", "factor"),
    [
        ("params (B)", "num_parameters", 1e9), ("Parameters [M]", "num_parameters", 1e6),
        ("tokens_B", "num_tokens", 1e9),
        ("Tokens in billions", "num_tokens", 1e9), ("GFLOPs", "flops", 1e9), ("training_gflops", "flops", 1e9),
        ("flops_in_EFLOPs", "flops", 1e18), ("Training FLOPs (×10^18)", "flops", 1e18),
        ("flops (1e18)", "flops", 1e18),
        ("compute [PF-days]", "flops", 8.64e19), ("loss (bits)", "loss", np.log(2)),
    ],
)  # fmt: skip
def test_headers_state_units(header: str, name: str, factor: float) -> None:
    unit = unit_of(header, name)
    assert unit is not None and unit.plain(np.array([3.0])) == pytest.approx([3 * factor])


@pytest.mark.parametrize("header", ["num_flops", "flops", "num_parameters", "TFLOPs/s", "log_flops", "params"])
def test_headers_without_a_unit_state_none(header: str) -> None:
    assert unit_of(header, "flops") is None and unit_of(header, "num_tokens") is None


def test_tables_in_other_units_give_the_same_fit_and_answer() -> None:
    table, _ = isoflop(noise_of(0.001, seed=0))
    table["flops"] = 6 * table["num_parameters"] * table["num_tokens"]
    table.pop("budget", None)
    plain = fit_law("chinchilla-isoflop", table, **FEW)
    n, d, c, loss = (table[name] for name in ("num_parameters", "num_tokens", "flops", "loss"))
    for other in (
        {"params (B)": n / 1e9, "tokens_M": d / 1e6, "log10_flops": np.log10(c), "Loss": loss},
        {"num_parameters": n, "num_tokens": d, "GFLOPs": c / 1e9, "loss": loss},
        {"Num Parameters": [f"{float(v) / 1e6}M params" for v in n], "num_tokens": d, "flops": c, "loss": loss},
    ):
        fit = fit_law("chinchilla-isoflop", other, **FEW)
        assert fit.constants == pytest.approx(plain.constants, rel=1e-6)
        assert "doubtful_units" not in fit.extra
    mapped = {"size (B)": n / 1e9, "num_tokens": d, "flops": c, "val_ppl": np.exp(loss)}
    columns = {"num_parameters": "size (B)", "loss": "val_ppl"}
    fit = fit_law("chinchilla-isoflop", mapped, columns=columns, **FEW)
    assert fit.constants == pytest.approx(plain.constants, rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"flops": lambda c: c / 1e9},
        {"flops": np.log10},
        {"num_parameters": lambda n: n / 1e9},
        {"num_tokens": np.log10},
    ],
    ids=lambda change: " ".join(change),
)
def test_no_answer_is_given_for_a_budget_where_units_are_in_doubt(change: dict) -> None:
    table, _ = isoflop(noise_of(0.001, seed=0))
    table["flops"] = 6 * table["num_parameters"] * table["num_tokens"]
    table.pop("budget", None)
    table |= {name: how(table[name]) for name, how in change.items()}
    fit = fit_law("chinchilla-parametric", table, **FEW)
    assert fit.extra["doubtful_units"] and "no answer to --flops" in fit.text([1e21])
    found = compare_approaches(table, [1e21], **FEW)
    assert not found.allocations and any("no answer to --flops" in text for text in found.warnings)


def test_a_header_that_its_numbers_belie_is_not_followed() -> None:
    n = np.geomspace(1e6, 1e9, 6)
    fit = fit_law("kaplan-n", {"params (B)": n, "loss": (8.8e13 / n) ** 0.076}, **FEW)
    assert fit.constants["N_c"] == pytest.approx(8.8e13)
    assert any("taken as they are" in text for text in fit.extra["doubtful_units"])
    fit = fit_law("kaplan-c", {"log10_flops": n * 1e12, "loss": (1e27 / n) ** 0.05}, **FEW)
    assert fit.points["flops"] == pytest.approx(n * 1e12)


def test_names_of_one_column_are_recognized_only_where_they_are_one() -> None:
    assert same_columns(["eval_loss", "size", "model"]) == {}
    assert same_columns(["params (B)", "params_M"]) == {}
    assert same_columns(["num_parameters", "params (B)"]) == {}


def test_zeros_that_a_law_does_not_need_and_rows_of_step_0_stop_nothing() -> None:
    table, truth = parametric(silence)
    rows = len(table["loss"])
    more = {"num_parameters_non_embedding": np.zeros(rows), "flops": np.zeros(rows), "step": np.arange(rows)}
    fit = fit_law("chinchilla-parametric", table | more, **FEW)
    assert fit.num_points == rows and fit.constants == pytest.approx(truth, rel=1e-4)
    first = {"num_parameters": 1e7, "num_tokens": 0.0, "loss": 11.0}
    fit = fit_law("chinchilla-parametric", {k: [first[k], *table[k]] for k in table}, **FEW)
    assert fit.num_points == rows and fit.constants == pytest.approx(truth, rel=1e-4)
    assert any("1 of 65 rows are from before the first step" in note for note in fit.notes)


def test_a_table_of_tiny_runs_draws_no_alarm_about_units() -> None:
    """As in the results.parquet of a sweep on a laptop: 2 thousand to 11 thousand parameters, 200 thousand tokens."""
    n = np.array([2000, 4000, 9000, 2100, 4100, 9100])
    d = np.array([200_000, 200_000, 200_000, 90_000, 90_000, 90_000])
    table = {"num_parameters": n, "num_tokens": d, "flops": 6.3 * n * d, "loss": 2 + 30 / n**0.3 + 40 / d**0.4}
    table |= {"knowledge_bits": 1.2 * n, "max_knowledge_bits": np.full(6, 1e7), "exposures": np.full(6, 50)}
    table |= {"run": list("abcdef"), "int8_bits_per_parameter": [None] * 6, "top_band_exposures": [None] * 6}
    for law in ("capacity", "kaplan-n", "kaplan-c"):
        assert "doubtful_units" not in fit_law(law, table, **FEW).extra


def test_a_standard_error_far_above_its_constant_is_a_dash():
    table, _ = noisy("exposures", "equal", 0)
    fit = fit_law("exposures", table, num_bootstraps=10)
    name = next(iter(fit.constants))
    fit.standard_errors[name] = 99 * fit.constants[name]
    assert not line_of(fit, name).endswith(" -")
    fit.standard_errors[name] = 1e20 * fit.constants[name]
    assert line_of(fit, name).endswith(" -")


def line_of(fit: Fit, name: str) -> str:
    return next(line.rstrip() for line in fit.text().splitlines() if line.startswith(name))
