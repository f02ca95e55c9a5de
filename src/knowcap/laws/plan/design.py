"""Which runs would narrow a prediction most: experimental design for a law of loss by parameters and tokens.

The law is taken as linear in its constants about the fit, with a misfit that is smooth over parameters and tokens (a
Gaussian process, twice as large as the noise of a run), so that the variance of a prediction after further runs is
known before they are trained and depends on where they lie alone (Bayesian c-optimal design: Chaloner and Verdinelli
1995; the misfit: Kennedy and O'Hagan 2001). Without the misfit the best runs are the most extreme ones, again and
again, where a law holds least. Runs are chosen one by one by how much they lower the variance for their cost, then
exchanged as long as that helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from knowcap.laws.fit import Fit
from knowcap.laws.law import FLOPS_PER_PARAMETER_TOKEN, PARAMETRIC, Law, LawError, optimum
from knowcap.laws.plan.answer import Answer, Step


AIMS = ("loss", "size")
FAR = 100.0  # a prediction is for this many times the largest run's FLOPs, if not said otherwise
_STEP = 1e-4  # of a constant, for derivatives
_KNOWN = 2.0  # standard deviation of a constant's logarithm before any run
_LEAST_NOISE = 1e-3  # in log loss
_MISFIT = 2.0  # standard deviation, in those of the noise
_SMOOTH = np.log(4.0)  # over what distance, in log parameters and log tokens, a misfit changes
_MOST = 400  # runs of the table that are used
_LARGEST = 0.6  # of the budget, that one run may cost: what is odd about a single run would sway the law
_SHARES = _LARGEST * 2.0 ** -np.arange(0.0, 6.5, 0.5)  # of the budget, that runs cost
_RATIOS = 2.0 ** np.arange(-1.0, 1.25, 0.25)  # of its size to the best for its cost: farther off, laws hold less
_POWERS = (0.0, 0.5, 1.0)  # of the cost, by which a run's gain is divided
_ROUNDS = 3  # of exchanges


@dataclass(frozen=True)
class Design:
    """The runs chosen.

    Attributes:
        num_parameters, num_tokens: of the runs, of shape (k,).
        before, after: standard deviation of the prediction's logarithm, before and after the runs.
    """

    num_parameters: np.ndarray
    num_tokens: np.ndarray
    before: float
    after: float

    @property
    def flops(self) -> np.ndarray:
        """6 N D of each run, of shape (k,)."""
        return FLOPS_PER_PARAMETER_TOKEN * self.num_parameters * self.num_tokens


def noise_of_runs(fit: Fit) -> float:
    """The standard deviation of log residuals, for as many constants as the law has: 1e-3 or more."""
    residuals = fit.residuals
    freedom = max(1, len(residuals) - len(fit.constants))
    return max(_LEAST_NOISE, float(np.sqrt((residuals**2).sum() / freedom)))


def derivatives(fit: Fit, columns: Mapping[str, Any]) -> np.ndarray:
    """d log prediction / d log constant for each row, of shape (n, constants)."""
    return _by_constants(fit, lambda constants: np.log(fit.formula(constants, columns)))


def _by_constants(fit: Fit, value: Any) -> np.ndarray:
    found = []
    for name, constant in fit.constants.items():
        ends = [value(fit.constants | {name: constant * np.exp(sign * _STEP)}) for sign in (1, -1)]
        found.append((np.atleast_1d(ends[0]) - np.atleast_1d(ends[1])) / (2 * _STEP))
    return np.stack(found, -1)


def choose_runs(
    fit: Fit,
    flops: float,
    target: float,
    *,
    aim: str = "loss",
    candidates: Mapping[str, Any] | None = None,
    max_runs: int = 8,
) -> Design:
    """The runs within a budget after which the prediction for another budget is the least uncertain.

    Args:
        fit: of chinchilla-parametric or kaplan-nd.
        flops: what all runs together may cost, 6 N D each.
        target: FLOPs of the run that is to be predicted.
        aim: `loss` at the optimum of the target, or its `size` in parameters.
        candidates: num_parameters and num_tokens of the runs that are possible, each once; by default, any number of
            times, sizes from half to twice the best one for costs from 0.9 to 60 % of the budget. Those that cost
            more than 60 % are left out, if any costs less.
        max_runs: at most so many.

    Raises:
        LawError: a law without an allocation, no candidate within the budget, numbers out of range.
    """
    if fit.law not in PARAMETRIC:
        raise LawError(f"plan next: got the law {fit.law}, expected one of {', '.join(PARAMETRIC)}")
    if aim not in AIMS:
        raise LawError(f"aim: got {aim!r}, expected one of {', '.join(AIMS)}")
    if not (flops > 0 and target > 0 and max_runs > 0):
        raise LawError(f"got flops {flops:g}, target {target:g} and max_runs {max_runs}, expected numbers above 0")
    n, d = _candidates(fit, flops) if candidates is None else _near(fit, *_columns(candidates))
    cost = FLOPS_PER_PARAMETER_TOKEN * n * d
    if not (cost <= flops * 1.0001).any():
        raise LawError(f"no run costs {flops:.3g} FLOPs or less: the cheapest candidate takes {cost.min():.3g}")
    if (small := cost <= _LARGEST * flops * 1.0001).any():
        n, d, cost = n[small], d[small], cost[small]
    known = _Known(fit, n, d, target, aim, candidates is None)
    plans = [known.exchanged(known.greedy(cost, flops, max_runs, power), cost, flops) for power in _POWERS]
    best = sorted(min(plans, key=known.variance), key=lambda i: (cost[i], n[i]))
    return Design(n[best], d[best], float(np.sqrt(known.variance([]))), float(np.sqrt(known.variance(best))))


def _columns(candidates: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    n, d = (np.asarray(candidates[name], dtype=float) for name in ("num_parameters", "num_tokens"))
    if not (len(n) == len(d) and (n > 0).all() and (d > 0).all() and len(n)):
        raise LawError("candidates: expected rows with num_parameters and num_tokens above 0")
    return n, d


def _near(fit: Fit, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidates whose size is near the best for their cost."""
    best = np.array([optimum(fit.law, fit.constants, FLOPS_PER_PARAMETER_TOKEN * c).num_parameters for c in n * d])
    near = (n / best < 1.01 * _RATIOS[-1]) & (n / best > 0.99 * _RATIOS[0])
    if not near.any():
        raise LawError(
            f"no candidate has a size within a factor of {_RATIOS[-1]:g} of the best for its cost, where the law is "
            "known; expected some that do"
        )
    return n[near], d[near]


def _candidates(fit: Fit, flops: float) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for share in _SHARES:
        best = optimum(fit.law, fit.constants, flops * share)
        for ratio in _RATIOS:
            n = best.num_parameters * ratio
            found.append((n, flops * share / FLOPS_PER_PARAMETER_TOKEN / n))
    n, d = np.array(found).T
    return n, d


class _Known:
    """What the table tells of the candidates and of the prediction: their covariance, the prediction last.

    Args:
        fit: of the law to the table.
        n, d: parameters and tokens of the candidates, of shape (m,).
        target, aim: what is predicted.
        again: whether a candidate may be taken more than once.
    """

    def __init__(self, fit: Fit, n: np.ndarray, d: np.ndarray, target: float, aim: str, again: bool):
        self.noise, self.again = noise_of_runs(fit) ** 2, again
        ran = np.stack([fit.points["num_parameters"], fit.points["num_tokens"]], 1)
        ran = ran[np.linspace(0, len(ran) - 1, min(len(ran), _MOST)).round().astype(int)]
        at = optimum(fit.law, fit.constants, target)
        places = np.vstack([ran, np.stack([n, d], 1), [[at.num_parameters, at.num_tokens]]])
        slopes = derivatives(fit, {"num_parameters": places[:, 0], "num_tokens": places[:, 1]})
        distance = np.log(places)[:, None] - np.log(places)
        misfit = np.exp(-0.5 * (distance**2).sum(-1) / _SMOOTH**2) * self.noise * _MISFIT**2
        if aim == "size":
            slopes[-1] = _by_constants(fit, lambda c: np.log(optimum(fit.law, c, target).num_parameters))[0]
            misfit[-1], misfit[:, -1] = 0.0, 0.0
        prior = _KNOWN**2 * slopes @ slopes.T + misfit
        rows = len(ran)
        seen = prior[:rows, :rows] + self.noise * np.eye(rows)
        self.covariance = prior[rows:, rows:] - prior[rows:, :rows] @ np.linalg.solve(seen, prior[:rows, rows:])

    def after(self, plan: Sequence[int]) -> np.ndarray:
        """The covariance when the runs of a plan have been seen."""
        covariance = self.covariance
        for i in plan:
            covariance = covariance - np.outer(covariance[i], covariance[i]) / (covariance[i, i] + self.noise)
        return covariance

    def variance(self, plan: Sequence[int]) -> float:
        """Of the prediction's logarithm."""
        return max(float(self.after(plan)[-1, -1]), 0.0)

    def gains(self, covariance: np.ndarray, taken: Sequence[int]) -> np.ndarray:
        """By how much each candidate lowers the variance, of shape (m,)."""
        gains = covariance[-1, :-1] ** 2 / (np.diagonal(covariance)[:-1] + self.noise)
        if not self.again:
            gains[list(taken)] = -1.0
        return gains

    def greedy(self, cost: np.ndarray, flops: float, max_runs: int, power: float) -> list[int]:
        """Runs by what each lowers the variance, divided by its cost to a power, until the budget is spent."""
        chosen: list[int] = []
        covariance, left = self.covariance, flops * 1.0001
        while len(chosen) < max_runs:
            gains = np.where(cost <= left, self.gains(covariance, chosen), -1.0) / cost**power
            best = int(np.argmax(gains))
            if gains[best] < 0:
                break
            chosen.append(best)
            covariance = covariance - np.outer(covariance[best], covariance[best]) / (
                covariance[best, best] + self.noise
            )
            left -= cost[best]
        return chosen

    def exchanged(self, plan: list[int], cost: np.ndarray, flops: float) -> list[int]:
        """The plan with runs exchanged for others that fit the budget, as long as the variance falls."""
        plan = list(plan)
        for _ in range(_ROUNDS):
            before = self.variance(plan)
            for place in range(len(plan)):
                others = plan[:place] + plan[place + 1 :]
                gains = self.gains(self.after(others), others)
                plan[place] = int(np.argmax(np.where(cost <= 1.0001 * flops - cost[others].sum(), gains, -1.0)))
            if self.variance(plan) > before * (1 - 1e-6):
                break
        return plan


def evenly_spaced(fit: Fit, flops: float, runs: int) -> Design:
    """The usual choice: as many runs, of sizes evenly spaced in the logarithm, each of the best ratio for its cost.

    The largest costs 64 times as much as the smallest.

    Args:
        fit: of the law.
        flops: of all runs together.
        runs: their number.
    """
    shares = np.geomspace(1, 64, runs)
    best = [optimum(fit.law, fit.constants, flops * share / shares.sum()) for share in shares]
    n, d = np.array([(at.num_parameters, at.num_tokens) for at in best]).T
    return Design(n, d, np.nan, np.nan)


def next_runs(
    fit: Fit,
    flops: float,
    target: float | None = None,
    *,
    aim: str = "loss",
    candidates: Mapping[str, Any] | None = None,
    max_runs: int = 8,
    level: float = 0.9,
) -> Answer:
    """The answer to `knowcap plan next`; arguments as in `choose_runs`, target 100 times the largest run by default.

    Args:
        level: of confidence, of the half widths.
    """
    ran = FLOPS_PER_PARAMETER_TOKEN * fit.points["num_parameters"] * fit.points["num_tokens"]
    target = FAR * float(ran.max()) if target is None else target
    design = choose_runs(fit, flops, target, aim=aim, candidates=candidates, max_runs=max_runs)
    usual = _after(fit, evenly_spaced(fit, flops, len(design.flops)), target, aim)
    t = scipy.stats.t.ppf(0.5 + level / 2, max(1, len(ran) - len(fit.constants)))
    before, after, evenly = (100 * np.expm1(t * sd) for sd in (design.before, design.after, usual))
    at = optimum(fit.law, fit.constants, target)
    name, what = ("loss", "loss") if aim == "loss" else ("num_parameters", "best number of parameters")
    value = float(fit.formula(fit.constants, vars(at))) if aim == "loss" else at.num_parameters
    steps = [
        Step(what, value, "nats" if aim == "loss" else "", f"of the best run of {target:.3g} FLOPs, by the table"),
        Step("half width now", before, "%", f"at {100 * level:g} %, of {len(ran)} runs"),
        Step("after these runs", after, "%", f"{design.flops.sum():.3g} of {flops:.3g} FLOPs"),
        Step("after as many evenly spaced", evenly, "%", "of the best ratio, sizes evenly spaced, the same budget"),
        Step("noise of a run", 100 * noise_of_runs(fit), "%", "standard deviation about the law"),
    ]
    runs = "1 run narrows" if len(design.flops) == 1 else f"{len(design.flops)} runs narrow"
    return Answer(
        "next",
        f"{runs} the {what} at {target:.3g} FLOPs from ± {before:.3g} % to ± {after:.3g} %",
        {name: value, "flops": float(design.flops.sum()), "half_width": after, "half_width_before": before},
        {name: (value * np.exp(-t * design.before), value * np.exp(t * design.before))},
        steps,
        _table(design),
        [Law(fit.law, fit.constants, f"{len(ran)} runs of the table", fit.intervals, fitted=True)],  # type: ignore[arg-type]
        [*fit.warnings, *_doubts(design, target, ran)],
    )


def _after(fit: Fit, design: Design, target: float, aim: str) -> float:
    """The standard deviation after given runs."""
    known = _Known(fit, design.num_parameters, design.num_tokens, target, aim, False)
    return float(np.sqrt(known.variance(range(len(design.flops)))))


def _table(design: Design) -> list[dict[str, Any]]:
    runs = np.stack([design.num_parameters, design.num_tokens, design.flops], 1)
    unique, count = np.unique(runs, axis=0, return_counts=True)
    order = np.argsort(unique[:, 2], kind="stable")
    return [
        {
            "num_parameters": float(unique[i, 0]),
            "num_tokens": float(unique[i, 1]),
            "flops": float(unique[i, 2]),
            "seeds": int(count[i]),
        }
        for i in order
    ]


def _doubts(design: Design, target: float, ran: np.ndarray) -> Sequence[str]:
    largest = max(float(design.flops.max()), float(ran.max()))
    doubts = ["the widths hold if the law does: how far it misfits beyond its table is not in them, see `knowcap fit`"]
    if target > 1000 * largest:
        doubts.append(f"the target is {target / largest:.2g} times the largest run: a law's misfit there is unknown")
    return doubts
