"""Collected results and what is made of them: no cell is lost, and pages have every number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from finding_files import FINDING, write_finding, write_results

from knowcap.cli import main
from knowcap.files import FileError, read_json, write_json
from knowcap.findings import judge, load_finding
from knowcap.findings.collect import collect, without_plots
from knowcap.findings.pages import BEGIN, END, markdown_table
from knowcap.findings.plot import PAPER_PEAKS, paper_parameters, plot_findings
from knowcap.laws import read_runs
from knowcap.laws.law import LawError
from knowcap.recipe_file import read_recipe
from knowcap.sweep import load_sweep


RATIO = (
    "{says: a half, statistic: ratio, of: {exposures: 100, num_people: 500}, to: {exposures: 1000, num_people: 500}, "
    "at_least: 0.4, at_most: 0.6}"
)
CAPACITY = {
    "model_name": "gpt2-2-2", "num_entities": 500, "exposures": 100, "seed": 10, "num_parameters": 65_280,
    "num_parameters_non_embedding": 60_000, "num_parameters_used_vocabulary": 65_280, "max_bits_per_parameter": 2.0,
    "max_knowledge_bits": 130_560.0, "precision": "fp32", "confidence_interval": [0.7, 0.9],
    "stored_bits_per_parameter": 32.0,
}  # fmt: skip


def made_run(sweep_dir: Path, name: str, bits: float, finished: bool = True, **changed) -> None:
    """A run folder as a sweep leaves it, of made numbers."""
    recipe = replace(read_recipe("biod/compact-cpu")[0], **{"quantize_bits": (8,), "run_name": name} | changed)
    run, numbers = sweep_dir / name, {"bits_per_parameter": bits, "knowledge_bits": 65_280 * bits}
    (run / "quantized" / "int8").mkdir(parents=True, exist_ok=True)
    (run / "extraction" / "lora-8-2").mkdir(parents=True, exist_ok=True)
    (run / "model").mkdir(exist_ok=True)
    text = yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()})
    (run / "recipe.yaml").write_text(text)
    write_json(run / "model" / "capacity.json", CAPACITY | numbers)
    write_json(
        run / "quantized" / "int8" / "capacity.json", CAPACITY | {key: value / 2 for key, value in numbers.items()}
    )
    write_json(run / "extraction" / "lora-8-2" / "extraction.json", {"extractable_accuracy": 0.25})
    training = {"num_tokens": 1000, "num_steps": 10, "final_loss": float("nan"), "train_seconds": 60.0}
    write_json(run / "model" / "training.json", training, allow_nan=True)
    write_json(run / "model" / "config.json", {"vocab_size": 87})
    (run / "model" / "README.md").write_text("# Card\n\n![loss](plots/loss.png)\n\n![bits](plots/bits.png)\n\nText\n")
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    if finished:
        (run / "report.md").write_text("done")


def test_finished_cells_are_copied_without_weights_and_plots(tmp_path):
    made_run(tmp_path / "runs" / "01-a", "one", 0.8, seed=10)
    made_run(tmp_path / "runs" / "01-a", "two", 0.9, finished=False)
    file = collect(tmp_path / "runs" / "01-a", tmp_path / "results")
    (cell,) = read_json(file)["cells"].values()
    assert cell["row"]["bits_per_parameter"] == 0.8 and cell["row"]["int8_bits_per_parameter"] == 0.4
    assert cell["row"]["loss"] is None and cell["settings"]["seed"] == 10 and cell["train_seconds"] == 60.0
    copied = sorted(p.relative_to(file.parent).as_posix() for p in file.parent.rglob("*") if p.is_file())
    extraction = "cells/one/extraction/lora-8-2/extraction.json"
    assert copied == sorted([
        "cells/one/README.md", "cells/one/capacity.json", extraction, "cells/one/int8/capacity.json", "cells.json",
    ])  # fmt: skip
    assert (file.parent / "cells/one/README.md").read_text() == "# Card\n\nText\n"


def test_no_cell_is_lost_when_others_are_collected(tmp_path):
    made_run(tmp_path / "first" / "01-a", "one", 0.8)
    made_run(tmp_path / "first" / "01-a", "two", 0.9)
    collect(tmp_path / "first" / "01-a", tmp_path / "results")
    made_run(tmp_path / "second" / "01-a", "two", 1.1)
    made_run(tmp_path / "second" / "01-a", "three", 1.2)
    file = collect(tmp_path / "second" / "01-a", tmp_path / "results")
    bits = {name: cell["row"]["bits_per_parameter"] for name, cell in read_json(file)["cells"].items()}
    assert bits == {"one": 0.8, "two": 1.1, "three": 1.2}
    for name, found in bits.items():
        assert read_json(file.parent / "cells" / name / "capacity.json")["bits_per_parameter"] == found


def test_a_folder_without_a_finished_cell_is_an_error(tmp_path):
    made_run(tmp_path / "01-a", "one", 0.8, finished=False)
    with pytest.raises(FileError, match=r"no finished cell \(1 begun\)"):
        collect(tmp_path / "01-a", tmp_path / "results")


def test_collected_cells_are_those_of_their_sweep_file(tmp_path, capsys):
    line = "{says: x, statistic: value, at_least: 0.5, column: extraction.extractable_accuracy}"
    sweep = "base: biod/compact-cpu\nlist: [{quantize_bits: [8], num_people: 500}]\ngrid: {seed: [10, 11, 12]}\n"
    file = write_finding(tmp_path, line, sweep=sweep)
    for cell in load_sweep(file, tmp_path).cells:
        made_run(tmp_path / "sweeps" / "04-half", cell.name, 0.8, seed=cell.recipe.seed, num_people=500)
        capacity = tmp_path / "sweeps" / "04-half" / cell.name / "model" / "capacity.json"
        write_json(capacity, read_json(capacity) | {"seed": cell.recipe.seed})
    results = str(tmp_path / "results")
    assert main(["findings", "--collect", str(tmp_path / "sweeps" / "04-half"), "--results", results]) == 0
    assert capsys.readouterr().out.split() == [f"{results}/04-half/cells.json"]
    found = judge(load_finding(file), tmp_path / "results")
    assert found.statements[0].estimate.value == 0.25 and found.verdict == "does not hold"


def test_pictures_are_left_out_of_cards():
    assert without_plots("a\n\n![x](y)\n\nb\n\n\nc\n") == "a\n\nb\n\nc\n"


@pytest.fixture
def shown(tmp_path):
    """A finding with results, its verdict and the words of the command that shows it."""
    finding = load_finding(write_finding(tmp_path, RATIO))
    noise = {10: 0.49, 11: 0.5, 12: 0.51, 13: 0.5}
    results = write_results(
        tmp_path / "cards" / "findings",
        finding.sweeps[0],
        lambda c: {"bits_per_parameter": 1.6 if c.recipe.exposures == 1000 else 1.6 * noise[c.recipe.seed]},
    )
    for folder in (results / "04-half" / "cells").iterdir():
        (folder / "README.md").write_text("card")
    return judge(finding, results), ["findings", str(finding.file), "--results", str(results)]


def test_the_page_has_every_statement_with_its_interval_limits_cost_and_cards(tmp_path, shown):
    found, words = shown
    page = tmp_path / "cards" / "findings.html"
    assert main([*words, "--page", str(page)]) == 0
    text, one = page.read_text(), found.statements[0]
    for part in (one.ours, one.statement.limits, "Result 4: half", "a half", "10, 11, 12, 13", "holds"):
        assert part in text
    assert "8 of 8 cells run, trained in 8.0 min of one process" in text
    links = [line.split('"')[1] for line in text.splitlines() if line.startswith('<li><a href="')]
    assert len(links) == 8 and all((page.parent / link).is_file() for link in links)
    first = page.read_bytes()
    main([*words, "--page", str(page)])
    assert page.read_bytes() == first and "http" not in text


def test_the_markdown_table_stands_between_its_marks(tmp_path, shown):
    found, words = shown
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([*words, "--markdown", str(file)]) == 0
    table = markdown_table([found], "cards/findings")
    assert file.read_text() == f"before\n{BEGIN}\n{table}\n{END}\nafter\n"
    assert "[Half of it](cards/findings/04-half) | Result 4: half | a half: ratio 0.4999 [" in table
    file.write_text("no marks")
    assert main([*words, "--markdown", str(file)]) == 2


def test_one_line_of_the_markdown_table_has_both_scales(tmp_path, shown):
    found, _ = shown
    head = FINDING.replace("scale: small", "scale: paper\n  sweeps: [gpt2-1000-exposures]")
    file = write_finding(tmp_path, "{says: x, statistic: value, over: best, at_least: 2}", "", head, "04-half-paper")
    big = judge(load_finding(file), tmp_path)
    *_, line = markdown_table([found, big], "x").splitlines()
    assert line.endswith("| holds | not run |") and line.startswith("| 4 | [Half of it](x/04-half) |")


def test_two_findings_of_one_number_have_a_line_each(tmp_path, shown):
    found, _ = shown
    head = FINDING.replace("title: Half of it", "title: Half of it elsewhere")
    assert head != FINDING
    file = write_finding(tmp_path, RATIO, head=head, name="04-half-again")
    again = judge(load_finding(file), tmp_path)
    *_, one, other = markdown_table([found, again], "x").splitlines()
    assert "Half of it](" in one and "Half of it elsewhere" in other and other.endswith("| not run |  |")


def test_the_table_is_made_without_torch(tmp_path, shown):
    _, words = shown
    code = f"import sys; from knowcap.cli import main; main({words!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_paper_s_parameters_are_those_of_its_formula():
    assert (paper_parameters(2, 2), paper_parameters(3, 2)) == (816_000, 1_014_272)  # the reference's first two rows


def test_the_picture_has_a_mark_for_each_model_that_decides(tmp_path, shown, monkeypatch):
    found, words = shown
    drawn = []
    monkeypatch.setattr("knowcap.findings.plot.save_plot", lambda figure, path: drawn.append(figure))
    assert main([*words, "--plot", str(tmp_path / "a.png")]) == 0
    (ours, paper), bits = (
        drawn[0].axes,
        sorted(v.row["knowledge_bits"] for k, v in found.results.items() if "N500" in k[1]),
    )
    marks = next(line for line in ours.lines if line.get_label() == "N = 500")
    assert sorted(marks.get_ydata()) == bits and len(bits) == 8
    peaks = paper.lines[0]
    assert [y / x for x, y in zip(*peaks.get_data(), strict=True)] == pytest.approx([peak[-1] for peak in PAPER_PEAKS])


def test_there_is_no_picture_without_results(tmp_path):
    finding = load_finding(write_finding(tmp_path, RATIO))
    with pytest.raises(FileError, match="nothing to plot"):
        plot_findings([judge(finding, tmp_path)], tmp_path / "a.png")


def test_laws_are_fitted_to_collected_results(tmp_path, shown):
    found, _ = shown
    table = read_runs(tmp_path / "cards" / "findings" / "04-half" / "cells.json")
    for column in ("knowledge_bits", "exposures", "num_parameters"):
        assert sorted(table[column]) == sorted(r.row[column] for r in found.results.values())
    assert set(table["corpus"]) == {"bioD"} and len(table["run"]) == len(found.results) == 16
    (tmp_path / "other.json").write_text('{"cells": {"a": 1}}')
    with pytest.raises(LawError, match="expected the cells.json"):
        read_runs(tmp_path / "other.json")
