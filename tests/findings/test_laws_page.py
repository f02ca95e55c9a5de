"""The page of laws fitted to the findings' cells shows what its commands print now.

python tests/findings/test_laws_page.py     # writes the outputs into the page again, after cells were collected
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from knowcap.cli import main


TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "model_cards" / "findings" / "laws.md"
BLOCK = re.compile(r"(```console\n\$ knowcap (?P<command>[^\n]+)\n)(?P<output>.*?)(?=```\n)", re.DOTALL)


def printed(command: str) -> str:
    """What a command prints, without spaces at the ends of lines."""
    output = io.StringIO()
    with contextlib.chdir(TOP), contextlib.redirect_stdout(output):
        assert main(shlex.split(command)) == 0
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def words(text: str) -> list[str | float]:
    """A text's words, its numbers as numbers: they differ in the last digit between machines."""
    found: list[str | float] = []
    for word in re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?|[^\s\d]+", text):
        try:
            found.append(pytest.approx(float(word.rstrip(".")), rel=2e-3, abs=1e-3))
        except ValueError:
            found.append(word)
    return found


BLOCKS = list(BLOCK.finditer(PAGE.read_text("utf-8")))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda found: found["command"][:30])
def test_the_page_shows_what_the_command_prints(block: re.Match[str]) -> None:
    shown, now = re.findall(r"\S+", block["output"]), printed(block["command"])
    assert len(shown) == len(now.split())
    assert words(now) == words(block["output"])


def test_the_page_has_the_three_laws_of_bits() -> None:
    laws = [block["command"].split()[1] for block in BLOCK.finditer(PAGE.read_text("utf-8"))]
    assert laws == ["capacity", "exposures", "factors"]


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    PAGE.write_text(BLOCK.sub(lambda block: block[1] + printed(block["command"]), text), "utf-8")
