"""The results of a sweep as one Parquet table: one row per finished cell, with the columns that `knowcap fit` reads.

The table has no times: the same sweep gives the same bytes, interrupted or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from knowcap.capacity.kept import read_capacity_file
from knowcap.files import CONFIG_FILE, RESULTS_FILE, TRAINING_FILE, read_json, whole_file
from knowcap.recipe import KEYS
from knowcap.sealed import parquet, read_result
from knowcap.sealed.digests import FILES, check_files
from knowcap.sweep.cells import Cell, Sweep, choose
from knowcap.sweep.dry_run import training_flops
from knowcap.sweep.workers import is_finished, quantized_dirs


_CAPACITY = (
    "model_name", "num_entities", "exposures", "num_parameters", "num_parameters_non_embedding",
    "num_parameters_used_vocabulary", "bits_per_parameter", "max_bits_per_parameter", "knowledge_bits",
    "max_knowledge_bits", "precision",
)  # fmt: skip
_NEEDED = (*_CAPACITY, "confidence_interval", "stored_bits_per_parameter")
# The most and the least frequent tenth of the people, null if all are seen equally often.
BAND_COLUMNS = (
    "top_band_exposures", "top_band_bits_per_entity", "bottom_band_exposures", "bottom_band_bits_per_entity",
)  # fmt: skip
SCHEMA = pa.schema(
    {
        "run": pa.string(),
        "model_name": pa.string(),
        "num_parameters": pa.int64(),
        "num_parameters_non_embedding": pa.int64(),
        "num_parameters_used_vocabulary": pa.int64(),
        "num_active_parameters": pa.int64(),
        "num_entities": pa.int64(),
        "exposures": pa.int64(),
        "num_tokens": pa.int64(),
        "num_steps": pa.int64(),
        "flops": pa.float64(),
        "loss": pa.float64(),
        "knowledge_bits": pa.float64(),
        "max_knowledge_bits": pa.float64(),
        "bits_per_parameter": pa.float64(),
        "max_bits_per_parameter": pa.float64(),
        "bits_per_parameter_low": pa.float64(),
        "bits_per_parameter_high": pa.float64(),
        "int8_bits_per_parameter": pa.float64(),
        "int4_bits_per_parameter": pa.float64(),
        "int8_gptq_bits_per_parameter": pa.float64(),
        "int4_gptq_bits_per_parameter": pa.float64(),
        "bits_per_flop": pa.float64(),
        "bits_per_stored_bit": pa.float64(),
        "int8_bits_per_stored_bit": pa.float64(),
        "int4_bits_per_stored_bit": pa.float64(),
        "int8_gptq_bits_per_stored_bit": pa.float64(),
        "int4_gptq_bits_per_stored_bit": pa.float64(),
        "memorizable_accuracy": pa.float64(),
        **dict.fromkeys(BAND_COLUMNS, pa.float64()),
        "optimizer": pa.string(),
        "lr_scheduler_type": pa.string(),
        "learning_rate": pa.float64(),
        "seed": pa.int64(),
        "precision": pa.string(),
        "won": pa.bool_(),
    }
)
_ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


def row_of(cell: Cell) -> dict[str, Any]:
    """A finished cell's row but for `won`: loss in nats a token, flops by `training_flops`, bits of the full model."""
    capacity = read_capacity_file(
        cell.run_dir / "model", (*_CAPACITY, "confidence_interval", "stored_bits_per_parameter")
    )
    training = read_result(cell.run_dir / "model" / TRAINING_FILE, ("num_tokens", "num_steps", "final_loss"))
    low, high = capacity["confidence_interval"]
    flops = training_flops(cell.recipe, _vocabulary_rows(cell, training), training["num_tokens"])
    row = {key: capacity[key] for key in _CAPACITY}
    row |= {
        "run": cell.name,
        "num_active_parameters": round(flops / 6 / training["num_tokens"]),
        "memorizable_accuracy": capacity.get("memorizable_accuracy"),  # an older capacity.json has none
        "num_tokens": training["num_tokens"],
        "num_steps": training["num_steps"],
        "flops": flops,
        "bits_per_flop": capacity["knowledge_bits"] / flops,
        "bits_per_stored_bit": _per_stored_bit(capacity),
        "loss": training["final_loss"],
        "bits_per_parameter_low": low,
        "bits_per_parameter_high": high,
        **{key: getattr(cell.recipe, key) for key in ("optimizer", "lr_scheduler_type", "learning_rate", "seed")},
    }
    if bands := capacity.get("bands"):
        ends = [band[key] for band in (bands[0], bands[-1]) for key in ("exposures", "bits_per_entity")]
        row |= dict(zip(BAND_COLUMNS, ends, strict=True))
    for name, folder in quantized_dirs(cell).items():
        quantized = read_capacity_file(folder, ("bits_per_parameter", "stored_bits_per_parameter"))
        row[f"{name}_bits_per_parameter"] = quantized["bits_per_parameter"]
        row[f"{name}_bits_per_stored_bit"] = _per_stored_bit(quantized)
    others = {key: value for key, value in cell.overrides.items() if key not in SCHEMA.names and key != "run_name"}
    return row | {key: str(value) if isinstance(value, (tuple, dict)) else value for key, value in others.items()}


def _per_stored_bit(capacity: Mapping[str, Any]) -> float | None:
    """Bits of knowledge for each bit that the weights are stored in; None where that is unknown."""
    stored = capacity["stored_bits_per_parameter"]
    return None if stored is None else capacity["bits_per_parameter"] / stored


def _vocabulary_rows(cell: Cell, training: Mapping[str, Any]) -> int:
    """From the model's configuration, which is checked against the digest that its training recorded."""
    folder, recorded = cell.run_dir / "model", training.get(FILES) or {}
    check_files(folder, {name: digest for name, digest in recorded.items() if name == CONFIG_FILE}, TRAINING_FILE)
    return read_json(folder / CONFIG_FILE)["vocab_size"]


def rows_of(sweep: Sweep, known: dict[str, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The rows of all finished cells, in their order, with `won`.

    Args:
        sweep: the sweep.
        known: rows of finished cells by name, which are not read again; those that are read are added.
    """
    known = {} if known is None else known
    for cell in sweep.cells:
        if cell.name not in known and is_finished(cell):
            known[cell.name] = row_of(cell)
    won = choose(sweep, known)
    return [known[cell.name] | {"won": won[cell.name]} for cell in sweep.cells if cell.name in known]


def write_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the rows of finished cells to the sweep's results.parquet; keys that the sweep changes are columns too.

    Returns:
        the file.
    """
    schema = _schema(cell.overrides for cell in sweep.cells)
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    file = sweep.folder / RESULTS_FILE
    with whole_file(file) as made:
        parquet.write_table(pa.table(columns, schema=schema), made, compression="zstd")
    return file


def _schema(overrides: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The columns that every sweep has, and the keys of this one."""
    schema = SCHEMA
    for key in dict.fromkeys(key for changed in overrides for key in changed):
        if key not in SCHEMA.names and key != "run_name":
            kind = next((arrow for of, arrow in _ARROW.items() if KEYS[key].type in (of, of | None)), pa.string())
            schema = schema.append(pa.field(key, kind))
    return schema
