"""Guesses at columns that are in other units than laws take them for: 7 for 7 billion, petaFLOP-days, perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


# The largest value in a table of runs lies between these, whatever the runs.
_PLAUSIBLE = {"num_parameters": (1e4, 1e15), "num_tokens": (1e6, 1e17), "flops": (1e9, 1e30), "budget": (1e9, 1e30)}
_NAMES = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
_PF_DAY = 8.64e19
_OFF = 30.0  # FLOPs per parameter and token lie within this factor of 6
_USUAL_TOKENS, _FEW_TOKENS, _MANY_TOKENS = 20.0, 1e-2, 1e6  # per parameter
_MOST_BITS, _LEAST_BITS, _USUAL_BITS = 64.0, 1e-4, 2.0  # per parameter


def unit_doubts(values: Mapping[str, np.ndarray], given: Mapping[str, object]) -> list[str]:
    """What looks as if it were in other units, with a guess at these.

    Args:
        values: columns by name.
        given: the names that stood in the table, rather than being made from others.
    """
    doubts = []
    for name, (low, high) in _PLAUSIBLE.items():
        if name not in values or name not in given:
            continue
        most = float(values[name].max())
        if most < low:
            doubts.append(f"{name} is {most:g} at most: {_guess_small(name, most)}")
        elif most > high:
            doubts.append(f"{name} is {most:g} at most, more than any run has had: given in other units?")
    if "loss" in values and (middle := float(np.median(values["loss"]))) > 15:
        doubts.append(
            f"loss is {middle:.4g} in the middle, more than guessing costs (ln of the vocabulary, about 11): "
            "is it a perplexity? Laws take nats per token, its logarithm"
        )
    if doubts:
        return doubts
    if all(name in values and name in given for name in ("num_parameters", "num_tokens", "flops")):
        doubts = _flops_doubts(values)
    if not doubts and "num_parameters" in values:
        doubts = _per_parameter_doubts(values)
    return doubts


def _guess_small(name: str, most: float) -> str:
    if name in ("flops", "budget"):
        return f"is it in PF-days (8.64e19 FLOP) or units of 1e18? {name} is to be plain FLOPs"
    return (
        f"given in millions or billions? {name} is to be a plain count, such as {most * 1e6:.4g} or {most * 1e9:.4g}"
    )


def _flops_doubts(values: Mapping[str, np.ndarray]) -> list[str]:
    """FLOPs that are far from 6 N D."""
    off = float(np.median(values["flops"] / (6 * values["num_parameters"] * values["num_tokens"])))
    if 1 / _OFF < off < _OFF:
        return []
    text = f"flops are {off:.2g} times 6 x num_parameters x num_tokens"
    if 1 / 3 < off * _PF_DAY < 3:
        return [f"{text}: flops seem to be in PF-days, expected FLOPs"]
    power = 3 * round(math.log10(off) / 3)
    if power == 0 or abs(math.log10(off) - power) > 1.0:
        return [f"{text}, expected about 1; is one of the three in other units?"]
    if power < 0:
        return [
            f"{text}: flops seem to be in {_unit(-power)}, or one of the others {10.0**-power:.0e} times too large"
        ]
    ratio = float(np.median(values["num_tokens"] / values["num_parameters"]))
    name = "num_parameters" if ratio > _USUAL_TOKENS else "num_tokens"
    return [f"{text}: {name} seems to be in {_unit(power)}, or flops {10.0**power:.0e} times too large"]


def _per_parameter_doubts(values: Mapping[str, np.ndarray]) -> list[str]:
    """Tokens or bits per parameter that no run has."""
    doubts = []
    size = values["num_parameters"]
    for name, low, high, usual in (
        ("num_tokens", _FEW_TOKENS, _MANY_TOKENS, _USUAL_TOKENS),
        ("knowledge_bits", _LEAST_BITS, _MOST_BITS, _USUAL_BITS),
    ):
        if name not in values or low < (ratio := float(np.median(values[name] / size))) < high:
            continue
        power = 3 * round(abs(math.log10(ratio / usual)) / 3)
        column = name if ratio < usual else "num_parameters"
        doubts.append(
            f"there are {ratio:.2g} {name} per parameter, where {usual:g} is usual: is {column} in {_unit(power)}, or "
            f"what it was made from?"
        )
    return doubts


def _unit(power: int) -> str:
    return _NAMES.get(power, f"units of 1e{power}")
