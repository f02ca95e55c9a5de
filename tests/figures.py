"""Helpers for tests of plots."""

from __future__ import annotations

import matplotlib.figure


PNG = b"\x89PNG\r\n\x1a\n"


def texts(figure: matplotlib.figure.Figure) -> str:
    """All texts of a figure."""
    return "\n".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text())
