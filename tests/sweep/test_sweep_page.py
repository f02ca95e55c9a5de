"""A sweep's page: one self-contained file, and a table that a browser sorts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from run_folders import make_run
from sweep_cells import write_sweep

from knowcap.sweep import Sweep, load_sweep
from knowcap.sweep.page import results_table
from knowcap.sweep.run import write_results
from knowcap.sweep.table import rows_of


SHARES = {"gpt2-2-2_seed0": 0.2, "gpt2-2-2_seed1": 0.4, "gpt2-rotary-2-2_seed0": 0.9, "gpt2-rotary-2-2_seed1": 0.6}


def made_up(folder: Path) -> Sweep:
    """A finished sweep of made-up figures, with its page."""
    sweep = load_sweep(write_sweep(folder), folder / "runs")
    for cell in sweep.cells:
        recipe = {"seed": cell.recipe.seed, "run_name": cell.name, "model_name": cell.recipe.model_name}
        make_run(cell.run_dir, SHARES[cell.name], recipe, seed=cell.recipe.seed, model_name=cell.recipe.model_name)
        (cell.run_dir / "report.md").write_text("")
        (cell.run_dir / "model" / "config.json").write_text('{"vocab_size": 200}')
    write_results(sweep)
    return sweep


@pytest.mark.usefixtures("rendered")
def test_the_page_holds_everything_itself(tmp_path):
    sweep = made_up(tmp_path)
    text = (sweep.folder / "report.html").read_text()
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(http|//|data:|file)""", text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r"""(?:url\(|href=")#([^")]+)""", text)) <= set(ids)
    assert "<link" not in text and "@import" not in text and "<img" not in text
    for name in SHARES:
        assert text.count(name) >= 2, "in the table and under its curve"
    assert text.count("<figure>") == 4
    assert "Means over seeds" in text
    assert (sweep.folder / "bits_vs_parameters.png").stat().st_size > 1000
    head, *lines = results_table(sweep, rows_of(sweep)).splitlines()
    assert head.split()[:2] == ["run", "model"] and len(lines) == 4
    assert [line.split()[1] for line in lines] == [cell.recipe.model_name for cell in sweep.cells]
    before = text
    write_results(sweep)
    assert (sweep.folder / "report.html").read_text() == before


@pytest.mark.slow
def test_a_browser_sorts_the_table_by_the_column_that_is_clicked(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    sweep = made_up(tmp_path)
    text = (sweep.folder / "report.html").read_text()
    heads = re.findall(r"<button type=\"button\">([^<]+)</button>", text)
    for column, clicks, expected in (
        ("bits/param", 1, sorted(SHARES, key=SHARES.get)),
        ("bits/param", 2, sorted(SHARES, key=SHARES.get, reverse=True)),
        ("run", 2, sorted(SHARES, reverse=True)),
    ):
        click = f"document.querySelectorAll('#runs th button')[{heads.index(column)}].click();" * clicks
        page = tmp_path / "clicked.html"
        page.write_text(text.replace("</body>", f"<script>{click}</script></body>"))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        body = done.stdout.split('id="runs"')[1].split("<tbody>")[1].split("</tbody>")[0]
        assert re.findall(r'<tr[^>]*><td class="text">([^<]+)</td>', body) == expected
