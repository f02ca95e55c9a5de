"""Comparisons in words, for the terminal."""

from __future__ import annotations

import math
from typing import Any


def describe(result: dict[str, Any]) -> str:
    """A comparison in words, for the terminal: what A and B are, the difference in one line, a table by attribute."""
    lines = []
    for side in ("a", "b"):
        model = result[side]
        lines.append(
            f"{side.upper()}: {model['model']} ({model['model_name']}, {model['precision']}, "
            f"{model['num_parameters']:,} parameters), {model['bits_per_parameter']:.4f} bits per parameter"
        )
    row = result["bits_per_parameter"]
    low, high = row["confidence_interval"]
    interval = "" if low is None else f" [{_number(low, row)}, {_number(high, row)}]"
    caveat = "" if result["bound"] else " (not bounds)"
    lines.append(f"A minus B = {_estimate(row)} bits per parameter{interval}{caveat}")
    lines.append(
        f"{100 * result['confidence_level']:g} % interval, paired over {result['entities_scored']:,} entities; "
        "training seeds left out"
    )
    cells = [["attribute", "A, bits/entity", "B, bits/entity", "A - B, bits/entity", "A - B, bits/param"]]
    for name, found in result["attributes"].items():
        held = found["bits_per_entity"]
        both = ["not stated"] * 2 if held["a"] is None else [f"{held[side]:.3f}" for side in ("a", "b")]
        cells.append([name, *both, _estimate(held), _estimate(found["bits_per_parameter"])])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(padded))
    return "\n".join(lines)


def _number(value: float, row: dict[str, Any]) -> str:
    """With a sign, and as many digits as show two of the interval's half width, 3 at least and 6 at most."""
    low, high = row["confidence_interval"]
    half = 0.0 if low is None else (high - low) / 2
    digits = min(6, max(3, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{value:+.{digits}f}"


def _estimate(row: dict[str, Any]) -> str:
    """Such as `+0.123 ± 0.004`."""
    low, high = row["confidence_interval"]
    if row["difference"] is None:
        return "not stated"
    width = "" if low is None else f" ± {_number((high - low) / 2, row)[1:]}"
    return f"{_number(row['difference'], row)}{width}"
