"""How often intervals of predictions hold the largest runs of a table, which the fit has not seen, and how wide they
are.

python tests/benchmarks/predict.py 150                    # made-up tables: right and wrong laws, several designs
python tests/benchmarks/predict.py 0 runs.csv other.csv   # tables of one's own, by the laws that they allow

Of each table the runs in the upper 25 to 60 % of the range of sizes (in logs) are held out.
"""

from __future__ import annotations

import os


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402

from knowcap.laws import LawError, fit_law, read_runs  # noqa: E402
from knowcap.laws.fitting import predicts  # noqa: E402
from knowcap.laws.predict import Band, inputs  # noqa: E402


LEVEL = 0.9
Table = dict[str, np.ndarray]
Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class Held:
    """The held-out runs of a table.

    Attributes:
        name: of the table and the law.
        inside: whether the interval has the run, of shape (rows,).
        plain: the same for an interval of noise and bootstrap alone.
        half: half of the interval, in logs, of shape (rows,).
        error: log(observed / predicted), of shape (rows,).
        band: of the fit.
    """

    name: str
    inside: np.ndarray
    plain: np.ndarray
    half: np.ndarray
    error: np.ndarray
    band: Band


def truth(random: np.random.Generator) -> tuple[str, Loss]:
    """Losses of N and D: Hoffmann's form, Kaplan's, and five that no law here has."""
    alpha, beta, floor = random.uniform(0.25, 0.45), random.uniform(0.22, 0.45), random.uniform(0.8, 2)
    beta = alpha if random.random() < 0.5 else beta
    a, b = random.uniform(0.3, 1.2) * 1e8**alpha, random.uniform(0.3, 1.2) * 2e9**beta

    def base(n: np.ndarray, d: np.ndarray) -> np.ndarray:
        return floor + a / n**alpha + b / d**beta

    bend, slope, start = random.uniform(-0.006, 0.006), random.uniform(0.01, 0.03), 10 ** random.uniform(8.3, 9.3)
    wave, period = random.uniform(0.005, 0.03), random.uniform(1, 2)
    alpha_n, alpha_d = random.uniform(0.06, 0.1), random.uniform(0.08, 0.12)
    kinds: list[tuple[str, Loss]] = [
        *[("Hoffmann's form", base)] * 3,
        ("Kaplan's form", lambda n, d: ((6.4e13 / n) ** (alpha_n / alpha_d) + 1.8e13 / d) ** alpha_d),
        ("bent", lambda n, d: base(n, d) * np.exp(bend * np.log(n * d / 2e18) ** 2 / 4)),
        ("badly tuned from some size on", lambda n, d: base(n, d) * (1 + slope * np.maximum(0, np.log(n / start)))),
        ("a product of both", lambda n, d: base(n, d) + 0.2 * (1e8 / n) ** 0.2 * (2e9 / d) ** 0.2),
        ("two powers of N", lambda n, d: base(n, d) + 0.3 * (1e8 / n) ** (1.6 * alpha)),
        ("a wave", lambda n, d: base(n, d) * (1 + wave * np.sin(np.log(n * d) / period))),
    ]
    return kinds[random.integers(len(kinds))]


def design(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """N and D of 10 to 150 runs that span a factor of 30 to 3,000 in compute."""
    start, span = 10 ** random.uniform(17, 19), 10 ** random.uniform(1.5, 3.5)
    kind = random.integers(5)
    if kind < 3:  # IsoFLOP profiles, scattered runs, one run a budget
        if kind == 0:
            budgets, factors = np.geomspace(start, start * span, random.integers(4, 10)), np.geomspace(0.3, 3, 7)
            budget, factor = (axis.ravel() for axis in np.meshgrid(budgets, factors))
        elif kind == 1:
            budget = start * span ** random.random(random.integers(15, 150))
            factor = np.exp(random.uniform(-1.2, 1.2, len(budget)))
        else:
            budget = np.geomspace(start, start * span, random.integers(10, 25))
            factor = np.exp(0.3 * random.standard_normal(len(budget)))
        n = factor * (budget / 120) ** 0.5
        return n, budget / 6 / n
    sizes = np.geomspace(2e7, 2e7 * span**0.5, random.integers(4, 8))
    if kind == 3:
        tokens = np.geomspace(4e8, 4e8 * span**0.7, random.integers(4, 9))
        n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens))
        return n, d
    n, ratio = (axis.ravel() for axis in np.meshgrid(sizes, np.geomspace(5, 5 * span**0.4, random.integers(4, 9))))
    return n, n * ratio


def noise(random: np.random.Generator, n: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Factors of 0.1 to 1.3 %: normal, of heavy tails, larger in small runs, or shared by the runs of a size."""
    error = random.standard_normal(len(n))
    kind = random.integers(4)
    if kind == 1:
        error = random.standard_t(3, len(n)) * 0.7
    elif kind == 2:
        error *= (size / size.max()) ** -0.12
    elif kind == 3:
        member = np.unique(n.round(-3), return_inverse=True)[1]
        error = 0.7 * (error + random.standard_normal(member.max() + 1)[member])
    return np.exp(10 ** random.uniform(-3, -1.9) * error)


def simulated(number: int) -> Iterator[tuple[str, str, Table]]:
    """Name, law and table: two quantities, one quantity with and without a floor, bits, and bits of exposures."""
    random = np.random.default_rng(0)
    for i in range(number):
        if i % 10 < 6:
            (name, loss), (n, d) = truth(random), design(random)
            law = ("chinchilla-parametric", "chinchilla-parametric", "kaplan-nd")[random.integers(3)]
            yield name, law, {"num_parameters": n, "num_tokens": d, "loss": loss(n, d) * noise(random, n, n * d)}
        elif i % 10 < 8:
            x = np.geomspace(1e7, 1e7 * 10 ** random.uniform(1.5, 3.5), random.integers(6, 14))
            floor = random.choice([0.0, random.uniform(0.1, 2)])
            loss_at = random.uniform(2, 6) * (x / 1e7) ** -random.uniform(0.05, 0.35) + floor
            law, column = (("kaplan-n", "num_parameters"), ("kaplan-d", "num_tokens"))[random.integers(2)]
            name = "one quantity, a floor" if floor > 0 else "one quantity"
            yield name, law, {column: x, "loss": loss_at * noise(random, x, x)}
        elif i % 10 == 8:
            p = np.geomspace(1e5, 1e5 * 10 ** random.uniform(1, 2.5), random.integers(6, 15))
            most = random.choice([1e9, 1.2 * p.max()])
            grown = p * (p / 1e6) ** random.choice([0.0, random.uniform(-0.15, 0.1)])
            bits = np.minimum(random.uniform(0.5, 2.5) * grown, 0.98 * most)
            bits *= np.exp(random.choice([0.01, 0.05]) * random.standard_normal(len(p)))
            columns = {"num_parameters": p, "knowledge_bits": bits, "max_knowledge_bits": np.full(len(p), most)}
            yield "bits", "capacity", columns
        else:
            axes = np.geomspace(1e5, 1e6 * 10 ** random.random(), 4), np.array([20, 50, 100, 200, 500, 1000.0])
            p, e = (axis.ravel() for axis in np.meshgrid(*axes))
            bits = p * random.uniform(1, 2.3) / (1 + (random.uniform(30, 300) / e) ** random.uniform(0.6, 1.4))
            bits *= (p / 1e6) ** random.choice([0.0, -0.05]) * np.exp(0.02 * random.standard_normal(len(p)))
            most = np.full(len(p), 1e9)
            columns = {"num_parameters": p, "exposures": e, "knowledge_bits": bits, "max_knowledge_bits": most}
            yield "bits of exposures", "exposures", columns


def given(path: str) -> Iterator[tuple[str, str, Table]]:
    """A file's table by the laws that it allows."""
    read = read_runs(path)
    for law in ("chinchilla-parametric", "kaplan-nd", "kaplan-d", "kaplan-n", "capacity"):
        try:
            points = fit_law(law, read, num_bootstraps=10).points
        except LawError:
            continue
        table = {name: column for name, column in points.items() if name not in ("observed", "fitted")}
        yield path, law, table | {predicts(law): points["observed"]}
        if law == "kaplan-nd":
            return


def held_out(name: str, law: str, table: Table, random: np.random.Generator) -> Held | None:
    """The law fitted to the smaller runs, and its intervals of the larger ones; None if too few are left."""
    observed = predicts(law)
    size = inputs({key: column for key, column in table.items() if key != observed})["size"]
    small = size <= size.max() - random.uniform(0.25, 0.6) * np.ptp(size) + 1e-9
    try:
        fit = fit_law(law, {key: column[small] for key, column in table.items()}, num_bootstraps=200)
    except LawError:
        return None
    rows = {key: column[~small] for key, column in table.items() if key != observed}
    found = fit.predict(rows, interval=LEVEL)
    error, half = np.log(table[observed][~small] / found.value), np.log(found.high / found.low) / 2
    plain = np.abs(error) <= fit.band.half_width(fit.spread(rows), np.zeros(len(error)), LEVEL)
    return Held(f"{name} by {law}", np.abs(error) <= half, plain, half, error, fit.band)


def report(name: str, tables: list[Held]) -> None:
    """A line about some tables."""
    inside, plain = (np.concatenate([getattr(t, key) for t in tables]) for key in ("inside", "plain"))
    by_table = np.mean([t.inside.mean() for t in tables])
    half = np.median([np.median(t.half) for t in tables])
    ratio = np.median([np.median(t.half) / np.sqrt(np.mean(t.error**2)) for t in tables])
    print(
        f"{name:<58}{len(tables):>4} tables {len(inside):>5} runs   inside {100 * inside.mean():3.0f} % of runs, "
        f"{100 * by_table:3.0f} % by table; without misfit {100 * plain.mean():3.0f} %; "
        f"median ± {100 * half:.2g} %, {ratio:.1f} times the error"
    )


def main() -> None:
    number, paths = int(sys.argv[1]) if len(sys.argv) > 1 else 150, sys.argv[2:]
    random = np.random.default_rng(1)
    every = [*simulated(number), *(one for path in paths for one in given(path) for _ in range(3))]
    tables = [held for one in every if (held := held_out(*one, random)) is not None]
    for name in sorted({t.name for t in tables}):
        report(name, [t for t in tables if t.name == name])
    learned = [t for t in tables if t.band.steps]
    report("all", tables)
    report("all where the misfit was learned", learned)
    misfits = [t.band.misfit for t in learned]
    print(f"misfit where r (r + s) is 1: median {np.median(misfits):.2g}, worst tenth {np.quantile(misfits, 0.9):.2g}")


if __name__ == "__main__":
    main()
