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
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from knowcap.capacity.checks import bound_reason
from knowcap.capacity.tables import (
    CapacityError,
    Facts,
    diversity,
    read_facts,
    unknown_diversity,
    with_all_entities,
    without_first_chunks,
)
from knowcap.files import CAPACITY_FILE, NLL_FILE, RECIPE_FILE, write_json
from knowcap.metrics.bits_per_parameter.bits import sum_interval
from knowcap.scoring.measurement import read_measurement


SCHEMA_VERSION = 1
# Keys of the two measurements that must be equal.
_EQUAL_KEYS = ("scoring", "context", "num_entities", "entities_scored", "renderings", "knowledge")


@dataclass(frozen=True)
class _Measured:
    """A measured model, with facts in the order of the entities' ids.

    Attributes:
        folder: the folder of its nll.parquet.
        measurement: the measurement of that file.
        facts: means over renderings, without first chunks.
        bits: (entities,) bits of each entity, scaled to all N, with its share of the diversity terms; never NaN.
        constant: bits that belong to no entity: the maximum of the diversity terms.
    """

    folder: Path
    measurement: dict[str, Any]
    facts: Facts
    bits: np.ndarray
    constant: float

    @property
    def num_parameters(self) -> int:
        """All parameters; for a quantized model those of its original."""
        return self.measurement["num_parameters"]


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
    _check_same_facts(a, b)
    rows, measurement = len(a.bits), a.measurement
    ratio = a.bits / a.num_parameters - b.bits / b.num_parameters
    constant = a.constant / a.num_parameters - b.constant / b.num_parameters

    def whole(differences: np.ndarray, added: float) -> dict[str, Any]:
        low, high = sum_interval(differences[:, None], rows, confidence_level, seed) + added
        return _row(float(differences.sum()) + added, float(low), float(high))

    return {
        "schema_version": SCHEMA_VERSION,
        "a": _description(a),
        "b": _description(b),
        "bits_per_parameter": whole(ratio, constant),
        "knowledge_bits": whole(a.bits - b.bits, a.constant - b.constant),
        "attributes": _by_attribute(a, b, confidence_level),
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
    terms = [] if measurement["scoring"] == "closed_set" else measurement["knowledge"].get("diversity_terms") or []
    everything = _in_order(read_facts(folder / NLL_FILE, measurement))
    most = diversity(everything, terms)[1]
    facts = with_all_entities(without_first_chunks(everything, terms), measurement)
    bits = np.nansum(facts.bits, axis=1) * (measurement["num_entities"] / len(facts.nll))
    bits[: len(everything.nll)] -= unknown_diversity(everything, terms)
    return _Measured(folder, measurement, facts, bits, most)


def _in_order(facts: Facts) -> Facts:
    """The facts sorted by the entities' ids."""
    order = np.argsort(facts.entities, kind="stable")
    tables = (table[order] for table in (facts.nll, facts.references, facts.accuracy, facts.entities))
    return Facts(facts.attributes, *tables)


def _check_same_facts(a: _Measured, b: _Measured) -> None:
    """Raises CapacityError unless both models were scored on the same facts in the same mode."""
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
    if not np.array_equal(a.facts.entities, b.facts.entities):
        unshared = np.setxor1d(a.facts.entities.astype(str), b.facts.entities.astype(str))
        raise CapacityError(
            f"{a.folder} and {b.folder} were scored on different entities: {len(unshared):,} are in one only "
            f"({', '.join(unshared[:5])}); measure both on one data set, with the same limit"
        )
    same = a.facts.attributes == b.facts.attributes
    if not same or not np.array_equal(a.facts.references, b.facts.references, equal_nan=True):
        raise CapacityError(
            f"{a.folder} and {b.folder} were scored on different facts of the same entities (attributes "
            f"{a.facts.attributes} and {b.facts.attributes}); measure both on one data set"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _by_attribute(a: _Measured, b: _Measured, confidence_level: float) -> dict[str, Any]:
    """Differences of each attribute, over the entities that state it."""
    quantile = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    scale = a.measurement["num_entities"] / len(a.bits)
    ours, theirs = a.facts.bits, b.facts.bits
    found = {}
    for column, name in enumerate(a.facts.attributes):
        stated = ~np.isnan(ours[:, column])
        x, y = ours[stated, column], theirs[stated, column]
        held = {"a": float(x.mean()), "b": float(y.mean())} if x.size else {"a": None, "b": None}
        ratio = x / a.num_parameters - y / b.num_parameters
        found[name] = {
            "bits_per_entity": held | _sum_row(x - y, 1 / max(x.size, 1), quantile),
            "bits_per_parameter": _sum_row(ratio, scale, quantile),
        }
    return found


def _sum_row(differences: np.ndarray, scale: float, quantile: float) -> dict[str, Any]:
    """The scaled sum, with the normal interval of a sum over resampled entities."""
    if not differences.size:
        return _row(None, math.nan, math.nan)
    total = float(differences.sum()) * scale
    if differences.size == 1:
        return _row(total, math.nan, math.nan)
    half = quantile * scale * float(differences.std(ddof=1)) * math.sqrt(differences.size)
    return _row(total, total - half, total + half)


def _row(difference: float | None, low: float, high: float) -> dict[str, Any]:
    none = math.isnan(low) or math.isnan(high)
    return {"difference": difference, "confidence_interval": [None, None] if none else [low, high]}


def _description(model: _Measured) -> dict[str, Any]:
    """A model with its own numbers, as in its capacity.json."""
    knowledge_bits = float(model.bits.sum()) + model.constant
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
