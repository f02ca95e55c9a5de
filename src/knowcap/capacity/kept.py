"""Reading capacity.json: refused if it was edited, or if the facts beside it are others than it was computed from."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knowcap.files import CAPACITY_FILE, CONTROL_FILE, NLL_FILE, SWAPPED_FILE, FileError, read_json
from knowcap.sealed import CAPACITY_NEEDS, CONTENT_DIGEST, check_files, digest_of, read_result, repair


logger = logging.getLogger(__name__)

INPUTS = "inputs"  # in capacity.json: SHA-256 of the tables of facts, by name
_COUNT = "num_parameters"
_TABLES = (NLL_FILE, CONTROL_FILE, SWAPPED_FILE)


def inputs_of(folder: Path) -> dict[str, str]:
    """The digests of a folder's tables of facts."""
    return {name: digest_of(folder / name) for name in _TABLES if (folder / name).is_file()}


def read_capacity_file(folder: Path, needed: Sequence[str] = CAPACITY_NEEDS) -> dict[str, Any]:
    """The content of a folder's capacity.json, without the digests.

    Args:
        folder: with capacity.json; tables of facts need not be there, but those that are must be its own.
        needed: keys that must be there.

    Raises:
        OSError: there is no capacity.json.
        FileError: it is broken or was edited, or a table of facts is another.
    """
    content = read_result(folder / CAPACITY_FILE, needed)
    there = {name: digest for name, digest in content.pop(INPUTS, {}).items() if (folder / name).is_file()}
    check_files(folder, there, CAPACITY_FILE)
    _check_ratios(folder / CAPACITY_FILE, content)
    return content


def _check_ratios(path: Path, content: dict[str, Any]) -> None:
    """Raises FileError if bits per parameter are not the bits through the parameters, whatever the digest."""
    for most in ("", "max_"):
        ratio, bits, count = (content.get(k) for k in (f"{most}bits_per_parameter", f"{most}knowledge_bits", _COUNT))
        if ratio is None or bits is None or count is None:
            continue
        if math.isclose(ratio * count, bits, rel_tol=1e-9, abs_tol=1e-9):
            continue
        raise FileError(
            f"{path}: {most}bits_per_parameter is {ratio}, but {most}knowledge_bits is {bits} and {_COUNT} {count}, "
            f"expected their ratio; {repair(path)}"
        )


def is_summarized(folder: Path, confidence_level: float) -> bool:
    """Whether a folder's capacity.json is that of its facts at this level. One that is broken, edited, or by a version
    that did not record its digest, is not: computing it again takes seconds.
    """
    if not (folder / CAPACITY_FILE).is_file():
        return False
    try:
        recorded = CONTENT_DIGEST in read_json(folder / CAPACITY_FILE)
        return read_capacity_file(folder)["confidence_level"] == confidence_level and recorded
    except FileError as error:
        logger.warning("%s; computing it again", error)
        return False
