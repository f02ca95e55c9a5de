"""Approach 2's error by the window in which parabolas are fitted, on settings with known optima.

python tests/benchmarks/isoflop.py [SEEDS]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from simulated import PROFILE_SETTINGS, PROFILE_SIZES, noise_of, profiles  # noqa: E402

from knowcap.laws import Options, fit_isoflop  # noqa: E402


WINDOWS = {"chosen": None, "factor 2": 2.0, "factor 3": 3.0, "factor 4": 4.0, "factor 8": 8.0, "all sizes": np.inf}


def main(seeds: int) -> None:
    print("sizes  noise    window     largest mean error  root mean square  within .035  budgets left out")
    for step in (1, 2):
        for noise in (0.0005, 0.003, 0.008):
            for name, window in WINDOWS.items():
                errors, left = [], 0
                for setting in PROFILE_SETTINGS:
                    for seed in range(seeds):
                        table, truth = profiles(setting, noise_of(noise, seed))
                        kept = np.isin(table["num_parameters"], PROFILE_SIZES[::step])
                        columns = (column[kept] for column in table.values())
                        fit = fit_isoflop(*columns, Options(num_bootstraps=10), window=window)
                        errors.append(fit.constants["exponent_parameters"] - truth)
                        left += 12 - len(fit.extra["budgets"])
                each = np.array(errors).reshape(len(PROFILE_SETTINGS), seeds)
                most, square = np.abs(each.mean(1)).max(), np.sqrt((each**2).mean())
                within = f"{(np.abs(each) < 0.035).sum()} of {each.size}"
                print(
                    f"{len(PROFILE_SIZES[::step]):>5}  {noise:<7}  {name:<9}  {most:>18.3f}  {square:>16.4f}  "
                    f"{within:>11}  {left:>16}",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
