"""Training: a recipe's corpus in windows, the transformers Trainer, and bits per parameter while a model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knowcap.training.packing import TrainingError


if TYPE_CHECKING:
    from knowcap.training.callback import KnowledgeCallback
    from knowcap.training.stage import train

__all__ = ["KnowledgeCallback", "TrainingError", "train"]


def __getattr__(name: str) -> Any:
    """Names that need torch are imported when they are used."""
    if name == "KnowledgeCallback":
        from knowcap.training.callback import KnowledgeCallback

        return KnowledgeCallback
    if name == "train":
        from knowcap.training.stage import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
