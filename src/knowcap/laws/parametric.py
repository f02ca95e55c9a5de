"""Chinchilla's approach 3: L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, 3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, log_sum, logs, with_intervals
from knowcap.laws.fit import Fit, Options
from knowcap.laws.intervals import interval, percentiles
from knowcap.laws.law import LawError, optimal_exponents
from knowcap.laws.solve import Model, Solution, huber, minimize


DELTA = 1e-3  # of the Huber loss, in log loss
NAMES = ("A", "B", "E", "alpha", "beta")
_OPTIONS = Options()
_SAMPLE = 48  # points on which all starts are tried
_TRIED, _KEPT = 10, 120  # steps from every start; starts kept then


@dataclass(frozen=True)
class Objective:
    """What constants are least in.

    Attributes:
        text: in words.
        delta: of the Huber loss, in log loss or in nats.
        in_logs: whether residuals are of log loss.
        above: how often residuals count in which the law is above the observed loss.
    """

    text: str
    delta: float = DELTA
    in_logs: bool = True
    above: float = 1.0


# Hoffmann et al.'s, the same in nats, and one for a law that is to be the lower edge of the runs (as in the package
# chinchilla by K. Takano); absolute errors are smoothed within 1e-4 nats.
OBJECTIVES = {
    "huber-log": Objective("sum of Huber losses (0.001), log loss"),
    "huber": Objective("sum of Huber losses (0.001 nats), loss", in_logs=False),
    "asymmetric-mae": Objective(
        "sum of absolute errors of the loss in nats, ten times where the law is above",
        1e-4, in_logs=False, above=10.0,
    ),
}  # fmt: skip


def parametric_loss(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """E + A / N^alpha + B / D^beta, nats per token."""
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    return constants["E"] + constants["A"] / n ** constants["alpha"] + constants["B"] / d ** constants["beta"]


def parametric_model(num_parameters: np.ndarray, num_tokens: np.ndarray, in_logs: bool = True) -> Model:
    """log of the law at constants (log A, log B, log E, alpha, beta), or the law itself."""
    x, y = logs(num_parameters, num_tokens)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
        total, (size, data, floor) = log_sum(a - alpha * x, b - beta * y, e)
        jacobian = np.empty((len(theta), len(x), 5))
        jacobian[..., 0], jacobian[..., 1], jacobian[..., 2] = size, data, floor
        jacobian[..., 3], jacobian[..., 4] = -x * size, -y * data
        if in_logs:
            return total, jacobian
        value = np.exp(total)
        return value, jacobian * value[..., None]

    return model


def grid_of_starts() -> np.ndarray:
    """Hoffmann's 4,500 starts, of shape (4500, 5): a, b, e, alpha, beta."""
    exponents, logs_of_scale = np.arange(0.0, 2.1, 0.5), np.arange(0.0, 26.0, 5.0)
    return np.array(
        list(itertools.product(logs_of_scale, logs_of_scale, np.arange(-1.0, 1.1, 0.5), exponents, exponents))
    )


def _sample(loss: np.ndarray, number: int) -> np.ndarray:
    """Rows of up to `number` points, evenly spaced by loss."""
    return np.argsort(loss)[np.linspace(0, len(loss) - 1, min(len(loss), number)).round().astype(int)]


def solve_from_grid(num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray) -> Solution:
    """The five constants at once from the full grid of starts: some steps from each on a sample of the points, then on
    all points from the best of them, until the best no longer move."""
    target, chosen = np.log(loss), _sample(loss, _SAMPLE)
    sample = parametric_model(num_parameters[chosen], num_tokens[chosen])
    found = minimize(sample, target[chosen], grid_of_starts(), delta=DELTA, max_iterations=_TRIED)
    return _finished(num_parameters, num_tokens, loss, found.theta[np.argsort(found.objective)[:_KEPT]])


def _finished(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    starts: np.ndarray,
    of: Objective = OBJECTIVES["huber-log"],
) -> Solution:
    """All five constants on all points, from starts of shape (S, 5): some steps from each, then until the best no
    longer move.
    """
    model, target = parametric_model(num_parameters, num_tokens, of.in_logs), np.log(loss) if of.in_logs else loss
    found = minimize(model, target, starts, delta=of.delta, above=of.above, max_iterations=15)
    best = found.theta[np.argsort(found.objective)[: max(2, len(starts) // 10)]]
    return minimize(model, target, best, delta=of.delta, above=of.above, max_iterations=1000)


def fit_parametric(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
    *,
    solver: str = "projection",
    objective: str = "huber-log",
) -> Fit:
    """Summed Huber loss (1e-3) of log loss, or another of `OBJECTIVES`, least over all five constants.

    Args:
        num_parameters, num_tokens: of shape (n,).
        loss: nats per token, of shape (n,).
        solver: `projection` searches the two exponents alone, with the best A, B, E for each, and goes on from the
            best of them with all five constants. `grid` is Hoffmann's: five constants at once, from 4,500 starts.
            `both` does both, takes the better and warns if they differ.
        objective: one of `OBJECTIVES`. The searches are of `huber-log`; the constants that they find are where the
            others start.

    Raises:
        LawError: five points or fewer, or no such solver or objective.
    """
    if objective not in OBJECTIVES:
        raise LawError(f"objective: got {objective!r}, expected {', '.join(OBJECTIVES)}")
    of = OBJECTIVES[objective]
    if len(loss) <= len(NAMES):
        raise LawError(f"chinchilla-parametric has 5 constants: got {len(loss)} points, expected 6 or more; add runs")
    found: dict[str, tuple[np.ndarray, float]] = {}
    extra: dict[str, Any] = {}
    if solver in ("both", "projection"):
        projected = project(num_parameters, num_tokens, loss, DELTA)
        end = _finished(num_parameters, num_tokens, loss, projected.starts, of)
        found["projection"] = (end.best(), float(end.objective.min()))
        extra["condition_number_of_exponents"] = projected.condition_number
    if solver in ("both", "grid"):
        grid = solve_from_grid(num_parameters, num_tokens, loss)
        if objective != "huber-log":
            grid = _finished(num_parameters, num_tokens, loss, grid.theta, of)
        found["grid"] = (grid.best(), float(grid.objective.min()))
    if not found:
        raise LawError(f"solver: got {solver!r}, expected grid, projection or both")
    theta, least = min(found.values(), key=lambda pair: pair[1])
    points = {"num_parameters": num_parameters, "num_tokens": num_tokens, "observed": loss}
    fit = with_intervals(_curve(points, of), theta, least, options)
    if of.above != 1:
        over = fit.points["fitted"] - loss
        fit.objective = float((np.abs(over) * np.where(over > 0, of.above, 1.0)).sum())
    fit.extra |= extra | {"objective_name": objective, "solvers": {name: value for name, (_, value) in found.items()}}
    _derive(fit)
    fit.warnings += _doubts(fit, found)
    return fit


def _curve(points: dict[str, np.ndarray], of: Objective) -> Curve:
    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        return parametric_loss(constants, columns["num_parameters"], columns["num_tokens"])

    return Curve(
        "chinchilla-parametric",
        NAMES,
        (True, True, True, False, False),
        parametric_model(points["num_parameters"], points["num_tokens"], of.in_logs),
        points,
        predict,
        delta=of.delta,
        above=of.above,
        in_logs=of.in_logs,
        described=of.text,
        method="bootstrap",
    )


def _derive(fit: Fit) -> None:
    """The exponents of the optimal allocation, with their bootstrap intervals."""
    if fit.samples is None:
        return
    fit.derived |= optimal_exponents(fit.constants)
    alpha, beta = fit.samples[:, 3], fit.samples[:, 4]
    for name, samples in (("a", beta / (alpha + beta)), ("b", alpha / (alpha + beta))):
        ends = percentiles(samples, fit.confidence_level) - fit.derived[name]
        fit.derived_intervals[name] = interval(*(fit.derived[name] + fit.stretch * ends))
        fit.standard_errors[name] = float(samples.std())


def _doubts(fit: Fit, found: Mapping[str, tuple[np.ndarray, float]]) -> list[str]:
    warnings = []
    values = [value for _, value in found.values()]
    if max(values) > min(values) * 1.0001 + 1e-15:
        objectives = ", ".join(f"{name} {value:.8g}" for name, (_, value) in found.items())
        warnings.append(f"the solvers end at different objectives ({objectives}); the lower one is taken")
    smallest = float(fit.points["observed"].min())
    if fit.constants["E"] < 1e-3 * smallest:
        warnings.append(
            "E is zero within rounding: the losses show no irreducible loss yet; add larger models on more tokens"
        )
    return warnings


_LOW, _HIGH, _GRID = 0.02, 2.5, 14  # exponents of the first grid
_ROUNDS, _SIZE, _SHRINK = 5, 5, 0.5  # then smaller and smaller grids about the best
_REWEIGHTINGS = 6
_SEARCHED = 300  # points on which exponents are searched
_BEST = 7  # pairs of the first grid from which all constants are tried, beside the last one
_LEAST_SHARE = 1e-4  # of the loss, which a term has in those starts


@dataclass(frozen=True)
class Projection:
    """The best exponents and what goes with them.

    Attributes:
        theta: log A, log B, log E, alpha, beta; a constant of zero is exp(-700).
        condition_number: of the surface over the two exponents at its lowest point.
        starts: theta and the best of the first grid, in which no constant is zero, of shape (S, 5).
    """

    theta: np.ndarray
    condition_number: float
    starts: np.ndarray


def project(num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray, delta: float) -> Projection:
    """Least Huber loss of log loss over the exponents, by grids that close in on the best.

    Args:
        num_parameters, num_tokens, loss: of shape (n,); 300 of many points, evenly spaced by loss, are used.
        delta: of the Huber loss.
    """
    rows = _sample(loss, _SEARCHED)
    x, y, loss = *logs(num_parameters[rows], num_tokens[rows]), loss[rows]
    grid = np.geomspace(_LOW, _HIGH, _GRID)
    exponents = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    width = np.log(_HIGH / _LOW) / (_GRID - 1)
    best, best_value, linear, starts = exponents[0], np.inf, np.zeros(3), []
    for number in range(_ROUNDS + 1):
        value, found = _surface(exponents, x, y, loss, delta)
        order = np.argsort(value)
        if number == 0:
            positive = np.maximum(found[order[:_BEST]], _LEAST_SHARE * loss.mean())
            starts = [_theta(*pair, x, y) for pair in zip(exponents[order[:_BEST]], positive, strict=True)]
        if value[order[0]] < best_value:
            best, best_value, linear = exponents[order[0]], value[order[0]], found[order[0]]
        offsets = np.linspace(-1, 1, _SIZE) * width * _SHRINK**number
        exponents = best * np.exp(np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2))
    theta = _theta(best, linear, x, y)
    return Projection(theta, _roundness(best, x, y, loss), np.array([theta, *starts]))


def _theta(exponents: np.ndarray, linear: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The five constants of the solver, from coefficients of the centred basis."""
    scale = np.array([np.exp(exponents[0] * x.mean()), np.exp(exponents[1] * y.mean()), 1.0])
    return np.concatenate([np.log(np.maximum(linear * scale, np.exp(-700))), exponents])


def _basis(exponents: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """N^-alpha, D^-beta and 1, centred so that none is far from 1: (B, n, 3)."""
    size = np.exp(-exponents[:, 0, None] * (x - x.mean()))
    data = np.exp(-exponents[:, 1, None] * (y - y.mean()))
    return np.stack([size, data, np.ones_like(size)], -1)


def _surface(
    exponents: np.ndarray, x: np.ndarray, y: np.ndarray, loss: np.ndarray, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The objective (B,) and the non-negative A, B, E (B, 3) at exponents (B, 2), by iteratively reweighted least
    squares.

    The residual is linearized about the last fit: log f - log L is (f - f_last) / f_last + log(f_last / L).
    """
    basis = _basis(exponents, x, y)
    log_loss = np.log(loss)
    fitted = np.broadcast_to(loss, basis.shape[:2])
    weights = np.ones_like(fitted)
    best, best_value = np.zeros((len(exponents), 3)), np.full(len(exponents), np.inf)
    for _ in range(_REWEIGHTINGS):
        linear = _non_negative(basis / fitted[..., None], 1 - np.log(fitted) + log_loss, weights)
        new = np.maximum((basis @ linear[..., None])[..., 0], 1e-300)
        residual = np.log(new) - log_loss
        value = huber(residual, delta).sum(1)
        better = value < best_value
        best[better], best_value[better] = linear[better], value[better]
        fitted = new
        weights = delta / np.maximum(np.abs(residual), delta)
    return best_value, best


def _non_negative(basis: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares with no negative coefficient: the best of all seven sets of coefficients that may be
    above zero.
    """
    weighted = (basis * weights[..., None]).transpose(0, 2, 1)
    normal = weighted @ basis
    right = (weighted @ target[..., None])[..., 0]
    best, best_value = np.zeros(right.shape), np.zeros(len(right))
    rows = np.arange(len(right))
    for chosen in ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,)):
        part = normal[rows][:, chosen][:, :, chosen]
        part = part + 1e-13 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(chosen))
        found = np.linalg.solve(part, right[rows][:, chosen][..., None])[..., 0]
        value = -(found * right[rows][:, chosen]).sum(1)  # of the squares, up to a constant and a factor
        better = (found >= 0).all(1) & (value < best_value[rows])
        best_value[rows[better]] = value[better]
        best[rows[better]] = 0.0
        best[rows[better][:, None], np.array(chosen)] = found[better]
        if len(chosen) == 3:  # where all three are above zero, no other set is better
            rows = rows[~better]
    return best


def _roundness(best: np.ndarray, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> float:
    """Condition number of the least-squares surface over the exponents: derivatives without what A, B, E absorb."""
    basis = _basis(best[None], x, y)[0] / loss[:, None]
    slopes = np.stack([basis[:, 0] * (x - x.mean()), basis[:, 1] * (y - y.mean())], 1)
    linear, *_ = np.linalg.lstsq(basis, np.ones(len(loss)), rcond=None)
    slopes = slopes * linear[:2]
    left = slopes - basis @ np.linalg.lstsq(basis, slopes, rcond=None)[0]
    values = np.linalg.svd(left, compute_uv=False)
    return float((values[0] / values[1]) ** 2) if values[1] > 0 else float("inf")
