"""What `plan next` is worth on runs that exist: errors after the runs that it chooses, and after evenly spaced ones.

python tests/benchmarks/next_runs.py TABLE.csv [TABLE.csv ...]

A table has num_parameters, num_tokens and loss. Twelve of the smaller runs are known; of the eighth with the most
FLOPs the half that lies nearest the best ratio is to be predicted; up to six others may be added, 1 to 3.2 times the
FLOPs of a large one in all.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np  # noqa: E402

from knowcap.laws import LawError, fit_law, read_runs  # noqa: E402
from knowcap.laws.fit import Fit  # noqa: E402
from knowcap.laws.law import optimum  # noqa: E402
from knowcap.laws.plan.design import Design, choose_runs, evenly_spaced  # noqa: E402


Table = dict[str, np.ndarray]
TRIALS, KNOWN, MOST = 24, 12, 6
FIRST = 100  # seed; choices of known runs from 0 to 15 are those that the design's own numbers were chosen on
BUDGETS = (1.0, 1.5, 2.2, 3.2)


def at(table: Table, rows: np.ndarray) -> Table:
    return {name: column[rows] for name, column in table.items()}


def fitted(table: Table) -> Fit:
    return fit_law("chinchilla-parametric", table, num_bootstraps=10)


def error(known: Table, largest: Table) -> float:
    predicted = fitted(known).predict(largest)
    found = float(np.sqrt(np.mean(np.log(predicted / largest["loss"]) ** 2)))
    if not np.isfinite(found):
        raise LawError("constants out of range")
    return found


def nearest(design: Design, table: Table, pool: np.ndarray, budget: float) -> list[int]:
    """The runs of the table that are like those of a design, the dearest first, each once, within the budget."""
    flops, taken = table["flops"], []
    for n, d in sorted(zip(design.num_parameters, design.num_tokens, strict=True), key=lambda run: -run[0] * run[1]):
        left = [i for i in pool if i not in taken and flops[i] + flops[taken].sum() <= budget]
        if left:
            apart = np.hypot(np.log(table["num_parameters"][left] / n), np.log(table["num_tokens"][left] / d))
            taken.append(left[int(np.argmin(apart))])
    return taken


def trial(table: Table, seed: int, factor: float, largest: np.ndarray, rest: np.ndarray) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    smaller = rest[: len(rest) // 2]
    known = draw.choice(smaller, min(KNOWN, len(smaller) * 2 // 3), replace=False)
    pool, fit = np.setdiff1d(rest, known), fitted(at(table, known))
    budget = factor * float(np.quantile(table["flops"][rest], 0.9))
    target = float(np.exp(np.log(table["flops"][largest]).mean()))
    designs = {
        "design": choose_runs(fit, budget, target, candidates=at(table, pool), max_runs=MOST),
        "evenly spaced": evenly_spaced(fit, budget, MOST),
    }
    found = {"before": error(at(table, known), at(table, largest))}
    for name, design in designs.items():
        rows = np.concatenate([known, np.array(nearest(design, table, pool, budget * 1.0001), dtype=int)])
        found[name] = error(at(table, rows), at(table, largest))
    return found


def main(paths: list[str]) -> None:
    print(
        f"errors of log loss, root mean square over {TRIALS} choices of known runs at {len(BUDGETS)} budgets (median)"
    )
    for path in paths:
        table = {
            name: np.asarray(read_runs(path)[name], dtype=float) for name in ("num_parameters", "num_tokens", "loss")
        }
        table["flops"] = 6 * table["num_parameters"] * table["num_tokens"]
        order = np.argsort(table["flops"])
        rest, largest = np.split(order, [int(0.88 * len(order))])
        law = fitted(table)
        best = [optimum(law.law, law.constants, flops).num_parameters for flops in table["flops"][largest]]
        far = np.abs(np.log(table["num_parameters"][largest] / best))
        largest = largest[np.argsort(far)[: max(3, len(largest) // 2)]]
        found: dict[str, list[float]] = {}
        left_out = 0
        for seed, factor in itertools.product(range(FIRST, FIRST + TRIALS), BUDGETS):
            try:
                result = trial(table, seed, factor, largest, rest)
            except LawError:
                left_out += 1  # twelve runs that determine no law, or no candidate near its optimum
                continue
            for name, value in result.items():
                found.setdefault(name, []).append(value)
        errors = "  ".join(f"{k} {np.sqrt(np.mean(np.square(v))):.2%} ({np.median(v):.2%})" for k, v in found.items())
        print(f"{Path(path).name:<28}{errors}  left out {left_out}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
