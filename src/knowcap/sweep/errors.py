"""What can be wrong with a sweep before it starts, and what is told when cells of it failed."""

from __future__ import annotations

from knowcap.recipe import RecipeError


class SweepError(RecipeError):
    """Everything that is wrong with a sweep, told at once, before its first cell starts."""


class CellsFailed(RuntimeError):
    """Some cells failed, the others are finished; the same command tries them again."""
