"""Bits of knowledge per parameter as an `evaluate` metric: a thin shell over `bits.py`, which holds the formula."""

import inspect
from collections.abc import Sequence
from typing import Any, SupportsIndex

import datasets
import evaluate
from numpy.typing import ArrayLike

from .bits import bits_per_parameter


_DESCRIPTION = """
Bits of knowledge that a language model stores per parameter, from its likelihoods of the facts it was trained on. A
value drawn from M equally likely candidates, with a negative log likelihood of `nll` nats, counts log2 M - nll / ln 2
bits. The sum is a lower bound on what the weights hold; it is divided by the number of parameters.
"""

_EXAMPLES = """
Examples:
    Two people with one of 2^20 names and one of 2^10 birth dates each. The model has learned all except the second
    person's birth date, which it guesses; the second birth city (of 2^8) is not stated.

    >>> import math
    >>> nan = math.nan
    >>> metric = evaluate.load("bits_per_parameter")  # this folder, or the Hub id of the Space
    >>> results = metric.compute(
    ...     predictions=[[math.log(2), 0.0, 0.0], [math.log(2), 10 * math.log(2), nan]],
    ...     references=[[20.0, 10.0, 8.0], [20.0, 10.0, nan]],
    ...     num_parameters=28,
    ...     attribute_names=["name", "birth_date", "birth_city"],
    ...     name_attribute="name",
    ... )
    >>> round(results["knowledge_bits"], 6), round(results["max_knowledge_bits"], 6)  # 19 + 10 + 8 + 19 of 66
    (56.0, 66.0)
    >>> round(results["bits_per_parameter"], 6), round(results["max_bits_per_parameter"], 6)
    (2.0, 2.357143)
    >>> {name: round(row["bits_per_entity"], 6) for name, row in results["attributes"].items()}
    {'name': 19.0, 'birth_date': 5.0, 'birth_city': 8.0}
"""

_CITATION = """
@inproceedings{allenzhu2025capacity,
    title = {Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws},
    author = {Allen-Zhu, Zeyuan and Li, Yuanzhi},
    booktitle = {International Conference on Learning Representations},
    year = {2025},
    url = {https://arxiv.org/abs/2404.05405},
}
"""

_INPUTS = f"{inspect.getdoc(bits_per_parameter)}\n{_EXAMPLES}"


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class BitsPerParameter(evaluate.Metric):
    """Metric over rows of negative log likelihoods (nats) and rows of log2 of candidates (bits)."""

    def _info(self) -> evaluate.MetricInfo:
        """The description, and the types of a row: sequences of float64, as float32 would lose bits."""
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": row, "references": row}),
            reference_urls=["https://arxiv.org/abs/2404.05405"],
        )

    def _compute(
        self,
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
        """The plain function's results; see the class docstring."""
        return bits_per_parameter(
            predictions,
            references,
            num_parameters,
            attribute_names=attribute_names,
            name_attribute=name_attribute,
            num_entities=num_entities,
            diversity_bits=diversity_bits,
            max_diversity_bits=max_diversity_bits,
            confidence_level=confidence_level,
            seed=seed,
        )
