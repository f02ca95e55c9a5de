"""`knowcap fit`: what it prints and writes, and how it ends on bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from command_line import fails
from figures import PNG, texts
from simulated import SIMULATED, batch_curves, isoflop, noise_of

from knowcap.cli import fit as command
from knowcap.cli import main
from knowcap.laws import LAWS, fit_law
from knowcap.laws.compare import compare_approaches
from knowcap.laws.plot import plot_comparison, plot_fit


FEW = ("--num_bootstraps", "20")


def write(path: Path, table: dict[str, np.ndarray]) -> Path:
    """The table as a CSV file, with a column that no law knows."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*table, "comment"])
        rows.writerows([*(v.item() for v in row), "ok, so far"] for row in zip(*table.values(), strict=True))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write(tmp_path / "runs.csv", SIMULATED["kaplan-nd"][0](noise_of(0.01, seed=1))[0])


def test_the_command_has_all_laws() -> None:
    assert command._LAWS == LAWS


@pytest.mark.usefixtures("rendered")
def test_the_command_prints_and_writes_what_the_function_finds(runs: Path, tmp_path: Path, capsys) -> None:
    out, plot = tmp_path / "new" / "fit.json", tmp_path / "new" / "fit.png"
    assert main(["fit", "kaplan-nd", str(runs), "--json", str(out), "--plot", str(plot), "--seed", "3", *FEW]) == 0
    expected = fit_law("kaplan-nd", runs, num_bootstraps=20, seed=3)
    assert json.loads(out.read_text()) == json.loads(json.dumps(expected.to_dict()))
    assert plot.read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    for name, value in expected.constants.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        low, high = expected.intervals[name]
        assert f"{value:.5g}" in line
        assert f"[{low:.4g}, {high:.4g}]" in line
    assert "25 points" in printed


def test_columns_may_be_given_in_one_word_or_several_and_results_may_be_written_again(tmp_path: Path, capsys) -> None:
    table, _ = SIMULATED["kaplan-n"][0](noise_of(0.01, seed=1))
    path = write(tmp_path / "runs.csv", {"Model Size": table["num_parameters"], "eval_loss": table["loss"]})
    out = tmp_path / "fit.json"
    words = (["num_parameters=Model Size,loss=eval_loss"], ["num_parameters=Model Size", "loss=eval_loss"])
    for columns in words:
        assert main(["fit", "kaplan-n", str(path), "--columns", *columns, "--json", str(out), *FEW]) == 0
    assert json.loads(out.read_text())["num_points"] == 9
    capsys.readouterr()
    assert "expected OURS=THEIRS" in fails(capsys, "fit", "kaplan-n", str(path), "--columns", "loss")
    assert "given twice" in fails(capsys, "fit", "kaplan-n", str(path), "--columns", "loss=a", "loss=b")


def test_rows_are_chosen_by_the_values_of_a_column(tmp_path: Path, capsys) -> None:
    table, _ = SIMULATED["kaplan-n"][0](noise_of(0.0, seed=0))
    both = {name: np.concatenate([column, column * 2]) for name, column in table.items()}
    path = write(tmp_path / "runs.csv", both | {"dataset": np.repeat(["c4", "pile"], 9), "seed": np.repeat([1, 2], 9)})
    out = tmp_path / "fit.json"
    for chosen in ("dataset=c4", "seed=1.0"):
        assert main(["fit", "kaplan-n", str(path), "--where", chosen, "--json", str(out), *FEW]) == 0
        assert json.loads(out.read_text())["constants"]["N_c"] == pytest.approx(8.8e13)
    capsys.readouterr()
    assert "dataset has c4, pile" in fails(capsys, "fit", "kaplan-n", str(path), "--where", "dataset=c5")
    assert "no column 'data'" in fails(capsys, "fit", "kaplan-n", str(path), "--where", "data=c4")


def test_bad_input_is_one_message_and_nothing_is_written_over(runs: Path, tmp_path: Path, capsys) -> None:
    before = runs.read_bytes()
    assert "is given twice" in fails(capsys, "fit", "kaplan-nd", str(runs), "--json", str(runs))
    assert "is given twice" in fails(capsys, "fit", "kaplan-nd", str(runs), "--json", "a.json", "--plot", "a.json")
    other = tmp_path / "capacity.json"
    other.write_text('{"bits_per_parameter": 1}')
    assert "was not written by `knowcap fit`" in fails(capsys, "fit", "kaplan-nd", str(runs), "--json", str(other))
    assert "was not written by `knowcap fit`" in fails(
        capsys, "fit", "kaplan-nd", str(runs), "--plot", str(other.rename(tmp_path / "capacity.png"))
    )
    assert "is a folder" in fails(capsys, "fit", "kaplan-nd", str(runs), "--plot", str(tmp_path))
    assert "missing column knowledge_bits" in fails(capsys, "fit", "capacity", str(runs))
    assert "no such file" in fails(capsys, "fit", "capacity", str(tmp_path / "none.csv"))
    assert "--flops is for chinchilla" in fails(capsys, "fit", "kaplan-n", str(runs), "--flops", "1e24")
    assert "expected numbers greater than 0" in fails(capsys, "fit", "chinchilla", str(runs), "--flops", "-1")
    assert "confidence_level" in fails(capsys, "fit", "kaplan-nd", str(runs), "--confidence_level", "95")
    assert runs.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["capacity.png", "runs.csv"]


def test_budgets_are_spent_and_extrapolation_is_reported(tmp_path: Path, capsys) -> None:
    table, truth = isoflop(noise_of(1e-5, seed=0))
    path = write(tmp_path / "runs.csv", table)
    assert main(["fit", "chinchilla-isoflop", str(path), "--flops", "1e20", "3e23", *FEW]) == 0
    inside, beyond = [line for line in capsys.readouterr().out.splitlines() if line[:5] in ("1e+20", "3e+23")]
    size = truth["coefficient_parameters"] * 1e20 ** truth["exponent_parameters"]
    assert float(inside.split()[1]) == pytest.approx(size, rel=0.01)
    assert float(inside.split()[1]) * float(inside.split()[2]) * 6 == pytest.approx(1e20, rel=0.01)
    assert "extrapolated" not in inside
    assert "extrapolated: 1e+02 times the largest run" in beyond


@pytest.mark.usefixtures("every_format")
def test_all_approaches_are_printed_and_written_side_by_side(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "runs.csv", isoflop(noise_of(0.001, seed=0))[0])
    out, plot = tmp_path / "all.json", tmp_path / "all.png"
    words = ["--flops", "1e22", "--json", str(out), "--plot", str(plot)]
    assert main(["fit", "chinchilla", str(path), *words, *FEW]) == 0
    content = json.loads(out.read_text())
    assert set(content["approaches"]) == {"chinchilla-isoflop", "chinchilla-parametric"}
    assert content["allocations"][0]["flops"] == 1e22
    printed = capsys.readouterr().out
    assert "chinchilla-envelope: got 54 runs of fewer than 3 rows each, expected curves" in printed
    assert "exponent of parameters" in printed
    assert "approach 2 would find an exponent" in printed
    assert "1e+22 FLOPs: chinchilla-isoflop extrapolated: 3.3 times the largest run" in printed
    assert plot.read_bytes().startswith(PNG)
    assert (
        plot.with_suffix(".pdf").read_bytes().startswith(b"%PDF") and b"<svg" in plot.with_suffix(".svg").read_bytes()
    )
    plot.with_suffix(".pdf").write_text("of somebody else")
    assert main(["fit", "chinchilla", str(path), *words, *FEW]) == 2
    assert "all.pdf exists and was not written by" in capsys.readouterr().err
    assert main(["fit", "chinchilla", str(path), "--plot", str(tmp_path / "all.jpg"), *FEW]) == 2
    assert "ends with .png, .pdf, .svg" in capsys.readouterr().err


@pytest.mark.parametrize("law", LAWS)
def test_a_plot_has_every_point_the_law_and_the_residuals(law: str, tmp_path: Path, drawn: list) -> None:
    make, _, size = SIMULATED[law]
    fit = fit_law(law, make(noise_of(size or 1e-4, seed=2))[0], num_bootstraps=20)
    assert plot_fit(fit, tmp_path / "fit.png").read_bytes().startswith(PNG)
    (figure,) = drawn
    top, bottom = figure.axes
    shown = sum(len(line.get_xdata()) for line in top.lines if line.get_linestyle() == "None")
    stars = len(fit.extra["budgets"]) if law == "chinchilla-isoflop" else 0
    assert shown == (fit.num_points + stars if law != "chinchilla-envelope" else len(fit.points["observed"]))
    assert any(len(line.get_xdata()) >= 100 for line in top.lines)
    if law != "chinchilla-isoflop":
        heights = np.concatenate([line.get_ydata() for line in bottom.lines if line.get_linestyle() == "None"])
        assert heights == pytest.approx(100 * fit.residuals)
    assert law in texts(figure)


def test_curves_of_batch_sizes_and_comparisons_are_drawn(tmp_path: Path, drawn: list) -> None:
    plot_fit(
        fit_law("critical-batch", batch_curves(noise_of(0.001, seed=0))[0], num_bootstraps=20), tmp_path / "b.png"
    )
    assert "batches of the runs" in texts(drawn[0])
    plot_comparison(compare_approaches(isoflop(noise_of(0.001, seed=0))[0], num_bootstraps=20), tmp_path / "c.png")
    assert isinstance(drawn[1], matplotlib.figure.Figure)
    assert "chinchilla-parametric" in texts(drawn[1])
