"""A sweep's page: everything in one file, marks where the figures are, and a table that a browser sorts."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from run_folders import make_run, make_training
from sweep_cells import write_sweep

from knowcap.sweep import Sweep, load_sweep
from knowcap.sweep.charts import frontier, training
from knowcap.sweep.run import write_results
from knowcap.sweep.svg import Axis


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


def row(parameters: int, bits: float, most: float, people: int, won: bool | None = True) -> dict:
    return {
        "run": f"{parameters}-{people}", "num_parameters": parameters, "knowledge_bits": bits, "won": won,
        "max_knowledge_bits": most, "num_entities": people, "bits_per_parameter": bits / parameters,
    }  # fmt: skip


def marks(svg: str) -> dict[str, tuple[float, float]]:
    """The middle of every mark that says a run's name, by that name."""
    found = {}
    for shape in ET.fromstring(svg):
        title = shape.find("title")
        if title is None:
            continue
        if shape.tag == "circle":
            at = float(shape.get("cx")), float(shape.get("cy"))
        else:
            corners = [tuple(map(float, pair.split(","))) for pair in shape.get("points").split()]
            ends = [(min(values) + max(values)) / 2 for values in zip(*corners, strict=True)]
            at = ends[0], ends[1]
        found[title.text.split(":")[0]] = at
    return found


def test_a_mark_of_one_bit_a_parameter_is_on_the_line_of_one_bit():
    rows = [row(1_000, 1_000, 40_000, 500), row(30_000, 30_000, 40_000, 500), row(9_000, 18_000, 40_000, 500)]
    svg = frontier(rows)
    found = marks(svg)
    lines = [line.get("points") for line in ET.fromstring(svg).iter("polyline")]
    for points, on in zip(lines[:2], (["9000-500"], ["1000-500", "30000-500"]), strict=True):
        (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in points.split())
        for name in on:
            x, y = found[name]
            assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=1.5)


def test_every_n_has_a_mark_of_its_own_and_losers_are_hollow():
    rows = [row(1_000 * n, 900 * n, 5_000 * n, 100 * n) for n in (1, 2, 3)] + [row(1_500, 900, 5_000, 100, False)]
    shapes = [shape for shape in ET.fromstring(frontier(rows)) if shape.find("title") is not None]
    looks = {(s.tag, len((s.get("points") or "").split()), s.get("stroke")) for s in shapes}
    assert len(looks) == 3
    assert [s.get("fill") == "#ffffff" for s in shapes].count(True) == 1


def test_what_holds_no_bits_is_counted_below_the_frontier():
    svg = frontier([row(1_000, -5.0, 4_000, 10), row(1_000, 100.0, 4_000, 10)])
    assert "1 of 2 hold no bits" in svg and len(marks(svg)) == 1


@pytest.mark.parametrize(("low", "high", "log"), [(0.0, 7.3, False), (2.0, 9_000.0, True), (-1.4, -1.3, False)])
def test_ticks_lie_within_their_axis_evenly(low, high, log):
    axis = Axis(low, high, 100, 500, log)
    ticks = axis.ticks()
    assert len(ticks) >= 2 and all(100 <= axis.at(tick) <= 500.001 for tick in ticks)
    assert [axis.at(low), axis.at(high)] == pytest.approx([100, 500])
    middle = math.sqrt(low * high) if log else (low + high) / 2
    assert axis.at(middle) == pytest.approx(300)


def test_a_long_history_is_thinned_and_keeps_its_end():
    log = [{"step": s, "loss": 5.0 / s, "tokens": 10 * s} for s in range(1, 3001)]
    bits = [{"tokens": 10 * s, "bits_per_parameter": s / 3000, "max_bits_per_parameter": 2.0} for s in (1500, 3000)]
    svg = training(make_training(log_history=log, knowledge_history=bits))
    loss, right, most = (line.get("points").split() for line in ET.fromstring(svg).iter("polyline"))
    assert 100 < len(loss) <= 150 and loss[-1].startswith("335.0,")
    assert len(right) == 2 and len(most) == 2
    assert training({"model_name": "x", "log_history": []}) == ""


def test_the_page_holds_everything_itself(tmp_path):
    sweep = made_up(tmp_path)
    text = (sweep.folder / "report.html").read_text()
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(http|//|data:|file)""", text)
    assert "<link" not in text and "@import" not in text and "<img" not in text
    for name in SHARES:
        assert text.count(name) >= 2, "in the table and under its curve"
    assert text.count("<figure>") == 4
    assert "Means over seeds" in text
    assert (sweep.folder / "bits_vs_parameters.png").stat().st_size > 1000
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
