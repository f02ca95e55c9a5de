"""All laws that a table allows, ranked by how well they predict its larger runs from its smaller ones."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.laws import compare
from knowcap.laws.compare import APPROACHES
from knowcap.laws.fit import Fit, Options, finite, write_law
from knowcap.laws.fitting import LAWS, Runs, fit_law, predicts, read_once
from knowcap.laws.forms import forms
from knowcap.laws.law import LawError
from knowcap.laws.predict import Rollout, cuts, inputs, roll_out
from knowcap.report.text_table import text_table


QUANTITIES = ("loss", "knowledge_bits")  # of single runs, by which laws can be ranked
_FAR = 10.0  # times the largest run, where predictions are compared
_LEVEL = 0.9
_OF_ONE_LAW = {  # options
    "critical_batch": "kaplan-ns",
    "base": "data-constrained",
    "objective": "chinchilla-parametric",
}


@dataclass(frozen=True)
class Candidate:
    """A law and its errors on the larger runs.

    Attributes:
        fit: to all runs.
        rollout: None where the table has too few runs for it.
    """

    fit: Fit
    rollout: Rollout | None

    @property
    def error(self) -> float:
        """Root mean square of the rollout's log errors; infinite without one."""
        return np.inf if self.rollout is None else self.rollout.root_mean_square

    @property
    def residual(self) -> float:
        """Standard deviation of log residuals in the table."""
        return self.fit.band.noise


@dataclass
class Ranking:
    """Laws by rollout error, the best first.

    Attributes:
        candidates: those that predict the same quantity.
        quantity: loss, or knowledge_bits.
        missing: why a law has no fit, by law.
        differences: sentences about laws that differ by more than their intervals.
        steps: of the rollout, and the number of runs that were predicted.
    """

    candidates: list[Candidate]
    quantity: str
    missing: dict[str, str]
    differences: list[str] = field(default_factory=list)
    steps: tuple[int, int] = (0, 0)

    @property
    def best(self) -> Fit:
        """The fit with the least rollout error."""
        return self.candidates[0].fit

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        ranking = [
            {
                "law": c.fit.law,
                "num_constants": _constants(c.fit),
                "num_points": c.fit.num_points,
                "rollout_error": c.error,
                "residual": c.residual,
                "far_half_width": far_width(c.fit),
            }
            for c in self.candidates
        ]
        return finite(
            {
                "law": "best",
                "quantity": self.quantity,
                "ranking": ranking,
                "best": self.best.to_dict(),
                "differences": self.differences,
                "missing": self.missing,
                "warnings": self.best.warnings,
            }
        )

    def text(self) -> str:
        """The printed table, a law a row, and what is to be said of it."""
        rows = [["law", "constants", "runs", "rollout error", "residuals", f"{100 * _LEVEL:g} % at {_FAR:g} times"]]
        for c in self.candidates:
            error = "-" if c.rollout is None else f"{100 * c.error:.2g} %"
            shown = [c.fit.law, str(_constants(c.fit)), str(c.fit.num_points), error, f"{100 * c.residual:.2g} %"]
            rows.append([*shown, f"± {100 * far_width(c.fit):.2g} %"])
        lines = [text_table(rows), ""]
        if self.steps[0]:
            lines.append(
                f"Rollout error: root mean square of log {self.quantity} on the larger runs, fitted to the smaller "
                f"ones ({self.steps[0]} steps, {self.steps[1]} predictions). Last column: the interval of a run of "
                f"{_FAR:g} times the size of the largest."
            )
        else:
            lines.append(
                "The table is too small to predict its larger runs from its smaller ones: order of residuals."
            )
        lines += self.differences
        lines += [f"not fitted: {why}" for why in self.missing.values()]
        lines += [f"note: {self.best.law}: {text}" for text in self.best.notes]
        lines += [f"warning: {self.best.law}: {text}" for text in self.best.warnings]
        return "\n".join(lines)

    def write(self, path: str | Path) -> Path:
        """Writes the JSON file, whole or not at all, and returns its path."""
        return write_law(path, self.to_dict())


def fit_best(table: Runs, *, columns: Mapping[str, str] | None = None, **options: Any) -> Ranking:
    """Fits all laws that a table allows, with their other forms, and ranks them by rollout error.

    Laws are compared that predict the same quantity of a run; those of sizes and batches are not among them. All that
    have the same points predict the same larger runs.

    Args:
        table, columns, options: as in `fit_law`.

    Raises:
        LawError: no law can be fitted.
    """
    named = read_once(table, columns or {})
    chosen = Options(**{name: value for name, value in options.items() if name not in _OF_ONE_LAW})
    missing: dict[str, str] = {}
    fits = list(_fits(named, missing, options, chosen))
    quantity = next((q for q in QUANTITIES if any(predicts(fit.kind) == q for fit in fits)), None)
    if quantity is None:
        raise LawError([*missing.values(), f"found: {', '.join(named)}; map other names by --columns"])
    missing = {law: why for law, why in missing.items() if predicts(law.split(",")[0]) == quantity}
    fits = [fit for fit in fits if predicts(fit.kind) == quantity]
    candidates = _rolled(fits)
    candidates.sort(key=lambda c: (c.error, c.residual))
    ranking = Ranking(candidates, quantity, missing)
    if (first := candidates[0].rollout) is not None:
        ranking.steps = (len(first.largest), len(first.error))
    ranking.differences = differences(candidates) + _approaches(candidates, named, options)
    return ranking


def _approaches(
    candidates: Sequence[Candidate], table: Mapping[str, Sequence[Any]], options: Mapping[str, Any]
) -> list[str]:
    """Sentences about Chinchilla's approaches, where the table allows several of them."""
    fits = {c.fit.law: c.fit for c in candidates if c.fit.law in APPROACHES}
    own = {name: value for name, value in options.items() if name not in _OF_ONE_LAW}
    for law in APPROACHES if fits else ():
        with contextlib.suppress(LawError):
            fits[law] = fits.get(law) or fit_law(law, table, **own)
    return [f"{text[0].upper()}{text[1:]}." for text in compare.differences(fits)]


def _fits(
    table: Mapping[str, Sequence[Any]], missing: dict[str, str], options: Mapping[str, Any], chosen: Options
) -> Iterator[Fit]:
    for law in (law for law in LAWS if predicts(law) in QUANTITIES):
        own = {name: value for name, value in options.items() if _OF_ONE_LAW.get(name, law) == law}
        try:
            fit = fit_law(law, table, **own)
        except LawError as error:
            missing[law] = _short(error)
            continue
        yield fit
        try:
            yield from forms(fit, chosen)
        except LawError as error:
            missing[f"{law}, other forms"] = _short(error)


def _short(error: LawError) -> str:
    """Without the table's columns, which the other laws' messages have too."""
    return "; ".join(problem.split(". Found: ")[0] for problem in error.problems)


def _rolled(fits: Sequence[Fit]) -> list[Candidate]:
    """Each fit with its rollout: those to the same observations by the same steps, those of the most columns."""
    most = max(fits, key=lambda fit: (fit.num_points, len(inputs(fit.points))))
    needed = max((_constants(fit) for fit in fits), default=0) + 2
    size = inputs(most.points).get("size")
    steps = None if size is None else cuts(size, needed)
    found = []
    for fit in fits:
        same = np.array_equal(fit.points["observed"], most.points["observed"])
        if fit.refit is None:
            found.append(Candidate(fit, None))
        else:
            found.append(Candidate(fit, roll_out(fit.points, fit.refit, steps) if same else fit.rollout))
    return found


def differences(candidates: Sequence[Candidate]) -> list[str]:
    """A sentence for each pair of the three best laws whose predictions at ten times the largest run exclude one
    another."""
    found = []
    for one, other in itertools.combinations(candidates[:3], 2):
        row = _larger(one.fit)
        if row.keys() != _larger(other.fit).keys():
            continue
        a, b = (c.fit.predict(row, interval=_LEVEL) for c in (one, other))
        if a.low[0] > b.high[0] or b.low[0] > a.high[0]:
            found.append(
                f"{one.fit.law} and {other.fit.law} differ by more than their intervals: at {_FAR:g} times the "
                f"largest run they predict {_shown(a)} and {_shown(b)}; the former has the smaller rollout error."
            )
    return found


def far_width(fit: Fit) -> float:
    """Half the interval, as a share, for a run of ten times the size of the largest."""
    found = fit.predict(_larger(fit), interval=_LEVEL)
    return float(np.log(found.high[0] / found.low[0])) / 2


def _shown(of: Any) -> str:
    return f"{of.value[0]:.4g} [{of.low[0]:.4g}, {of.high[0]:.4g}]"


def _larger(fit: Fit) -> dict[str, np.ndarray]:
    """A run of ten times the size of the largest, every part of it larger by the same factor."""
    columns = {name: column for name, column in fit.points.items() if name not in ("observed", "fitted")}
    size = inputs(columns)["size"]
    parts = [name for name in columns if name in ("flops", "num_parameters", "num_tokens", "min_steps", "exposures")]
    largest = int(np.argmax(size))
    factor = _FAR ** (1 / max(1, len([name for name in parts if name != "flops"]) or 1))
    found = {name: column[[largest]] for name, column in columns.items()}
    return found | {name: found[name] * (_FAR if name == "flops" else factor) for name in parts}


def _constants(fit: Fit) -> int:
    return len(fit.constants) if fit.refit is None else fit.refit.num_constants
