"""A law by name, fitted to a table of runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.laws.accuracy import fit_accuracy
from knowcap.laws.capacity import fit_capacity, fit_exposures
from knowcap.laws.chinchilla import fit_envelope
from knowcap.laws.critical_batch import fit_critical_batch, fit_critical_batch_curves, min_steps
from knowcap.laws.data_constrained import fit_data_constrained
from knowcap.laws.factors import best_rate, fit_factors, long_table
from knowcap.laws.finished import find_curves, last_rows, name_runs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.isoflop import fit_isoflop, group_budgets
from knowcap.laws.kaplan import fit_kaplan_c, fit_kaplan_d, fit_kaplan_n, fit_kaplan_nd, fit_kaplan_ns
from knowcap.laws.law import LawError
from knowcap.laws.mixtures import fit_mixtures
from knowcap.laws.multi_power import fit_multi_power
from knowcap.laws.parametric import fit_parametric
from knowcap.laws.runs import Taken, take
from knowcap.laws.step_law import fit_step_law
from knowcap.laws.table import CLUSTERS, Table, read_runs, rename
from knowcap.laws.warnings import add_fit_warnings, add_table_warnings, check_even


Runs = Mapping[str, Iterable[Any]] | str | Path


@dataclass(frozen=True)
class _Law:
    """What a law reads, and how it is fitted to that.

    Attributes:
        needed, optional: columns.
        fit: (columns, options) → fit.
        last: whether only the last row of each training curve is a point.
        below_zero: a column in which zero or less leaves a row out.
        predicts: the column that the law is about, if it is neither `below_zero` nor the loss.
    """

    needed: tuple[str, ...]
    fit: Callable[[Taken, Options], Fit]
    optional: tuple[str, ...] = ()
    last: bool = False
    below_zero: str = ""
    predicts: str = ""


def predicts(law: str) -> str:
    """The column that a law predicts, such as loss."""
    of = _LAWS[law]
    return of.predicts or of.below_zero or "loss"


def read_once(table: Runs, columns: Mapping[str, str]) -> Table:
    """The columns of a table or of its file, under the names that laws use."""
    return rename(read_runs(table) if isinstance(table, str | Path) else table, columns)


def rows_for(fit: Fit, table: Runs, columns: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """The columns that a fit needs to predict new runs, computed from others if missing; no row may lack one.

    Raises:
        LawError: columns missing, or values that are no numbers above zero.
    """
    steps = {"step": "min_steps"} if "min_steps" in fit.reads else {}
    reads = ["step" if name == "min_steps" else name for name in fit.reads]
    named = read_once(table, columns or {})
    others = [name for name in fit.points if name in named and name not in reads]
    taken = take(named, fit.kind, reads, others)
    if taken.warnings:
        raise LawError(
            [f"new runs: {text.removesuffix('; left out')}; give every run a number" for text in taken.warnings]
        )
    return {steps.get(name, name): taken[name] for name in (*reads, *others) if name in taken}


def fit_law(
    law: str,
    table: Runs,
    *,
    columns: Mapping[str, str] | None = None,
    critical_batch: tuple[float, float] | None = None,
    base: Mapping[str, float] | None = None,
    objective: str | None = None,
    confidence_level: float = 0.95,
    num_bootstraps: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fits a law to runs.

    Args:
        law: one of `LAWS`.
        table: columns by name (a dictionary, a pandas data frame), or the path of a CSV or Parquet file. Units are
            plain counts of parameters, tokens and FLOPs, and nats per token.
        columns: the table's own names, such as {"loss": "eval_loss"}.
        critical_batch: for kaplan-ns, (B_star, alpha_B) by which steps become S_min (needs batch_tokens).
        base: for data-constrained, A, B, E, alpha and beta of a fit to fresh data, kept as they are.
        objective: for chinchilla-parametric, one of `knowcap.laws.parametric.OBJECTIVES`.
        confidence_level, num_bootstraps, seed: of the intervals, see `Options`.

    Raises:
        LawError: the law, the columns or their values; the message says how to fix it.
    """
    options = Options(confidence_level, num_bootstraps, seed)
    if law not in _LAWS:
        near = difflib.get_close_matches(law, _LAWS, 1)
        raise LawError(
            f"no law {law!r}{f', did you mean {near[0]}?' if near else ''}; expected one of {', '.join(_LAWS)}"
        )
    of = _LAWS[law] if base is None else _with_base(law, base)
    if objective is not None:
        of = _with_objective(law, objective)
    named = name_runs(read_once(table, columns or {}))
    progress = ("num_parameters", "num_parameters_non_embedding", "num_tokens", "flops", "step")
    optional = (*of.optional, *progress, *CLUSTERS)
    check_even(law, named)
    named, note = best_rate(long_table(named)) if law == "factors" else (named, "")
    taken = take(named, law, of.needed, tuple(dict.fromkeys(optional)), of.below_zero)
    taken.notes += [note] * bool(note)
    find_curves(taken)
    if of.last:
        taken = last_rows(taken)
    add_table_warnings(law, taken, named)
    if critical_batch is not None:
        taken = _converted(law, taken, critical_batch)
    _check_spread(law, of, taken)
    options = _resampled(taken, options)
    fit = of.fit(taken, options)
    fit.warnings[:0], fit.notes[:0] = taken.warnings, taken.notes
    if taken.doubts:
        fit.extra["doubtful_units"] = taken.doubts
    _other_count(fit, of, taken, options)
    add_fit_warnings(fit)
    return fit


def _with_objective(law: str, objective: str) -> _Law:
    if law != "chinchilla-parametric":
        raise LawError(f"--objective is for chinchilla-parametric, got {law}; leave it out")
    return replace(_LAWS[law], fit=_simple(partial(fit_parametric, objective=objective), *_NDL))


def _with_base(law: str, base: Mapping[str, float]) -> _Law:
    if law != "data-constrained":
        raise LawError(f"--base is for data-constrained, got {law}; leave it out")
    return replace(_LAWS[law], fit=partial(_fit_repeated, base=base))


def _resampled(taken: Taken, options: Options) -> Options:
    """The options with the table's own groups (column group, or run) and seeds, where rows share them."""
    repeated = {
        name: taken[name] for name in CLUSTERS if name in taken and len(np.unique(taken[name])) < len(taken.rows)
    }
    groups = repeated.get("group", repeated.get("run"))
    shared = {"seeds": repeated["seed"]} if "seed" in repeated else {}
    return replace(options, groups=groups, shared=shared)


def _converted(law: str, taken: Taken, critical_batch: tuple[float, float]) -> Taken:
    if law != "kaplan-ns":
        raise LawError(f"--critical_batch is for kaplan-ns, got {law}; leave it out")
    if "batch_tokens" not in taken:
        raise LawError("--critical_batch needs the column batch_tokens, to make S_min of steps; found none")
    taken.values["step"] = min_steps(taken["step"], taken["batch_tokens"], taken["loss"], *critical_batch)
    taken.notes.append(f"steps became S_min by B_star {critical_batch[0]:g}, alpha_B {critical_batch[1]:g}")
    del taken.values["batch_tokens"]
    return taken


def _check_spread(law: str, of: _Law, taken: Taken) -> None:
    """Raises LawError for too few points or a column without variation."""
    number, problems = len(taken.rows), []
    if number < 3:
        problems.append(f"{law}: got {number} point{'s' * (number != 1)}, expected 3 or more; add runs")
    same = [n for n in of.needed if n not in ("max_knowledge_bits", "run") and number > 1 and np.ptp(taken[n]) == 0]
    if law in ("capacity", "exposures", "factors"):
        same = [
            n for n in same if n == "num_parameters" and law == "capacity" and np.ptp(taken["max_knowledge_bits"]) == 0
        ]
    if law == "multi-power":  # one run of a constant rate has a message of its own
        same = [n for n in same if n != "learning_rate"]
    constant = ", ".join(f"{n} is {taken[n][0]:g}" for n in same)
    if same:
        problems.append(f"{law}: {constant} in all {number} rows, expected several values; add runs that differ in it")
    if problems:
        raise LawError(problems)


def _other_count(fit: Fit, of: _Law, taken: Taken, options: Options) -> None:
    """The same fit to parameters without embeddings, and a note on the difference."""
    name = "num_parameters_non_embedding"
    if "num_parameters" not in of.needed or name not in taken or np.array_equal(taken[name], taken["num_parameters"]):
        return
    values = taken.values | {"num_parameters": taken[name]}
    try:
        fit.non_embedding = of.fit(Taken(values, taken.rows), options)
    except LawError as error:
        fit.notes.append(f"the law cannot be fitted to parameters without embeddings: {error}")
        return
    share = 1 - taken[name] / taken["num_parameters"]
    constants = ", ".join(
        f"{k} {fit.constants[k]:.4g} → {v:.4g}" for k, v in fit.non_embedding.constants.items() if k in fit.constants
    )
    fit.notes.append(
        f"without embeddings ({100 * share.min():.0f} to {100 * share.max():.0f} % of parameters): {constants}"
    )


def _fit_ns(taken: Taken, options: Options) -> Fit:
    fit = fit_kaplan_ns(taken["num_parameters"], taken["step"], taken["loss"], options)
    if "batch_tokens" in taken:
        kaplan = min_steps(1.0, taken["batch_tokens"], taken["loss"], 2.1e8, 0.21)
        if kaplan.min() < 0.9:
            fit.warnings.append(
                f"steps are taken as they are; by Kaplan's critical batch S_min would be "
                f"{kaplan.min():.2g} to {kaplan.max():.2g} of them; --critical_batch 2.1e8,0.21 converts them"
            )
    return fit


def _fit_c(taken: Taken, options: Options) -> Fit:
    """On training curves, the rows that no row of fewer FLOPs beats."""
    if "run" not in taken or len(np.unique(taken["run"])) == len(taken.rows):
        return fit_kaplan_c(taken["flops"], taken["loss"], options)
    order = np.lexsort((taken["loss"], taken["flops"]))
    best = np.minimum.accumulate(taken["loss"][order])
    front = order[np.concatenate([[True], best[1:] < best[:-1]])]
    taken.notes.append(
        f"rows are training curves: the {len(front)} of {len(order)} that no row of fewer FLOPs beats are points"
    )
    if len(front) < 3:
        raise LawError(
            f"kaplan-c: got {len(front)} rows that no row of fewer FLOPs beats, expected 3 or more; add runs"
        )
    return fit_kaplan_c(taken["flops"][front], taken["loss"][front], options.only(front))


def _fit_critical(taken: Taken, options: Options) -> Fit:
    if "step" not in taken:
        taken.notes.append("no column step: each row is a critical batch measured at its loss")
        return fit_critical_batch(taken["batch_tokens"], taken["loss"], options)
    sizes = taken["num_parameters"] if "num_parameters" in taken else None
    runs = taken["run"] if "run" in taken else _curve_names(taken, ("num_parameters", "batch_tokens"))
    return fit_critical_batch_curves(runs, taken["batch_tokens"], taken["step"], taken["loss"], sizes, options)


def _curve_names(taken: Taken, by: tuple[str, ...]) -> np.ndarray:
    """Rows with equal values in `by` are one curve."""
    there = [taken[name] for name in by if name in taken]
    taken.notes.append(f"no column run: rows of equal {' and '.join(n for n in by if n in taken)} are a curve")
    return np.unique(np.stack(there, 1), axis=0, return_inverse=True)[1].reshape(-1)


def _fit_isoflop(taken: Taken, options: Options) -> Fit:
    notes: list[str] = []
    if "budget" in taken:
        budget = taken["budget"]
    else:
        budget, notes = group_budgets(taken["flops"])
    fit = fit_isoflop(taken["num_parameters"], taken["num_tokens"], taken["loss"], budget, options)
    fit.notes += notes
    if any(note.startswith("rows are training curves") for note in taken.notes):
        fit.notes.append("chinchilla-envelope reads all rows of training curves, this law their last ones")
    return fit


def _fit_envelope(taken: Taken, options: Options) -> Fit:
    runs = taken["run"] if "run" in taken else _curve_names(taken, ("num_parameters",))
    columns = (taken[n] for n in ("num_parameters", "num_tokens", "flops", "loss"))
    return fit_envelope(runs, *columns, options=options)


def _fit_capacity(taken: Taken, options: Options) -> Fit:
    """Runs of the most exposures, where these differ."""
    most, notes = np.ones(len(taken.rows), dtype=bool), []
    if "exposures" in taken and np.ptp(taken["exposures"]) > 0:
        top = taken["exposures"].max()
        most = taken["exposures"] >= 0.95 * top
        if most.sum() >= 3:
            notes = [
                f"exposures differ: the {int(most.sum())} of {len(most)} runs of {top:g} are points; "
                "see the law exposures"
            ]
        else:
            most[:] = True
            notes = [
                "exposures differ, and fewer than 3 runs have the most, so R is a mean over them; "
                "see the law exposures"
            ]
    names = ("num_parameters", "knowledge_bits", "max_knowledge_bits")
    fit = fit_capacity(*(taken[n][most] for n in names), options=options.only(most))
    fit.warnings += notes
    return fit


def _fit_multi_power(taken: Taken, options: Options) -> Fit:
    given = {name: taken[name] for name in ("run", "warmup_steps") if name in taken}
    return fit_multi_power(*(taken[n] for n in ("step", "learning_rate", "loss")), options=options, **given)


def _fit_accuracy(taken: Taken, options: Options) -> Fit:
    """The law has no sizes, but runs of one size may share noise."""
    if "num_parameters" in taken:
        options = replace(options, shared={"sizes": taken["num_parameters"], **options.shared})
    if "chance" not in taken:
        return fit_accuracy(taken["loss"], taken["accuracy"], options)
    if np.ptp(taken["chance"]) > 0:
        ends = f"{taken['chance'].min():g} to {taken['chance'].max():g}"
        raise LawError(f"accuracy: chance is {ends}, expected one value; fit one task at a time")
    return fit_accuracy(taken["loss"], taken["accuracy"], options, chance=float(taken["chance"][0]))


def _fit_factors(taken: Taken, options: Options) -> Fit:
    names = ("exposures", "architecture", "precision", "run")
    labels = {name: taken[name] for name in names if name in taken}
    return fit_factors(*(taken[n] for n in _BITS), **labels, options=options)


def _fit_repeated(taken: Taken, options: Options, base: Mapping[str, float] | None = None) -> Fit:
    columns = (taken[n] for n in ("num_parameters", "num_tokens", "unique_tokens", "loss"))
    return fit_data_constrained(*columns, options=options, base=base)


def _simple(function: Callable[..., Fit], *names: str) -> Callable[[Taken, Options], Fit]:
    return lambda taken, options: function(*(taken[n] for n in names), options=options)


_BITS = ("num_parameters", "knowledge_bits", "max_knowledge_bits")
_NDL = ("num_parameters", "num_tokens", "loss")
_LAWS = {
    "capacity": _Law(_BITS, _fit_capacity, ("exposures",), last=True, below_zero="knowledge_bits"),
    "exposures": _Law(
        (*_BITS, "exposures"), _simple(fit_exposures, *_BITS, "exposures"), last=True, below_zero="knowledge_bits"
    ),
    "factors": _Law(_BITS, _fit_factors, ("exposures", "architecture", "precision"), below_zero="knowledge_bits"),
    "kaplan-n": _Law(("num_parameters", "loss"), _simple(fit_kaplan_n, "num_parameters", "loss"), last=True),
    "kaplan-d": _Law(
        ("num_tokens", "loss"), _simple(fit_kaplan_d, "num_tokens", "loss"), ("num_parameters",), last=True
    ),
    "kaplan-c": _Law(("flops", "loss"), _fit_c, ("num_parameters",)),
    "kaplan-nd": _Law(_NDL, _simple(fit_kaplan_nd, *_NDL), last=True),
    "kaplan-ns": _Law(("num_parameters", "step", "loss"), _fit_ns, ("batch_tokens",)),
    "critical-batch": _Law(("batch_tokens", "loss"), _fit_critical, ("num_parameters",), predicts="batch_tokens"),
    "chinchilla-envelope": _Law((*_NDL, "flops"), _fit_envelope, predicts="num_parameters"),
    "chinchilla-isoflop": _Law((*_NDL, "flops"), _fit_isoflop, ("budget",), last=True, predicts="num_parameters"),
    "chinchilla-parametric": _Law(_NDL, _simple(fit_parametric, *_NDL), last=True),
    "data-constrained": _Law((*_NDL, "unique_tokens"), _fit_repeated, last=True),
    "mixtures": _Law(
        ("num_parameters", "num_active_parameters", "num_tokens", "loss"),
        _simple(fit_mixtures, "num_parameters", "num_active_parameters", "num_tokens", "loss"),
        last=True,
    ),
    "accuracy": _Law(
        ("loss", "accuracy"), _fit_accuracy, ("num_parameters", "chance"), below_zero="accuracy", predicts="accuracy"
    ),
    "step-law": _Law(
        ("num_parameters", "num_tokens", "learning_rate", "batch_tokens", "loss"),
        _simple(fit_step_law, "num_parameters", "num_tokens", "learning_rate", "batch_tokens", "loss"),
        last=True,
        predicts="learning_rate",
    ),
    "multi-power": _Law(
        ("step", "learning_rate", "loss"), _fit_multi_power, ("run", "warmup_steps"), predicts="loss of a schedule"
    ),
}
LAWS = tuple(_LAWS)
