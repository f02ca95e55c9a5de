"""The data set folder: written from a recipe, read, published with a card, or taken from another place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from knowcap.dataset.stage import build

__all__ = ["build"]


def __getattr__(name: str) -> Any:
    """`build` is imported on first use, since the submodules are used without it."""
    if name == "build":
        from knowcap.dataset.stage import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
