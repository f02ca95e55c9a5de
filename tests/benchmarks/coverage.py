"""How often the intervals of laws hold the truth, and how wide they are, under five kinds of noise.

python tests/benchmarks/coverage.py [TRIALS] [LAW ...] [NOISE ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from simulated import NOISES, held  # noqa: E402


LAWS = (
    "capacity", "exposures", "kaplan-n", "kaplan-nd", "kaplan-ns", "critical-batch", "chinchilla-parametric",
    "chinchilla-isoflop", "step-law", "accuracy", "multi-power", "factors", "data-constrained", "mixtures",
)  # fmt: skip
BOOTSTRAPPED = ("chinchilla-parametric", "data-constrained", "mixtures")


def main(trials: int, laws: list[str], kinds: list[str]) -> None:
    print(f"{trials} tables of each kind, intervals of 90 %: rate / median width in logs")
    for law in laws:
        bootstraps = 200 if law in BOOTSTRAPPED else 10
        for kind in kinds:
            found = [held(law, kind, seed, bootstraps) for seed in range(trials)]
            rates = "  ".join(
                f"{name} {np.mean([each[name][0] for each in found]):.2f} / "
                f"{np.median([each[name][1] for each in found]):.3g}"
                for name in found[0]
            )
            print(f"{law:<22}{kind:<11}{rates}", flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    noises = [word for word in words if word in NOISES]
    names = [word for word in words if not word.isdigit() and word not in noises]
    main(numbers[0] if numbers else 300, names or list(LAWS), noises or list(NOISES))
