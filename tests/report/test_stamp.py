"""Stamps: a plot is made again when what it shows, the code or the file itself has changed, and only then."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from figures import DRAW
from run_folders import make_training

from knowcap.report import stamp
from knowcap.report.plots import formats_of, plot_loss
from knowcap.report.stamp import make_stamped


pytestmark = pytest.mark.usefixtures("every_format")
SHOWS = {"bits": [1.5, math.nan], "name": "Zoë"}


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plot in all formats, stamped, and the same without stamps."""
    folder = tmp_path_factory.mktemp("stamps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knowcap.report.plots.BESIDE_PNG", (".pdf", ".svg"))
        patch.setattr("knowcap.report.plots._draw", DRAW)
        plot_loss(make_training(), folder / "plain.png")
        make_stamped(formats_of(folder / "loss.png"), SHOWS, lambda: plot_loss(make_training(), folder / "loss.png"))
    return folder / "loss.png"


def remade(files: list[Path], shows: Any = SHOWS) -> bool:
    """Whether the files would be made again."""
    asked: list[int] = []

    def make() -> None:
        asked.append(1)
        for file in files:
            file.write_bytes(b"new" + (stamp.PNG_END if file.suffix == ".png" else b""))

    assert make_stamped(files, shows, make) == bool(asked)
    return bool(asked)


def test_files_that_are_as_they_were_made_are_kept(plot: Path) -> None:
    before = [file.stat().st_mtime_ns for file in formats_of(plot)]
    assert not remade(formats_of(plot))
    assert not remade(formats_of(plot), {"name": "Zoë", "bits": [1.5, math.nan]})
    assert [file.stat().st_mtime_ns for file in formats_of(plot)] == before


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "one bit", "unstamped", "empty"])
def test_a_file_that_is_missing_or_damaged_is_made_again(plot: Path, tmp_path: Path, ending: str, damage: str) -> None:
    for file in formats_of(plot):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / f"loss.{ending}"
    content = bytearray(file.read_bytes())
    if damage == "one bit":
        content[len(content) // 2] ^= 1
    changed = {
        "cut off": content[:-9], "one bit": content, "unstamped": (plot.parent / f"plain.{ending}").read_bytes(),
        "empty": b"",
    }  # fmt: skip
    file.write_bytes(changed[damage]) if damage in changed else file.unlink()
    assert remade(formats_of(tmp_path / "loss.png"))
    assert not remade(formats_of(tmp_path / "loss.png"))


def test_other_content_and_other_code_make_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "page.html"]
    assert remade(files) and not remade(files)
    assert remade(files, SHOWS | {"name": "Zoe"}) and remade(files)
    monkeypatch.setattr(stamp, "_code", lambda: "other")
    assert remade(files) and not remade(files)


def test_a_stamped_file_shows_what_it_showed(plot: Path) -> None:
    from matplotlib.image import imread

    plain = plot.with_name("plain.png")
    assert (imread(plot) == imread(plain)).all()
    for ending in ("pdf", "svg"):
        content, stamped = (path.with_suffix(f".{ending}").read_bytes() for path in (plain, plot))
        assert stamped.startswith(content) and len(stamped) < len(content) + 200
    assert ET.parse(plot.with_suffix(".svg")).getroot().tag.endswith("svg")
