"""Seconds that approach 3 takes on 240 points, by both solvers, against the 5 s it may take on one core.

python tests/benchmarks/laws.py
"""

from __future__ import annotations

import os


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import time  # noqa: E402

import numpy as np  # noqa: E402

from knowcap.laws import Options, fit_parametric  # noqa: E402


def main() -> None:
    random = np.random.default_rng(0)
    n = np.exp(random.uniform(np.log(5e7), np.log(1.6e10), 240))
    d = np.exp(random.uniform(np.log(8e8), np.log(3e11), 240))
    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(0.007 * random.standard_normal(240))
    for solver, bootstraps in (("projection", 10), ("grid", 10), ("both", 10), ("both", 1000)):
        wall, cpu = time.perf_counter(), time.process_time()
        fit = fit_parametric(n, d, loss, Options(num_bootstraps=bootstraps), solver=solver)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        line = f"{solver:<11}{bootstraps:>5} bootstraps  {wall:6.2f} s  {cpu:6.2f} s of CPU"
        print(f"{line}  {5 / cpu:5.1f} times within 5 s  objective {fit.objective:.10g}")


if __name__ == "__main__":
    main()
