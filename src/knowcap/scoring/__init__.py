"""From a model and facts to negative log likelihoods: one number of nats per scored fact, written to nll.parquet.

Every text is scored alone, after one start token (context "isolated"), or in a window as in training ("packed"). The
nll of a fact is the sum over the tokens of its spans of -ln P(token | everything before it); other tokens are read but
not scored (Part 3.3, Rem. 3.1).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from knowcap.scoring.batches import score_rows
    from knowcap.scoring.measurement import MEASUREMENT_KEY, read_measurement
    from knowcap.scoring.mode import DEFAULT_MODE, NEUTRAL_MODE, OTHER_MODES, ScoringError, ScoringMode, TextError
    from knowcap.scoring.spans import EncodedRows, encode_rows
    from knowcap.scoring.stage import score

__all__ = [
    "DEFAULT_MODE",
    "MEASUREMENT_KEY",
    "NEUTRAL_MODE",
    "OTHER_MODES",
    "EncodedRows",
    "ScoringError",
    "ScoringMode",
    "TextError",
    "encode_rows",
    "read_measurement",
    "score",
    "score_rows",
]

_MODULES = {
    "batches": ("score_rows",),
    "measurement": ("MEASUREMENT_KEY", "read_measurement"),
    "mode": ("DEFAULT_MODE", "NEUTRAL_MODE", "OTHER_MODES", "ScoringError", "ScoringMode", "TextError"),
    "spans": ("EncodedRows", "encode_rows"),
    "stage": ("score",),
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is used, so that reading a measurement does not import torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
