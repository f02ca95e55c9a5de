"""Cases with known results, in the form of `evaluate`'s tests of a Space; additional keys are arguments."""

import math


_NAN = math.nan

test_cases = [
    # Four people, each with one of 2^20 names and 2^10 birth dates, all known: 4 (20 - log2 4 + 10) bits.
    {
        "predictions": [[math.log(4), 0.0]] * 4,
        "references": [[20.0, 10.0]] * 4,
        "num_parameters": 56,
        "attribute_names": ["name", "birth_date"],
        "name_attribute": "name",
        "result": {"bits_per_parameter": 2.0, "max_bits_per_parameter": 2.0, "knowledge_bits": 112.0},
    },
    # A guess among the candidates holds nothing.
    {
        "predictions": [[math.log(200)], [math.log(200)]],
        "references": [[math.log2(200)], [math.log2(200)]],
        "num_parameters": 10,
        "result": {"bits_per_parameter": 0.0, "max_knowledge_bits": 2 * math.log2(200)},
    },
    # Certain of wrong values: below zero, and not clipped.
    {
        "predictions": [[12 * math.log(2)], [12 * math.log(2)]],
        "references": [[6.0], [6.0]],
        "num_parameters": 4,
        "result": {"bits_per_parameter": -3.0, "max_bits_per_parameter": 3.0},
    },
    # A fact that is not stated counts nothing, whatever the prediction is.
    {
        "predictions": [[0.0, 0.0], [0.0, 99.0]],
        "references": [[8.0, 4.0], [8.0, _NAN]],
        "num_parameters": 20,
        "result": {"bits_per_parameter": 1.0, "knowledge_bits": 20.0, "max_knowledge_bits": 20.0},
    },
    # Two rows that represent a thousand entities, and bioD's chunk sets, which do not grow with them.
    {
        "predictions": [[0.0], [math.log(2)]],
        "references": [[6.0], [6.0]],
        "num_parameters": 1000,
        "num_entities": 1000,
        "diversity_bits": 500.0,
        "max_diversity_bits": 1000.0,
        "result": {"bits_per_parameter": 6.0, "max_bits_per_parameter": 7.0, "num_entities": 1000},
    },
    # float64 throughout: float32 has no number between 1 and 1 + 2^-23.
    {
        "predictions": [[(1 + 2**-40) * math.log(2)]],
        "references": [[2.0]],
        "num_parameters": 1,
        "result": {"knowledge_bits": 1.0 - 2**-40},
    },
]
