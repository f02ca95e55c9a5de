"""Bits of knowledge per parameter: the plain functions behind the `evaluate` metric of this folder (numpy alone).

The functions take `predictions` (negative log likelihoods in nats, summed over the tokens of a value) and `references`
(log2 of the number of equally likely candidates that the value was drawn from), both of shape `(rows, columns)`: a row
per entity, a column per attribute. A NaN reference means that the entity does not state the fact. The bits of a fact:

    reference - prediction / ln 2

Source: Physics of Language Models, Part 3.3 (arXiv 2404.05405), Lemma F.1 and Definitions 4.1 and 4.3. Its Theorem 3.2
has N0 - N where the definitions, and this module, have N0, the number of possible names. That is sound: averaged over
all sets of N distinct names, a predictor's product of N probabilities is at most N0^-N (Maclaurin's inequality).

Four people, each with one of 2^20 names and one of 2^10 birth dates, and a model that knows them perfectly: it gives
each name the probability 1/4, and the birth date that follows the probability 1.

>>> results = bits_per_parameter(
...     predictions=[[math.log(4), 0.0]] * 4,
...     references=[[20.0, 10.0]] * 4,
...     num_parameters=56,
...     attribute_names=["name", "birth_date"],
...     name_attribute="name",
... )
>>> results["num_entities"], round(results["knowledge_bits"], 6)
(4, 112.0)
>>> round(results["bits_per_parameter"], 6), round(results["max_bits_per_parameter"], 6)
(2.0, 2.0)
>>> {name: round(row["bits_per_entity"], 6) for name, row in results["attributes"].items()}
{'name': 18.0, 'birth_date': 10.0}
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike


NUM_REPLICATES = 2000  # resamples of the bootstrap
REPLICATES_AT_A_TIME = 100  # how many of them are in memory
MAX_GROUPS = 4096  # groups of rows in the bootstrap
_MOST = 1e100  # nats, bits and counts beyond which sums and squares would be infinite
_PLAIN = "pass the nats and bits of single facts, and plain counts"
RELATIVE_TOLERANCE = 1e-6  # by which diversity_bits may exceed max_diversity_bits: rounding


def bits_per_parameter(
    predictions: ArrayLike,
    references: ArrayLike,
    num_parameters: SupportsIndex,
    attribute_names: Sequence[str] | None = None,
    name_attribute: str | None = None,
    num_entities: SupportsIndex | None = None,
    diversity_bits: float = 0.0,
    max_diversity_bits: float = 0.0,
    confidence_level: float = 0.95,
    seed: SupportsIndex = 0,
) -> dict[str, Any]:
    """Bits of knowledge per parameter (R), their maximum (R_max), both in bits as well, and by attribute.

    Nothing is clipped: a model that does worse than guessing among the candidates scores below zero.

    Args:
        predictions: Negative log likelihoods of the values, nats, summed over tokens, `(rows, columns)`: lists, numpy
            arrays or torch tensors. If the reference is NaN, the prediction is ignored.
        references: log2 of the number of candidates, bits, same shape; NaN if the fact is not stated.
        num_parameters: All parameters of the model, embeddings included.
        attribute_names: Names of the columns; adds the figures by attribute.
        name_attribute: The column that names the entity. As the N names are distinct and each may come next, a perfect
            model's name nll is `ln N`, and the maximum of a name is `log2 N` bits less.
        num_entities: N, if the rows are a sample: sums over rows are scaled by N / rows. *Defaults to* rows.
        diversity_bits, max_diversity_bits: Bits of bioD's diversity sets, which belong to no entity, as the model and
            as a perfect model holds them; added after the scaling.
        confidence_level, seed: Level and seed of the bootstrap interval, see [`confidence_interval`].

    Returns:
        `bits_per_parameter`, `max_bits_per_parameter`; `knowledge_bits`, `max_knowledge_bits` (of all entities);
        `confidence_interval` ([low, high] of `bits_per_parameter`); `attributes` (`{name: {nll_nats, bits_per_entity,
        max_bits_per_entity}}`, means over the entities that state it, NaN if there are none); `num_entities`.

    Raises:
        ValueError: If a table is ragged, empty or has no stated fact; if the prediction of a stated fact is NaN,
            infinite or negative; if another argument is impossible. The message says what to pass.
    """
    found = tally(predictions, references, attribute_names, name_attribute, num_entities)
    further = num_entities, diversity_bits, max_diversity_bits, confidence_level, seed
    return bits_per_parameter_of(found, num_parameters, attribute_names, *further)


@dataclass(frozen=True)
class Tally:
    """Sums over rows of scored facts, from which all results follow.

    Attributes:
        bits, most: Of all facts, as the model and as a perfect model holds them.
        counts: How many rows state each column's fact, `(columns,)`.
        sums: Of nll, bits and maximum bits of each column, `(3, columns)`.
        totals: The bits of each row, `(rows,)`.
    """

    bits: float
    most: float
    counts: np.ndarray
    sums: np.ndarray
    totals: np.ndarray


def tally(
    predictions: ArrayLike,
    references: ArrayLike,
    attribute_names: Sequence[str] | None = None,
    name_attribute: str | None = None,
    num_entities: SupportsIndex | None = None,
) -> Tally:
    """Sums over some of the rows; `num_entities` is that of all rows. Errors are as in [`bits_per_parameter`]."""
    nll, references = _tables(predictions, references)
    number = len(references) if num_entities is None else _integer("num_entities", num_entities, 1)
    names = _attribute_names(attribute_names, name_attribute, references.shape[1])
    bits, most = references - nll / math.log(2), _max_bits(references, names, name_attribute, number)
    sums = np.array([np.nansum(table, axis=0) for table in (nll, bits, most)])
    counts = np.sum(~np.isnan(nll), axis=0)
    return Tally(float(np.nansum(bits)), float(np.nansum(most)), counts, sums, np.nansum(bits, axis=1))


def bits_per_parameter_of(
    sums: Tally,
    num_parameters: SupportsIndex,
    attribute_names: Sequence[str] | None = None,
    num_entities: SupportsIndex | None = None,
    diversity_bits: float = 0.0,
    max_diversity_bits: float = 0.0,
    confidence_level: float = 0.95,
    seed: SupportsIndex = 0,
) -> dict[str, Any]:
    """[`bits_per_parameter`] of a table that is too large for memory, whose parts were tallied one by one.

    The results are those of all rows in one table: to the last bit for one part, within rounding for several, which
    must be tallied with the same arguments. The other arguments and errors are as in [`bits_per_parameter`].

    >>> rows = [[[4.0]], [[2.0], [1.0]]]
    >>> whole = bits_per_parameter(predictions=rows[0] + rows[1], references=[[6.0]] * 3, num_parameters=7)
    >>> parts = [tally(some, [[6.0]] * len(some)) for some in rows]
    >>> bits_per_parameter_of(merged(parts), num_parameters=7) == whole
    True
    """
    num_parameters = _integer("num_parameters", num_parameters, 1)
    num_entities = _num_entities(num_entities, len(sums.totals))
    names = _attribute_names(attribute_names, None, len(sums.counts))
    diversity_bits, max_diversity_bits = _diversity(diversity_bits, max_diversity_bits)
    knowledge = _scaled(sums.bits, len(sums.totals), num_entities) + diversity_bits
    max_knowledge = _scaled(sums.most, len(sums.totals), num_entities) + max_diversity_bits
    interval = total_interval(sums.totals, num_entities, confidence_level, seed)
    return {
        "bits_per_parameter": knowledge / num_parameters,
        "max_bits_per_parameter": max_knowledge / num_parameters,
        "knowledge_bits": knowledge,
        "max_knowledge_bits": max_knowledge,
        "confidence_interval": ((interval + diversity_bits) / num_parameters).tolist(),
        "attributes": _attributes(names, sums),
        "num_entities": num_entities,
    }


def merged(parts: Sequence[Tally], silent: int = 0) -> Tally:
    """The sums over the rows of several parts, and of rows that state nothing."""
    totals = [part.totals for part in parts] + ([np.zeros(silent)] if silent else [])
    together = totals[0] if len(totals) == 1 else np.concatenate(totals)
    if len(parts) == 1:
        return replace(parts[0], totals=together)
    sums = [
        [math.fsum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*(p.sums for p in parts), strict=True)
    ]
    counts = np.sum([part.counts for part in parts], axis=0)
    bits, most = math.fsum(part.bits for part in parts), math.fsum(part.most for part in parts)
    return Tally(bits, most, counts, np.array(sums), together)


def knowledge_bits(
    predictions: ArrayLike,
    references: ArrayLike,
    num_entities: SupportsIndex | None = None,
    diversity_bits: float = 0.0,
) -> float:
    """Bits that the model has been shown to hold; arguments and errors as in [`bits_per_parameter`].

    >>> round(knowledge_bits(predictions=[[0.0, math.log(2)]], references=[[5.0, 8.0]]), 6)  # 5 + (8 - 1)
    12.0
    """
    nll, references = _tables(predictions, references)
    num_entities = _num_entities(num_entities, len(references))
    return _scaled_sum(references - nll / math.log(2), num_entities) + _finite("diversity_bits", diversity_bits)


def max_knowledge_bits(
    references: ArrayLike,
    attribute_names: Sequence[str] | None = None,
    name_attribute: str | None = None,
    num_entities: SupportsIndex | None = None,
    max_diversity_bits: float = 0.0,
) -> float:
    """Bits that a perfect model holds; arguments and errors as in [`bits_per_parameter`].

    >>> max_knowledge_bits([[20.0, 10.0]] * 4, attribute_names=["name", "birth_date"], name_attribute="name")
    112.0
    """
    references = _references(references)
    num_entities = _num_entities(num_entities, len(references))
    names = _attribute_names(attribute_names, name_attribute, references.shape[1])
    most = _max_bits(references, names, name_attribute, num_entities)
    return _scaled_sum(most, num_entities) + _finite("max_diversity_bits", max_diversity_bits)


def confidence_interval(
    predictions: ArrayLike,
    references: ArrayLike,
    num_parameters: SupportsIndex,
    num_entities: SupportsIndex | None = None,
    diversity_bits: float = 0.0,
    confidence_level: float = 0.95,
    seed: SupportsIndex = 0,
) -> list[float]:
    """Bootstrap percentile interval of bits per parameter, over entities; [NaN, NaN] for a single row.

    It estimates how much R would vary with other entities, for this model as trained. It leaves out the variation
    between training seeds, and the dependence of entities through the shared weights. With few rows it is too
    narrow, by about `sqrt(1 - 1 / rows)`. The order of the rows does not matter.
    Arguments and errors as in [`bits_per_parameter`].

    >>> bits = [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]]
    >>> low, high = confidence_interval(predictions=[[0.0]] * 8, references=bits, num_parameters=36)
    >>> 0.5 < low < 1.0 < high < 1.5
    True
    """
    nll, references = _tables(predictions, references)
    num_parameters = _integer("num_parameters", num_parameters, 1)
    num_entities = _num_entities(num_entities, len(references))
    sums = total_interval(np.nansum(references - nll / math.log(2), axis=1), num_entities, confidence_level, seed)
    return [float(bound) for bound in (sums + _finite("diversity_bits", diversity_bits)) / num_parameters]


def _max_bits(references: np.ndarray, names: list[str], name_attribute: str | None, num_entities: int) -> np.ndarray:
    """The bits of each fact in a perfect model, `(rows, columns)`."""
    most = references.copy()
    if name_attribute is not None:
        most[:, names.index(name_attribute)] -= math.log2(num_entities)
    return most


def _scaled_sum(table: np.ndarray, num_entities: int) -> float:
    """Sum over all entities, estimated from the rows."""
    return _scaled(float(np.nansum(table)), len(table), num_entities)


def _scaled(total: float, num_rows: int, num_entities: int) -> float:
    """Sum over all entities, estimated from that over some of them."""
    total *= num_entities / num_rows
    if not math.isfinite(total):
        raise ValueError(f"the sum over {num_entities:.3g} entities is too large for a float; {_PLAIN}")
    return total


def _attributes(names: list[str], sums: Tally) -> dict[str, dict[str, float]]:
    """Means of nll, bits and maximum bits over the entities that state the fact; NaN if there are none."""
    means = sums.sums / np.where(sums.counts > 0, sums.counts, np.nan)
    keys = ("nll_nats", "bits_per_entity", "max_bits_per_entity")
    return {name: dict(zip(keys, means[:, column].tolist(), strict=True)) for column, name in enumerate(names)}


def total_interval(totals: np.ndarray, num_entities: int, confidence_level: float, seed: SupportsIndex) -> np.ndarray:
    """Percentile interval of the scaled sum of the bits of rows `(rows,)` over resampled rows, `(2,)`.

    The entities are sorted by their bits into at most MAX_GROUPS groups; a resample draws how often each group is hit.
    Up to MAX_GROUPS rows a group is one row, which is the plain bootstrap. Beyond, the sum of the hits in a group is
    drawn from a normal distribution with the group's mean and variance, which keeps those of the plain bootstrap.
    """
    generator = np.random.default_rng(_integer("seed", seed, 0))
    if not isinstance(confidence_level, (int, float)) or not 0.0 < confidence_level < 1.0:
        raise ValueError(
            f"confidence_level: got {confidence_level}, expected a number between 0 and 1; pass 0.95 for example"
        )
    num_rows = len(totals)
    if num_rows == 1:
        return np.full(2, np.nan)
    totals = np.sort(totals)
    center = totals.mean()
    starts = np.arange(min(num_rows, MAX_GROUPS)) * num_rows // min(num_rows, MAX_GROUPS)
    sizes = np.diff(starts, append=num_rows)
    totals -= center
    means = np.add.reduceat(totals, starts) / sizes
    totals -= np.repeat(means, sizes)
    variances = np.add.reduceat(np.square(totals, out=totals), starts) / sizes
    sums = np.empty(NUM_REPLICATES)
    for start in range(0, NUM_REPLICATES, REPLICATES_AT_A_TIME):
        hits = generator.multinomial(num_rows, sizes / num_rows, size=REPLICATES_AT_A_TIME)
        noise = generator.standard_normal(REPLICATES_AT_A_TIME)
        sums[start : start + REPLICATES_AT_A_TIME] = hits @ means + np.sqrt(hits @ variances) * noise
    tail = (1.0 - confidence_level) / 2.0
    return (np.quantile(sums, [tail, 1.0 - tail]) + center * num_rows) * (num_entities / num_rows)


def _table(argument: str, values: ArrayLike) -> np.ndarray:
    """A new float64 table `(rows, columns)` of a list, array or tensor."""
    try:
        if (detach := getattr(values, "detach", None)) is not None:  # a torch tensor, maybe bfloat16 or on a GPU
            values = detach().cpu().double().numpy()
        if getattr(getattr(values, "dtype", None), "kind", "") == "c":
            raise TypeError("complex numbers")
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{argument}: not a table of numbers ({error}); pass rows of one length") from error
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"{argument}: got shape {table.shape}, expected (rows, columns); pass one row per entity")
    return table


def _require(valid: np.ndarray, table: np.ndarray, argument: str, rule: str) -> None:
    """Raise a ValueError that shows the first cell that is not valid."""
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(f"{argument}[{row}][{column}] is {table[row, column]} ({(~valid).sum()} such); {rule}")


def _references(references: ArrayLike) -> np.ndarray:
    """The references, checked."""
    table = _table("references", references)
    valid = np.isnan(table) | ((table <= _MOST) & (table >= 0.0))
    _require(valid, table, "references", "pass log2 of the number of candidates, or NaN if nothing is stated")
    if np.isnan(table).all():
        raise ValueError("references are all NaN, so no fact is stated; pass log2 of the candidates of at least one")
    return table


def _tables(predictions: ArrayLike, references: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The predictions, NaN exactly where the references are, and the references; both checked."""
    references, nll = _references(references), _table("predictions", predictions)
    if nll.shape != references.shape:
        raise ValueError(f"predictions have shape {nll.shape}, references {references.shape}; pass the same shape")
    unstated = np.isnan(references)
    valid = unstated | ((nll <= _MOST) & (nll >= 0.0))
    _require(
        valid, nll, "predictions", "if the reference is a number, pass nats of 0 or more, or make the reference NaN"
    )
    nll[unstated] = np.nan
    return nll, references


def _integer(argument: str, value: SupportsIndex, minimum: int) -> int:
    """An integer of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise ValueError(f"{argument}: got {value!r}, expected an integer of at least {minimum}; pass such a number")
    if number > _MOST:
        raise ValueError(f"{argument}: got a number above {_MOST:g}; {_PLAIN}")
    return number


def _num_entities(num_entities: SupportsIndex | None, num_rows: int) -> int:
    """The number of entities that the rows represent: at least the number of rows."""
    return num_rows if num_entities is None else _integer("num_entities", num_entities, num_rows)


def _attribute_names(attribute_names: Sequence[str] | None, name_attribute: str | None, num_columns: int) -> list[str]:
    """The names of the columns, an empty list if none are given."""
    are_names = isinstance(attribute_names, Sequence) and not isinstance(attribute_names, str)
    names = list(attribute_names) if attribute_names is not None and are_names else []
    wrong = len(names) != num_columns or not all(isinstance(name, str) for name in names)
    if attribute_names is not None and wrong:
        raise ValueError(
            f"attribute_names: got {attribute_names!r:.200}, expected a list; name the {num_columns} columns"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"attribute_names: got {names}, in which one repeats; give every column a different name")
    if name_attribute is not None and name_attribute not in names:
        raise ValueError(f"name_attribute: got {name_attribute!r}, expected one of attribute_names {names}; add it")
    return names


def _diversity(diversity_bits: float, max_diversity_bits: float) -> tuple[float, float]:
    """Both terms as finite floats, the first not above the second."""
    bits, most = _finite("diversity_bits", diversity_bits), _finite("max_diversity_bits", max_diversity_bits)
    if bits > most + RELATIVE_TOLERANCE * abs(most):
        raise ValueError(f"diversity_bits: got {bits}, expected at most max_diversity_bits {most}; pass both")
    return bits, most


def _finite(argument: str, value: float) -> float:
    """A finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{argument}: got {value!r}, expected a finite number; pass 0.0 if there is nothing to add")
    return number
