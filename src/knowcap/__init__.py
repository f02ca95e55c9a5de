"""knowcap: how many bits of knowledge a language model stores per parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knowcap.provenance import __version__


if TYPE_CHECKING:
    from knowcap.capacity.measure import measure_capacity
    from knowcap.training.callback import KnowledgeCallback

__all__ = ["KnowledgeCallback", "__version__", "measure_capacity"]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name == "KnowledgeCallback":
        from knowcap.training.callback import KnowledgeCallback

        return KnowledgeCallback
    if name == "measure_capacity":
        from knowcap.capacity.measure import measure_capacity

        return measure_capacity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
