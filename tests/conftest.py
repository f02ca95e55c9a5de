"""Tests are offline, seeded by themselves, and leave nothing behind: set before any library reads the environment."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_HF_HOME = tempfile.mkdtemp(prefix="knowcap-tests-")
os.environ.update(
    HF_HOME=_HF_HOME,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
)
for _name in (
    "ACCELERATE_USE_FSDP", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "RANK", "WORLD_SIZE", "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
):  # fmt: skip
    os.environ.pop(_name, None)


def pytest_configure() -> None:
    """Plots are PNG files alone, which halves their time; `every_format` is for tests of the others."""
    from knowcap.report import plots

    plots.BESIDE_PNG = ()


@pytest.fixture
def every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot is PNG, PDF and SVG, as outside of tests."""
    monkeypatch.setattr("knowcap.report.plots.BESIDE_PNG", (".pdf", ".svg"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are made, but what is written of them is a PNG file without pixels."""
    from figures import PNG

    from knowcap.report.stamp import PNG_END

    def save(_: object, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + PNG_END)
        return path

    monkeypatch.setattr("knowcap.report.plots.save_plot", save)


def pytest_unconfigure() -> None:
    """Removes the Hugging Face cache of this session."""
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections end at this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to connect to {address}; tests are offline")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def bior_made(tmp_path, monkeypatch) -> None:
    """The data set that recipe gpt2/bior-1000-exposures is trained on, tiny, in a folder where the test now stands."""
    from writer_server import RuleWriter

    from knowcap.dataset.rewrite import Task, rewrite

    task = Task(num_people=6, texts_per_person=2, control_people=100)
    rewrite(task, RuleWriter(), tmp_path / "bioR-10k", progress=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for a look inside."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        if figure not in figures:  # once for all formats
            figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures
