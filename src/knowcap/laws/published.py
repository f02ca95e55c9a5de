"""Published laws, each with its source and the range of the runs behind it.

Constants quoted from a paper have no interval here; `source` has the paper's own, if it prints one. Units:
parameters, tokens, FLOPs, nats per token. Needs the standard library alone.

Sources: Allen-Zhu and Li, arXiv 2404.05405 (Part 3.3); Kaplan et al. 2020, arXiv 2001.08361; Hoffmann et al. 2022,
arXiv 2203.15556; Besiroglu et al. 2024, arXiv 2404.10102 (Epoch AI); Muennighoff et al. 2023, arXiv 2305.16264.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from knowcap.laws.law import PF_DAY, Law


def power_law(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Exponent and coefficient of y = coefficient x^exponent through (x, y) rows, by least squares in logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in rows]
    mean_x, mean_y = (math.fsum(column) / len(logs) for column in zip(*logs, strict=True))
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in logs) / math.fsum((x - mean_x) ** 2 for x, _ in logs)
    return slope, math.exp(mean_y - slope * mean_x)


def _allocation(law: str, rows: Sequence[tuple[float, float, float]], source: str) -> Law:
    """A law N = k C^a, D = C / (6 N) from the printed rows (N parameters, C FLOPs, D tokens)."""
    exponent, coefficient = power_law([(flops, size) for size, flops, _ in rows])
    constants = {
        "exponent_parameters": exponent,
        "coefficient_parameters": coefficient,
        "exponent_tokens": 1 - exponent,
        "coefficient_tokens": 1 / (6 * coefficient),
    }
    return Law(law, constants, source, tested=HOFFMANN_RUNS | {"flops": (6e18, 3e21)})


# Part 3.3: bits per parameter that GPT2 reaches at its best, by exposures (Results 1 and 4). At 1 exposure: the
# authors' lecture, informally: k bits take 10 k parameters at 1 pass, k at 100, k/2 at 1000.
BITS_PER_PARAMETER = {1: 0.1, 100: 1.0, 1000: 2.0}
CAPACITY_SOURCE = {
    1: "the authors' lecture on Part 3.3, informal: 10 k parameters hold k bits",
    100: "Part 3.3, Result 4: at least 1 at its peak",
    1000: "Part 3.3, Result 1: at least 2 at its peak, at most 2.3",
}
PEAK_BITS_PER_PARAMETER = 2.3  # Part 3.3, Result 1: the most that any of its models holds at 1000 exposures
EXPOSURES = Law(
    "exposures",
    {"bits_per_parameter": 3.128667, "half_exposures": 370.7374, "gamma": 0.5765720},
    "the curve R / (1 + (h / e)^gamma) through Part 3.3's 0.1 (informal), 1 and 2 bits per parameter at 1, 100 and "
    "1000 exposures",
    tested={"num_parameters": (0.8e6, 0.5e9), "exposures": (1.0, 1000.0)},
)
NEAR_PERFECT = 1.8  # Part 3.3, Result 1(b): with at most this many bits per parameter, nearly all facts are stored

# By how much fewer bits a parameter holds than GPT2's, by exposures (Part 3.3, Results 5, 6, 9).
ARCHITECTURES: dict[str, tuple[dict[int, float], str]] = {
    "gpt2": ({100: 1.0, 1000: 1.0}, "the paper's GPT2, Results 1 and 4"),
    "gpt2-quarter-mlp": ({100: 1.0, 1000: 1.0}, "Results 5 and 6: no loss"),
    "gpt2-no-mlp": ({100: 1.5, 1000: 1.0}, "Results 5 and 6: more than 1.5 times fewer at 100 exposures"),
    "llama": ({100: 1.3, 1000: 1.0}, "Results 5 to 7: gated MLP, up to 1.3 times fewer at 100 exposures"),
    "mistral": ({100: 1.3, 1000: 1.0}, "Results 5 to 7: gated MLP, up to 1.3 times fewer at 100 exposures"),
    "moe": ({100: 1.5, 1000: 1.3}, "Result 9: 32 experts, by all parameters"),
}
MOE_ACTIVE_SHARE = 0.088  # Result 9: the share of a mixture's parameters that a token passes through

# What quantizing leaves of the bits (Result 8; int4: 0.7 bits per parameter of 2, introduction), and bits a weight.
PRECISIONS: dict[str, tuple[float, int, str]] = {
    "fp32": (1.0, 32, "as trained"),
    "bf16": (1.0, 16, "as trained"),
    "int8": (1.0, 8, "Result 8: negligible loss"),
    "int4": (0.35, 4, "introduction: 0.7 bits per parameter, of 2; GPTQ"),
}

# Bits per parameter of GPT2 where 7/8 of the tokens are about junk people, by exposures of the useful ones: divided
# from the 1 bit of 100 exposures without junk (Results 10 to 12).
JUNK: dict[str, tuple[dict[int, float], str]] = {
    "unique": ({100: 1 / 20, 300: 1 / 3, 600: 1 / 1.5, 1000: 1 / 1.3}, "Result 10: 100 million junk people"),
    "repeated": ({100: 1.0}, "Result 11: 1000 junk people, again and again: no change"),
    "marked": ({100: 0.5, 300: 1.0}, "Result 12: a token in front of every useful text"),
}
USEFUL_SHARE = 1 / 8

# The data set bioS (2.2; Def. 4.3): N0 names, S0 combinations of values; tokens of a biography and its end of text.
BIOS_NAMES = 400 * 400 * 1000
BIOS_VALUES = 2 * (12 * 28 * 200) * 200 * 300 * 100 * 263
BIOS_FACTS = 6
BIOS_TOKENS = 73.9
GPT2_RUNS = {"num_parameters": (0.8e6, 0.5e9)}

HOFFMANN_RUNS = {"num_parameters": (44e6, 16.2e9), "num_tokens": (5e9, 500e9)}
HOFFMANN_TABLE_3 = (
    (400e6, 1.92e19, 8.0e9), (1e9, 1.21e20, 20.2e9), (10e9, 1.23e22, 205.1e9), (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12), (280e9, 9.90e24, 5.9e12), (520e9, 3.43e25, 11.0e12), (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
)  # fmt: skip
HOFFMANN_TABLE_A3_ISOFLOP = (
    (400e6, 1.84e19, 7.7e9), (1e9, 1.20e20, 20.0e9), (10e9, 1.32e22, 219.5e9), (67e9, 6.88e23, 1.7e12),
    (175e9, 4.54e24, 4.3e12), (280e9, 1.18e25, 7.1e12), (520e9, 4.19e25, 13.4e12), (1e12, 1.59e26, 26.5e12),
    (10e12, 1.75e28, 292.0e12),
)  # fmt: skip
HOFFMANN_ENVELOPE = _allocation(
    "chinchilla-envelope",
    HOFFMANN_TABLE_3,
    "Hoffmann et al. 2022, approach 1, from Table 3 (a = 0.50, its 10 to 90 % range 0.488 to 0.502)",
)
HOFFMANN_ISOFLOP = _allocation(
    "chinchilla-isoflop",
    HOFFMANN_TABLE_A3_ISOFLOP,
    "Hoffmann et al. 2022, approach 2, from Table A3 (a = 0.49, its 10 to 90 % range 0.462 to 0.534)",
)
HOFFMANN_PARAMETRIC = Law(
    "chinchilla-parametric",
    {
        "A": math.exp(6.0073404), "B": math.exp(6.0179186), "E": math.exp(0.5267228),
        "alpha": 0.33917084, "beta": 0.2849083,
    },
    "Hoffmann et al. 2022, approach 3, unrounded (printed: A 406.4, B 410.7, E 1.69, alpha 0.34, beta 0.28)",
    tested=HOFFMANN_RUNS | {"flops": (1.4e18, 1.3e22)},
)  # fmt: skip
EPOCH_PARAMETRIC = Law(
    "chinchilla-parametric",
    {"A": 482.00572, "B": 2085.4342, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585},
    "Besiroglu et al. 2024, approach 3 refitted to 240 of the runs (standard errors: alpha 0.0154, beta 0.0206)",
    tested=HOFFMANN_RUNS | {"flops": (1.4e18, 1.3e22)},
)

MUENNIGHOFF = Law(
    "data-constrained",
    {
        "A": math.exp(6.255414), "B": math.exp(7.3049974), "E": math.exp(0.6254804),
        "alpha": 0.3526596, "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743,
    },
    "Muennighoff et al. 2023, appendix A, unrounded (printed: A 521, B 1488, E 1.87, alpha = beta 0.35)",
    tested={"num_parameters": (7e6, 9e9), "num_tokens": (1e8, 9e11)},
)  # fmt: skip

# Kaplan et al. 2020. Parameters without embeddings; C_min, FLOPs at batches far below the critical one.
KAPLAN_RUNS = {"num_parameters": (768, 1.5e9), "num_tokens": (22e6, 23e9)}
KAPLAN_N = Law("kaplan-n", {"N_c": 8.8e13, "alpha_N": 0.076}, "Kaplan et al. 2020, eq. 1.1", tested=KAPLAN_RUNS)
KAPLAN_D = Law("kaplan-d", {"D_c": 5.4e13, "alpha_D": 0.095}, "Kaplan et al. 2020, eq. 1.2", tested=KAPLAN_RUNS)
KAPLAN_C = Law(
    "kaplan-c", {"C_c": 3.1e8 * PF_DAY, "alpha_C": 0.050}, "Kaplan et al. 2020, eq. 1.3, C_min", tested=KAPLAN_RUNS
)
KAPLAN_ND = Law(
    "kaplan-nd",
    {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103},
    "Kaplan et al. 2020, eq. 1.5 and Table 2",
    tested=KAPLAN_RUNS,
)
KAPLAN_NS = Law(
    "kaplan-ns",
    {"N_c": 6.5e13, "alpha_N": 0.077, "S_c": 2.1e3, "alpha_S": 0.76},
    "Kaplan et al. 2020, eq. 1.6 and Table 3",
    tested=KAPLAN_RUNS,
)
CRITICAL_BATCH = Law(
    "critical-batch", {"B_star": 2.1e8, "alpha_B": 0.21}, "Kaplan et al. 2020, eq. 1.4, tokens", tested=KAPLAN_RUNS
)
KAPLAN_ALLOCATION = Law(
    "kaplan-allocation",
    {
        "exponent_parameters": 0.73,
        "coefficient_parameters": 1.3e9,
        "exponent_tokens": 0.27,
        "coefficient_tokens": 2e10,
    },
    "Kaplan et al. 2020, section 6: N = 1.3e9 C_min^0.73, C_min in PF-days",
    tested=KAPLAN_RUNS,
)
KAPLAN_OVERFITTING = (5e3, 0.74)  # D >= 5e3 N^0.74 keeps overfitting small (section 4.2)
