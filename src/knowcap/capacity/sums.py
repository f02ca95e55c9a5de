"""Sums over the scored facts of a file, from which capacity.json follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knowcap.capacity.bands import Bands
from knowcap.capacity.blocks import FactBlocks, Moments
from knowcap.capacity.tables import (
    check_scored,
    chunk_columns,
    diversity_of,
    unknown_diversity,
    with_all_entities,
    without_first_chunks,
)
from knowcap.facts import NAME
from knowcap.metrics.bits_per_parameter.bits import Tally, merged, tally


@dataclass(frozen=True)
class Sums:
    """Sums over all scored entities.

    Attributes:
        attributes: those that are summed: all but first chunks.
        references: log2 of the candidates of each, in bits.
        accuracy: the mean share of greedy matches of each, over the entities that state it; NaN if none does.
        tally: the sums of the metric, of all scored entities.
        diversity: bits of the diversity terms, and their maximum.
        unknown: (entities,) each entity's share of what is not known of them, in bits.
        bands: of people who are not seen equally often; or None.
    """

    attributes: list[str]
    references: dict[str, float]
    accuracy: dict[str, float]
    tally: Tally
    diversity: tuple[float, float]
    unknown: np.ndarray
    bands: Bands | None


def sums_of(source: FactBlocks, terms: Sequence[Mapping[str, Any]], measurement: dict[str, Any]) -> Sums:
    """Sums over the facts of a file; with diversity terms it is read twice.

    Args:
        source: the facts.
        terms: the diversity terms of knowledge.json; empty for other corpora and closed sets.
        measurement: of the facts.

    Raises:
        CapacityError: facts are impossible, or their number is not that of the measurement.
    """
    silent = check_scored(source.num_entities, measurement)
    first_chunks = chunk_moments(source, terms)
    excluded = {term["fact"] for term in terms}
    attributes = [name for name in source.attributes if name not in excluded]
    bands, parts, accuracies, shares = Bands.of(measurement), [], [], []
    for everything in source:
        facts = without_first_chunks(everything, terms)
        if bands is not None:
            bands.add(facts)
        accuracies.append([Moments.of(column) for column in facts.accuracy.T])
        shares.append(unknown_diversity(everything, terms, [one.count for one in first_chunks]))
        if source.is_one:
            facts = with_all_entities(facts, measurement)
        of_name = NAME if NAME in attributes else None
        parts.append(tally(facts.nll, facts.references, attributes, of_name, measurement["num_entities"]))
    means = [Moments.over(of_blocks).mean for of_blocks in zip(*accuracies, strict=True)]
    return Sums(
        attributes,
        {name: source.references[name] for name in attributes},
        dict(zip(attributes, means, strict=True)),
        merged(parts, 0 if source.is_one else silent),
        diversity_of([one.mean for one in first_chunks], terms),
        np.concatenate([*shares, np.zeros(silent)]),
        bands,
    )


def chunk_moments(source: FactBlocks, terms: Sequence[Mapping[str, Any]]) -> list[Moments]:
    """Of the first chunks' nll, in nats, of each diversity term. Raises CapacityError if a term's were not scored."""
    columns = chunk_columns(source.attributes, terms)
    found = [[Moments.of(facts.nll[:, column]) for column in columns] for facts in source] if columns else []
    return [Moments.over(of_blocks) for of_blocks in zip(*found, strict=True)]
