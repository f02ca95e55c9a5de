"""The pages of the documentation, and the commands in them."""

from __future__ import annotations

import re
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# The pages beside the code; the metric's and the planner's are Spaces' and have tests of their own.
CHAPTERS = tuple(sorted((ROOT / "src" / "knowcap").glob("*/*.md")))
PAGES = (README, ROOT / "recipes" / "README.md", ROOT / "model_cards" / "README.md", *CHAPTERS)
_COMMAND = r"(knowcap \w+|accelerate launch|python -m knowcap\S*|python dataset_scripts/\S+) \S"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, as a regular expression."""
    return re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.M | re.S)


def header(file: Path) -> str:
    """The comments of a YAML file, without their marks."""
    return "\n".join(line.lstrip("#") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#")


def commands(file: Path) -> list[str]:
    """The commands of shell blocks and of code in running text, or of a YAML header."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        found = re.sub(r"\n {4,}(?=-)", " ", header(file)).splitlines() + re.findall(r"`([^`\n]+)`", header(file))
    else:
        inline = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).replace(r"\|", "|")
        shell = [re.sub(r"\\\n\s*", "", block) for block in blocks(text, "bash|sh")]
        found = [part for block in shell for part in re.split(r"&&|\n", block)]
        found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", inline)]
    found = [re.sub(r"\s#.*", "", line).strip().removeprefix(".venv/bin/") for line in found]
    # `knowcap report` alone is the name of a command, `knowcap … --key` a part of one.
    return [line for line in found if re.match(_COMMAND, line)]
