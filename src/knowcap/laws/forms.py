"""Simpler and richer forms of laws: fewer constants, or a floor of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowcap.laws.curve import Curve, fit_curve, log_sum, logs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.parametric import DELTA, parametric_loss, parametric_model
from knowcap.laws.solve import Model


_ONE = {"kaplan-n": ("N_c", "alpha_N"), "kaplan-d": ("D_c", "alpha_D"), "kaplan-c": ("C_c", "alpha_C")}
_SHARES = (0.2, 0.5, 0.8)  # of the least loss: where the search for a floor starts
_NONE = -700.0  # log of a constant that is zero


def forms(fit: Fit, options: Options) -> list[Fit]:
    """The other forms of a fitted law, to the same points; an empty list for a law without any.

    - chinchilla-parametric with alpha = beta (4 constants), and with E = 0 (4 constants);
    - kaplan-n, -d and -c with a floor: E + (X_c / X)^alpha (3 constants).

    Raises:
        LawError: too few points for one of them.
    """
    if fit.law == "chinchilla-parametric":
        return [_equal_exponents(fit, options), _no_floor(fit, options)]
    if fit.law in _ONE:
        return [_with_floor(fit, options)]
    return []


def restricted(model: Model, directions: np.ndarray, offset: np.ndarray) -> Model:
    """A law whose p constants are `directions` (p, q) times q free ones, plus `offset` (p,)."""

    def inner(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted, slopes = model(theta @ directions.T + offset)
        return predicted, slopes @ directions

    return inner


def _equal_exponents(fit: Fit, options: Options) -> Fit:
    directions = np.eye(5)[:, :4]
    directions[4, 3] = 1.0
    exponent = (fit.constants["alpha"] + fit.constants["beta"]) / 2
    start = _parametric_start(fit, exponent, exponent)[:4]
    names = ("A", "B", "E", "alpha")
    return _parametric(fit, "alpha = beta", names, directions, np.zeros(5), start, options)


def _no_floor(fit: Fit, options: Options) -> Fit:
    directions = np.eye(5)[:, [0, 1, 3, 4]]
    offset = np.zeros(5)
    offset[2] = _NONE
    start = _parametric_start(fit, fit.constants["alpha"] / 3, fit.constants["beta"] / 3)[[0, 1, 3, 4]]
    return _parametric(fit, "E = 0", ("A", "B", "alpha", "beta"), directions, offset, start, options)


def _parametric_start(fit: Fit, alpha: float, beta: float) -> np.ndarray:
    """log A, log B, log E, alpha, beta, the first two such that each term is a third of the loss in the middle."""
    x, y, loss = (np.log(fit.points[name]).mean() for name in ("num_parameters", "num_tokens", "observed"))
    third = loss - np.log(3)
    return np.array([third + alpha * x, third + beta * y, third, alpha, beta])


def _parametric(
    fit: Fit,
    form: str,
    names: tuple[str, ...],
    directions: np.ndarray,
    offset: np.ndarray,
    start: np.ndarray,
    options: Options,
) -> Fit:
    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        whole = {"E": 0.0, "beta": constants["alpha"]} | dict(constants)
        return parametric_loss(whole, columns["num_parameters"], columns["num_tokens"])

    points = _points(fit)
    model = restricted(parametric_model(points["num_parameters"], points["num_tokens"]), directions, offset)
    scales = tuple(name in ("A", "B", "E") for name in names)
    starts = start + np.array([-1.0, 0.0, 1.0])[:, None] * np.where(scales, 0.0, 0.5 * start)
    law = f"{fit.law} ({form})"
    return fit_curve(Curve(law, names, scales, model, points, predict, DELTA, method="bootstrap"), starts, options)


def _with_floor(fit: Fit, options: Options) -> Fit:
    scale, exponent = _ONE[fit.law]
    (column,) = (name for name in fit.points if name not in ("observed", "fitted"))
    points = _points(fit)
    (x,) = logs(points[column])

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance, alpha = theta[:, 0, None] - x, theta[:, 1, None]
        total, (falls, floor) = log_sum(alpha * distance, theta[:, 2, None] + 0 * x)
        return total, np.stack([alpha * falls, distance * falls, floor], -1)

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        ratio = constants[scale] / np.asarray(columns[column], dtype=float)
        return constants["E"] + ratio ** constants[exponent]

    least, middle = float(points["observed"].min()), float(points["observed"].mean())
    starts = [
        (x.mean() + np.log(middle - share * least) / alpha, alpha, np.log(share * least))
        for share in _SHARES
        for alpha in (max(fit.constants[exponent], 0.02), 0.3, 0.6)
    ]
    names = (scale, exponent, "E")
    curve = Curve(f"{fit.law} (with a floor)", names, (True, False, True), model, points, predict, method="bootstrap")
    return fit_curve(curve, np.array(starts), options)


def _points(fit: Fit) -> dict[str, np.ndarray]:
    return {name: column for name, column in fit.points.items() if name != "fitted"}
