"""Reports: every measured model in the table, plots and cards in every run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folders import make_capacity, make_run

from knowcap.cli import main
from knowcap.report.stage import COLUMNS, ReportError, find_runs, report, report_table


def test_a_folder_of_runs_gets_a_table_of_every_model(tmp_path: Path) -> None:
    make_run(tmp_path / "b")
    make_run(tmp_path / "sweep" / "a", share=0.5)
    path = report(tmp_path, recursive=True)
    assert path == tmp_path / "report.md"
    text = path.read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == list(COLUMNS)
    assert [row[0] for row in cells[2:]] == ["b"] * 3 + ["sweep/a"] * 3
    assert [row[5] for row in cells[2:]] == ["fp32", "int8", "int4"] * 2
    capacity = make_capacity()
    expected = f"{capacity['bits_per_parameter']:.3f} ± 0.020, one seed"
    assert cells[2] == [
        "b",
        "gpt2-rotary-2-2",
        "52,352",
        "800",
        "465",
        "fp32",
        expected,
        cells[2][7],
        f"{capacity['bits_per_parameter'] / 32:.3f}",
        "-1.250 ± 0.050",
        "80.0 %",
    ]
    assert float(cells[2][7]) == pytest.approx(capacity["max_bits_per_parameter"], abs=5e-4)
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert report_table(tmp_path, recursive=True) in text


def test_the_figures_are_in_report_json_in_full(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    report(tmp_path)
    models = json.loads((tmp_path / "report.json").read_text())["models"]
    assert [(m["run"], m["folder"]) for m in models] == [
        ("tiny", "model"),
        ("tiny", "quantized/int8"),
        ("tiny", "quantized/int4"),
    ]
    capacity = json.loads((run_dir / "quantized" / "int4" / "capacity.json").read_text())
    assert {key: models[2][key] for key in capacity} == capacity


@pytest.mark.usefixtures("every_format")
def test_every_run_gets_plots_cards_and_a_copy_of_its_capacity(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    report(tmp_path)
    assert {p.name for p in (run_dir / "plots").iterdir()} == {
        f"{name}.{end}"
        for name in ("loss", "attributes", "attributes_int8", "attributes_int4", "bits_vs_parameters")
        for end in ("png", "pdf", "svg")
    }
    assert (tmp_path / "bits_vs_parameters.png").stat().st_size > 1000
    assert (run_dir / "capacity.json").read_bytes() == (run_dir / "model" / "capacity.json").read_bytes()
    card = (run_dir / "model" / "README.md").read_text()
    for name in ("loss", "attributes", "bits_vs_parameters"):
        assert f"](plots/{name}.png)" in card
        assert (run_dir / "model" / "plots" / f"{name}.png").is_file()
    quantized = (run_dir / "quantized" / "int8" / "README.md").read_text()
    assert "plots/attributes_int8.png" in quantized
    assert "loss.png" not in quantized
    assert not list(tmp_path.rglob(".*"))


def test_one_run_folder_can_be_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / "tiny")
    assert report(run_dir) == run_dir / "report.md"
    assert "| tiny " in report_table(run_dir)
    monkeypatch.chdir(run_dir)
    assert report_table(".") == report_table(run_dir)


def test_a_report_can_be_made_again(tmp_path: Path) -> None:
    make_run(tmp_path / "tiny")
    first = report(tmp_path).read_bytes()
    assert report(tmp_path).read_bytes() == first


def test_a_plot_is_drawn_again_only_when_what_it_shows_has_changed(tmp_path: Path, drawn: list) -> None:
    run_dir = make_run(tmp_path / "tiny")
    report(run_dir)
    first = len(drawn)
    assert first == 5 and report(run_dir) and report(tmp_path) and len(drawn) == first + 1  # the frontier of all runs
    copied = [(run_dir / name).read_bytes() for name in ("bits_vs_parameters.png", "plots/bits_vs_parameters.png")]
    assert copied[0] == copied[1]
    capacity = make_capacity("int4", 0.25)
    (run_dir / "quantized" / "int4" / "capacity.json").write_text(json.dumps(capacity))
    (run_dir / "plots" / "loss.png").unlink()
    del drawn[:]
    report(run_dir)
    titles = {figure.axes[0].get_title().split(" of ")[0] for figure in drawn}
    assert titles == {"Knowledge learned against model size", "Bits per entity", "Training loss"} and len(drawn) == 3
    report(run_dir)
    assert len(drawn) == 3


def test_a_run_that_was_not_trained_here_has_no_loss_plot(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    (run_dir / "model" / "training.json").unlink()
    report(tmp_path)
    assert not (run_dir / "plots" / "loss.png").exists()


def test_unfinished_and_unmeasured_runs_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "done")
    make_run(tmp_path / ".unfinished.partial")
    (tmp_path / "trained" / "model").mkdir(parents=True)
    unmeasured = make_run(tmp_path / "half") / "quantized" / "int4"
    (unmeasured / "capacity.json").unlink()
    assert [run.name for run in find_runs(tmp_path)] == ["done", "half"]
    assert report_table(tmp_path).count("int4") == 1


def test_deeper_runs_are_reported_only_when_asked_for(tmp_path: Path) -> None:
    for name in ("b", "a/deep", "a"):
        make_run(tmp_path / name)
    (tmp_path / "a" / "measured" / "model").mkdir(parents=True)  # of a table called model.csv
    shutil.copy(tmp_path / "a" / "model" / "capacity.json", tmp_path / "a" / "measured" / "model")
    assert [run.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)] == ["a", "b"]
    assert [run.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path, True)] == ["a", "a/deep", "b"]
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]
    report(tmp_path)
    assert (tmp_path / "a" / "plots").exists() and not (tmp_path / "a" / "deep" / "plots").exists()
    make_run(tmp_path / "c" / "x" / "deep")
    with pytest.raises(ReportError, match="such as .*c/x/deep, are reported with --recursive"):
        find_runs(tmp_path / "c")


def test_the_command_lists_the_files_that_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b" / "deep")
    for words in ((), ("--recursive",)):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert main(["report", str(tmp_path), *words]) == 0
        written = {p for p in tmp_path.rglob("*") if p.is_file() and before.get(p) != p.stat().st_mtime_ns}
        lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
        kept = {path for path in (tmp_path / "a" / "plots").iterdir() if path in before}  # those shown before
        assert {Path(line) for line in lines if line.startswith(str(tmp_path))} == written | kept
        assert not written & kept and bool(kept) == bool(words)
        assert any((tmp_path / "b") in path.parents for path in written) == bool(words)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="has no measured run"):
        report(tmp_path)
    with pytest.raises(ReportError, match="is not a folder"):
        report(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def seed_rows(folder: Path) -> list[list[str]]:
    """The cells of the rows that are means over seeds."""
    rows = [line for line in report_table(folder).splitlines() if "seeds:" in line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_runs_that_differ_in_their_seed_alone_get_a_row_of_their_mean(tmp_path: Path) -> None:
    for seed, share in enumerate((0.7, 0.8, 0.9)):
        recipe = {"seed": seed, "run_name": f"s{seed}", "versions": {"torch": str(seed)}}
        make_run(tmp_path / f"s{seed}", share, recipe=recipe, seed=seed)
    report(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert [(g["folder"], g["runs"], g["seeds"]) for g in content["seeds"]] == [
        (folder, ["s0", "s1", "s2"], [0, 1, 2]) for folder in ("model", "quantized/int8", "quantized/int4")
    ]
    group, most = content["seeds"][0], make_capacity()["max_bits_per_parameter"]
    assert group["bits_per_parameter"] == pytest.approx(0.8 * most)
    half = 4.30265 * 0.1 * most / 3**0.5  # Student's t with 2 degrees of freedom, of three runs 0.1 apart
    low, high = group["confidence_interval"]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-4)
    assert seed_rows(tmp_path)[0] == [
        "mean of 3 seeds: s0, s1, s2", "gpt2-rotary-2-2", "52,352", "800", "465", "fp32",
        f"{0.8 * most:.3f} ± {half:.3f}, 3 seeds", f"{most:.3f}", f"{0.8 * most / 32:.3f}", "", "80.0 %",
    ]  # fmt: skip
    assert "- mean of seeds:" in (tmp_path / "report.md").read_text()


def test_exposures_of_people_that_are_seen_unequally_are_called_a_mean(tmp_path: Path) -> None:
    for seed in range(2):
        unequal = {"frequencies_bits_per_entity": 0.5, "frequencies": {"seed": seed}}
        make_run(tmp_path / f"s{seed}", recipe={"seed": seed, "exposures_exponent": 1.0}, seed=seed, **unequal)
    assert [row[4] for row in seed_rows(tmp_path)][:1] == ["465 on average"]
    assert report_table(tmp_path).count("465 on average") == 9  # two models and their mean, in three precisions


def test_a_data_set_that_all_seeds_share_widens_the_interval_of_their_mean(tmp_path: Path) -> None:
    for seed in range(2):
        recipe = {"seed": seed, "run_name": f"s{seed}", "dataset_name": "you/people"}
        make_run(tmp_path / f"s{seed}", recipe=recipe, seed=seed)
    report(tmp_path)
    group = json.loads((tmp_path / "report.json").read_text())["seeds"][0]
    assert group["same_entities"] and group["standard_deviation"] == 0.0
    assert seed_rows(tmp_path)[0][6].endswith("± 0.020, 2 seeds"), "equal runs: what is left is their entities' part"


def test_a_run_without_a_newer_key_is_one_of_its_default(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"lists": "short"}, {"lists": "paper"})):
        make_run(tmp_path / str(number), recipe=changes | {"seed": number})
    assert {row[0] for row in seed_rows(tmp_path)} == {"mean of 2 seeds: 0, 1"}


def test_other_settings_and_equal_seeds_are_no_seeds(tmp_path: Path) -> None:
    for number, changes in enumerate(({"seed": 0}, {"seed": 0}, {"seed": 1, "exposures": 100}, {"seed": 2, "x": 1})):
        make_run(tmp_path / str(number), recipe=changes)
    (make_run(tmp_path / "4", recipe={"seed": 3}) / "recipe.yaml").unlink()
    assert seed_rows(tmp_path) == []
