"""Cells on a Ray cluster of two nodes, of which one is killed in the middle: its cells go on where they can."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sweep_cells import run_until, start, write_sweep


def ancestors_of(process: int) -> Iterator[int]:
    """The process that started another one, the one that started that, and so on."""
    while process > 1:
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            return
        yield process


def cells_of(started: int, folder: Path) -> list[Path]:
    """Run folders that workers of the node of a process are training in, past a checkpoint."""
    found = []
    for lock in folder.glob("runs/sweeps/grid/*/.lock"):
        text = lock.read_text().strip()
        checkpoints = list(lock.parent.glob("checkpoints/checkpoint-*/trainer_state.json"))
        unfinished = checkpoints and not (lock.parent / "model").exists()
        if text.isdigit() and unfinished and started in ancestors_of(int(text)):
            found.append(lock.parent)
    return found


def free_port() -> int:
    """A port of the loopback without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def node(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node of one CPU in a process group of its own, which is killed at the end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block", "--num-cpus", "1"]
    command += ["--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    devnull = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=devnull, stderr=devnull, start_new_session=True)
    try:
        yield process
    finally:
        kill_node(process)


def kill_node(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of all that a node started: its workers have groups of their own, and would train on for a while."""
    there = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    for number in [pid for pid in there if process.pid in (pid, *ancestors_of(pid))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


SWEEP = """
base: base.yaml
list: [{quantize_bits: []}]
grid: {seed: [0, 1, 2]}
"""


@pytest.mark.slow
def test_cells_of_a_node_that_dies_go_on_elsewhere_to_the_same_table(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    for name in ("alone", "cluster"):
        write_sweep(tmp_path / name, SWEEP)
    assert run_until(start(tmp_path / "alone"), lambda: False, lambda: None) == 0

    address = f"127.0.0.1:{free_port()}"
    killed: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="ray") as short, contextlib.ExitStack() as nodes:
        port = address.split(":")[1]
        head = node("--head", "--port", port, "--temp-dir", short, "--include-dashboard", "false")
        nodes.enter_context(head)
        other = nodes.enter_context(node("--address", address))

        def happened() -> bool:
            killed[:] = cells_of(other.pid, tmp_path / "cluster")
            return bool(killed)

        words = ("--engine", "ray", "--ray_address", address)
        status = run_until(start(tmp_path / "cluster", *words), happened, lambda: kill_node(other))
    log = (tmp_path / "cluster" / "log").read_text()
    assert status == 0, log
    assert killed, log
    assert "resuming from step" in log
    tables = [(tmp_path / name / "runs/sweeps/grid/results.parquet").read_bytes() for name in ("alone", "cluster")]
    assert tables[0] == tables[1]
    assert not (tmp_path / "cluster/runs/sweeps/grid/failures").exists()
