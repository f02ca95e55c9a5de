"""What a sweep adds to its runs, in seconds a cell, and how long a dry run of a thousand cells takes. Run by hand.

What is wanted: less than 1 s a cell, and less than 5 s.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from knowcap import run as stages
from knowcap.run_folder import claim_run_dir
from knowcap.sweep import load_sweep
from knowcap.sweep.run import run_sweep


BASE = """
num_people: 60
model_name: gpt2-2-2
head_dim: 8
pools_fraction: 0.05
num_templates: 1
vocab_size: 200
exposures: 8
renderings: 2
control_people: 100
block_size: 160
windows: aligned
train_batch_size: 8
quantize_bits: [8]
"""
THOUSAND = """
base: gpt2/bios-1000-exposures
grid:
  model_name: [gpt2-rotary-2-2, gpt2-rotary-4-2, gpt2-rotary-4-4, gpt2-rotary-8-8, gpt2-rotary-12-12, gpt2-rotary-6-20]
  num_people: [10000, 20000, 50000, 100000, 200000, 500000, 1000000]
  learning_rate: [2e-3, 1e-3, 5e-4]
  seed: [0, 1, 2, 3, 4, 5, 6, 7]
"""


def main() -> None:
    """Prints seconds: of a sweep and of its stages called bare, and of a dry run in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "base.yaml").write_text(BASE)
        (place / "grid.yaml").write_text(
            f"base: base.yaml\ngrid: {{seed: [{', '.join(map(str, range(given.cells)))}]}}"
        )
        (place / "thousand.yaml").write_text(THOUSAND)
        dry_run(place / "thousand.yaml")
        engine(place, given.cells)


def engine(place: Path, count: int) -> None:
    """A sweep against its stages, called bare for the same recipes in the same process.

    Both take turns and the imports are paid before. The sweep's own seconds are those outside its stages.
    """
    stages_run, inside = stages.run, []

    def timed(*words: object) -> Path:
        began = time.perf_counter()
        try:
            return stages_run(*words)
        finally:
            inside.append(time.perf_counter() - began)

    warm = load_sweep(place / "grid.yaml", place / "warm").cells[0].recipe
    stages_run(warm, claim_run_dir(warm))
    began = time.perf_counter()
    for cell in load_sweep(place / "grid.yaml", place / "bare").cells:
        stages_run(cell.recipe, claim_run_dir(cell.recipe))
    bare = time.perf_counter() - began
    stages.run = timed
    began = time.perf_counter()
    run_sweep(load_sweep(place / "grid.yaml", place / "swept"))
    swept = time.perf_counter() - began
    stages.run = stages_run
    added = (swept - sum(inside)) / count
    print(
        f"{count} cells: sweep {swept:.1f} s, bare {bare:.1f} s ({(swept - bare) / count:+.2f} s a cell); outside the "
        f"stages {added:.2f} s a cell; wanted: less than 1 s"
    )


def dry_run(file: Path) -> None:
    """Seconds of `knowcap sweep FILE --dry_run`, its start included."""
    command = [sys.executable, "-m", "knowcap.cli", "sweep", str(file), "--dry_run", "--output_dir", str(file.parent)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.perf_counter() - began
    cells = next(line for line in done.stdout.splitlines() if " cells, " in line)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"dry run: {took:.1f} s, {cpu:.1f} s of them on the CPU ({cells}); wanted: less than 5 s", flush=True)


if __name__ == "__main__":
    main()
