"""Two measured models on the same facts: A minus B, in bits per parameter, with a paired interval.

Both models were scored on the same facts of the same entities, so differences between entities (a rare name, a long
value) cancel. The bootstrap resamples entities together with both models' bits: the interval is narrower than the two
models' own intervals suggest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from knowcap.capacity.blocks import FactBlocks, Moments
from knowcap.capacity.checks import bound_reason
from knowcap.capacity.kept import read_capacity_file
from knowcap.capacity.sums import chunk_moments
from knowcap.capacity.tables import (
    CapacityError,
    Facts,
    check_scored,
    diversity_of,
    unknown_diversity,
    without_first_chunks,
)
from knowcap.files import CAPACITY_FILE, NLL_FILE, RECIPE_FILE, write_json
from knowcap.metrics.bits_per_parameter.bits import total_interval
from knowcap.scoring.measurement import read_measurement


SCHEMA_VERSION = 1
# Keys of the two measurements that must be equal.
_EQUAL_KEYS = ("scoring", "context", "num_entities", "entities_scored", "renderings", "knowledge")


@dataclass(frozen=True)
class _Measured:
    """A measured model.

    Attributes:
        folder: the folder of its nll.parquet.
        measurement: the measurement of that file.
        source: its facts.
        terms: the diversity terms that count.
        first_chunks: how many entities state the first chunk of each term.
        constant: bits that belong to no entity: the maximum of the diversity terms.
    """

    folder: Path
    measurement: dict[str, Any]
    source: FactBlocks
    terms: list[dict[str, Any]]
    first_chunks: list[int]
    constant: float

    @property
    def num_parameters(self) -> int:
        """All parameters; for a quantized model those of its original."""
        return self.measurement["num_parameters"]

    @property
    def scale(self) -> float:
        """By how much bits of scored entities are multiplied, to be those of all N."""
        return self.measurement["num_entities"] / self.measurement["entities_scored"]

    def bits(self, everything: Facts) -> np.ndarray:
        """(entities,) the bits of some entities, scaled to all N, with their shares of the diversity terms."""
        bits = np.nansum(without_first_chunks(everything, self.terms).bits, axis=1) * self.scale
        return bits - unknown_diversity(everything, self.terms, self.first_chunks)


def compare(a_dir: str | Path, b_dir: str | Path, *, confidence_level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """A minus B: bits per parameter, each model by its own parameters; bits in all; and both by attribute.

    The interval is a paired percentile bootstrap over entities; by attribute it is its closed form for many entities
    (normal). Diversity terms are resampled with the entities that they are means over. The variation between training
    seeds is left out, as in a model's own interval: two runs of one recipe may differ by more.

    Args:
        a_dir, b_dir: folders with nll.parquet and capacity.json, as `knowcap measure` writes them.
        confidence_level: the level of all intervals.
        seed: seed of the bootstrap.

    Returns:
        `a`, `b`: the models with their own numbers; `bits_per_parameter`, `knowledge_bits` and, under `attributes`,
        both per attribute: `{"difference", "confidence_interval": [low, high]}`; the data set and scoring settings.
        None (null in JSON) where there is no number.

    Raises:
        CapacityError: the models were not scored on the same facts in the same mode, or one has no capacity.json.
        ScoringError: one has no nll.parquet, or a broken one.
        ValueError: an impossible confidence_level or seed.
    """
    a, b = _read(Path(a_dir)), _read(Path(b_dir))
    _check_same_settings(a, b)
    a_bits, b_bits, attributes = _bits(a, b)
    rows, measurement = len(a_bits), a.measurement
    ratio = a_bits / a.num_parameters - b_bits / b.num_parameters
    constant = a.constant / a.num_parameters - b.constant / b.num_parameters

    def whole(differences: np.ndarray, added: float) -> dict[str, Any]:
        low, high = total_interval(differences, rows, confidence_level, seed) + added
        return _row(float(differences.sum()) + added, float(low), float(high))

    return {
        "schema_version": SCHEMA_VERSION,
        "a": _description(a, a_bits),
        "b": _description(b, b_bits),
        "bits_per_parameter": whole(ratio, constant),
        "knowledge_bits": whole(a_bits - b_bits, a.constant - b.constant),
        "attributes": _by_attribute(attributes, a.scale, confidence_level),
        "confidence_level": confidence_level,
        "seed": seed,
        "num_entities": measurement["num_entities"],
        "entities_scored": measurement["entities_scored"],
        "dataset": measurement["knowledge"]["name"],
        **{key: measurement[key] for key in ("scoring", "context", "renderings")},
        "bound": all(bound_reason(model.measurement) is None for model in (a, b)),
    }


def write_comparison(a_dir: str | Path, b_dir: str | Path, result: dict[str, Any]) -> Path:
    """Writes a comparison beside A's capacity.json, as comparison-<B's name>-<digest>.json.

    The digest is that of B's weights and texts: two models of one name have separate files, and comparing a model
    again replaces its file.
    """
    measurement = read_measurement(Path(b_dir) / NLL_FILE)
    digest = measurement.get("digest") or json.dumps(measurement, sort_keys=True)
    suffix = hashlib.sha256(digest.encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.]+", "-", result["b"]["model"]).strip("-.")
    path = Path(a_dir) / f"comparison-{name}-{suffix}.json"
    write_json(path, result)
    return path


def _read(folder: Path) -> _Measured:
    """A model's facts and bits by entity."""
    measurement = read_measurement(folder / NLL_FILE)
    if not (folder / CAPACITY_FILE).is_file():
        raise CapacityError(
            f"{folder} has no {CAPACITY_FILE}, so the null control and other checks have not passed; measure it first "
            "(`knowcap measure`)"
        )
    read_capacity_file(folder, ())
    terms = [] if measurement["scoring"] == "closed_set" else measurement["knowledge"].get("diversity_terms") or []
    source = FactBlocks(folder / NLL_FILE, measurement)
    check_scored(source.num_entities, measurement)
    moments = chunk_moments(source, terms)
    most = diversity_of([one.mean for one in moments], terms)[1]
    return _Measured(folder, measurement, source, terms, [one.count for one in moments], most)


def _bits(a: _Measured, b: _Measured) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[_Pair, ...]]]:
    """The bits of each scored entity of both, in one order, each (entities,); and by attribute those of each block."""
    bits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    pairs: list[list[_Pair]] = []
    names: list[str] = []
    for ours, theirs in _blocks(a, b):
        facts = [without_first_chunks(everything, a.terms) for everything in (ours, theirs)]
        _check_same_facts(a, b, *facts)
        bits[0].append(a.bits(ours))
        bits[1].append(b.bits(theirs))
        columns = zip(*(one.bits.T for one in facts), strict=True)
        pairs.append([_Pair.of(held, other, a, b) for held, other in columns])
        names = facts[0].attributes
    silent = np.zeros(check_scored(sum(map(len, bits[0])), a.measurement))
    a_bits, b_bits = (np.concatenate([*of_one, silent]) for of_one in bits)
    return a_bits, b_bits, dict(zip(names, zip(*pairs, strict=True), strict=True))


def _blocks(a: _Measured, b: _Measured) -> Iterator[tuple[Facts, Facts]]:
    """The facts of the same entities of both, with first chunks: block by block where both files have one order, else
    of all, in the order of their ids.
    """
    if a.source.same_order(b.source):
        yield from zip(a.source, b.source, strict=True)
    else:
        yield _in_order(a.source.whole()), _in_order(b.source.whole())


def _in_order(facts: Facts) -> Facts:
    """The facts sorted by the entities' ids."""
    order = np.argsort(facts.entities, kind="stable")
    tables = (table[order] for table in (facts.nll, facts.references, facts.accuracy, facts.entities))
    return Facts(facts.attributes, *tables)


def _check_same_settings(a: _Measured, b: _Measured) -> None:
    """Raises CapacityError unless both models were scored on the same knowledge in the same mode."""
    for key in _EQUAL_KEYS:
        ours, theirs = a.measurement[key], b.measurement[key]
        if ours == theirs:
            continue
        if key == "knowledge":
            keys = [k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)]
            found = ", ".join(f"{k} {_short(ours.get(k))} and {_short(theirs.get(k))}" for k in sorted(keys))
            raise CapacityError(
                f"{a.folder} and {b.folder} were scored on different knowledge: {found}; expected the same "
                "knowledge.json (another seed draws other entities). Measure both on one data set: `knowcap measure … "
                "--dataset_name`"
            )
        raise CapacityError(
            f"{key} is {ours!r} in {a.folder} and {theirs!r} in {b.folder}, expected the same; measure one of them "
            "again with the settings of the other"
        )


def _check_same_facts(a: _Measured, b: _Measured, ours: Facts, theirs: Facts) -> None:
    """Raises CapacityError unless the facts are the same."""
    if not np.array_equal(ours.entities, theirs.entities):
        unshared = np.setxor1d(ours.entities.astype(str), theirs.entities.astype(str))
        raise CapacityError(
            f"{a.folder} and {b.folder} were scored on different entities: {len(unshared):,} are in one only "
            f"({', '.join(unshared[:5])}); measure both on one data set, with the same limit"
        )
    same = ours.attributes == theirs.attributes
    if not same or not np.array_equal(ours.references, theirs.references, equal_nan=True):
        raise CapacityError(
            f"{a.folder} and {b.folder} were scored on different facts of the same entities (attributes "
            f"{ours.attributes} and {theirs.attributes}); measure both on one data set"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(frozen=True)
class _Pair:
    """Bits of one attribute of the same entities: of both models, their difference, and that of bits per parameter."""

    a: Moments
    b: Moments
    difference: Moments
    ratio: Moments

    @classmethod
    def of(cls, ours: np.ndarray, theirs: np.ndarray, a: _Measured, b: _Measured) -> _Pair:
        """Of bits (entities,), NaN where the fact is not stated."""
        ratio = ours / a.num_parameters - theirs / b.num_parameters
        return cls(*(Moments.of(numbers) for numbers in (ours, theirs, ours - theirs, ratio)))


def _by_attribute(pairs: Mapping[str, Sequence[_Pair]], scale: float, confidence_level: float) -> dict[str, Any]:
    """Differences of each attribute, over the entities that state it, from those of each block."""
    quantile = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    found = {}
    for name, blocks in pairs.items():
        ours, theirs, difference, ratio = (
            Moments.over(getattr(block, part) for block in blocks) for part in ("a", "b", "difference", "ratio")
        )
        held = {"a": ours.mean, "b": theirs.mean} if ours.count else {"a": None, "b": None}
        found[name] = {
            "bits_per_entity": held | _sum_row(difference, 1 / max(difference.count, 1), quantile),
            "bits_per_parameter": _sum_row(ratio, scale, quantile),
        }
    return found


def _sum_row(differences: Moments, scale: float, quantile: float) -> dict[str, Any]:
    """The scaled sum, with the normal interval of a sum over resampled entities."""
    if not differences.count:
        return _row(None, math.nan, math.nan)
    total = differences.total * scale
    if differences.count == 1:
        return _row(total, math.nan, math.nan)
    half = quantile * scale * differences.deviation * math.sqrt(differences.count)
    return _row(total, total - half, total + half)


def _row(difference: float | None, low: float, high: float) -> dict[str, Any]:
    none = math.isnan(low) or math.isnan(high)
    return {"difference": difference, "confidence_interval": [None, None] if none else [low, high]}


def _description(model: _Measured, bits: np.ndarray) -> dict[str, Any]:
    """A model with its own numbers, as in its capacity.json, from the bits of its entities."""
    knowledge_bits = float(bits.sum()) + model.constant
    return {
        "model": _label(model.folder),
        **{key: model.measurement[key] for key in ("model_name", "precision", "num_parameters", "exposures", "seed")},
        "bits_per_parameter": knowledge_bits / model.num_parameters,
        "knowledge_bits": knowledge_bits,
        "digest": model.measurement.get("digest"),  # of weights and texts, so another training run has another one
    }


def _label(folder: Path) -> str:
    """A model's name: its folder, within its run folder if it has one; never an absolute path."""
    folder = folder.absolute()
    for run_dir in folder.parents:
        if (run_dir / RECIPE_FILE).is_file():
            return f"{run_dir.name}/{folder.relative_to(run_dir).as_posix()}"
    return folder.name
