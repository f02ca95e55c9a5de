"""Seconds that `import knowcap` and `knowcap --help` take, in processes of their own: python tests/benchmarks/start.py

What they must not import is held by tests/cli/test_cli.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time


COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import knowcap": ["-c", "import knowcap"],
    "knowcap --help": ["-m", "knowcap.cli", "--help"],
    "knowcap measure --help": ["-m", "knowcap.cli", "measure", "--help"],
}


def main() -> None:
    """Prints the shortest and the median time of each command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    for name, words in COMMANDS.items():
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        print(f"{name:<24}{min(seconds):.3f} s at best, {sorted(seconds)[repeats // 2]:.3f} s in the median")


if __name__ == "__main__":
    main()
