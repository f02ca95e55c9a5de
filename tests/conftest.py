"""Tests are offline, seeded by themselves, and leave nothing behind: set before any library reads the environment."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import tempfile
from multiprocessing import get_context
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
    """Plots are figures that are not drawn, which is most of a tiny run's time, and PNG files alone; tests of plots
    use `rendered`, `every_format` or `drawn`. Processes that share work are forked from one that has the imports which
    they need; tests/test_processes.py starts them as outside of tests.
    """
    from figures import undrawn

    from knowcap import files
    from knowcap.processes import jobs
    from knowcap.report import plots

    files._sync = lambda path: None  # it waits for the disk; tests of it use the original
    plots.BESIDE_PNG, plots._draw = (), undrawn
    server = get_context("forkserver")
    server.set_forkserver_preload(["knowcap.dataset.stage", "knowcap.training.windows"])
    jobs.get_context = lambda _: server


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """Garbage is not looked for in what was imported: a million objects, at the end of every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn."""
    from figures import DRAW

    monkeypatch.setattr("knowcap.report.plots._draw", DRAW)


@pytest.fixture
def every_format(monkeypatch: pytest.MonkeyPatch, rendered: None) -> None:
    """A plot is PNG, PDF and SVG, as outside of tests."""
    monkeypatch.setattr("knowcap.report.plots.BESIDE_PNG", (".pdf", ".svg"))


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
def drawn(monkeypatch: pytest.MonkeyPatch, rendered: None) -> list[Figure]:
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
