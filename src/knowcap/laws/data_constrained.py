"""Loss with repeated data: L = E + A / N'^alpha + B / D'^beta (Muennighoff et al. 2023, 3.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from knowcap.laws.curve import Curve, fit_curve, log_sum
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError, optimal_exponents
from knowcap.laws.parametric import DELTA, project
from knowcap.laws.repeated import PASSES, data_constrained_loss, value_of_pass
from knowcap.laws.solve import Model


LAW = "data-constrained"
NAMES = ("A", "B", "E", "alpha", "beta", "R_D", "R_N")
_OPTIONS = Options()
_FRESH = 1.01  # passes up to which a run counts as one on fresh data
_ENOUGH = 8  # such runs
_FEW_PASSES = 5.0  # runs of fewer do not show how the value of repeated data ends
_RISES = 1.05  # a loss above that of fewer passes by this factor is overfitting


def fit_data_constrained(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    unique_tokens: np.ndarray,
    loss: np.ndarray,
    options: Options = _OPTIONS,
    *,
    base: Mapping[str, float] | None = None,
) -> Fit:
    """The least sum of Huber losses (1e-3) of log loss, over all seven constants, or over R_D and R_N at a given base.

    The paper (appendix A) took the second way: A, B, E, alpha = beta from other runs on the same text. Runs whose loss
    is above that of the same model and data with fewer passes overfit, for which the law has no term; they are left
    out. R_N is left out where no model is larger than the one for which its unique tokens are compute-optimal.

    Args:
        num_parameters, num_tokens, unique_tokens: N, D, U, of shape (n,).
        loss: of held-out text, nats per token, of shape (n,); the loss of repeated training text tells nothing.
        base: A, B, E, alpha and beta of a fit to fresh data, kept as they are.

    Raises:
        LawError: too few runs, no run repeats its data, or unique_tokens above num_tokens throughout.
    """
    if (unique_tokens > 1.001 * num_tokens).all():
        raise LawError(f"{LAW}: unique_tokens is above num_tokens in every row, expected below; are they exchanged?")
    unique_tokens = np.minimum(unique_tokens, num_tokens)
    passes = num_tokens / unique_tokens
    if passes.max() < 1.1:
        raise LawError(
            f"{LAW}: no run repeats its data (at most {passes.max():.3g} passes), expected runs of several passes; "
            "add them, or use chinchilla-parametric"
        )
    points = {
        "num_parameters": num_parameters, "num_tokens": num_tokens, "unique_tokens": unique_tokens, "observed": loss,
    }  # fmt: skip
    rising = _rising(points)
    points = {name: column[~rising] for name, column in points.items()}
    fit = _fit(points, base, 7, options)
    if not _excess(fit.constants, points).any():
        fit = _fit(points, base, 6, options)
        fit.notes.append("no model is too large for its unique tokens, so R_N is left out: N' is N")
    if rising.any():
        fit.warnings.append(
            f"{int(rising.sum())} of {len(rising)} runs are left out: their loss is above that of the same model and "
            "data with fewer passes, so they overfit, for which this law has no term; it holds for the others alone"
        )
    _add_results(fit)
    return fit


def _given(base: Mapping[str, float]) -> np.ndarray:
    """log A, log B, log E, log alpha, log beta of a fit to fresh data."""
    if missing := [name for name in NAMES[:5] if not base.get(name, 0) > 0]:
        raise LawError(f"{LAW}: the base needs A, B, E, alpha and beta above zero, got no such {', '.join(missing)}")
    return np.log([base[name] for name in NAMES[:5]])


def _begin(points: Mapping[str, np.ndarray]) -> np.ndarray:
    """The same of laws without repeats (k, 5): for the runs with the fewest passes, and with usual exponents."""
    passes = points["num_tokens"] / points["unique_tokens"]
    rows = passes <= max(1.5, float(np.sort(passes)[min(len(passes), 12) - 1]))
    n, d, loss = (points[name][rows] for name in ("num_parameters", "num_tokens", "observed"))
    found = project(n, d, loss, DELTA).theta
    starts = [np.concatenate([np.maximum(found[:3], [-5.0, -5.0, -1.0]), np.log(np.clip(found[3:], 0.05, 1.5))])]
    for exponent in (0.2, 0.35, 0.5):
        basis = np.stack([n**-exponent, d**-exponent, np.ones_like(n)], 1)
        scale = basis.max(0)
        terms = scipy.optimize.nnls(basis / scale / loss[:, None], np.ones_like(n))[0] / scale
        terms = np.log(np.maximum(terms, np.array([0.01, 0.01, 0.1]) * float(loss.min()) / scale))
        starts.append(np.concatenate([terms, np.log([exponent, exponent])]))
    return np.array(starts)


def _fit(points: dict[str, np.ndarray], base: Mapping[str, float] | None, width: int, options: Options) -> Fit:
    """Without R_N at a width of 6."""
    fixed = () if base is None else tuple(_given(base))
    known = dict(zip(NAMES, np.exp(fixed), strict=False))
    whole = _model(points, width)

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted, jacobian = whole(np.hstack([np.tile(fixed, (len(theta), 1)), theta]))
        return predicted, jacobian[..., len(fixed) :]

    def predict(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
        names = ("num_parameters", "num_tokens", "unique_tokens")
        return data_constrained_loss(known | dict(constants), *(columns[name] for name in names))

    ratios = itertools.product((1.0, 5.0, 20.0, 80.0), (1.0, 5.0, 25.0)[: 3 if width == 7 else 1])
    ends = np.array([np.log(pair)[: width - 5] for pair in ratios])
    if not fixed:
        ends = np.array([[*start, *end] for start, end in itertools.product(_begin(points), ends)])
    names = NAMES[len(fixed) : width]
    curve = Curve(LAW, names, (True,) * len(names), model, points, predict, delta=DELTA, method="bootstrap")
    fit = fit_curve(curve, ends, options)
    if fixed:
        fit.constants = {name: float(value) for name, value in known.items()} | fit.constants
        fit.intervals = {name: (float(value), float(value)) for name, value in known.items()} | fit.intervals
        fit.notes.append("A, B, E, alpha and beta are given, and their intervals are not in those of R_D and R_N")
        if fit.samples is not None:
            fit.samples = np.hstack([np.tile(list(known.values()), (len(fit.samples), 1)), fit.samples])
    return fit


def _model(points: Mapping[str, np.ndarray], width: int) -> Model:
    """log of the law and its derivatives, at the logarithms of its constants."""
    n, u = np.log(points["num_parameters"]), np.log(points["unique_tokens"])
    more = points["num_tokens"] / points["unique_tokens"] - 1

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e = (theta[:, i, None] for i in range(3))
        alpha, beta = (np.exp(np.clip(theta[:, i, None], -7.0, 3.0)) for i in (3, 4))
        tokens, by_rd = _saturating(more, theta[:, 5, None])
        tokens = u + tokens
        if width == 7:
            g = (theta[:, 3, None] + a - theta[:, 4, None] - b) / (alpha + beta)
            optimal = beta / alpha * (u + g) + g
            excess = optimal < n
            enough = np.where(excess, optimal, n)
            ratio = np.exp(np.clip(n - enough, 0.0, 60.0))
            size, by_rn = _saturating(ratio - 1, theta[:, 6, None])
            by_enough = excess * (1 - ratio * np.exp(-(ratio - 1) * np.exp(-theta[:, 6, None]) - size))
            size = enough + size
        else:
            size = np.broadcast_to(n, tokens.shape)
        total, (of_size, of_data, floor) = log_sum(a - alpha * size, b - beta * tokens, e)
        jacobian = np.empty((*total.shape, width))
        jacobian[..., 0], jacobian[..., 1], jacobian[..., 2] = of_size, of_data, floor + 0 * total
        jacobian[..., 3], jacobian[..., 4] = -alpha * size * of_size, -beta * tokens * of_data
        jacobian[..., 5] = -beta * of_data * by_rd
        if width == 7:
            through = -alpha * of_size * by_enough  # d log L / d log U_N
            both, per_g = alpha + beta, through * (beta / alpha + 1)
            jacobian[..., 0] += per_g / both
            jacobian[..., 1] -= per_g / both
            jacobian[..., 3] += per_g * (1 - alpha * g) / both - through * beta / alpha * (u + g)
            jacobian[..., 4] += per_g * (-1 - beta * g) / both + through * beta / alpha * (u + g)
            jacobian[..., 6] = -alpha * of_size * by_rn
        return total, jacobian

    return model


def _saturating(more: np.ndarray, log_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log(1 + R (1 - exp(-more / R))) and its derivative by log R."""
    scale = np.exp(np.clip(log_scale, -12.0, 12.0))
    left = np.exp(-np.minimum(more / scale, 700.0))
    value = 1 + scale * (1 - left)
    return np.log(value), (scale * (1 - left) - more * left) / value


def _excess(constants: Mapping[str, float], points: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which models are larger than U_N by a tenth or more."""
    g = optimal_exponents(constants)["G"]
    enough = (points["unique_tokens"] * g) ** (constants["beta"] / constants["alpha"]) * g
    return points["num_parameters"] > 1.1 * enough


def _add_results(fit: Fit) -> None:
    """Adds what further passes are worth, and warnings."""
    points = fit.points
    passes = points["num_tokens"] / points["unique_tokens"]
    n, u = (float(np.exp(np.median(np.log(points[k])))) for k in ("num_parameters", "unique_tokens"))
    fit.extra["passes"] = {
        "num_parameters": n,
        "unique_tokens": u,
        "values": [{"passes": k} | value_of_pass(fit.constants, n, u, k) for k in PASSES],
    }
    if passes.max() < _FEW_PASSES:
        fit.warnings.append(
            f"no run has more than {passes.max():.3g} passes over its data, where repeats are worth nearly as much as "
            "fresh data, so R_D is extrapolated; add runs of 16 passes or more"
        )
    if (fresh := int((passes < _FRESH).sum())) < _ENOUGH and "given" not in " ".join(fit.notes):
        fit.warnings.append(
            f"{fresh} runs are on fresh data, expected {_ENOUGH} or more: the constants of fresh data trade off "
            "against R_D and R_N; add such runs, or give a base"
        )
    if "R_N" in fit.constants and (large := int(_excess(fit.constants, points).sum())) < 3:
        fit.warnings.append(f"R_N rests on {large} models that are too large for their unique tokens; add such runs")


def _rising(points: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which runs have a loss above that of a run of the same model and data with fewer passes."""
    same = np.stack([points["num_parameters"], points["unique_tokens"]], 1)
    groups = np.unique(same, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((points["num_tokens"], groups))
    rising = np.zeros(len(order), dtype=bool)
    least, group = np.inf, -1
    for row in order:
        least = points["observed"][row] if groups[row] != group else min(least, points["observed"][row])
        group = groups[row]
        rising[row] = points["observed"][row] > _RISES * least
    return rising
