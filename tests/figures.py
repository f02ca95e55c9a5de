"""Helpers for tests of plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.report import plots
from knowcap.report.stamp import PNG_END


if TYPE_CHECKING:
    import matplotlib.figure

PNG = b"\x89PNG\r\n\x1a\n"
DRAW = plots._draw


def undrawn(_: object, files: Sequence[Path]) -> None:
    """In place of DRAW: a figure's files are PNG files without pixels."""
    for file in files:
        file.write_bytes(PNG + PNG_END)


def texts(figure: matplotlib.figure.Figure) -> str:
    """All texts of a figure."""
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text())
