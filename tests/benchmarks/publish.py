"""Seconds to draw people, and to publish rendered biographies with one and two processes. Run by hand."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from knowcap.dataset import write
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe


WANTED = {"people": 10.0, "published": 180.0}  # seconds a million, of one core and of two


def main() -> None:
    """Prints seconds, seconds a million, the ratio to what is wanted, and the memory of one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_people", type=int, default=100_000)
    count = parser.parse_args().num_people

    for num_proc in (1, 2):
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            write(Recipe(num_people=count, renderings=1), Path(place) / "bioS", num_proc)
            took = time.perf_counter() - began
        million = took * 1e6 / count
        print(
            f"{count:,} published, num_proc {num_proc}: {took:.1f} s, {million:.0f} s a million, "
            f"{WANTED['published'] / million:.1f} x as fast as wanted"
        )
        if num_proc == 1:
            print(f"  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB at most; compare --num_people")

    began = time.perf_counter()
    People(load_pools(), 1_000_000, seed=0).codes(np.arange(1_000_000))
    drawn = time.perf_counter() - began
    print(f"1,000,000 people drawn: {drawn:.1f} s, {WANTED['people'] / drawn:.1f} x as fast as wanted")


if __name__ == "__main__":
    main()
