"""CPU seconds and memory of fits: approach 3 by its solvers on 240 points, and laws on 10,000 rows.

python tests/benchmarks/laws.py
"""

from __future__ import annotations

import os


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import resource  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402

from knowcap.laws import Fit, Options, fit_capacity, fit_kaplan_nd, fit_parametric  # noqa: E402


def runs(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, tokens and losses of Hoffmann et al.'s law with noise of 0.7 %."""
    random = np.random.default_rng(0)
    n = np.exp(random.uniform(np.log(5e7), np.log(1.6e10), number))
    d = np.exp(random.uniform(np.log(8e8), np.log(3e11), number))
    return n, d, (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(0.007 * random.standard_normal(number))


def measured(name: str, fit: Callable[[], Fit]) -> None:
    """Prints what a fit takes, and the largest memory of the process up to then."""
    start = time.process_time()
    objective = fit().objective
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{name:<48}{seconds:7.2f} s of CPU {memory:7.0f} MB  objective {objective:.10g}", flush=True)


def main() -> None:
    small, few = runs(240), Options(num_bootstraps=10)
    fit_parametric(*small, few)  # imports
    for solver in ("projection", "grid", "both"):
        measured(f"240 points, {solver}, 10 bootstraps", lambda s=solver: fit_parametric(*small, few, solver=s))
    measured("240 points, projection, 1000 bootstraps", lambda: fit_parametric(*small))
    n, d, loss = runs(10_000)
    bits = np.minimum(2 * n, 1e9) * np.exp(0.03 * np.random.default_rng(1).standard_normal(len(n)))
    measured("10,000 rows, capacity", lambda: fit_capacity(n, bits, np.full_like(n, 1e9)))
    measured("10,000 rows, kaplan-nd", lambda: fit_kaplan_nd(n, d, loss))
    measured("10,000 rows, chinchilla-parametric", lambda: fit_parametric(n, d, loss))


if __name__ == "__main__":
    main()
