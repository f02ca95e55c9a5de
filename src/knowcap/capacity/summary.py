"""From nll.parquet and control.parquet to capacity.json: bits per parameter, and their maximum.

No model is needed: everything is a summary of the scored facts. Two checks come first: the null control (texts with
values that the model was not trained on) holds no bits, and R is at most R_max. Nothing is clipped: a model that knows
nothing can be below zero.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.capacity.blocks import FactBlocks
from knowcap.capacity.checks import (
    bound_reason,
    check_control,
    check_maximum,
    check_names,
    check_swapped,
    is_bound,
)
from knowcap.capacity.kept import INPUTS, inputs_of
from knowcap.capacity.sums import Sums, sums_of
from knowcap.capacity.tables import CapacityError, mean, read_facts, without_first_chunks
from knowcap.facts import NAME
from knowcap.files import CAPACITY_FILE, CONTROL_FILE, NLL_FILE, SWAPPED_FILE
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter_of, total_interval
from knowcap.scoring.measurement import COUNTS, MIXTURES, ROUNDED, SETTINGS, SWAPPED, read_measurement
from knowcap.sealed import repair, write_result


SCHEMA_VERSION = 1
# Those of the paper, without gender, and without the work city, which the employer determines.
MEMORIZABLE_ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "employer")

logger = logging.getLogger(__name__)


def capacity(model_dir: str | Path, *, confidence_level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Summarizes the scored facts of a model folder, checks them, and writes capacity.json beside them.

    Args:
        model_dir: a folder with nll.parquet and control.parquet, as `knowcap.scoring.score` writes them.
        confidence_level: of the bootstrap interval over entities. It includes the variation between texts, as an
            entity's mean over its renderings varies with both (tests/capacity/test_coverage.py), except that of texts
            that all entities share, and that of bioD's diversity terms, which are means over the same entities
            (`unknown_diversity`); it leaves out the variation between training seeds.
        seed: seed of the bootstrap.

    Returns:
        The content of capacity.json without its digests: bits of all N entities together (`knowledge_bits`), of one
        (`bits_per_entity`), and per parameter. None (null in JSON) where there is no number.

    Raises:
        ScoringError: nll.parquet is missing, or has no complete measurement.
        CapacityError: a file or column is missing or contradicts another, or R exceeds R_max where that is impossible;
            an earlier capacity.json is removed.
        LeakError: the null control holds bits, of values or of names; an earlier capacity.json is removed. If
            knowledge.json has bound: false, bits of values are a warning.
        ValueError: an impossible argument.
    """
    model_dir = Path(model_dir)
    path = model_dir / CAPACITY_FILE
    measurement = read_measurement(model_dir / NLL_FILE)
    try:
        sums, control_bits = _checked(model_dir, measurement)
        diversity_bits, max_diversity_bits = sums.diversity
        result = bits_per_parameter_of(
            sums.tally,
            num_parameters=measurement["num_parameters"],
            attribute_names=sums.attributes,
            num_entities=measurement["num_entities"],
            diversity_bits=diversity_bits,
            max_diversity_bits=max_diversity_bits,
            confidence_level=confidence_level,
            seed=seed,
        )
        check_maximum(result, sums.references, measurement)
        if max_diversity_bits or diversity_bits:
            bits = sums.tally.totals * (measurement["num_entities"] / len(sums.tally.totals)) - sums.unknown
            ends = total_interval(bits, len(bits), confidence_level, seed) + max_diversity_bits
            result["confidence_interval"] = (ends / measurement["num_parameters"]).tolist()
    except CapacityError:
        path.unlink(missing_ok=True)
        raise
    result |= {"confidence_level": confidence_level, "control_bits_per_entity": control_bits}
    content = _content(result, sums, measurement)
    if sums.bands is not None:
        content |= _without_nan(sums.bands.content(confidence_level, seed))
    write_result(path, content | {INPUTS: inputs_of(model_dir)})
    logger.info(
        "%s: %.4f bits per parameter, at most %.4f; %d of %d entities scored",
        path, content["bits_per_parameter"], content["max_bits_per_parameter"],
        len(sums.tally.totals), content["num_entities"],
    )  # fmt: skip
    return content


def _checked(model_dir: Path, measurement: dict[str, Any]) -> tuple[Sums, list[float]]:
    """Sums over the facts, and the null control's bits with their error.

    Raises:
        LeakError: the null control holds bits.
    """
    # Closed-set scoring is given the chunks, so it cannot measure which ones the model knows: no diversity terms.
    closed = measurement["scoring"] == "closed_set"
    terms = [] if closed else measurement["knowledge"].get("diversity_terms") or []
    sums = sums_of(FactBlocks(model_dir / NLL_FILE, measurement), terms, measurement)
    control = without_first_chunks(read_facts(model_dir / CONTROL_FILE, measurement), terms)
    control_bits = check_control(control, sums.attributes, measurement)
    if NAME in sums.attributes:
        name_bits = check_names(control, measurement)
        control_bits = name_bits if sums.attributes == [NAME] else control_bits
    if measurement.get(SWAPPED) and not (model_dir / SWAPPED_FILE).is_file():
        raise CapacityError(f"{model_dir / SWAPPED_FILE} is missing; {repair(model_dir / SWAPPED_FILE)}")
    if (model_dir / SWAPPED_FILE).is_file():
        swapped = without_first_chunks(read_facts(model_dir / SWAPPED_FILE, measurement), terms)
        check_swapped(control, swapped, is_bound(measurement))
    return sums, control_bits


def _content(result: dict[str, Any], sums: Sums, measurement: dict[str, Any]) -> dict[str, Any]:
    """The content of capacity.json, in the documented order of keys.

    With junk or questions in training it includes the bits that they cost every name (`_mixture`).
    """
    is_name = np.array([a == NAME for a in sums.attributes])
    column_bits = sums.tally.sums[1] * (measurement["num_entities"] / len(sums.tally.totals))
    attributes = {a: result["attributes"][a] | {"accuracy": sums.accuracy[a]} for a in sums.attributes}
    content = {
        "schema_version": SCHEMA_VERSION,
        "bits_per_parameter": result["bits_per_parameter"],
        "max_bits_per_parameter": result["max_bits_per_parameter"],
        "knowledge_bits": result["knowledge_bits"],
        "max_knowledge_bits": result["max_knowledge_bits"],
        "name_bits": float(column_bits[is_name].sum()),
        "value_bits": float(column_bits[~is_name].sum()),
        "diversity_bits": sums.diversity[0],
        **{key: measurement[key] for key in COUNTS},
        "num_entities": measurement["num_entities"],
        "confidence_interval": result["confidence_interval"],
        "confidence_level": result["confidence_level"],
        "attributes": attributes,
        **memorizable(sums.accuracy, sums.references),
        "control_bits_per_entity": result["control_bits_per_entity"],
        "bound": (reason := bound_reason(measurement)) is None,
        "bound_reason": reason,
        **{key: measurement[key] for key in SETTINGS},
    }
    if (stored := measurement["stored_bits_per_parameter"]) is not None:
        content["bits_per_stored_bit"] = result["bits_per_parameter"] / stored
    content |= {key: measurement[key] for key in ROUNDED if key in measurement}
    return _without_nan(content | _mixture(measurement))


def _mixture(measurement: dict[str, Any]) -> dict[str, float | None]:
    """The share that junk or questions leave or have in training, and the bits by which a perfect model of the mixture
    is below R_max for every name: log2(1 / useful_share), or log2(1 / (1 - qa_share)).

    Nothing before a text shows whether it is a biography, which begins with a name. It costs nothing where biographies
    have a prefix of their own. In packed windows only the first text costs it, since a window of training has texts of
    one kind: None, as it is no constant of an entity.
    """
    found: dict[str, float | None] = {}
    for key in MIXTURES:
        if (share := measurement.get(key)) is not None:
            bits = -math.log2(1 - share if key == "qa_share" else share)
            if measurement["knowledge"].get("text_prefix"):
                bits = 0.0
            found |= {key: share, f"{key}_bits_per_entity": None if measurement["context"] == "packed" else bits}
    return found


def memorizable(accuracy: dict[str, float], references: dict[str, float]) -> dict[str, Any]:
    """Memorizable accuracy: how often a model, prompted with a training text up to a value, generates that value.

    The prompt is a text up to the value ("Anya Briar Forger was born on"), and greedy generation must yield the value
    (Part 3.3, App. A.2). `greedy_match` is equivalent without generating: as long as every token of the value is the
    most likely one after the true tokens before it, greedy generation yields the same tokens.

    - A value that follows one that it determines (an employer after its work city) is one fact with it, so the city
      must be generated too.
    - With token scoring a value matches if its own tokens do, whatever follows. If one value is a prefix of another
      ("Disney", "Disney+": 2 companies, 2 universities, 7 majors of bioS), generating the longer one counts as
      correct. Closed-set scoring includes the token after such a value, but chooses among the candidates only.

    Args:
        accuracy: of each attribute, the share of entities (means over renderings) whose value is generated, or NaN.
        references: log2 of the candidates of each attribute.

    Returns:
        `memorizable_accuracy`, the mean over attributes, NaN if there are none; times N it is the paper's sum over
        people. `memorizable_attributes`: the five of the paper if all exist, else every attribute with bits except the
        name.
    """
    values = [a for a in accuracy if a != NAME]
    names = (
        list(MEMORIZABLE_ATTRIBUTES)
        if set(MEMORIZABLE_ATTRIBUTES) <= set(values)
        else [a for a in values if references[a] > 0]
    )
    return {"memorizable_accuracy": mean(np.array([accuracy[a] for a in names])), "memorizable_attributes": names}


def _without_nan(value: Any) -> Any:
    """The same content with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
