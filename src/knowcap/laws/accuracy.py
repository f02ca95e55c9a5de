"""Loss to accuracy, the second of two steps from compute to a task (Bhagia et al. 2024, arXiv 2412.04403, step 2).

accuracy = chance + (ceiling - chance) / (1 + exp(steepness (L - midpoint))): a sigmoid of the loss on the task's own
answers, in nats per token of the answer or per fact. The first step is any law of that loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy

from knowcap.laws.curve import Curve, fit_curve
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError


LAW = "accuracy"
NAMES = ("chance", "ceiling", "steepness", "midpoint")
_OPTIONS = Options()
_REACHED = 0.25  # of the way from one end to the other that the runs must come near to, for that end to be seen
_TRIAL = Options(confidence_level=0.95, num_bootstraps=10)  # by which it is decided what is seen


def accuracy_at(constants: Mapping[str, Any], loss: Any) -> np.ndarray:
    """The share of right answers at a loss of the task."""
    low, high = constants["chance"], constants["ceiling"]
    distance = constants["steepness"] * (np.asarray(loss, dtype=float) - constants["midpoint"])
    return low + (high - low) * scipy.special.expit(-distance)


def fit_accuracy(
    loss: np.ndarray, accuracy: np.ndarray, options: Options = _OPTIONS, *, chance: float | None = None
) -> Fit:
    """Least squares of accuracies, from 0 to 1.

    A loss of zero is an accuracy of 1, so the ceiling is held at 1 where the runs do not come near it or determine it
    to a quarter only. chance is held at 0 where they do not come near it then. A note says which.

    Args:
        loss: of the task's answers, of shape (n,), in nats.
        accuracy: shares of right answers above 0 and up to 1, of shape (n,).
        chance: the share of right answers by guessing where it is known, such as 0.25 for one of four choices.

    Raises:
        LawError: accuracies above 1 (per cents), fewer than four runs, a chance that is no share.
    """
    if (accuracy > 1).any():
        raise LawError(
            f"{LAW}: accuracies are up to {accuracy.max():g}, expected shares from 0 to 1; divide per cents by 100"
        )
    if chance is not None and not 0 <= chance < 1:
        raise LawError(f"{LAW}: chance is {chance:g}, expected 0 or more and less than 1, such as 0.25")
    held, notes = {} if chance is None else {"chance": chance}, []
    for name, value in (("ceiling", 1.0), ("chance", 0.0)):
        if name not in held and not _seen(name, _fit(loss, accuracy, held, _shared(options))):
            held[name] = value
            notes.append(
                f"the runs do not show the {name}, so it is held at {value:g}: accuracies beyond them are extrapolated"
            )
    fit = _fit(loss, accuracy, held, options)
    fit.notes += notes
    if fit.constants["steepness"] * (fit.constants["ceiling"] - fit.constants["chance"]) <= 0:
        fit.warnings.append("accuracy does not rise as the loss falls: the loss may be of another task")
    return fit


def _shared(options: Options) -> Options:
    """Of the fits that decide what is seen: at one level, so that constants do not depend on what is asked for."""
    return replace(_TRIAL, groups=options.groups, shared=options.shared)


def _seen(name: str, fit: Fit) -> bool:
    """Whether the runs come near an end of the sigmoid, that end is a share, and, of the ceiling, is bounded."""
    low, high = fit.constants["chance"], fit.constants["ceiling"]
    reached = (fit.points["fitted"] - low) / (high - low)
    if name == "chance":
        return low >= 0 and bool(reached.min() <= _REACHED)
    least, most = fit.intervals["ceiling"]
    bounded = least is not None and most is not None and most - least <= _REACHED
    return high <= 1 + 1e-9 and bool(1 - reached.max() <= _REACHED) and bounded


def _fit(loss: np.ndarray, accuracy: np.ndarray, held: Mapping[str, float], options: Options) -> Fit:
    """With chance and ceiling fitted or held."""
    held = dict(held)
    names = tuple(name for name in NAMES if name not in held)
    columns, fixed = [NAMES.index(name) for name in names], [held.get(name, 0.0) for name in NAMES]

    def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = np.tile(fixed, (len(theta), 1))
        whole[:, columns] = theta
        low, high, steepness, midpoint = (whole[:, i, None] for i in range(4))
        share = scipy.special.expit(-steepness * (loss - midpoint))
        slope = (high - low) * share * (1 - share)
        parts = [1 - share, share, -slope * (loss - midpoint), slope * steepness]
        return low + (high - low) * share, np.stack(parts, -1)[..., columns]

    def predict(constants: Mapping[str, Any], rows: Mapping[str, Any]) -> np.ndarray:
        return accuracy_at({**held, **constants}, rows["loss"])

    span = max(float(np.ptp(loss)), 1e-9)
    starts = [
        (max(0.0, float(accuracy.min()) - below), min(1.0, float(accuracy.max()) + above), steepness / span, middle)
        for below, above, steepness, middle in itertools.product(
            (0.0, 0.1), (0.0, 0.3), (3.0, 8.0), np.quantile(loss, [0.1, 0.5, 0.9])
        )
    ]
    curve = Curve(
        LAW, names, (False,) * len(names), model, {"loss": loss, "observed": accuracy}, predict,
        in_logs=False, described="sum of squared differences of accuracies",
    )  # fmt: skip
    fit = fit_curve(curve, np.array(starts)[:, columns], options)
    fit.points["fitted"] = accuracy_at({**held, **fit.constants}, loss)
    fit.constants = {name: held.get(name, fit.constants.get(name, 0.0)) for name in NAMES}
    fit.intervals = {name: fit.intervals.get(name, (held.get(name), held.get(name))) for name in NAMES}
    if fit.samples is not None:
        whole = np.tile(fixed, (len(fit.samples), 1))
        whole[:, columns] = fit.samples
        fit.samples = whole
    return fit
