"""Tables of runs that follow a law with known constants, by the papers' formulas, written out here again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from knowcap.laws import fit_law


Table = dict[str, np.ndarray]
Constants = dict[str, float]


def grid(*axes: np.ndarray) -> list[np.ndarray]:
    """Every combination, flat."""
    return [axis.ravel() for axis in np.meshgrid(*axes)]


def capacity(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    p, m = grid(np.geomspace(1e4, 4e6, 9), np.array([1e5, 1e6]))
    bits = np.where(2.0 * p < m, 2.0 * p, m) * noise(len(p))
    table = {"num_parameters": p, "knowledge_bits": bits, "max_knowledge_bits": m}
    return table, {"bits_per_parameter": 2.0, "saturation": 1.0}


def exposures(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    p, e = grid(np.geomspace(1e4, 1e6, 6), np.array([1.0, 10.0, 100.0, 1000.0]))
    m = np.full_like(p, 5e5)
    bits = np.minimum(2.3 * p / (1 + (130 / e) ** 0.8), m) * noise(len(p))
    table = {"num_parameters": p, "knowledge_bits": bits, "max_knowledge_bits": m, "exposures": e}
    return table, {"bits_per_parameter": 2.3, "half_exposures": 130.0, "gamma": 0.8, "saturation": 1.0}


def kaplan_n(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    n = np.geomspace(1e6, 1e9, 9)
    return {"num_parameters": n, "loss": (8.8e13 / n) ** 0.076 * noise(9)}, {"N_c": 8.8e13, "alpha_N": 0.076}


def kaplan_d(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    d = np.geomspace(1e7, 1e10, 9)
    return {"num_tokens": d, "loss": (5.4e13 / d) ** 0.095 * noise(9)}, {"D_c": 5.4e13, "alpha_D": 0.095}


def kaplan_c(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    c = np.geomspace(1e16, 1e21, 9)
    c_c = 3.1e8 * 8.64e19
    return {"flops": c, "loss": (c_c / c) ** 0.05 * noise(9)}, {"C_c": c_c, "alpha_C": 0.05}


def kaplan_nd(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    n, d = grid(np.geomspace(1e6, 1e9, 5), np.geomspace(2e7, 2e10, 5))
    loss = ((6.4e13 / n) ** (0.076 / 0.103) + 1.8e13 / d) ** 0.103 * noise(len(n))
    constants = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    return {"num_parameters": n, "num_tokens": d, "loss": loss}, constants


def kaplan_ns(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    n, s = grid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e3, 2e5, 6))
    loss = ((6.5e13 / n) ** 0.077 + (2.1e3 / s) ** 0.76) * noise(len(n))
    return {"num_parameters": n, "step": s, "loss": loss}, {
        "N_c": 6.5e13,
        "S_c": 2.1e3,
        "alpha_N": 0.077,
        "alpha_S": 0.76,
    }


def critical_batch(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    loss = np.linspace(2.3, 5, 9)
    return {"batch_tokens": 2.1e8 / loss ** (1 / 0.21) * noise(9), "loss": loss}, {"B_star": 2.1e8, "alpha_B": 0.21}


def batch_curves(noise: Callable[[int], np.ndarray], batches: int = 6) -> tuple[Table, Constants]:
    """Curves at several batch sizes, of S = S_min (1 + B_crit / B)."""
    loss = np.linspace(7, 3, 80)
    rows = []
    for run, batch in enumerate(np.geomspace(2e4, 2e7, batches)):
        step = 1e4 * (loss - 2) ** -1.5 * (1 + 2.1e8 / loss ** (1 / 0.21) / batch)
        rows.append([np.full(80, run), np.full(80, batch), step, loss * noise(80)])
    run, batch, step, losses = (np.concatenate(column) for column in zip(*rows, strict=True))
    return {"run": run, "batch_tokens": batch, "step": step, "loss": losses}, {"B_star": 2.1e8, "alpha_B": 0.21}


def hoffmann(n: np.ndarray, d: np.ndarray, alpha: float = 0.34, beta: float = 0.28) -> np.ndarray:
    """Hoffmann et al.'s parametric law with their constants, or other exponents."""
    return 1.69 + 406.4 / n**alpha + 410.7 / d**beta


def parametric(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    n, d = grid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 3e11, 8))
    table = {"num_parameters": n, "num_tokens": d, "loss": hoffmann(n, d) * noise(64)}
    return table, {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}


def optimum(alpha: float, beta: float) -> Constants:
    """Exponents and coefficients of the optimum of 406.4 / N^alpha + 410.7 / D^beta with 6 N D = C, by hand: with D =
    C / (6 N) the derivative is zero where alpha A N^-alpha = beta B (C / 6 / N)^-beta."""
    a = beta / (alpha + beta)
    g = (alpha * 406.4 / (beta * 410.7)) ** (1 / (alpha + beta))
    return {
        "exponent_parameters": a,
        "exponent_tokens": 1 - a,
        "coefficient_parameters": g * 6**-a,
        "coefficient_tokens": 6 ** (a - 1) / g,
    }


def isoflop(noise: Callable[[int], np.ndarray], alpha: float = 0.3, beta: float = 0.3) -> tuple[Table, Constants]:
    """Profiles whose sizes lie about the optimum."""
    truth = optimum(alpha, beta)
    budget, factor = grid(np.geomspace(6e18, 3e21, 6), np.geomspace(0.25, 4, 9))
    n = truth["coefficient_parameters"] * budget ** truth["exponent_parameters"] * factor
    d = budget / 6 / n
    loss = hoffmann(n, d, alpha, beta) * noise(len(n))
    return {"num_parameters": n, "num_tokens": d, "budget": budget, "loss": loss}, truth


def envelope(noise: Callable[[int], np.ndarray], sizes: int = 14) -> tuple[Table, Constants]:
    """Curves of constant rate: the loss of the law at every number of tokens."""
    n, d = grid(np.geomspace(7e7, 1e10, sizes), np.geomspace(1e8, 5e11, 120))
    table = {
        "run": n,
        "num_parameters": n,
        "num_tokens": d,
        "flops": 6 * n * d,
        "loss": hoffmann(n, d) * noise(len(n)),
    }
    return table, optimum(0.34, 0.28)


def data_constrained(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Muennighoff et al.'s law by appendix A: equal exponents, so that U tokens are best for G^2 U parameters."""
    n, passes, u = grid(np.geomspace(1e7, 3e9, 4), np.array([1.0, 4.0, 20.0, 100.0]), np.geomspace(1e8, 1e10, 3))
    best = np.minimum(n, (521 / 1488) ** (2 / 0.7) * u)
    size = best + 5.3 * best * (1 - np.exp(-(n / best - 1) / 5.3))
    tokens = u + 15.4 * u * (1 - np.exp(-(passes - 1) / 15.4))
    loss = (521 / size**0.35 + 1488 / tokens**0.35 + 1.87) * noise(len(n))
    constants = {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.35, "beta": 0.35, "R_D": 15.4, "R_N": 5.3}
    return {"num_parameters": n, "num_tokens": passes * u, "unique_tokens": u, "loss": loss}, constants


def factors(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Two architectures of equal bits at many exposures, of which one needs twice as many, at two precisions."""
    n, e, kind, low = grid(np.geomspace(1e4, 1e6, 4), np.geomspace(10, 3000, 5), np.arange(2), np.arange(2))
    half = np.where(kind == 1, 200.0, 100.0)
    bits = 2.2 * n / (1 + half / e) * np.where(low == 1, 0.7, 1.0) * noise(len(n))
    most = np.full_like(n, 8e5)
    table = {"num_parameters": n, "exposures": e, "knowledge_bits": np.minimum(bits, most), "max_knowledge_bits": most}
    table["architecture"] = np.where(kind == 1, "llama", "gpt2")
    table["precision"] = np.where(low == 1, "int4", "bf16")
    constants = {"bits_per_parameter[gpt2]": 2.2, "bits_per_parameter[llama]": 2.2, "kept[int4]": 0.7}
    return table, constants | {"half_exposures[gpt2]": 100.0, "half_exposures[llama]": 200.0, "gamma": 1.0}


def mixtures(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Dense models and mixtures of 4 and 16 times as many parameters, half of whose logarithm counts."""
    active, more, d = grid(np.geomspace(3e7, 3e9, 4), np.array([1.0, 4.0, 16.0]), np.geomspace(2e9, 2e11, 3))
    loss = hoffmann(active * more**0.5, d) * noise(len(d))
    table = {"num_active_parameters": active, "num_parameters": active * more, "num_tokens": d, "loss": loss}
    return table, {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28, "weight_of_total": 0.5}


def accuracy(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Four choices, of which the best models miss a tenth; larger models and longer trainings have the lower loss."""
    n, length = grid(np.geomspace(1e7, 1e9, 5), np.arange(5))
    loss = 3.0 - 0.4 * np.log10(n / 1e7) / 0.5 - 0.3 * length
    share = 0.25 + 0.65 / (1 + np.exp(4.0 * (loss - 1.4)))
    constants = {"chance": 0.25, "ceiling": 0.9, "steepness": 4.0, "midpoint": 1.4}
    return {"num_parameters": n, "loss": loss, "accuracy": share * noise(25)}, constants


def step_law(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Li et al.'s printed constants, one best run for each size and number of tokens."""
    n, d = grid(np.geomspace(6e7, 1e9, 5), np.geomspace(2e9, 1e11, 5))
    table = {"num_parameters": n, "num_tokens": d, "learning_rate": 1.79 * n**-0.713 * d**0.307 * noise(25)}
    table |= {"batch_tokens": 0.58 * d**0.571 * noise(25), "loss": hoffmann(n, d)}
    constants = {"rate_coefficient": 1.79, "exponent_rate_parameters": -0.713, "exponent_rate_tokens": 0.307}
    return table, constants | {"batch_coefficient": 0.58, "exponent_batch_tokens": 0.571}


def multi_power(noise: Callable[[int], np.ndarray]) -> tuple[Table, Constants]:
    """Luo et al.'s law of their 100M model at three schedules, summed over rows of 600 steps as their formula says.

    The rate is straight between two rows, so half a row counts.
    """
    c = {"L_0": 2.651, "A": 0.601, "alpha": 0.453, "B": 437.946, "C": 2.132, "beta": 0.598, "gamma": 0.655}
    step = 600.0 * np.arange(1, 39)
    cosine = 3e-5 + 1.35e-4 * (1 + np.cos(np.pi * step / step[-1]))
    late = np.where(step < 16000, 3e-4, 3e-4 * 0.1 ** ((step - 16000) / 7000))
    columns: list[list[np.ndarray]] = []
    for run, rate in enumerate((np.full_like(step, 3e-4), cosine, late)):
        ends = np.cumsum(np.concatenate([[600 * rate[0]], 300 * (rate[1:] + rate[:-1])]))
        loss = c["L_0"] + c["A"] * ends ** -c["alpha"]
        for i in range(len(step)):
            for k in range(1, i + 1):
                middle = (rate[k] + rate[k - 1]) / 2
                x = c["C"] * middle ** -c["gamma"] * (ends[i] - (ends[k] + ends[k - 1]) / 2)
                loss[i] -= c["B"] * (rate[k - 1] - rate[k]) * (1 - (1 + x) ** -c["beta"])
        columns.append([np.full(len(step), run), step, rate, loss * noise(len(step))])
    names = ("run", "step", "learning_rate", "loss")
    return dict(zip(names, (np.concatenate(column) for column in zip(*columns, strict=True)), strict=True)), c


# By law: the table, how near its constants are found without noise, and the noise of the other test.
SIMULATED = {
    "capacity": (capacity, 1e-9, 0.03),
    "exposures": (exposures, 1e-6, 0.03),
    "factors": (factors, 1e-5, 0.03),
    "kaplan-n": (kaplan_n, 1e-9, 0.005),
    "kaplan-d": (kaplan_d, 1e-9, 0.005),
    "kaplan-c": (kaplan_c, 1e-8, 0.005),
    "kaplan-nd": (kaplan_nd, 1e-6, 0.005),
    "kaplan-ns": (kaplan_ns, 1e-6, 0.005),
    "critical-batch": (critical_batch, 1e-9, 0.05),
    "chinchilla-parametric": (parametric, 1e-6, 0.002),
    "chinchilla-isoflop": (isoflop, 5e-3, 0.001),
    "chinchilla-envelope": (envelope, 0.2, 0.0),
    "data-constrained": (data_constrained, 1e-6, 0.002),
    "mixtures": (mixtures, 1e-6, 0.002),
    "accuracy": (accuracy, 1e-6, 0.01),
    "step-law": (step_law, 1e-9, 0.05),
    "multi-power": (multi_power, 1e-4, 0.0),
}


def silence(number: int) -> np.ndarray:
    """No noise."""
    return np.ones(number)


def noise_of(size: float, seed: int) -> Callable[[int], np.ndarray]:
    """Factors whose logarithms are normal with standard deviation `size`."""
    generator = np.random.default_rng(seed)
    return lambda number: np.exp(size * generator.standard_normal(number))


# Ways in which runs are noisy: independent and equal; three times as much for the smallest as for the median size and
# a third for the largest; Student's t of 2.5 degrees of freedom; and mostly shared by the runs of one size, or seed.
NOISES = ("equal", "unequal", "heavy", "size", "seed")
_SEEDS = 4


# Columns that bear the noise, where these are not the loss; what tells sizes apart, where that is not num_parameters;
# and the noise of laws whose other tests have none.
_OBSERVED = {
    "capacity": ("knowledge_bits",),
    "exposures": ("knowledge_bits",),
    "factors": ("knowledge_bits",),
    "critical-batch": ("batch_tokens",),
    "accuracy": ("accuracy",),
    "step-law": ("learning_rate", "batch_tokens"),
}
_SCALES = {"multi-power": 0.001}


def noisy(law: str, kind: str, seed: int) -> tuple[Table, Constants]:
    """A law's table with one of the `NOISES`; four runs of each setting with `seed`.

    Curves of one schedule share their noise as those of one size do elsewhere, and unequal noise falls along them.
    """
    make, _, scale = SIMULATED[law]
    scale = _SCALES.get(law, scale)
    table, truth = make(silence)
    generator = np.random.default_rng(seed)
    if kind == "seed":
        repeats = len(next(iter(table.values())))
        table = {name: np.tile(column, _SEEDS) for name, column in table.items()}
        table["seed"] = np.repeat(np.arange(_SEEDS), repeats)
        if "run" in table:
            table["run"] = table["run"] + (table["run"].max() + 1) * table["seed"]
    sizes = _sizes(table, kind)
    _, member = np.unique(table["seed"] if kind == "seed" else sizes, return_inverse=True)
    for name in _OBSERVED.get(law, ("loss",)):
        table[name] = table[name] * np.exp(scale * _noise(kind, sizes, member, generator))
    if law == "accuracy":
        table["accuracy"] = np.minimum(table["accuracy"], 1.0)
    return table, truth


def held(law: str, kind: str, seed: int, num_bootstraps: int) -> dict[str, tuple[bool, float]]:
    """By constant, whether its interval of 90 % holds the truth, and how wide that is in logs, in a `noisy` table.

    An open end holds; the width of an interval that is open or reaches below zero is infinite.
    """
    table, truth = noisy(law, kind, seed)
    fit = fit_law(law, table, confidence_level=0.9, num_bootstraps=num_bootstraps)
    found = {}
    for name, value in truth.items():
        low, high = fit.intervals[name]
        inside = (low is None or low <= value) and (high is None or value <= high)
        closed = low is not None and high is not None and low * high > 0
        found[name] = inside, abs(math.log(high / low)) if closed else math.inf
    return found


def _sizes(table: Table, kind: str) -> np.ndarray:
    if "run" in table:
        return table["step" if kind == "unequal" else "run"]
    return table["num_parameters"] if "num_parameters" in table else next(iter(table.values()))


def _noise(kind: str, sizes: np.ndarray, member: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    independent = generator.standard_normal(len(sizes))
    if kind == "unequal":
        place = np.log(sizes / sizes.min()) / np.log(sizes.max() / sizes.min())
        independent *= 3.0 ** (1 - 2 * place)
    elif kind == "heavy":
        independent = generator.standard_t(2.5, len(sizes))
    elif kind in ("size", "seed"):
        independent = 0.4 * independent + generator.standard_normal(member.max() + 1)[member]
    return independent


# Settings like those of Porian et al. (2024): 16 sizes at 12 budgets, whose profiles reach far beyond their optimum on
# the side of large models, where training is short and the loss nears that of guessing. By exponents alpha and beta,
# and how many tokens a warm-up takes: none, as many for all sizes, or in proportion to the size.
PROFILE_SETTINGS = tuple(
    (alpha, beta, warm_up)
    for alpha, beta in ((0.34, 0.28), (0.45, 0.45), (0.30, 0.36), (0.5, 0.37), (0.28, 0.40))
    for warm_up in ("none", "fixed", "size")
)
PROFILE_SIZES, PROFILE_BUDGETS = np.geomspace(5e6, 9e8, 16), 1.25e16 * 2.0 ** np.arange(12)


def profile_loss(setting: tuple[float, float, str], n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Loss of a setting; without a warm-up the best size at 1e18 FLOPs is 40 million."""
    alpha, beta, warm_up = setting
    size, data = 4e7, 1e18 / 6 / 4e7
    wasted = {"none": 0.0 * n, "fixed": 2e8 + 0.0 * n, "size": 3 * n}[warm_up]
    effective = d * d / (d + wasted)
    loss = 1.8 + 1.2 * (size / n) ** alpha + 1.2 * alpha / beta * (data / effective) ** beta
    return -np.logaddexp(-3 * loss, -3 * 10.8) / 3


def profile_optima(setting: tuple[float, float, str]) -> np.ndarray:
    """The best size of each budget, on a fine grid."""
    n = np.geomspace(1e5, 1e11, 20_001)
    return np.array([n[np.argmin(profile_loss(setting, n, budget / 6 / n))] for budget in PROFILE_BUDGETS])


def profiles(setting: tuple[float, float, str], noise: Callable[[int], np.ndarray]) -> tuple[Table, float]:
    """The runs of a setting, and the exponent of its optimum over the budgets whose best size is among those tried."""
    budget, n = grid(PROFILE_BUDGETS, PROFILE_SIZES)
    d = budget / 6 / n
    loss = profile_loss(setting, n, d) * noise(len(n))
    best = profile_optima(setting)
    inside = (best > PROFILE_SIZES[0]) & (best < PROFILE_SIZES[-1])
    exponent = float(np.polyfit(np.log(PROFILE_BUDGETS[inside]), np.log(best[inside]), 1)[0])
    return {"num_parameters": n, "num_tokens": d, "loss": loss, "budget": budget}, exponent
