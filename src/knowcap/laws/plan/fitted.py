"""Laws fitted by `knowcap fit`, read from its JSON; used in place of the papers'."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.laws.law import Law, LawError, loss, predicted
from knowcap.laws.plan.answer import Interval


_ALLOCATION = ("exponent_parameters", "coefficient_parameters", "exponent_tokens", "coefficient_tokens")
# The laws that the questions use, and the constants that they need.
CONSTANTS = {
    "capacity": ("bits_per_parameter",),
    "exposures": ("bits_per_parameter", "half_exposures", "gamma"),
    "chinchilla-parametric": ("A", "B", "E", "alpha", "beta"),
    "chinchilla-isoflop": _ALLOCATION,
    "chinchilla-envelope": _ALLOCATION,
    "kaplan-nd": ("N_c", "alpha_N", "D_c", "alpha_D"),
    "data-constrained": ("A", "B", "E", "alpha", "beta", "R_D"),
}


def read_laws(paths: Iterable[str | Path]) -> dict[str, Law]:
    """The laws of the files by name.

    Raises:
        LawError: every problem of every file: no file, no JSON of `knowcap fit`, constants that are
            missing or not numbers, two files of one law.
    """
    laws: dict[str, Law] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        for content in _contents(path, problems):
            try:
                law = _law(path, content)
            except LawError as error:
                problems += error.problems
                continue
            if law.law in laws:
                text = f"{path}: the law {law.law} is given twice, also by {laws[law.law].source}; remove one"
                problems.append(text)
            laws[law.law] = law
    if problems:
        raise LawError(problems)
    return laws


def _contents(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The fits of a file: one, the best, or those of all approaches, as `knowcap fit` writes them for a law's name,
    `best` and `chinchilla`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deep
        problems.append(f"{path}: {error}; expected the JSON that `knowcap fit … --json` writes")
        return []
    fits, several = [content], ""
    if isinstance(content, dict) and isinstance(content.get("approaches"), dict):
        fits = list(content["approaches"].values())
        several = f" of {path.name}"
    elif isinstance(content, dict) and isinstance(content.get("best"), dict):
        fits = [content["best"]]
        several = f" of {path.name}"
    if not fits or not all(isinstance(f, dict) and isinstance(f.get("constants"), dict) and "law" in f for f in fits):
        problems.append(f"{path}: expected the JSON of `knowcap fit` with law and constants; give such a file")
        return []
    return [fit | {"label": f"{fit['law']}{several}" if several else path.name} for fit in fits]


def _law(path: Path, content: Mapping[str, Any]) -> Law:
    name, _, form = str(content["law"]).partition(" (")
    if problems := _foreign(path, content):
        raise LawError(problems)
    content = dict(content) | {
        key: _completed(content.get(key), form) for key in ("constants", "intervals", "samples")
    }
    constants = content["constants"]
    needed = CONSTANTS.get(name, ())
    problems = [
        f"{path}: {name} needs the constant {key!r} as a finite number, got {constants.get(key)!r}; fit it again"
        for key in needed
        if not _is_number(constants.get(key))
    ]
    problems += [
        f"{path}: {name} has {key}={constants[key]:g}, expected a number above 0; fit it again to other runs"
        for key in needed
        if _is_number(constants.get(key)) and constants[key] <= 0 and (key, constants[key]) != ("E", 0)
    ]
    intervals, open_ended = _intervals(path, content, problems)
    missing = [key for key, value in constants.items() if _is_number(value) and not content["samples"].get(key)]
    if intervals and content["samples"] and missing:
        problems.append(
            f"{path}: the samples have no {', '.join(missing)[:200]}, expected all constants; fit it again"
        )
    if doubts := content.get("doubtful_units"):
        problems.append(f"{path}: the units of {name} are in doubt ({doubts[0]}); fit it again to plain counts")
    if problems:
        raise LawError(problems)
    points = content.get("num_points")
    warnings = [f"{path.name}: {text}" for text in content.get("warnings") or ()]
    if open_ended & set(needed):
        warnings.append(f"{path.name}: the data do not bound {', '.join(sorted(open_ended))}, so no interval is given")
        intervals = {}
    return Law(
        name,
        {key: float(value) for key, value in constants.items() if _is_number(value)},
        f"{content['label']}, fitted to {points} points" if points else content["label"],
        intervals,
        content.get("samples") or {},
        float(content.get("confidence_level") or 0.95),
        {key: (float(low), float(high)) for key, (low, high) in (content.get("ranges") or {}).items()},
        fitted=True,
        warnings=tuple(warnings),
        prediction=content.get("prediction") or {},
    )


def _foreign(path: Path, content: Mapping[str, Any]) -> list[str]:
    """The problems of values that are of other types than those that `knowcap fit` writes."""
    kinds = {
        "intervals": (lambda v: isinstance(v, dict), "a mapping"),
        "samples": (_are_samples, "lists of finite numbers, of one length"),
        "confidence_level": (lambda v: _is_number(v) and 0 < v < 1, "a number between 0 and 1"),
        "ranges": (_are_ranges, "[low, high] by quantity"),
        "warnings": (lambda v: isinstance(v, list), "a list"),
        "doubtful_units": (lambda v: isinstance(v, list), "a list"),
        "prediction": (lambda v: isinstance(v, dict), "a mapping"),
        "num_points": (_is_number, "a number"),
    }
    return [
        f"{path}: {key} is {str(content[key])[:80]!r}, expected {expected}; fit it again"
        for key, (holds, expected) in kinds.items()
        if content.get(key) and not holds(content[key])
    ]


def _are_samples(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(found, list) for found in value.values()):
        return False
    lists = list(value.values())
    return len({len(found) for found in lists}) == 1 and all(_is_number(number) for found in lists for number in found)


def _are_ranges(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in value.values()
    )


def _completed(values: Mapping[str, Any] | None, form: str) -> dict[str, Any]:
    """Values by constant with those that a simpler form of the parametric law fixes (`knowcap.laws.forms`)."""
    found = dict(values or {})
    if form.startswith("alpha = beta") and "alpha" in found:
        found["beta"] = found["alpha"]
    if form.startswith("E = 0") and "alpha" in found:
        found["E"] = [0.0] * len(found["alpha"]) if isinstance(found["alpha"], list) else 0.0
    return found


def _intervals(path: Path, content: Mapping[str, Any], problems: list[str]) -> tuple[dict[str, Interval], set[str]]:
    """The constants' intervals, and which of them the data leave open at an end."""
    intervals, open_ended = {}, set()
    for key, pair in (content.get("intervals") or {}).items():
        if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) and pair[0] <= pair[1]:
            intervals[key] = (float(pair[0]), float(pair[1]))
        elif pair is None or (isinstance(pair, list) and len(pair) == 2 and None in pair):
            open_ended.add(key)
        else:
            problems.append(f"{path}: the interval of {key!r} is {pair!r}, expected [low, high]; fit it again")
    return intervals, open_ended


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max  # a whole number of JSON may be larger; NaN is not


def interval_of(law: Law, found: Callable[[Mapping[str, float]], float]) -> Interval | None:
    """The interval of `found(constants)`; None where the fit has none.

    Where the law brings the constants of a bootstrap's refits: percentiles over those, in which constants go together.
    Else the smallest and largest over the corners of the constants' intervals, in which what a fit ties together
    varies freely: wider than necessary, never narrower.
    """
    if not law.intervals:
        return None
    if law.samples:
        columns = [law.samples[name] for name in law.constants]
        values = sorted(found(dict(zip(law.constants, row, strict=True))) for row in zip(*columns, strict=True))
        tail = (1 - law.confidence_level) / 2
        return _percentile(values, tail), _percentile(values, 1 - tail)
    ends = [law.intervals.get(name, (value, value)) for name, value in law.constants.items()]
    corners = itertools.product(*({low, high} for low, high in ends))
    values = [found(dict(zip(law.constants, corner, strict=True))) for corner in corners]
    return min(values), max(values)


LOSS_LEVEL = 0.9  # of the intervals of losses


def loss_interval(law: Law, num_parameters: float, num_tokens: float) -> Interval | None:
    """The interval of the loss of a new run, in nats per token, at LOSS_LEVEL; None for a law without a fit.

    It has the noise of runs and the law's misfit beyond its table, see `knowcap.laws.law.predicted`.
    """

    def value(constants: Mapping[str, float]) -> float:
        return loss(replace(law, constants=constants), num_parameters, num_tokens) or 0.0

    inputs = {"num_parameters": num_parameters, "num_tokens": num_tokens}
    return predicted(law, value, inputs, LOSS_LEVEL)


def _percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, straight between neighbours."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def unused(laws: Mapping[str, Law], used: Sequence[Law], question: str) -> list[str]:
    """Warnings about given laws that a question does not use."""
    return [
        f"{law.source}: `plan {question}` does not use the law {name}" for name, law in laws.items() if law not in used
    ]
