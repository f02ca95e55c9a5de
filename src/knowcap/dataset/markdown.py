"""Names and texts of others in cards: shown as they are, with none of their characters read as Markdown or HTML."""

from __future__ import annotations

import re


_MARKS = re.compile(r"([\\`*\[\]|~])")
_LONGEST = 2000  # characters of an example


def in_markdown(text: object) -> str:
    r"""A text on one line of Markdown, in a cell of a table too.

    >>> in_markdown("GDP | <b>US$</b>\n[a](b)")
    'GDP \\| &lt;b&gt;US$&lt;/b&gt; \\[a\\](b)'
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", line)
