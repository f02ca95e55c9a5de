"""Loss to accuracy: both steps in a row, and ends of the sigmoid that the runs do not show."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import accuracy, grid, hoffmann, noise_of, noisy, silence

from knowcap.laws import LawError, accuracy_at, fit_law


def test_two_steps_predict_the_accuracy_of_a_larger_model() -> None:
    """Runs up to 1e21 FLOPs, a model of 1e23: loss by approach 3, accuracy by the sigmoid of it."""
    n, d = grid(np.geomspace(3e7, 3e9, 6), np.geomspace(1e9, 6e10, 5))
    truth = {"chance": 0.25, "ceiling": 0.95, "steepness": 3.0, "midpoint": 2.6}
    loss = hoffmann(n, d) * noise_of(0.002, 1)(len(n))
    right = accuracy_at(truth, loss) + 0.005 * np.random.default_rng(2).standard_normal(len(n))
    first = fit_law("chinchilla-parametric", {"num_parameters": n, "num_tokens": d, "loss": loss}, num_bootstraps=10)
    second = fit_law("accuracy", {"loss": loss, "accuracy": right}, num_bootstraps=10)
    large = {"num_parameters": np.array([2.8e10]), "num_tokens": np.array([6e11])}
    predicted = second.predict({"loss": first.predict(large)})[0]
    expected = accuracy_at(truth, hoffmann(large["num_parameters"], large["num_tokens"]))[0]
    assert expected > right.max()
    assert predicted == pytest.approx(expected, abs=0.03)


def test_an_end_that_no_run_comes_near_is_held_and_said() -> None:
    table, truth = accuracy(silence)
    early = table["loss"] > 1.5
    fit = fit_law("accuracy", {k: v[early] for k, v in table.items()}, num_bootstraps=10)
    assert fit.constants["ceiling"] == 1.0
    assert any("near the ceiling" in note for note in fit.notes)
    assert fit.constants["chance"] == pytest.approx(truth["chance"], abs=0.02)
    whole = fit_law("accuracy", table, num_bootstraps=10)
    assert not any("held" in note for note in whole.notes)


def test_per_cents_are_refused() -> None:
    table, _ = accuracy(silence)
    with pytest.raises(LawError, match="divide per cents by 100"):
        fit_law("accuracy", table | {"accuracy": 100 * table["accuracy"]})


def test_accuracy_of_a_loss_of_another_task_is_warned_of() -> None:
    table, _ = accuracy(silence)
    fit = fit_law("accuracy", table | {"accuracy": 0.9 - 0.2 * table["accuracy"]}, num_bootstraps=10)
    assert any("does not rise" in text for text in fit.warnings)


def test_larger_models_are_predicted_from_smaller_ones_in_logarithms_of_accuracies() -> None:
    """With noise of 1 % the rollout's last errors are of that size, and no misfit is warned of."""
    fit = fit_law("accuracy", noisy("accuracy", "equal", 1)[0], num_bootstraps=20)
    assert fit.rollout is not None
    last = fit.rollout.cut == fit.rollout.cut.max()
    assert np.abs(fit.rollout.error[last]).max() < 0.05
    assert not any("misses the larger" in text for text in fit.warnings)


def test_noise_that_models_of_one_size_share_widens_the_intervals() -> None:
    table, _ = noisy("accuracy", "size", 1)
    fit = fit_law("accuracy", table, num_bootstraps=10)
    assert "sizes" in fit.clusters
    alone = fit_law("accuracy", {name: table[name] for name in ("loss", "accuracy")}, num_bootstraps=10)
    assert fit.constants == pytest.approx(alone.constants)
    wide, narrow = ([float(end or np.nan) for end in f.intervals["ceiling"]] for f in (fit, alone))
    assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0])
