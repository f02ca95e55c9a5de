"""What a sweep adds to its runs, what side by side gains, and how long a dry run of a thousand cells takes. By hand.

What is wanted: less than 1 s a cell; 1.7 times the cells an hour on two cores; less than 5 s.

    python tests/benchmarks/sweep.py [--cells 8]
    python tests/benchmarks/sweep.py --workers 2 [--cells 6]     (only the gain: some minutes on a quiet machine)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knowcap.run import pipeline as stages
from knowcap.run.folder import claim_run_dir
from knowcap.sweep import load_sweep
from knowcap.sweep import run as sweep_run


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
LONG = BASE.replace("num_people: 60", "num_people: 400").replace("exposures: 8", "exposures: 40")  # 20 s, about
THOUSAND = """
base: gpt2/bios-1000-exposures
grid:
  model_name: [gpt2-rotary-2-2, gpt2-rotary-4-2, gpt2-rotary-4-4, gpt2-rotary-8-8, gpt2-rotary-12-12, gpt2-rotary-6-20]
  num_people: [10000, 20000, 50000, 100000, 200000, 500000, 1000000]
  learning_rate: [2e-3, 1e-3, 5e-4]
  seed: [0, 1, 2, 3, 4, 5, 6, 7]
"""


def main() -> None:
    """Prints seconds: of a dry run in a process of its own, and of a sweep outside its stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, help="[8, with --workers 6]")
    parser.add_argument("--workers", type=int, help="time cells of some 20 s one after another, and this many at once")
    given = parser.parse_args()
    count = given.cells or (6 if given.workers else 8)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "base.yaml").write_text(LONG if given.workers else BASE)
        (place / "grid.yaml").write_text(f"base: base.yaml\ngrid: {{seed: [{', '.join(map(str, range(count)))}]}}")
        if given.workers:
            return side_by_side(place, count, given.workers)
        (place / "thousand.yaml").write_text(THOUSAND)
        dry_run(place / "thousand.yaml")
        engine(place, count)


def side_by_side(place: Path, count: int, workers: int) -> None:
    """Cells an hour of whole commands, with one worker and with several; and whether both end with the same table."""
    walls, tables = [], []
    for number in (1, workers):
        output = place / f"workers{number}"
        words = ["--workers", str(number), "--output_dir", str(output)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "knowcap.cli", "sweep", str(place / "grid.yaml"), *words]
        subprocess.run(command, check=True, capture_output=True)
        walls.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        tables.append(next(output.rglob("results.parquet")).read_bytes())
        print(
            f"workers {number}: {count} cells in {walls[-1]:.1f} s ({cpu:.1f} s on the CPU, {cpu / walls[-1]:.2f} "
            f"cores busy), {3600 * count / walls[-1]:.0f} cells an hour",
            flush=True,
        )
    print(f"the largest process used {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6:.2f} GB")
    same = "the same table" if tables[0] == tables[1] else "ANOTHER TABLE"
    print(f"{workers} workers: {walls[0] / walls[1]:.2f} times the cells an hour, {same}; wanted on two cores: 1.7")


def engine(place: Path, count: int) -> None:
    """What a sweep does outside its runs' stages, in wall and CPU seconds.

    The check of the texts, once for each kind of text, stands apart: `knowcap run` has it too.
    """
    spent: dict[str, list[tuple[float, float]]] = {"stages": [], "texts": [], "sweep": []}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return work(*words)
            finally:
                spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))

        return call

    warm = load_sweep(place / "grid.yaml", place / "warm").cells[0].recipe
    stages.run(warm, claim_run_dir(warm))
    stages.run, sweep_run.text_problems = timed("stages", stages.run), timed("texts", sweep_run.text_problems)
    timed("sweep", lambda: sweep_run.run_sweep(load_sweep(place / "grid.yaml", place / "swept")))()
    (wall, cpu), (texts_wall, texts_cpu) = spent["sweep"][0], spent["texts"][0]
    inside = [sum(column) for column in zip(*spent["stages"], strict=True)]
    print(
        f"{count} cells in {wall:.1f} s: outside the stages {(wall - inside[0] - texts_wall) / count:.2f} s a cell "
        f"({(cpu - inside[1] - texts_cpu) / count:.2f} s on the CPU), {wall / inside[0]:.3f} x the stages; wanted: "
        f"less than 1 s; the check of the texts, once, {texts_wall:.1f} s ({texts_cpu:.1f} s)"
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
