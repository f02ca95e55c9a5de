"""knowcap: how many bits of knowledge a language model stores per parameter."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from knowcap.provenance import __version__


if TYPE_CHECKING:
    from knowcap.capacity.measure import measure_capacity
    from knowcap.run.preflight import load_recipe
    from knowcap.training.callback import KnowledgeCallback
    from knowcap.training.stage import train

__all__ = ["KnowledgeCallback", "__version__", "load_recipe", "measure_capacity", "train"]

_MODULES = {
    "KnowledgeCallback": "knowcap.training.callback",
    "load_recipe": "knowcap.run.preflight",
    "measure_capacity": "knowcap.capacity.measure",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, because most of them need torch."""
    if name == "train":
        return import_module("knowcap.train")  # a module that can be called
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
