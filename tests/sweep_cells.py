"""A sweep small enough to run whole in a test: for tests only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


BASE = """
num_people: 60
model_name: gpt2-2-2
head_dim: 8
pools_fraction: 0.05
num_templates: 1
vocab_size: 200
exposures: 16
renderings: 2
control_people: 100
block_size: 96
windows: aligned
train_batch_size: 8
learning_rate: 3e-3
warmup_steps: 2
logging_steps: 7
save_steps: 10
quantize_bits: [8]
"""
SWEEP = """
base: base.yaml
grid:
  model_name: [gpt2-2-2, gpt2-rotary-2-2]
  seed: [0, 1]
"""


def write_sweep(folder: Path, sweep: str = SWEEP, base: str = BASE) -> Path:
    """A folder with base.yaml and grid.yaml; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(base)
    (folder / "grid.yaml").write_text(sweep)
    return folder / "grid.yaml"


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`knowcap sweep` of a folder's grid.yaml into its `runs`, with its lines in its `log`."""
    command = [sys.executable, "-m", "knowcap.cli", "sweep", "grid.yaml", "--output_dir", "runs", *words]
    with (folder / "log").open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)


def run_until(process: subprocess.Popen[bytes], happened: Callable[[], bool], act: Callable[[], object]) -> int:
    """Waits for a process to end; acts once, as soon as something happened. Returns its status."""
    acted = False
    while process.poll() is None:
        if not acted and happened():
            act()
            acted = True
        try:
            process.wait(timeout=0.005)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9."""
    process.send_signal(signal.SIGKILL)
