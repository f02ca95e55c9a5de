"""What was measured, as a table for the terminal, in the manner of lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from knowcap.capacity.tables import NLL_FILE, read_facts, read_measurement


COLUMNS = ("Dataset", "Version", "N", "Attribute", "Metric", "", "Value", "", "Stderr", "Max", "Accuracy")
_TEXT = (0, 1, 3, 4, 5, 7)


def capacity_table(
    result: Path, model: str, dataset_name: str | None, limit: int | None, batch_size: int | None
) -> str:
    """The settings in one line, then a row an attribute and one for the whole; standard errors are over entities.

    Args:
        result: a folder with nll.parquet and capacity.json.
        model, dataset_name, limit, batch_size: what was asked for.
    """
    capacity = json.loads((result / "capacity.json").read_text(encoding="utf-8"))
    measurement = read_measurement(result / NLL_FILE)
    facts, knowledge = read_facts(result / NLL_FILE, measurement), measurement["knowledge"]
    head = (
        f"knowcap ({model}), dataset: {dataset_name or knowledge['name']}, scoring: {capacity['scoring']}, context: "
        f"{capacity['context']}, limit: {limit}, batch_size: {batch_size or 'auto'}"
    )
    begin = [knowledge["name"], str(knowledge["version"]), f"{capacity['num_entities']:,}"]
    rows = []
    for attribute, found in capacity["attributes"].items():
        if found["bits_per_entity"] is None:
            continue
        bits = facts.bits[:, facts.attributes.index(attribute)]
        bits = bits[~np.isnan(bits)]
        error = float(bits.std(ddof=1)) / math.sqrt(bits.size) if bits.size > 1 else math.nan
        accuracy = "" if found["accuracy"] is None else f"{100 * found['accuracy']:.1f} %"
        numbers = ["↑", f"{found['bits_per_entity']:.4f}", "±", f"{error:.4f}", f"{found['max_bits_per_entity']:.4f}"]
        rows.append([*begin, attribute, "bits per entity", *numbers, accuracy])
    low, high = capacity["confidence_interval"]
    width = "" if low is None else f"{(high - low) / 2:.4f}"
    whole = ["↑", f"{capacity['bits_per_parameter']:.4f}", "±", width, f"{capacity['max_bits_per_parameter']:.4f}", ""]
    rows.append([*begin, "all", f"bits per parameter ({100 * capacity['confidence_level']:g} %)", *whole])
    return f"{head}\n{_table(rows)}"


def _table(rows: list[list[str]]) -> str:
    """Markdown, its columns as wide as their widest cell; numbers to the right; what repeats is said once."""
    shown = [list(COLUMNS)]
    for number, row in enumerate(rows):
        shown.append([cell if number == 0 or i > 2 else "" for i, cell in enumerate(row)])
    widths = [max(len(row[i]) for row in shown) for i in range(len(COLUMNS))]
    lines = []
    for row in shown:
        cells = [c.ljust(w) if i in _TEXT else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"|{'|'.join(cells)}|")
    rules = ["-" * max(1, w - 1) + ("-" if i in _TEXT else ":") for i, w in enumerate(widths)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
