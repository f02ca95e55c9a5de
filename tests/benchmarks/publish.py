"""Seconds and memory to make people, and to publish rendered biographies by one process and by two. Run by hand:

    python tests/benchmarks/publish.py --num_people 1000000

Every step is a process of its own, so that its memory is that of the step alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import write_tables
from knowcap.dataset.stage import tables, write
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe


PEOPLE_SECONDS, PEOPLE_BYTES = 10.0, 2**30  # wanted, for a million people
PUBLISHED_SECONDS = 180.0  # wanted, for a million biographies on two cores


def main() -> None:
    """Prints seconds, memory of all processes together, and ratios to what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_people", type=int, default=1_000_000)
    parser.add_argument("--step", nargs=2, metavar=("NAME", "NUM_PROC"), help="one step, in this process")
    given = parser.parse_args()
    if given.step is not None:
        return do(given.step[0], given.num_people, int(given.step[1]))

    count = given.num_people
    for step in ("people drawn", "people written"):
        seconds, computed, most = measured(step, count, 1)
        print(
            f"{count:,} {step}: {seconds:.1f} s ({computed:.1f} s of a core), {most / 2**20:.0f} MiB; "
            f"{PEOPLE_SECONDS * count / 1e6 / seconds:.1f} x as fast as wanted, in {most / PEOPLE_BYTES:.2f} of 1 GiB"
        )
    for num_proc in (1, 2):
        *_, smaller = measured("published", count // 4, num_proc)
        seconds, computed, most = measured("published", count, num_proc)
        print(
            f"{count:,} published, num_proc {num_proc}: {seconds:.1f} s ({computed:.1f} s of all cores), "
            f"{PUBLISHED_SECONDS * count / 1e6 / seconds:.1f} x as fast as is wanted of two; "
            f"{most / 2**20:.0f} MiB in all processes, {most / smaller:.2f} x that of {count // 4:,}"
        )


def do(step: str, count: int, num_proc: int) -> None:
    """One step, and how long it took, without the start of this process."""
    began = time.perf_counter()
    recipe = Recipe(num_people=count, renderings=1)
    with tempfile.TemporaryDirectory() as place:
        if step == "people drawn":
            People(load_pools(), count, seed=0).codes(np.arange(count))
        elif step == "people written":
            people = [table for table in tables(recipe, corpus_of(recipe)) if table.config == "people"]
            list(write_tables(Path(place), people, num_proc))
        else:
            write(recipe, Path(place) / "bioS", num_proc)
    print(time.perf_counter() - began, sum(os.times()[:4]))


def measured(step: str, count: int, num_proc: int) -> tuple[float, float, int]:
    """Seconds of a step, of all cores that computed (imports included), and bytes that its processes had at most."""
    command = [sys.executable, __file__, "--num_people", str(count), "--step", step, str(num_proc)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, memory(process.pid))
        time.sleep(0.02)
    seconds, computed = process.stdout.read().split()
    return float(seconds), float(computed), most


def memory(pid: int) -> int:
    """The resident memory of a process and of its children, in bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    resident = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(resident) + sum(memory(int(child)) for child in children)


if __name__ == "__main__":
    main()
