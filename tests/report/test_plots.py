"""Plots: PNG files and SVG with what they must show, drawn without a display."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from figures import PNG, texts
from run_folders import make_capacity, make_training

from knowcap.report.plots import frontier_svg, loss_svg, plot_attributes, plot_frontier, plot_loss


pytestmark = pytest.mark.usefixtures("rendered")


def test_the_frontier_has_logarithmic_axes_both_lines_and_every_point(tmp_path: Path, drawn: list) -> None:
    capacities = [make_capacity(p, s) for p, s in (("fp32", 0.8), ("int8", 0.79), ("int4", 0.3))]
    capacities.append(make_capacity(num_entities=1600, num_parameters=10**6))
    path = plot_frontier(capacities, tmp_path / "new" / "frontier.png")
    assert path.read_bytes().startswith(PNG)
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {(c["num_parameters"], c["knowledge_bits"]) for c in capacities} <= points
    lines = {line.get_label(): line for line in axes.lines}
    x, y = lines["2 bits per parameter"].get_data()
    assert y == pytest.approx(2 * x)
    x, y = lines["1 bit per parameter"].get_data()
    assert y == pytest.approx(x)
    for word in ("fp32", "int8", "int4", "N = 800", "N = 1,600", "knowledge learned (bits)", "parameters"):
        assert word in texts(drawn[0])


def test_the_frontier_counts_what_it_cannot_show(tmp_path: Path, drawn: list) -> None:
    plot_frontier([make_capacity(share=0.5), make_capacity("int4", share=-0.1)], tmp_path / "frontier.png")
    assert "1 of 2 hold no bits" in texts(drawn[0])
    plot_frontier([make_capacity(share=-0.1)], tmp_path / "nothing.png")
    assert "1 of 1 hold no bits" in texts(drawn[1])


def test_the_frontier_takes_intervals_that_reach_zero_or_are_missing(tmp_path: Path) -> None:
    reaching = make_capacity(share=0.01, confidence_interval=[-0.5, 0.5])
    missing = make_capacity(confidence_interval=[None, None])
    assert plot_frontier([reaching, missing], tmp_path / "frontier.png").is_file()


def test_a_precision_without_a_marker_of_its_own_is_shown(tmp_path: Path, drawn: list) -> None:
    plot_frontier([make_capacity(precision="fp8")], tmp_path / "frontier.png")
    assert "fp8" in texts(drawn[0])


def test_no_capacities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no capacities"):
        plot_frontier([], tmp_path / "frontier.png")


def test_attributes_show_bits_beside_their_maximum(tmp_path: Path, drawn: list) -> None:
    capacity = make_capacity()
    capacity["attributes"]["birth_date"]["bits_per_entity"] = -2.5
    capacity["attributes"]["employer"] |= {"bits_per_entity": None, "max_bits_per_entity": None}
    assert plot_attributes(capacity, tmp_path / "attributes.png").read_bytes().startswith(PNG)
    (axes,) = drawn[0].axes
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == pytest.approx([20 - 9.643856, 10, 0, 1, 0.8 * (20 - 9.643856), -2.5, 0, 0.8])
    assert axes.get_xlim()[0] < -2.5, "nothing is clipped"
    written = texts(drawn[0])
    for word in ("-2.50 of 10.00", "not stated", "birth date", "bits per entity", "gpt2-rotary-2-2", "fp32"):
        assert word in written


def test_the_loss_is_shown_against_tokens_or_else_steps(tmp_path: Path, drawn: list) -> None:
    training = make_training()
    training["log_history"].append({"step": 9, "train_runtime": 3.0})
    assert plot_loss(training, tmp_path / "loss.png").read_bytes().startswith(PNG)
    (axes,) = drawn[0].axes
    assert list(axes.lines[0].get_xdata()) == [1_800 * s for s in range(1, 9)]
    assert "nats per token" in axes.get_ylabel()
    without = [{k: v for k, v in entry.items() if k != "tokens"} for entry in training["log_history"]]
    plot_loss(training | {"log_history": without}, tmp_path / "loss.png")
    assert drawn[1].axes[0].get_xlabel() == "steps"


def test_a_training_without_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set logging_steps below"):
        plot_loss(make_training(log_history=[]), tmp_path / "loss.png")


def test_the_same_capacities_give_the_same_file(tmp_path: Path) -> None:
    first = plot_frontier([make_capacity()], tmp_path / "a.png").read_bytes()
    assert plot_frontier([make_capacity()], tmp_path / "b.png").read_bytes() == first


ROW_NAMES = ("llama-2-2", "gpt2-rotary-2-2", "gpt2-rotary-4-4", "theirs")
SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def point(parameters: int, bits: float, most: float, people: int, won: bool = True) -> dict[str, Any]:
    """A run of a sweep as the page shows it."""
    return {
        "run": f"{parameters}-{people}", "num_parameters": parameters, "knowledge_bits": bits, "won": won,
        "max_knowledge_bits": most, "num_entities": people, "bits_per_parameter": bits / parameters,
        "confidence_interval": [None, None], "precision": "fp32",
    }  # fmt: skip


def marks(svg: str) -> dict[str, tuple[float, float, str]]:
    """The place and style of every point by the run's name in its tooltip."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None:
            (mark,) = group.iter(f"{SVG}use")
            found[title.text.split(":")[0]] = float(mark.get("x")), float(mark.get("y")), mark.get("style")
    return found


def test_a_point_of_one_bit_per_parameter_is_on_the_line_of_one_bit() -> None:
    rows = [point(1_000, 1_000, 40_000, 500), point(30_000, 30_000, 40_000, 500), point(9_000, 18_000, 40_000, 500)]
    svg = frontier_svg(rows)
    found = marks(svg)
    slanted = re.findall(
        r'd="M ([-\d.]+) ([-\d.]+)\s+L ([-\d.]+) ([-\d.]+)\s*" clip-path="[^"]+" style="[^"]*#777777', svg
    )
    assert len(slanted) == 2
    for line, names in zip(slanted, (["9000-500"], ["1000-500", "30000-500"]), strict=True):
        x1, y1, x2, y2 = map(float, line)
        for name in names:
            x, y, _ = found[name]
            assert y == pytest.approx(y1 + (y2 - y1) * (x - x1) / (x2 - x1), abs=0.1)


def test_every_n_has_a_color_and_runs_that_lost_are_hollow() -> None:
    rows = [point(1_000 * n, 900 * n, 5_000 * n, 100 * n) for n in (1, 2, 3)]
    found = marks(frontier_svg([*rows, point(1_500, 900, 5_000, 100, won=False)]))
    assert len({re.search(r"stroke: (#\w+)", style)[1] for _, _, style in found.values()}) == 3
    assert [name for name, (_, _, style) in found.items() if "fill: #ffffff" in style] == ["1500-100"]


def test_a_mark_is_an_architecture_a_color_is_n_and_the_maxima_are_labeled_once() -> None:
    rows = [
        point(1_000 * n * k, 900 * n, 5_000 * n, 100 * n) | {"model_name": name}
        for n in (1, 2)
        for k, name in enumerate(ROW_NAMES, start=1)
    ]
    svg = frontier_svg(rows)
    root, shapes, colors = ET.fromstring(svg), {}, {}
    for group in root.iter(f"{SVG}g"):
        if (title := group.find(f"{SVG}title")) is not None:
            (mark,) = group.iter(f"{SVG}use")
            shapes[title.text.split(":")[0]] = root.find(f".//{SVG}path[@id='{mark.get(HREF)[1:]}']").get("d")
            colors[title.text.split(":")[0]] = re.search(r"stroke: (#\w+)", mark.get("style"))[1]
    by_name = {name: {shapes[row["run"]] for row in rows if row["model_name"] == name} for name in ROW_NAMES}
    assert all(len(found) == 1 for found in by_name.values())
    assert by_name["gpt2-rotary-2-2"] == by_name["gpt2-rotary-4-4"], "sizes of one architecture have its mark"
    assert len(set.union(*by_name.values())) == 3
    assert len({colors[row["run"]] for row in rows if row["num_entities"] == 100}) == 1
    assert len(set(colors.values())) == 2
    words = " ".join(text.text for text in root.iter(f"{SVG}text"))
    for label in ("R_max", "gpt2-rotary", "llama", "theirs", "N = 100", "N = 200", "fp32"):
        assert words.count(label) == 1, label


@pytest.mark.usefixtures("every_format")
def test_a_plot_is_png_pdf_and_svg_the_same_bytes_for_the_same_numbers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot_attributes(make_capacity(), tmp_path / f"{name}.png")
    for end, begin in ((".png", PNG), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        first, second = ((tmp_path / f"{name}{end}").read_bytes() for name in ("a", "b"))
        assert first == second and first.startswith(begin)
    plot_attributes(make_capacity(), tmp_path / "alone.pdf")
    assert (tmp_path / "alone.pdf").is_file() and not (tmp_path / "alone.png").exists()
    assert len(list(tmp_path.iterdir())) == 7, "no unfinished file is left"


def test_points_without_bits_have_no_mark() -> None:
    svg = frontier_svg([point(1_000, -5.0, 4_000, 10), point(1_000, 100.0, 4_000, 10)])
    assert "1 of 2 hold no bits" in svg and len(marks(svg)) == 1


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    log = [{"step": s, "loss": 2 + s % 2, "tokens": 10 * s} for s in range(1, 3001)]
    bits = [{"tokens": 10 * s, "bits_per_parameter": s / 3000, "max_bits_per_parameter": 2.0} for s in (1500, 3000)]
    svg = loss_svg(make_training(log_history=log, knowledge_history=bits), "a")
    assert len(svg) < 20_000 and "tokens seen" in svg and "bits per parameter" in svg
    assert loss_svg(make_training(log_history=log, knowledge_history=bits), "a") == svg
    assert loss_svg({"model_name": "x", "log_history": []}, "a") == ""
