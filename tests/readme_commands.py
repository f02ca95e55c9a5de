"""The README's commands."""

from __future__ import annotations

import re
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]


README = ROOT / "README.md"


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def header(file: Path) -> str:
    """The comments of a YAML file, without their marks."""
    return "\n".join(line.lstrip("#") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#")


def commands(file: Path) -> list[str]:
    """The lines of shell blocks and of code in running text, or of a YAML header, that start knowcap or accelerate."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        found = re.sub(r"\n {4,}(?=-)", " ", header(file)).splitlines() + re.findall(r"`([^`\n]+)`", header(file))
    else:
        inline = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).replace(r"\|", "|")
        found = [part for block in blocks(text, "bash") for part in re.split(r"&&|\n", block)]
        found += re.findall(r"`([^`\n]+)`", inline)
    found = [re.sub(r"\s#.*", "", line).strip().removeprefix(".venv/bin/") for line in found]
    # `knowcap report` alone is the name of a command, `knowcap … --key` a part of one.
    return [line for line in found if re.match(r"(knowcap \w+|accelerate launch) \S", line)]
