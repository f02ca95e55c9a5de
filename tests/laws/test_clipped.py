"""Intervals where the Huber loss clips most residuals, where runs of a seed share noise, and of free constants."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from simulated import NOISES, held, mixtures, noise_of

from knowcap.laws import fit_law, mixture_loss
from knowcap.laws.curve import _counted
from knowcap.laws.intervals import bootstrap, random_weights
from knowcap.laws.sandwich import robust, unclipped, undetermined
from knowcap.laws.solve import Model, minimize


DELTA = 1e-3


def straight(x: np.ndarray) -> Model:
    """A law that is linear in its constants."""
    return lambda theta: (theta @ x.T, np.tile(x, (len(theta), 1, 1)))


def refitted(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return minimize(straight(x), noise, np.zeros((1, x.shape[1])), delta=DELTA).theta[0]


def test_the_share_of_unclipped_scores_is_the_integral_over_even_residuals() -> None:
    """Even within 2 delta: r² up to delta is delta³ / 3, and the clipped rest delta³."""
    residual = np.linspace(-2 * DELTA, 2 * DELTA, 40_001)
    assert unclipped(residual, DELTA) == pytest.approx(1 / 4, rel=1e-3)
    assert unclipped(residual, 3 * DELTA) == unclipped(residual, np.inf) == 1
    assert unclipped(np.zeros(3), DELTA) == 1


def test_smooth_weights_leave_no_point_out_and_have_the_variance_of_counts() -> None:
    smooth, counts = (random_weights(40, 5_000, 0, None, kind) for kind in (True, False))
    assert smooth.min() > 0 == counts.min()
    assert smooth.mean() == pytest.approx(1) and counts.mean() == pytest.approx(1)
    assert smooth.var() == pytest.approx(counts.var(), rel=0.05)


def test_a_smooth_bootstrap_varies_as_refits_of_other_tables_do() -> None:
    """Noise of twice delta on a fixed design of 36 points: 1,000 refits of new noise, against bootstraps of 30."""
    random = np.random.default_rng(0)
    x = np.column_stack([np.ones(36), random.normal(size=(36, 5))])
    noise = 2 * DELTA * random.standard_normal((1_000, 36))
    expected = np.std([refitted(x, row) for row in noise], axis=0)

    def spread(smooth: bool) -> np.ndarray:
        drawn = [bootstrap(straight(x), row, refitted(x, row), DELTA, 200, smooth=smooth) for row in noise[:30]]
        return np.mean([part.std(0) for part in drawn], axis=0) / expected

    assert spread(True).mean() == pytest.approx(1, abs=0.07)
    assert spread(False).mean() > 1.09


def test_where_seeds_share_noise_a_slope_is_as_uncertain_as_it_differs_between_seeds() -> None:
    """Every seed has the same sizes, so the slope is the mean of four seeds' slopes: Student's t of three degrees of
    freedom.
    """
    random = np.random.default_rng(3)
    n = np.geomspace(1e6, 1e9, 9)
    shared, own = 0.02 * random.standard_normal((4, 1)), 0.002 * random.standard_normal((4, 9))
    loss = (8.8e13 / n) ** 0.076 * np.exp(shared + own)
    table = {"num_parameters": np.tile(n, 4), "loss": loss.ravel(), "seed": np.repeat(np.arange(4), 9)}
    fit = fit_law("kaplan-n", table, confidence_level=0.9, num_bootstraps=10)
    slopes = -np.polyfit(np.log(n), np.log(loss).T, 1)[0]
    half = scipy.stats.t.ppf(0.95, 3) * slopes.std(ddof=1) / 2
    assert fit.clusters == ("points", "seeds")
    assert fit.intervals["alpha_N"] == pytest.approx((slopes.mean() - half, slopes.mean() + half), rel=1e-4)


def test_points_still_count_for_constants_that_clusters_fit() -> None:
    """A level for each cluster and one slope within them all."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 5)
    x = np.column_stack([groups[:, None] == np.arange(6), random.normal(size=30)]).astype(float)
    residual = random.normal(size=30)
    residual -= x @ np.linalg.lstsq(x, residual, rcond=None)[0]
    both = {"points": robust(x, residual), "sizes": robust(x, residual, groups)}
    found = _counted(both, "sizes")["points"].variance
    assert found[:6] == pytest.approx(both["points"].variance[:6]) and found[6] == 0
    assert _counted(both, "points") is both


def test_constants_that_move_together_unseen_are_open() -> None:
    """Sixteen times as many parameters in all runs: w + t and A 16^(alpha t) predict the same."""
    table, truth = mixtures(noise_of(0.002, 5))
    same = table["num_parameters"] == 16 * table["num_active_parameters"]
    table = {name: column[same] for name, column in table.items()}
    fit = fit_law("mixtures", table, num_bootstraps=30)
    moved = truth | {"weight_of_total": truth["weight_of_total"] + 1, "A": truth["A"] * 16 ** truth["alpha"]}
    columns = [table[name] for name in ("num_active_parameters", "num_parameters", "num_tokens")]
    assert mixture_loss(moved, *columns) == pytest.approx(mixture_loss(truth, *columns))
    free = {name for name, ends in fit.intervals.items() if ends == (None, None)}
    assert free == {"A", "weight_of_total"}


def test_constants_are_undetermined_where_columns_are_dependent() -> None:
    x = np.random.default_rng(2).normal(size=(20, 3))
    assert undetermined(np.column_stack([x, 1e6 * (x[:, 0] - x[:, 2])])).tolist() == [True, False, True, True]
    assert not undetermined(np.column_stack([x, np.zeros(20)])).any()
    assert not undetermined(x * [1e-9, 1, 1e9]).any()


@pytest.mark.slow
@pytest.mark.parametrize("law", ["mixtures", "data-constrained", "chinchilla-parametric"])
@pytest.mark.parametrize("kind", NOISES)
def test_intervals_of_laws_with_the_huber_loss_hold_at_their_rate(law: str, kind: str) -> None:
    """Nominal 90, in the mean over the constants of 40 tables; constants of one table go together."""
    inside = [holds for seed in range(40) for holds, _ in held(law, kind, seed, 200).values()]
    assert np.mean(inside) == pytest.approx(0.91, abs=0.07)
