"""Bits by parameters, exposures, architecture and precision, as factors of one law (Allen-Zhu and Li 2024, Part 3.3).

bits = min(R_a q_p P / (1 + (h / e)^gamma), s M): R_a is the bits per parameter of architecture a at unlimited
exposures, q_p the share of them that precision p keeps, e exposures, P parameters, M all bits of the data set. With
too few numbers of exposures, the factor of exposures is left out; h may be each architecture's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy

from knowcap.laws.curve import Curve, fit_curve, logs
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError
from knowcap.laws.solve import Model, minimize


LAW = "factors"
AS_TRAINED = "as trained"  # fp32 and bf16
_OPTIONS = Options()
_SIZES = re.compile(r"(-\d+)+$")  # depth and heads at the end of a model's name
_QUANTIZED = re.compile(r"(int\d+)_bits_per_parameter")
_LEVELS = 3  # numbers of exposures, for their factor
_ONE = "one architecture"


def long_table(table: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """A sweep's table with a row for each run and precision, and the columns architecture, precision and run.

    The columns int8_bits_per_parameter and int4_bits_per_parameter become rows; without a column architecture it is
    the model's name without its depth and heads (gpt2-rotary of gpt2-rotary-2-2).

    Args:
        table: columns by name; unchanged where precision needs no rows.
    """
    found = {name: list(column) for name, column in table.items()}
    length = len(next(iter(found.values()), ()))
    found.setdefault("run", [str(i) for i in range(1, length + 1)])
    if "architecture" not in found:
        names = found.get("model_name", [_ONE] * length)
        found["architecture"] = [_SIZES.sub("", str(name)) for name in names]
    found.setdefault("precision", [AS_TRAINED] * length)
    found["precision"] = [AS_TRAINED if p in (None, "", "fp32", "bf16", "fp16") else p for p in found["precision"]]
    quantized = {match[1]: name for name in found if (match := _QUANTIZED.fullmatch(name))}
    if not quantized or "num_parameters" not in found:
        return found
    wide = [i for i in range(length) if found["precision"][i] == AS_TRAINED]
    longer = {name: list(column) for name, column in found.items()}
    for precision, column in quantized.items():
        for i in (i for i in wide if _is_number(found[column][i])):
            for name, values in found.items():
                longer[name].append(values[i])
            longer["precision"][-1] = precision
            longer["knowledge_bits"][-1] = float(found[column][i]) * float(found["num_parameters"][i])
    return longer


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


def best_rate(table: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[Any]], str]:
    """Of runs that differ in their learning rate alone the best as trained, at every precision; and a note.

    The law is about what a model can hold, so a rate that fails says nothing of it.

    Args:
        table: of `long_table`.
    """
    if len(set(map(str, table.get("learning_rate", ())))) < 2:
        return {name: list(column) for name, column in table.items()}, ""
    names = ("architecture", "num_parameters", "max_knowledge_bits", "exposures", "seed")
    keys = list(zip(*(map(str, table[name]) for name in names if name in table), strict=True))
    best: dict[tuple[str, ...], tuple[float, str]] = {}
    for key, run, precision, bits in zip(keys, table["run"], table["precision"], table["knowledge_bits"], strict=True):
        if precision == AS_TRAINED and _is_number(bits):
            best[key] = max(best.get(key, (-np.inf, "")), (float(bits), str(run)))
    kept = [i for i, (key, run) in enumerate(zip(keys, table["run"], strict=True)) if best.get(key, (0, ""))[1] == run]
    runs = len({str(run) for run in table["run"]})
    note = f"learning rates differ: the best run of each setting and seed is a point, {len(best)} of {runs}"
    return {name: [column[i] for i in kept] for name, column in table.items()}, note


def factored_bits(constants: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
    """The law's bits.

    Args:
        constants: bits_per_parameter[A] for each architecture, kept[P] for each precision below the trained one,
            half_exposures (or half_exposures[A]), gamma, saturation, as far as fitted.
        columns: num_parameters; max_knowledge_bits, exposures, architecture and precision as far as the law has them.
    """
    size = np.asarray(columns["num_parameters"], dtype=float)
    kinds = columns["architecture"] if "architecture" in columns else _only(constants)
    kinds = np.broadcast_to(np.asarray(kinds), size.shape)
    precisions = np.broadcast_to(np.asarray(columns.get("precision", AS_TRAINED)), size.shape)
    bits = size * _pick(constants, "bits_per_parameter", kinds)
    bits = bits * _pick(constants, "kept", np.where(_is_trained(precisions), AS_TRAINED, precisions))
    if "gamma" in constants:
        half = constants.get("half_exposures")
        half = _pick(constants, "half_exposures", kinds) if half is None else half
        bits = bits / (1 + (half / np.asarray(columns["exposures"], dtype=float)) ** constants["gamma"])
    if "max_knowledge_bits" not in columns:
        return bits
    return np.minimum(bits, constants.get("saturation", 1.0) * np.asarray(columns["max_knowledge_bits"], dtype=float))


def _is_trained(precisions: np.ndarray) -> np.ndarray:
    return np.isin(precisions, (AS_TRAINED, "fp32", "bf16", "fp16"))


def _only(constants: Mapping[str, Any]) -> str:
    kinds = [name[len("bits_per_parameter[") : -1] for name in constants if name.startswith("bits_per_parameter[")]
    if len(kinds) != 1:
        raise LawError(f"{LAW}: architecture is missing; give one of {', '.join(kinds)}")
    return kinds[0]


def _pick(constants: Mapping[str, Any], name: str, kinds: np.ndarray) -> np.ndarray:
    """The constant name[kind] of each row."""
    known = {kind: 1.0 for kind in (AS_TRAINED,) if name == "kept"}
    known |= {key[len(name) + 1 : -1]: value for key, value in constants.items() if key.startswith(f"{name}[")}
    if unknown := sorted(set(np.unique(kinds).tolist()) - known.keys()):
        raise LawError(f"{LAW}: no {name} of {', '.join(unknown)} in the fit; it has {', '.join(known)}")
    return sum((known[kind] * (kinds == kind) for kind in np.unique(kinds).tolist()), np.zeros(kinds.shape))


def fit_factors(
    num_parameters: np.ndarray,
    knowledge_bits: np.ndarray,
    max_knowledge_bits: np.ndarray,
    exposures: np.ndarray | None = None,
    architecture: np.ndarray | None = None,
    precision: np.ndarray | None = None,
    run: np.ndarray | None = None,
    options: Options = _OPTIONS,
) -> Fit:
    """Least squares of log bits, over all factors at once.

    A half_exposures for each architecture is taken if it improves the fit by BIC.

    Args:
        num_parameters, knowledge_bits, max_knowledge_bits: P, bits (above zero) and M, of shape (n,).
        exposures: e, of shape (n,); None or one value leaves their factor out.
        architecture, precision: labels, of shape (n,); None is one for all.
        run: labels, of shape (n,); rows of one run (its precisions) are resampled together.

    Raises:
        LawError: factors that the runs do not tell apart, or that need more runs.
    """
    count = len(num_parameters)
    points = {
        "num_parameters": num_parameters, "max_knowledge_bits": max_knowledge_bits, "observed": knowledge_bits,
        "architecture": np.full(count, _ONE) if architecture is None else architecture,
        "precision": np.full(count, AS_TRAINED) if precision is None else precision,
    }  # fmt: skip
    points["precision"] = np.where(_is_trained(points["precision"]), AS_TRAINED, points["precision"])
    if exposures is not None:
        points["exposures"] = exposures
    levels = len(np.unique(points.get("exposures", ())))
    notes = []
    if levels < _LEVELS:
        notes.append(
            f"{max(levels, 1)} number{'s' * (levels > 1)} of exposures, expected {_LEVELS} or more for their factor: "
            "bits_per_parameter is that of these exposures"
        )
    fit = _chosen(points, levels >= _LEVELS, run, options)
    fit.notes += notes
    _add_warnings(fit, points)
    return fit


def _chosen(points: dict[str, np.ndarray], exposed: bool, run: np.ndarray | None, options: Options) -> Fit:
    """The fit of the design that BIC prefers, without saturation where no run is saturated."""
    kinds = np.unique(points["architecture"])
    designs = [_Design(points, exposed, False, True)]
    if exposed and len(kinds) > 1 and all(
        len(np.unique(points["exposures"][points["architecture"] == kind])) >= _LEVELS for kind in kinds
    ):  # fmt: skip
        designs.append(_Design(points, exposed, True, True))
    scored = [(design, *design.solve()) for design in designs]
    count = len(points["observed"])
    design, theta, _ = min(scored, key=lambda s: count * np.log(s[2] / count + 1e-20) + s[0].width * np.log(count))
    if not design.is_full(theta).any():
        design = _Design(points, exposed, design.own, False)
    return design.fit(run, options)


class _Design:
    """The solver's constants: log R of each architecture, log q of each quantized precision, log h (one, or one for
    each architecture) and gamma, log s.

    Args:
        points: of the law.
        exposed: whether there is a factor of exposures.
        own: whether each architecture has its own h.
        seen: whether there is an s.
    """

    def __init__(self, points: dict[str, np.ndarray], exposed: bool, own: bool, seen: bool):
        self.points, self.exposed, self.own, self.seen = points, exposed, own, seen
        self.kinds = np.unique(points["architecture"]).tolist()
        self.precisions = sorted(set(points["precision"].tolist()) - {AS_TRAINED})
        self.log_size, self.log_most = logs(points["num_parameters"], points["max_knowledge_bits"])
        labels = [("architecture", kind) for kind in self.kinds] + [("precision", p) for p in self.precisions]
        self.basis = np.stack([(points[name] == label).astype(float) for name, label in labels], 1)
        self.halves = self.basis[:, : len(self.kinds)] if own else np.ones((len(self.basis), 1))
        self.names = [f"bits_per_parameter[{kind}]" for kind in self.kinds] + [f"kept[{p}]" for p in self.precisions]
        if exposed:
            self.log_exposures = np.log(points["exposures"])
            self.names += [f"half_exposures[{kind}]" for kind in self.kinds] if own else ["half_exposures"]
            self.names.append("gamma")
        self.names += ["saturation"] * seen
        self.width = len(self.names)
        self.is_log = tuple(name != "gamma" for name in self.names)

    @property
    def model(self) -> Model:
        linear, halves = self.basis.shape[1], self.halves.shape[1]

        def model(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            held = theta[:, :linear] @ self.basis.T + self.log_size
            jacobian = np.zeros((*held.shape, self.width))
            jacobian[..., :linear] = self.basis
            if self.exposed:
                gamma = theta[:, linear + halves, None]
                distance = theta[:, linear : linear + halves] @ self.halves.T - self.log_exposures
                held = held - np.logaddexp(0.0, gamma * distance)
                share = scipy.special.expit(gamma * distance)
                jacobian[..., linear : linear + halves] = -(gamma * share)[..., None] * self.halves
                jacobian[..., linear + halves] = -distance * share
            if not self.seen:
                return held, jacobian
            most = theta[:, -1, None] + self.log_most
            grows = held < most
            jacobian *= grows[..., None]
            jacobian[..., -1] = ~grows
            return np.minimum(held, most), jacobian

        return model

    def starts(self) -> np.ndarray:
        """Of shape (k, p): R from the best runs, several h and gamma, s of 1."""
        ratio = np.log(self.points["observed"]) - self.log_size
        tops = [float(np.quantile(ratio[self.points["architecture"] == kind], 0.9)) for kind in self.kinds]
        kept = [-0.1 if precision != "int4" else -0.7 for precision in self.precisions]
        tail = [0.0] * self.seen
        if not self.exposed:
            return np.array([[*(top + extra for top in tops), *kept, *tail] for extra in (0.0, -0.3, -0.7)])
        e = self.log_exposures
        return np.array(
            [
                [*(top + extra for top in tops), *kept, *([half] * self.halves.shape[1]), gamma, *tail]
                for extra in (0.0, 0.5)
                for half in np.linspace(e.min() - 2, e.max() + 2, 6)
                for gamma in (0.5, 1.0, 2.0)
            ]
        )

    def solve(self) -> tuple[np.ndarray, float]:
        """The constants and their sum of squares."""
        found = minimize(self.model, np.log(self.points["observed"]), self.starts(), max_iterations=200)
        return found.best(), 2 * float(found.objective.min())

    def is_full(self, theta: np.ndarray) -> np.ndarray:
        """Which runs are saturated."""
        return self.model(theta[None])[1][0, :, -1] > 0

    def fit(self, run: np.ndarray | None, options: Options) -> Fit:
        rank = int(np.linalg.matrix_rank(np.hstack([self.basis, np.log(self._levels())])))
        if rank < self.basis.shape[1] + self._levels().shape[1]:
            raise LawError(
                f"{LAW}: architecture, precision and exposures change together in these runs, so their factors cannot "
                "be separated; add runs that differ in one of them alone, or fit a part by --where"
            )
        groups = None if run is None or len(np.unique(run)) == len(run) else np.asarray(run)
        curve = Curve(LAW, tuple(self.names), self.is_log, self.model, self.points, factored_bits)
        return fit_curve(curve, self.starts(), options if groups is None else replace(options, groups=groups))

    def _levels(self) -> np.ndarray:
        return self.points["exposures"][:, None] if self.exposed else np.empty((len(self.basis), 0))


def _add_warnings(fit: Fit, points: Mapping[str, np.ndarray]) -> None:
    """Which constants rest on few runs, and whether the factors multiply."""
    full = np.isclose(fit.points["fitted"], fit.constants.get("saturation", np.inf) * points["max_knowledge_bits"])
    for name in ("architecture", "precision"):
        for label in np.unique(points[name]):
            growing = int((~full & (points[name] == label)).sum())
            if growing < 3:
                fit.warnings.append(f"{name} {label} rests on {growing} unsaturated runs; add smaller models")
    if "gamma" in fit.constants:
        for kind in np.unique(points["architecture"]):
            levels = np.unique(points["exposures"][points["architecture"] == kind])
            if len(levels) < 2:
                fit.warnings.append(
                    f"{kind} was trained at {levels[0]:g} exposures alone: its bits_per_parameter at unlimited ones "
                    "rests on the other architectures' exposures"
                )
        top = float(points["exposures"].max())
        halves = [v for k, v in fit.constants.items() if k.startswith("half_exposures")]
        reached = min(1 / (1 + (half / top) ** fit.constants["gamma"]) for half in halves)
        if reached < 0.8:
            fit.warnings.append(
                f"at {top:g} exposures, the most in the table, models reach {100 * reached:.0f} % of the bits of "
                "unlimited exposures, which are extrapolated; add runs with more exposures"
            )
    fit.warnings += _interaction(fit, points)


def _interaction(fit: Fit, points: Mapping[str, np.ndarray]) -> list[str]:
    """A warning if a factor of each pair of architecture and precision explains the residuals far better (F test,
    p < 0.001)."""
    labels = np.stack([points["architecture"], points["precision"]])
    pairs = np.unique(labels, axis=1, return_inverse=True)[1].reshape(-1)
    number, residual = int(pairs.max()) + 1, fit.residuals
    extra = number - len(np.unique(points["architecture"])) - len(np.unique(points["precision"])) + 1
    freedom = len(residual) - len(fit.constants) - extra
    if extra < 1 or freedom < 3 or float((residual**2).sum()) < 1e-16 * len(residual):
        return []
    means = np.array([residual[pairs == i].mean() for i in range(number)])[pairs]
    explained, left = float((means**2).sum()), float(((residual - means) ** 2).sum())
    if explained / extra <= scipy.stats.f.ppf(0.999, extra, freedom) * left / freedom:
        return []
    return [
        "architectures lose different shares to quantization, so the factors do not multiply: fit each architecture "
        "by --where"
    ]
