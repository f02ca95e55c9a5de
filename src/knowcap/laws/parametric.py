"""Chinchilla's approach 3: L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, 3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.allocation import optimal_exponents
from knowcap.laws.curve import Curve, with_intervals
from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.intervals import interval, percentiles
from knowcap.laws.projection import project
from knowcap.laws.solve import Model, Solution, minimize
from knowcap.laws.terms import log_sum, logs


DELTA = 1e-3  # of the Huber loss, in log loss
NAMES = ("A", "B", "E", "alpha", "beta")
_OPTIONS = Options()
_SAMPLE = 48  # points on which all starts are tried
_TRIED, _KEPT, _FINISHED = 10, 120, 12  # steps from every start; starts kept then, and at the end


def parametric_loss(constants: Mapping[str, float], num_parameters: Any, num_tokens: Any) -> np.ndarray:
    """E + A / N^alpha + B / D^beta, nats per token."""
    n, d = np.asarray(num_parameters, dtype=float), np.asarray(num_tokens, dtype=float)
    return constants["E"] + constants["A"] / n ** constants["alpha"] + constants["B"] / d ** constants["beta"]


def parametric_model(num_parameters: np.ndarray, num_tokens: np.ndarray) -> Model:
    """log of the law at constants (log A, log B, log E, alpha, beta)."""
    x, y = logs(num_parameters, num_tokens)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
        total, (size, data, floor) = log_sum(a - alpha * x, b - beta * y, e)
        jacobian = np.empty((len(theta), len(x), 5))
        jacobian[..., 0], jacobian[..., 1], jacobian[..., 2] = size, data, floor
        jacobian[..., 3], jacobian[..., 4] = -x * size, -y * data
        return total, jacobian

    return model


def grid_of_starts() -> np.ndarray:
    """Hoffmann's 4,500 starts, of shape (4500, 5): a, b, e, alpha, beta."""
    exponents, logs_of_scale = np.arange(0.0, 2.1, 0.5), np.arange(0.0, 26.0, 5.0)
    return np.array(
        list(itertools.product(logs_of_scale, logs_of_scale, np.arange(-1.0, 1.1, 0.5), exponents, exponents))
    )


def solve_from_grid(num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray) -> Solution:
    """The five constants at once from the full grid of starts: some steps from each on a sample of the points, then on
    all points from the best of them, until the best no longer move."""
    target, points = np.log(loss), len(loss)
    chosen = np.argsort(loss)[np.linspace(0, points - 1, min(points, _SAMPLE)).round().astype(int)]
    sample = parametric_model(num_parameters[chosen], num_tokens[chosen])
    model = parametric_model(num_parameters, num_tokens)
    found = minimize(sample, target[chosen], grid_of_starts(), delta=DELTA, max_iterations=_TRIED)
    for kept, steps in ((_KEPT, 15), (_FINISHED, 1000)):
        best = found.theta[np.argsort(found.objective)[:kept]]
        found = minimize(model, target, best, delta=DELTA, max_iterations=steps)
    return found


def fit_parametric(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
    *,
    solver: str = "both",
) -> Fit:
    """Summed Huber loss (1e-3) of log loss, least over all five constants.

    Args:
        num_parameters, num_tokens: of shape (n,).
        loss: nats per token, of shape (n,).
        solver: `grid` is Hoffmann's: five constants at once, from 4,500 starts. `projection` searches the two
            exponents alone and solves for A, B, E within (`knowcap.laws.projection`). `both` does both, takes the
            better and warns if they differ.

    Raises:
        LawError: five points or fewer.
    """
    if len(loss) <= len(NAMES):
        raise LawError(f"chinchilla-parametric has 5 constants: got {len(loss)} points, expected 6 or more; add runs")
    found: dict[str, tuple[np.ndarray, float]] = {}
    extra: dict[str, Any] = {}
    if solver in ("both", "projection"):
        projected = project(num_parameters, num_tokens, loss, DELTA)
        model = parametric_model(num_parameters, num_tokens)
        end = minimize(model, np.log(loss), projected.theta[None], delta=DELTA, max_iterations=1000)
        found["projection"] = (end.best(), float(end.objective.min()))
        extra["condition_number_of_exponents"] = projected.condition_number
    if solver in ("both", "grid"):
        grid = solve_from_grid(num_parameters, num_tokens, loss)
        found["grid"] = (grid.best(), float(grid.objective.min()))
    if not found:
        raise LawError(f"solver: got {solver!r}, expected grid, projection or both")
    theta, objective = min(found.values(), key=lambda pair: pair[1])
    points = {"num_parameters": num_parameters, "num_tokens": num_tokens, "observed": loss}
    fit = with_intervals(_curve(points), theta, objective, options)
    fit.extra |= extra | {"solvers": {name: value for name, (_, value) in found.items()}}
    _derive(fit)
    fit.warnings += _doubts(fit, found)
    return fit


def _curve(points: dict[str, np.ndarray]) -> Curve:
    def predict(constants: Mapping[str, float], columns: Mapping[str, Any]) -> np.ndarray:
        return parametric_loss(constants, columns["num_parameters"], columns["num_tokens"])

    return Curve(
        "chinchilla-parametric",
        NAMES,
        (True, True, True, False, False),
        parametric_model(points["num_parameters"], points["num_tokens"]),
        points,
        predict,
        delta=DELTA,
        method="bootstrap",
    )


def _derive(fit: Fit) -> None:
    """The exponents of the optimal allocation, with their bootstrap intervals."""
    fit.derived |= optimal_exponents(fit.constants)
    alpha, beta = fit.samples[:, 3], fit.samples[:, 4]
    for name, samples in (("a", beta / (alpha + beta)), ("b", alpha / (alpha + beta))):
        fit.derived_intervals[name] = interval(*percentiles(samples, fit.confidence_level))
        fit.standard_errors[name] = float(samples.std())


def _doubts(fit: Fit, found: Mapping[str, tuple[np.ndarray, float]]) -> list[str]:
    warnings = []
    values = [value for _, value in found.values()]
    if max(values) > min(values) * 1.0001 + 1e-15:
        told = ", ".join(f"{name} {value:.8g}" for name, (_, value) in found.items())
        warnings.append(f"the solvers end at different objectives ({told}); the lower one is taken")
    smallest = float(fit.points["observed"].min())
    if fit.constants["E"] < 1e-3 * smallest:
        warnings.append("E is zero within rounding: the losses show no floor yet; add larger models on more tokens")
    return warnings
