"""From nll.parquet and control.parquet to capacity.json: bits per parameter, and what it could be at most.

No model is needed: everything here is a summary of the scored facts. Two checks stand before the number: the null
control (texts with values that the model was never taught) holds no bits, and R is at most R_max. Nothing is clipped:
a model that knows nothing can be below zero.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from knowcap.capacity.checks import check_control, check_maximum, check_names, check_swapped, is_bound
from knowcap.capacity.tables import (
    CapacityError,
    Facts,
    diversity,
    mean,
    read_facts,
    with_silent_entities,
    without_first_chunks,
)
from knowcap.facts import NAME
from knowcap.files import write_json
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter
from knowcap.scoring.measurement import CONTROL_FILE, COUNTS, NLL_FILE, SETTINGS, SWAPPED_FILE, read_measurement


SCHEMA_VERSION = 1
CAPACITY_FILE = "capacity.json"
# The paper's, where all of them are there: gender is none of them, nor is the work city, which the employer tells.
MEMORIZABLE_ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "employer")

logger = logging.getLogger(__name__)


def capacity(model_dir: str | Path, *, confidence_level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """Sums up a model folder's scored facts, checks them, and writes capacity.json beside them.

    Args:
        model_dir: a folder with nll.parquet and control.parquet, as `knowcap.scoring.score` leaves them.
        confidence_level: of the bootstrap interval over entities; training seeds are not in it. What texts differ by
            is: an entity's mean over its renderings varies by both, which is just what resampling entities sees
            (tests/test_coverage.py). Were all entities told in the same few ways, how hard these are would not be.
        seed: of the bootstrap.

    Returns:
        The content of capacity.json: bits of all N entities together (`knowledge_bits`), of one (`bits_per_entity`),
        and per parameter. None stands where there is no number (null in JSON).

    Raises:
        CapacityError: where a file, a column or a part of the measurement is missing or contradicts another, or where
            R exceeds R_max though it cannot; what an earlier measurement left as capacity.json is removed then.
        LeakError: where the null control holds bits; the same. A warning where knowledge.json says bound: false.
        ValueError: where an argument is impossible.
    """
    model_dir = Path(model_dir)
    path = model_dir / CAPACITY_FILE
    measurement = read_measurement(model_dir / NLL_FILE)
    try:
        facts, control_bits, (diversity_bits, max_diversity_bits) = _checked(model_dir, measurement)
        result = bits_per_parameter(
            predictions=facts.nll,
            references=facts.references,
            num_parameters=measurement["num_parameters"],
            attribute_names=facts.attributes,
            name_attribute=NAME if NAME in facts.attributes else None,
            num_entities=measurement["num_entities"],
            diversity_bits=diversity_bits,
            max_diversity_bits=max_diversity_bits,
            confidence_level=confidence_level,
            seed=seed,
        )
        check_maximum(result, facts, measurement)
    except CapacityError:
        path.unlink(missing_ok=True)
        raise
    result |= {"confidence_level": confidence_level, "control_bits_per_entity": control_bits}
    content = _content(result, facts, measurement, diversity_bits)
    write_json(path, content)
    logger.info(
        "%s: %.4f bits per parameter of %.4f at most, %d of %d entities scored",
        path,
        content["bits_per_parameter"],
        content["max_bits_per_parameter"],
        len(facts.nll),
        content["num_entities"],
    )
    return content


def _checked(model_dir: Path, measurement: dict[str, Any]) -> tuple[Facts, list[float], tuple[float, float]]:
    """The facts, the null control's bits with their error, and bits of diversity with their maximum; the control
    has been held to hold nothing.
    """
    # In a closed set the chunks are given, so that nothing shows which they are: no diversity term.
    closed = measurement["scoring"] == "closed_set"
    terms = [] if closed else measurement["knowledge"].get("diversity_terms") or []
    everything = read_facts(model_dir / NLL_FILE, measurement)
    facts = with_silent_entities(without_first_chunks(everything, terms), measurement)
    control = without_first_chunks(read_facts(model_dir / CONTROL_FILE, measurement), terms)
    control_bits = check_control(control, facts, measurement)
    if facts.attributes == [NAME]:
        control_bits = check_names(control, measurement)
    if (model_dir / SWAPPED_FILE).is_file():
        swapped = without_first_chunks(read_facts(model_dir / SWAPPED_FILE, measurement), terms)
        check_swapped(control, swapped, is_bound(measurement))
    return facts, control_bits, diversity(everything, terms)


def _content(
    result: dict[str, Any], facts: Facts, measurement: dict[str, Any], diversity_bits: float
) -> dict[str, Any]:
    """capacity.json, its keys in their documented order.

    With junk in training it says besides what telling an entity from junk costs its name, log2(1 / useful_share): a
    perfect model of the mixture gives every name that much less, so that this much of R_max is out of reach.
    """
    is_name = np.array([a == NAME for a in facts.attributes])
    column_bits = np.nansum(facts.bits, axis=0) * (measurement["num_entities"] / len(facts.nll))
    attributes = {
        a: result["attributes"][a] | {"accuracy": mean(facts.accuracy[:, column])}
        for column, a in enumerate(facts.attributes)
    }
    content = {
        "schema_version": SCHEMA_VERSION,
        "bits_per_parameter": result["bits_per_parameter"],
        "max_bits_per_parameter": result["max_bits_per_parameter"],
        "knowledge_bits": result["knowledge_bits"],
        "max_knowledge_bits": result["max_knowledge_bits"],
        "name_bits": float(column_bits[is_name].sum()),
        "value_bits": float(column_bits[~is_name].sum()),
        "diversity_bits": diversity_bits,
        **{key: measurement[key] for key in COUNTS},
        "num_entities": measurement["num_entities"],
        "confidence_interval": result["confidence_interval"],
        "confidence_level": result["confidence_level"],
        "attributes": attributes,
        **memorizable(facts),
        "control_bits_per_entity": result["control_bits_per_entity"],
        "bound": is_bound(measurement),
        **{key: measurement[key] for key in SETTINGS},
    }
    if (stored := measurement["stored_bits_per_parameter"]) is not None:
        content["bits_per_stored_bit"] = result["bits_per_parameter"] / stored
    if (share := measurement.get("useful_share")) is not None:
        told = measurement["knowledge"].get("text_prefix")  # what stands before the name says that it's no junk
        content |= {"useful_share": share, "useful_share_bits_per_entity": 0.0 if told else -math.log2(share)}
    return _without_nan(content)


def memorizable(facts: Facts) -> dict[str, Any]:
    """Memorizable accuracy and the attributes that it is the mean of (Part 3.3, App. A.2).

    The prompt is a text up to the value ("Anya Briar Forger was born on"), the model goes on greedily, and what it
    says must be the value. That is `greedy_match`, without generating: as long as every token of the value is the
    model's first choice after the true ones before it, those are the ones that it generated itself; at the first that
    is not, generation has left the value.

    - A value said after what it determines (an employer after its work city) is one fact with that, so the city must
      have been generated too: nothing that was told helps.
    - Under token scoring a value is matched once its own tokens are, whatever the model would say next. Where one
      value begins another ("Disney", "Disney+": 2 companies, 2 universities, 7 majors of bioS) a model that goes on to
      the longer one counts as right. Closed-set scoring asks for the token after such a value as well, but chooses
      among the candidates alone.

    Returns:
        `memorizable_accuracy`, the mean over attributes of the share of entities (means over renderings) whose value
        is generated, NaN without any; times N it is the paper's sum over people. `memorizable_attributes`: the five of
        the paper where all are there, else every attribute that counts bits and is not the name.
    """
    values = [a for a in facts.attributes if a != NAME]
    names = (
        list(MEMORIZABLE_ATTRIBUTES)
        if set(MEMORIZABLE_ATTRIBUTES) <= set(values)
        else [a for a in values if mean(_column(facts, a, "references")) > 0]
    )
    shares = np.array([mean(_column(facts, a, "accuracy")) for a in names])
    return {"memorizable_accuracy": mean(shares), "memorizable_attributes": names}


def _column(facts: Facts, attribute: str, table: str) -> np.ndarray:
    return getattr(facts, table)[:, facts.attributes.index(attribute)]


def _without_nan(value: Any) -> Any:
    """The same content with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
