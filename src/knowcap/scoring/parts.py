"""Every process writes its share to a part file; the main one joins them: control files first, nll.parquet last.

Part files begin with a dot and are no measurement: whatever an interrupted run left is removed before the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from knowcap.folders import whole_file
from knowcap.scoring.batches import NAME_TOKENS
from knowcap.scoring.errors import ScoringError
from knowcap.scoring.measurement import MEASUREMENT_KEY


# In the order of writing: whoever sees nll.parquet sees all. `control_swapped` is made where the control are
# outsiders: their texts with the values of one another.
CONTROL, SWAPPED, NLL = KINDS = ("control", "control_swapped", "nll")


def final_path(model_dir: Path, kind: str) -> Path:
    """Where the finished table of a kind lies."""
    return model_dir / f"{kind}.parquet"


def part_path(model_dir: Path, kind: str, rank: int) -> Path:
    """Where the process `rank` writes its share."""
    return model_dir / f".{kind}.rank{rank}.parquet"


def remove_parts(model_dir: Path) -> None:
    """Removes what an interrupted scoring left, whatever the number of its processes."""
    for kind in KINDS:
        for path in (*model_dir.glob(f".{kind}.rank*.parquet"), model_dir / f".{kind}.parquet.partial"):
            path.unlink(missing_ok=True)


def write_part(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes tables as they come, so that memory stays flat; no file where there is none."""
    writer = None
    try:
        for table in tables:
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def join_parts(model_dir: Path, num_processes: int, measurement: dict[str, Any]) -> int:
    """Joins the parts in the order of processes, with the measurement in the schema; removes them.

    Adds `renderings` and `name_is_prefix_free` to the measurement. Returns the number of facts of nll.parquet.

    Raises:
        ScoringError: no facts, no control, or more entities than `entities_scored`.
    """
    parts = {
        kind: [path for rank in range(num_processes) if (path := part_path(model_dir, kind, rank)).is_file()]
        for kind in KINDS
    }
    found = _unique(parts[NLL], ["entity"])
    if not 1 <= found.num_rows <= measurement["entities_scored"]:
        raise ScoringError(
            f"{found.num_rows} entities have scored facts, expected 1 to {measurement['entities_scored']} by "
            "knowledge.json; check its num_people and the spans of the rows"
        )
    if not parts[CONTROL]:
        raise ScoringError("the control has no scored facts; expected a control for every measurement: check its rows")
    measurement = measurement | {
        "renderings": _unique(parts[NLL], ["rendering"]).num_rows,
        "name_is_prefix_free": is_prefix_free(_unique(parts[NLL], ["entity", NAME_TOKENS])),
    }
    with whole_file(final_path(model_dir, NLL)) as nll:
        num_facts = _join(parts[NLL], nll, measurement)
        final_path(model_dir, NLL).unlink(missing_ok=True)  # an old one must not stand beside a new control
        final_path(model_dir, SWAPPED).unlink(missing_ok=True)
        for kind in (CONTROL, SWAPPED):
            if parts[kind]:
                with whole_file(final_path(model_dir, kind)) as control:
                    _join(parts[kind], control, measurement)
    remove_parts(model_dir)
    return num_facts


def is_prefix_free(names: pa.Table) -> bool:
    """Whether no entity's name is, token by token, the beginning of another's, or equal to it.

    Args:
        names: entity, name_tokens (see `batches`); each pair once; nulls are passed over.
    """
    tokens = names.column(NAME_TOKENS).drop_null()
    # Sorted, what begins with a sequence follows it at once; tokens have 4 bytes each, so bytes begin as tokens do.
    ordered = pc.take(tokens, pc.sort_indices(tokens))
    before = None
    for chunk in ordered.chunks if isinstance(ordered, pa.ChunkedArray) else [ordered]:
        for begin in range(0, len(chunk), 65536):
            for name in chunk.slice(begin, 65536).to_pylist():
                if before is not None and name.startswith(before):
                    return False
                before = name
    return True


def _batches(paths: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns):
                yield pa.Table.from_batches([batch])


def _unique(paths: list[Path], columns: list[str]) -> pa.Table:
    """The different values of columns, over all parts."""
    tables = [table.group_by(columns).aggregate([]) for table in _batches(paths, columns)]
    return pa.concat_tables(tables).group_by(columns).aggregate([]) if tables else pa.table({c: [] for c in columns})


def _join(paths: list[Path], path: Path, measurement: dict[str, Any]) -> int:
    """Writes parts into one file, less their names' tokens; returns the number of rows."""
    schema = pq.read_schema(paths[0])
    schema = schema.remove(schema.get_field_index(NAME_TOKENS))
    rows = 0
    with pq.ParquetWriter(path, schema.with_metadata({MEASUREMENT_KEY: json.dumps(measurement)})) as writer:
        for table in _batches(paths, schema.names):
            writer.write_table(table)
            rows += table.num_rows
    return rows
