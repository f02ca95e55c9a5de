"""Part files: rows are scored in shards, each written to its own file; the main process joins them, control files
first, nll.parquet last.

Names of part files begin with a dot. An interrupted scoring of the same model, texts and settings is resumed from its
part files, with any number of processes: the content of a shard does not depend on the process that scores it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from knowcap.files import FileError, whole_file
from knowcap.scoring.batches import NAME_TOKENS
from knowcap.scoring.measurement import MEASUREMENT_KEY
from knowcap.scoring.mode import ScoringError
from knowcap.sealed.parquet import batches, check_seal, num_distinct, parquet_writer, read_schema, write_table


pc: Any = pyarrow.compute  # its functions are made at import, which its stubs do not show

logger = logging.getLogger(__name__)

# In the order of writing: if nll.parquet exists, all do. `control_swapped` exists if the control entities are
# outsiders: their texts with their values exchanged.
CONTROL, SWAPPED, NLL = KINDS = ("control", "control_swapped", "nll")
_SETTINGS_FILE = ".scoring.json"  # the settings that the part files were scored with


def final_path(model_dir: Path, kind: str) -> Path:
    """The path of the finished table of a kind."""
    return model_dir / f"{kind}.parquet"


def part_path(model_dir: Path, kind: str, shard: int) -> Path:
    """The path of a shard's part file."""
    return model_dir / f".{kind}.shard{shard:06d}.parquet"


def prepare_parts(model_dir: Path, settings: dict[str, Any]) -> int:
    """Records the settings and removes the parts of other settings; returns the number of parts to resume from."""
    file, content = model_dir / _SETTINGS_FILE, json.dumps(settings, sort_keys=True)
    if not (file.is_file() and file.read_text(encoding="utf-8") == content):
        remove_parts(model_dir)
        with whole_file(file) as made:
            made.write_text(content, encoding="utf-8")
    for path in (path for kind in KINDS for path in _parts(model_dir, kind)):
        try:
            check_seal(path)
        except FileError as error:
            logger.warning("%s; its texts are scored again", error)
            path.unlink()
    return sum(len(_parts(model_dir, kind)) for kind in KINDS)


def remove_parts(model_dir: Path) -> None:
    """Removes all temporary files of scoring."""
    (model_dir / _SETTINGS_FILE).unlink(missing_ok=True)
    for kind in KINDS:
        for path in (*_parts(model_dir, kind), *model_dir.glob(f".*{kind}*.partial")):
            path.unlink(missing_ok=True)


def write_part(path: Path, tables: Iterable[pa.Table]) -> None:
    """Writes a shard, whole or not at all."""
    with whole_file(path) as made:
        write_table(pa.concat_tables(tables), made)


def _parts(model_dir: Path, kind: str) -> list[Path]:
    """The existing part files of a kind, in order."""
    return sorted(model_dir.glob(f".{kind}.shard*.parquet"))


def join_parts(model_dir: Path, measurement: dict[str, Any]) -> int:
    """Joins the parts in the order of shards, with the measurement in the schema; removes them.

    Adds `renderings` and `name_is_prefix_free` to the measurement. Returns the number of facts of nll.parquet.

    Raises:
        ScoringError: no facts, no control, or more entities than `entities_scored`.
    """
    parts = {kind: _parts(model_dir, kind) for kind in KINDS}
    entities = num_distinct(parts[NLL], "entity")
    if not 1 <= entities <= measurement["entities_scored"]:
        raise ScoringError(
            f"{entities} entities have scored facts; expected 1 to {measurement['entities_scored']}, by "
            "knowledge.json. Check its num_people and the spans of the rows"
        )
    if not parts[CONTROL]:
        raise ScoringError("the control has no scored facts; expected a control for every measurement. Check its rows")
    measurement = measurement | {
        SWAPPED: bool(parts[SWAPPED]),
        "renderings": num_distinct(parts[NLL], "rendering"),
        "name_is_prefix_free": is_prefix_free(_names(parts[NLL])),
    }
    with whole_file(final_path(model_dir, NLL)) as nll:
        num_facts = _join(parts[NLL], nll, measurement)
        final_path(model_dir, NLL).unlink(missing_ok=True)  # an old one must not remain beside a new control
        final_path(model_dir, SWAPPED).unlink(missing_ok=True)
        for kind in (CONTROL, SWAPPED):
            if parts[kind]:
                with whole_file(final_path(model_dir, kind)) as control:
                    _join(parts[kind], control, measurement)
    remove_parts(model_dir)
    return num_facts


def is_prefix_free(names: pa.Table) -> bool:
    """Whether no entity's name is, token by token, a prefix of another's or equal to it.

    Args:
        names: entity, name_tokens (see `batches`); a pair may occur several times; nulls are ignored.
    """
    names = names.filter(pc.is_valid(names.column(NAME_TOKENS))).combine_chunks()
    # When sorted, a prefix directly precedes what begins with it; tokens have 4 bytes, so bytes compare as tokens do.
    order = pc.sort_indices(names.column(NAME_TOKENS))
    previous = None
    for begin in range(0, len(order), 65536):
        some = names.take(order.slice(begin, 65536))
        for entity, name in zip(*(column.to_pylist() for column in some.columns), strict=True):
            if previous is not None and name.startswith(previous[1]) and (entity, name) != previous:
                return False
            previous = (entity, name)
    return True


def _batches(paths: list[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    for path in paths:
        for batch in batches(path, columns):
            yield pa.Table.from_batches([batch])


def _names(paths: list[Path]) -> pa.Table:
    """The entity and the name's tokens of each part's rows that have a name, once a batch."""
    columns = ["entity", NAME_TOKENS]
    tables = [table.filter(pc.is_valid(table.column(NAME_TOKENS))) for table in _batches(paths, columns)]
    return pa.concat_tables([table.group_by(columns).aggregate([]) for table in tables]).select(columns)


def _join(paths: list[Path], path: Path, measurement: dict[str, Any]) -> int:
    """Writes parts into one file, without their names' tokens; returns the number of rows."""
    schema = read_schema(paths[0])
    schema = schema.remove(schema.get_field_index(NAME_TOKENS))
    rows = 0
    with parquet_writer(path, schema.with_metadata({MEASUREMENT_KEY: json.dumps(measurement)})) as writer:
        for table in _batches(paths, schema.names):
            writer.write_table(table)
            rows += table.num_rows
    return rows
