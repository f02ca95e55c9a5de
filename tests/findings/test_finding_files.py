"""Finding files: every problem is found before a cell is run, all at once; the packaged ones have none."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from finding_files import FINDING, SWEEP, write_finding

import knowcap.findings
from knowcap.cli import main
from knowcap.findings import judge, load_finding, packaged_findings
from knowcap.findings.file import order
from knowcap.findings.pages import page_text, with_table
from knowcap.recipe import RecipeError
from knowcap.sweep import load_sweep


ROOT = Path(__file__).resolve().parents[2]
VALUE = "{says: x, statistic: value, of: {exposures: 100, num_people: 500}, at_least: 1}"


packaged = cache(load_finding)  # of a packaged finding's name


def problems_of(folder: Path, statements: str = VALUE, **parts) -> list[str]:
    """The problems of a finding file."""
    file = write_finding(folder, statements, **parts)
    with pytest.raises(RecipeError) as error:
        load_finding(file)
    return error.value.problems


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("statistic: value", "statistic: ratios", "got 'ratios', expected value, ratio"),
        ("statistic: value", "statistic: ratio", "ratio needs `to`"),
        ("statistic: value", "statistic: slope", "slope needs `along`"),
        ("says: x", "says: ''", "says is missing"),
        ("at_least: 1", "at_lest: 1", "unknown key 'at_lest'; did you mean 'at_least'?"),
        ("at_least: 1", "at_least: 1, at_most: 1", "at_least 1 is not below at_most 1"),
        ("at_least: 1", "at_least: one", "at_least: got 'one', expected a number"),
        ("at_least: 1", "at_least: 1, over: max", "over: got 'max', expected mean or best or worst"),
        ("at_least: 1", "at_least: 1, over: best", "over has no effect, since one cell has each seed"),
        ("at_least: 1", "at_least: 1, to: {exposures: 1000}", "to has no effect on value"),
        ("at_least: 1", "at_least: 1, along: exposures", "along has no effect on value"),
        ("at_least: 1", "at_least: 1, column: bit_per_parameter", "did you mean 'bits_per_parameter'?"),
        ("at_least: 1", "at_least: 1, column: loss / loss / loss", "expected one column or a quotient of two"),
        ("exposures: 100", "exposures: 200", "no cell has exposures 200; the cells have 100, 1000"),
        ("exposures: 100", "exposures: many", "exposures: got 'many'"),
        ("exposures: 100", "exposure: 100", "'exposure' is no recipe key; did you mean 'exposures'?"),
        ("exposures: 100", "corpus: bioD", "corpus is bioD in all cells; leave it out"),
        ("exposures: 100", "seed: 10", "a statement is about all seeds"),
        ("exposures: 100, ", "", "2 cells have one seed (exposures 100, 1000); select one, or give `over`"),
        ("statistic: value", "statistic: spread", "spread needs cells that differ in more than their seed"),
    ],
)
def test_problems_of_a_statement(tmp_path, old, new, expected):
    assert old in VALUE
    found = problems_of(tmp_path, VALUE.replace(old, new))
    assert any(problem.startswith("statement 1: ") and expected in problem for problem in found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("number: 4", "number: four", "number: got 'four'"),
        ("scale: small", "scale: large", "scale: got 'large', expected small or paper"),
        ("  title: Half of it\n", "", "title is missing"),
        ("  number: 4\n", "  number: 4\n  papers: x\n", "unknown key 'papers'; did you mean 'paper'?"),
        ("  number: 4\n", "  number: 4\n  seeds: [10, 11, 12]\n", "seeds has no effect without sweeps"),
        ("  number: 4\n", "  number: 4\n  sweeps: [quickstar]\n", "did you mean 'quickstart'?"),
        ("  number: 4\n", "  number: 4\n  sweeps: [04-half]\n", "'04-half' is given twice"),
        ("  number: 4\n", "  number: 4\n  sweeps: [quickstart]\n  seeds: [9, 10, 11]\n", "whole numbers from 10"),
        ("  number: 4\n", "  number: 4\n  sweeps: quickstart\n", "expected a list of names or paths"),
    ],
)
def test_problems_of_a_finding(tmp_path, old, new, expected):
    assert old in FINDING
    found = problems_of(tmp_path, head=FINDING.replace(old, new))
    assert any(problem.startswith("finding: ") and expected in problem for problem in found)


def test_all_problems_come_at_once(tmp_path):
    head = FINDING.replace("number: 4", "number: 0").replace("scale: small", "scale: x")
    assert len(problems_of(tmp_path, f"{VALUE.replace('at_least: 1', 'over: x')}\n{{says: y}}", head=head)) == 6


def test_development_seeds_decide_nothing(tmp_path):
    (problem,) = problems_of(tmp_path, sweep=SWEEP.replace("10, 11, 12, 13", "9, 10, 11, 12"))
    assert "the cells have seed 9, but seeds 0 to 9 are for development" in problem
    assert "seed 0, but" in problems_of(tmp_path, sweep=SWEEP.replace("  seed: [10, 11, 12, 13]\n", ""))[0]


def test_three_seeds_in_common_are_needed(tmp_path):
    (problem,) = problems_of(tmp_path, sweep=SWEEP.replace("10, 11, 12, 13", "10, 11"))
    assert "2 seeds from 10 in common (10, 11), expected 3 or more" in problem


def test_quantized_columns_need_quantized_copies(tmp_path):
    sweep = SWEEP.replace("grid:", "list: [{quantize_bits: [8]}]\ngrid:")
    line = VALUE.replace("at_least", "column: int4_bits_per_parameter, at_least")
    assert "some cells have no int4 copy" in problems_of(tmp_path, line, sweep=sweep)[0]


def test_knowcap_sweep_checks_the_finding_before_any_cell(tmp_path, capsys):
    file = write_finding(tmp_path, VALUE.replace("value", "valu"))
    assert main(["sweep", str(file), "--output_dir", str(tmp_path / "runs")]) == 2
    assert "statement 1: statistic: got 'valu'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_finding_of_other_sweeps_has_no_cells_of_its_own(tmp_path, capsys):
    head = FINDING.replace("  statements:", "  sweeps: [gpt2-1000-exposures]\n  statements:")
    line = "{says: a peak of 2, statistic: value, over: best, at_least: 2}"
    file = write_finding(tmp_path, line, sweep="", head=head)
    (sweep,) = load_finding(file).sweeps
    assert {cell.recipe.seed for cell in sweep.cells} == {10, 11, 12} and len(sweep.cells) == 3 * 24
    assert main(["sweep", str(file)]) == 2
    assert (
        "no cells of its own; run the sweeps that its finding rests on: gpt2-1000-exposures" in capsys.readouterr().err
    )


def test_seeds_of_the_command_multiply_the_cells(tmp_path):
    sweep = load_sweep("gpt2-1000-exposures", tmp_path, (10, 11))
    assert len(sweep.cells) == 48 and sweep.cells[1].name == f"{sweep.cells[0].name.removesuffix('10')}11"
    with pytest.raises(RecipeError, match="seeds: the file has seeds of its own"):
        load_sweep("quickstart", tmp_path, (10, 11))


@pytest.mark.parametrize("name", packaged_findings())
def test_packaged_findings_have_no_problems(name):
    finding = packaged(name)
    assert name.startswith(f"{finding.number:02}-") and (finding.scale == "paper") == name.endswith("-paper")
    own = [cell for sweep in finding.sweeps[:1] for cell in sweep.cells if sweep.file == finding.file]
    if any(cell.recipe.quantization_method != "quanto" for cell in own) and find_spec("gptqmodel") is None:
        with pytest.raises(RecipeError) as raised:
            load_sweep(finding.file)
        assert all("needs gptqmodel" in problem for problem in raised.value.problems)
    else:
        load_sweep(finding.file)


def test_an_installed_knowcap_has_no_results(tmp_path, capsys, monkeypatch):
    file = write_finding(tmp_path / "sweeps", VALUE)
    monkeypatch.setattr("knowcap.recipe_file.RECIPES_DIR", tmp_path / "knowcap" / "recipes")
    assert main(["findings", str(file)]) == 2
    assert "no results of findings; give --results" in capsys.readouterr().err
    assert main(["findings", str(file), "--results", str(tmp_path / "none")]) == 2
    assert f"there is no folder {tmp_path}/none" in capsys.readouterr().err


def test_the_example_of_the_page_has_no_problems(tmp_path):
    page = Path(knowcap.findings.__file__).parent / "README.md"
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "example.yaml").write_text(example)
    assert len(load_finding(tmp_path / "example.yaml").statements) == 3


def test_what_is_committed_is_what_the_committed_results_give():
    """If this fails, run the command in src/knowcap/findings/README.md that writes the pages, and commit them."""
    cards = ROOT / "model_cards"
    loaded = sorted(map(packaged, packaged_findings()), key=order)
    verdicts = [judge(finding, cards / "findings") for finding in loaded]
    assert (cards / "findings.html").read_text() == page_text(verdicts, "findings")
    for path, link in ((ROOT / "README.md", "model_cards/findings"), (cards / "README.md", "findings")):
        assert path.read_text() == with_table(path, verdicts, link)
