"""Knowledge extraction: a model's accuracy on questions about people whose questions it was not trained on.

A model trained on biographies alone is tuned on questions about half of the people (the split `train` of the config
`qa`), then asked about the other half (Part 3.3, A.2; Part 3.1). Extractable accuracy is that of its answers;
memorizable accuracy, of the same people, is that of continuing a training text.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from knowcap.extraction.questions import ExtractionError
from knowcap.extraction.settings import Tuning, describe, folder_of, is_finished, is_kept


if TYPE_CHECKING:
    from knowcap.extraction.answering import matches
    from knowcap.extraction.stage import extract

__all__ = ["ExtractionError", "Tuning", "describe", "extract", "folder_of", "is_finished", "is_kept", "matches"]

_MODULES = {"extract": "stage", "matches": "answering"}


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is used, so that finished results are found without it."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
