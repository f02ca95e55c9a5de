"""Charts and HTML of the planner's answers: the answer lies on the curve, and the drawing is whole."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from knowcap.laws.plan.answer import Chart, Line
from knowcap.laws.plan.chart import short, svg
from knowcap.laws.plan.html import answer_html
from knowcap.laws.plan.questions import ask


QUESTIONS = {
    "size": {"bits": 1e9, "precision": "int8"},
    "holds": {"num_parameters": 7e9},
    "train": {"num_parameters": 1e8, "num_people": 2e6},
    "compute": {"flops": 1e21, "num_parameters": 1e9},
    "memory": {"num_layers": 12, "hidden_size": 768, "gradient_checkpointing": "full"},
    "passes": {"num_parameters": 1e8, "unique_tokens": 1e7, "passes": 16},
}


def parsed(fragment: str) -> ElementTree.Element:
    """The elements of a fragment of HTML, which has to be well formed."""
    return ElementTree.fromstring(f"<div>{fragment.replace('<br>', '<br/>')}</div>")


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_lies_on_its_curve(question: str) -> None:
    chart = ask(question, **QUESTIONS[question]).chart
    assert chart is not None
    for label, size, value in chart.marks:
        if value is None:
            continue
        line = next(line for line in chart.lines if line.label == label or len(chart.lines) == 1)
        x, y = np.array(line.points).T
        assert np.interp(math.log(size), np.log(x), y) == pytest.approx(value, rel=0.02)
        assert question != "compute" or value <= min(end for _, end in line.points) * (1 + 1e-9)  # the least loss


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_page_shows_every_number_and_what_the_command_prints(question: str) -> None:
    answer = ask(question, **QUESTIONS[question])
    page = parsed(answer_html(answer))
    text = "".join(page.itertext())
    assert answer.headline in text and answer.text() in "".join(page.find(".//code").itertext())
    assert all(name.replace("_", " ") in text and unit in text for name, unit in answer.units.items())
    assert all(note in text for note in answer.warnings)
    assert len(page.findall(".//svg")) == 1 and len(page.findall(".//circle")) >= 1


def test_a_drawing_stays_within_its_frame_and_shows_bands_and_levels() -> None:
    line = Line("law & <fit>", [(1e6, 2e6), (1e8, 2e8)], [(1e6, 4e6), (1e8, 4e8)])
    drawing = svg(Chart("bits held", [line], [("answer", 1e7, 2e7)], ("to store: 20 million bits", 2e7)))
    image = parsed(drawing).find("svg")
    assert image is not None
    _, _, width, height = map(float, image.get("viewBox", "").split())
    for mark in image.findall(".//circle"):
        assert 0 < float(mark.get("cx", "")) < width and 0 < float(mark.get("cy", "")) < height
    (mark,) = image.findall(".//circle")
    paths = image.findall(".//path")
    (band,) = [path for path in paths if path.get("fill-opacity")]
    (level,) = [path for path in paths if path.get("stroke-dasharray") == "4 3"]
    assert band.get("d", "").endswith("Z") and f" {float(mark.get('cy', '')):.1f}H" in level.get("d", "")
    assert "law & <fit>" in "".join(parsed(drawing).itertext())


def test_a_short_axis_has_ticks_between_the_powers_of_ten() -> None:
    line = Line("bytes", [(1.0, 3e10), (64.0, 3e11)])
    image = parsed(svg(Chart("bytes", [line], [("answer", 8.0, 1e11)]))).find("svg")
    assert image is not None
    assert {"50B", "100B", "200B", "1", "10"} <= {text.text for text in image.findall(".//text")}


def test_ticks_are_short() -> None:
    assert [short(v) for v in (1e3, 1e6, 7e10, 1e18, 0.5)] == ["1k", "1M", "70B", "1e18", "0.5"]
