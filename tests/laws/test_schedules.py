"""Learning rates: their best values by size and tokens, and the loss along a schedule."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import grid, multi_power, noisy, silence, step_law

from knowcap.laws import LawError, best_rate_and_batch, fit_law, multi_power_loss
from knowcap.laws.multi_power import PUBLISHED


# Best batches and learning rates of 91 tried for each size and number of tokens: parameters, tokens, tokens in a
# batch, rate, loss (L. Lingle, Scaling laws for optimal LR and batch size, part III, 2025).
TUNED = """
46006272 127991808 32768 0.001953 3.880559  109051904 127991808 32768 0.000977 3.794820
368050176 127991808 65536 0.000691 3.714983  46006272 255983616 65536 0.001953 3.682230
109051904 255983616 65536 0.001381 3.582214  368050176 255983616 65536 0.000977 3.486761
46006272 511967232 65536 0.002762 3.518618  109051904 511967232 131072 0.001953 3.403666
368050176 511967232 131072 0.000977 3.287104  46006272 1023934464 131072 0.003906 3.384921
109051904 1023934464 131072 0.001953 3.256896  368050176 1023934464 131072 0.000977 3.123393
872415232 127991808 65536 0.000488 3.670941  872415232 255983616 65536 0.000488 3.434034
872415232 511967232 131072 0.000691 3.233707  872415232 1023934464 131072 0.000691 3.058425
"""


def tuned() -> dict[str, np.ndarray]:
    columns = np.array(TUNED.split(), dtype=float).reshape(-1, 5).T
    names = ("num_parameters", "num_tokens", "batch_tokens", "learning_rate", "loss")
    return dict(zip(names, columns, strict=True))


def test_grids_tuned_by_somebody_else_give_the_papers_exponents_of_tokens() -> None:
    """Printed by Li et al.: rates as N^-0.713 D^0.307, batches as D^0.571. These grids agree with both exponents of D
    and not with that of N; checked by numpy's least squares."""
    table = tuned()
    fit = fit_law("step-law", table, num_bootstraps=20)
    x, y = np.log(table["num_parameters"]), np.log(table["num_tokens"])
    by_hand, *_ = np.linalg.lstsq(np.stack([np.ones_like(x), x, y], 1), np.log(table["learning_rate"]), rcond=None)
    assert fit.constants["exponent_rate_parameters"] == pytest.approx(by_hand[1], rel=1e-9)
    assert fit.constants["exponent_rate_tokens"] == pytest.approx(by_hand[2], rel=1e-9)
    for name, printed in (("exponent_rate_tokens", 0.307), ("exponent_batch_tokens", 0.571)):
        low, high = (float(end or np.nan) for end in fit.intervals[name])
        assert low < printed < high
    assert fit.constants["exponent_rate_parameters"] == pytest.approx(-0.49, abs=0.005)


def test_the_best_of_a_grid_is_the_mean_of_those_near_it() -> None:
    """A bowl in the logarithms about the law's optimum, on a grid that is symmetric about it."""
    best, truth = step_law(silence)
    rows = np.repeat(np.arange(len(best["loss"])), 25)
    steps = grid(np.arange(-2, 3.0), np.arange(-2, 3.0))
    off_rate, off_batch = (np.tile(column, len(best["loss"])) for column in steps)
    table = {name: column[rows] for name, column in best.items()}
    table["learning_rate"] = table["learning_rate"] * 2**off_rate
    table["batch_tokens"] = table["batch_tokens"] * 2**off_batch
    table["loss"] = table["loss"] * (1 + 0.002 * (off_rate**2 + off_batch**2))
    fit = fit_law("step-law", table, num_bootstraps=20)
    assert fit.num_points == 25
    assert fit.constants == pytest.approx(truth)
    assert not any("largest or smallest" in text for text in fit.warnings)
    low = off_rate <= 0
    edge = fit_law("step-law", {k: v[low] for k, v in table.items()}, num_bootstraps=20)
    assert any("in 25 of 25 pairs" in text for text in edge.warnings)


def test_one_size_has_no_step_law() -> None:
    table = tuned()
    one = table["num_parameters"] == 46006272
    with pytest.raises(LawError):
        fit_law("step-law", {k: v[one] for k, v in table.items()})


def test_rate_and_batch_of_a_billion_parameters_are_the_papers() -> None:
    constants = step_law(silence)[1]
    rate, batch = best_rate_and_batch(constants, 1e9, 1e11)
    assert rate == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert batch == pytest.approx(0.58 * 1e11**0.571)


def test_two_schedules_predict_a_third() -> None:
    """Fitted to a constant rate and a cosine, against the published law's sum on warm-up, stable, decay."""
    table, _ = multi_power(silence)
    seen = table["run"] < 2
    fit = fit_law("multi-power", {k: v[seen] for k, v in table.items()}, num_bootstraps=10)
    new = {name: table[name][~seen] for name in ("step", "learning_rate")}
    assert fit.predict(new) == pytest.approx(table["loss"][~seen], rel=1e-6)
    assert any("2 curves for 7 constants" in text for text in fit.warnings)


def test_what_three_noisy_schedules_do_not_determine_is_open_and_said() -> None:
    """With 0.1 % of noise the curve of a constant rate is found, the shape of what a fall gains is not."""
    table, truth = noisy("multi-power", "equal", 0)
    fit = fit_law("multi-power", table, num_bootstraps=10, confidence_level=0.9)
    for name in ("L_0", "A", "alpha"):
        low, high = (float(end or np.nan) for end in fit.intervals[name])
        assert low < truth[name] < high < 1.1 * low
    open_ends = [name for name, ends in fit.intervals.items() if None in ends]
    assert open_ends
    for name in open_ends:
        assert any(text.startswith(f"the data do not determine {name}") for text in fit.warnings)


def test_curves_are_clusters_where_there_are_more_than_constants() -> None:
    table, _ = multi_power(silence)
    rows = len(table["step"])
    more = {name: np.tile(column, 3) for name, column in table.items()}
    more["run"] = more["run"] + 3 * (np.arange(3 * rows) // rows)
    fit = fit_law("multi-power", more, num_bootstraps=10)
    assert fit.clusters[0] == "groups"
    assert not any("curves for 7 constants" in text for text in fit.warnings)
    assert fit_law("multi-power", table, num_bootstraps=10).clusters[0] == "points"


def test_the_law_is_the_sum_over_single_steps() -> None:
    """A row for every step: equation by equation, with the rate of each step."""
    step = np.arange(1.0, 201.0)
    rate = np.where(step < 120, 3e-4, 3e-4 * np.exp(-(step - 120) / 30))
    c = PUBLISHED["25M"]
    expected = []
    for t in (50, 119, 160, 199):
        loss = c["L_0"] + c["A"] * rate[: t + 1].sum() ** -c["alpha"]
        for k in range(1, t + 1):
            x = c["C"] * rate[k] ** -c["gamma"] * rate[k : t + 1].sum()
            loss -= c["B"] * (rate[k - 1] - rate[k]) * (1 - (1 + x) ** -c["beta"])
        expected.append(loss)
    found = multi_power_loss(c, step, rate)[[50, 119, 160, 199]]
    assert found == pytest.approx(np.array(expected), rel=2e-3)


def test_a_constant_rate_alone_is_refused() -> None:
    table, _ = multi_power(silence)
    constant = table["run"] == 0
    with pytest.raises(LawError, match="falls in no run"):
        fit_law("multi-power", {k: v[constant] for k, v in table.items()})
