"""A table as text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(
    rows: Sequence[Sequence[str]], left: Collection[int] = (0,), *, markdown: bool = False, padding: str = " "
) -> str:
    """Lays out rows in columns that are as wide as their widest cell.

    Args:
        rows: of equally many cells; the first row is the header.
        left: indices of the columns that are aligned left; the others are aligned right.
        markdown: a Markdown table; by default columns are separated by two spaces.
        padding: on both sides of a Markdown cell.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        columns = enumerate(zip(row, widths, strict=True))
        cells = [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in columns]
        bar = f"{padding}|{padding}"
        lines.append(f"|{padding}{bar.join(cells)}{padding}|" if markdown else "  ".join(cells).rstrip())
    if markdown:
        dashes = ["-" * max(1, width - 1 + 2 * len(padding)) for width in widths]
        rules = [f"{dash}{'-' if i in left else ':'}" for i, dash in enumerate(dashes)]
        lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)
