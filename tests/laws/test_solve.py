"""Our solvers against scipy's on seeded data: scipy finds no better objective."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.optimize
from simulated import SIMULATED, noise_of, parametric

from knowcap.laws import LawError, fit_law
from knowcap.laws.parametric import DELTA, grid_of_starts, parametric_model, project, solve_from_grid
from knowcap.laws.solve import covariance, huber, minimize, minimize_linear


CLOSE = 1e-6  # relative: how much better scipy's objective may be


@pytest.mark.parametrize("delta", [np.inf, DELTA])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_minimize_is_as_good_as_scipys_least_squares(delta: float, seed: int) -> None:
    """scipy's huber has the loss 2 delta (|r| - delta / 2) where ours has half of that, as has its cost."""
    table, truth = parametric(noise_of(0.01, seed))
    model, target = parametric_model(table["num_parameters"], table["num_tokens"]), np.log(table["loss"])
    start = np.array([np.log(truth["A"]), np.log(truth["B"]), np.log(truth["E"]), truth["alpha"], truth["beta"]])
    ours = minimize(model, target, start[None], delta=delta, max_iterations=1000)
    settings = {} if np.isinf(delta) else {"loss": "huber", "f_scale": delta}
    theirs = scipy.optimize.least_squares(
        lambda theta: model(theta[None])[0][0] - target, start, lambda theta: model(theta[None])[1][0],
        x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=5000, **settings,
    )  # fmt: skip
    assert ours.objective[0] == pytest.approx(huber(model(ours.theta)[0][0] - target, delta).sum())
    assert ours.objective[0] <= theirs.cost * (1 + CLOSE)


@pytest.mark.parametrize("seed", [0, 1])
def test_scipys_bfgs_from_hoffmanns_starts_finds_no_better_objective(seed: int) -> None:
    """Hoffmann et al. minimized by L-BFGS from the grid; here from the true constants and 20 starts drawn of it."""
    table, truth = parametric(noise_of(0.01, seed))
    n, d, loss = table["num_parameters"], table["num_tokens"], table["loss"]
    model, target = parametric_model(n, d), np.log(loss)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        prediction, jacobian = model(theta[None])
        residual = prediction[0] - target
        return float(huber(residual, DELTA).sum()), np.clip(residual, -DELTA, DELTA) @ jacobian[0]

    starts = np.random.default_rng(seed).choice(grid_of_starts(), 20, replace=False)
    true = [np.log(truth["A"]), np.log(truth["B"]), np.log(truth["E"]), truth["alpha"], truth["beta"]]
    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-12}
    found = [
        scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).fun
        for start in (true, *starts)
    ]
    projected = objective(project(n, d, loss, DELTA).theta)[0]
    assert solve_from_grid(n, d, loss).objective.min() <= min(found) * (1 + CLOSE)
    assert projected <= min(found) * 1.01  # before `minimize` finishes it
    fit = fit_law("chinchilla-parametric", table, num_bootstraps=10)
    assert fit.objective <= min(found) * (1 + CLOSE)


def error_of(objective: str, fitted: np.ndarray, loss: np.ndarray) -> float:
    """The objectives written out again, of losses in nats."""
    over = fitted - loss
    if objective == "asymmetric-mae":
        return float(np.where(over > 0, 10 * over, -over).sum())
    size = np.abs(over if objective == "huber" else np.log(fitted / loss))
    return float(np.where(size < 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())


@pytest.mark.parametrize("objective", ["huber-log", "huber", "asymmetric-mae"])
def test_no_neighbour_is_better_in_a_named_objective(objective: str) -> None:
    """Absolute errors are smoothed, so that a neighbour may be better by a part in two hundred."""
    table, _ = parametric(noise_of(0.005, seed=1))
    fit = fit_law("chinchilla-parametric", table, num_bootstraps=10, objective=objective)
    assert fit.objective == pytest.approx(error_of(objective, fit.points["fitted"], table["loss"]))
    least = fit.objective * (1 - (0.005 if objective == "asymmetric-mae" else 1e-9))
    generator, names = np.random.default_rng(0), list(fit.constants)
    for _ in range(500):
        moved = {n: fit.constants[n] * (1 + 10 ** generator.uniform(-5, -1) * generator.normal()) for n in names}
        assert error_of(objective, fit.formula(moved, table), table["loss"]) >= least


def test_one_run_in_eleven_lies_below_the_law_of_the_asymmetric_error() -> None:
    """It is the quantile that 10 to 1 gives, up to the five runs that five constants can pass through."""
    table, _ = parametric(noise_of(0.005, seed=1))
    fit = fit_law("chinchilla-parametric", table, num_bootstraps=10, objective="asymmetric-mae")
    assert abs(int((fit.points["fitted"] > table["loss"]).sum()) - 64 / 11) <= 5
    with pytest.raises(LawError, match="--objective is for chinchilla-parametric, got kaplan-nd"):
        fit_law("kaplan-nd", table, objective="huber")
    with pytest.raises(LawError, match="expected huber-log, huber, asymmetric-mae"):
        fit_law("chinchilla-parametric", table, objective="mae")


@pytest.mark.parametrize("delta", [np.inf, DELTA])
def test_refits_of_many_points_are_those_of_the_linearized_law(delta: float) -> None:
    """From 2,000 points on, against full refits under the same weights."""
    generator = np.random.default_rng(0)
    n, d = np.exp(generator.uniform(18, 23, 2400)), np.exp(generator.uniform(21, 26, 2400))
    loss = 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28
    model, target = parametric_model(n, d), np.log(loss * noise_of(0.007, seed=1)(2400))
    best = minimize(model, target, project(n, d, np.exp(target), DELTA).theta[None], delta=delta).best()
    weights = generator.multinomial(2400, np.full(2400, 1 / 2400), size=30).astype(float)
    prediction, jacobian = (part[0] for part in model(best[None]))
    ours = best + minimize_linear(jacobian, prediction - target, weights, delta)
    full = minimize(model, target, np.tile(best, (30, 1)), weights=weights, delta=delta).theta
    assert np.abs(ours - full).max(0) == pytest.approx(np.zeros(5), abs=0.05 * full.std(0).max())
    for i in range(5):
        assert np.corrcoef(ours[:, i], full[:, i])[0, 1] > 0.999


@pytest.mark.parametrize(
    "law", ["capacity", "exposures", "kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "kaplan-ns"]
)
def test_scipys_simplex_finds_no_better_constants_of_a_law(law: str) -> None:
    """Nelder-Mead on the law's own prediction, about the constants found: no derivative or model of ours."""
    make, _, size = SIMULATED[law]
    fit = fit_law(law, make(noise_of(size, seed=7))[0], num_bootstraps=10)
    names = list(fit.constants)
    columns = fit.points | ({"step": fit.points["min_steps"]} if law == "kaplan-ns" else {})
    best = np.array(list(fit.constants.values()))

    def objective(factors: np.ndarray) -> float:
        fit.constants.update(zip(names, best * np.exp(factors), strict=True))
        return float(((np.log(fit.predict(columns)) - np.log(fit.points["observed"])) ** 2).sum())

    assert objective(np.zeros(len(best))) == pytest.approx(fit.objective, rel=1e-9)
    for width in (0.3, 0.01):
        simplex = np.vstack([np.zeros(len(best)), width * np.eye(len(best))])
        options = {"initial_simplex": simplex, "maxiter": 4000, "xatol": 1e-9, "fatol": 1e-15}
        found = scipy.optimize.minimize(objective, simplex[0], method="Nelder-Mead", options=options)
        assert fit.objective <= found.fun * (1 + CLOSE)


def test_the_covariance_is_that_of_scipys_curve_fit() -> None:
    x = np.linspace(0, 1, 30)
    y = np.exp(0.3 + 0.8 * x) * noise_of(0.05, seed=2)(30)

    def line(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[:, :1] + theta[:, 1:] * x, np.tile(np.stack([x**0, x], -1), (len(theta), 1, 1))

    best = minimize(line, np.log(y), np.zeros((1, 2))).best()
    theirs, square = scipy.optimize.curve_fit(lambda x, a, b: a + b * x, x, np.log(y))
    variance = float(((line(best[None])[0][0] - np.log(y)) ** 2).sum()) / 28
    assert best == pytest.approx(theirs, rel=1e-6)
    assert variance * covariance(line, best) == pytest.approx(square, rel=1e-5)


def test_the_error_of_a_law_survives_pickling_with_its_problems() -> None:
    for problems in ("one", ["one"], ["one", "two"]):
        error = LawError(problems)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.problems) == (str(error), error.problems)
