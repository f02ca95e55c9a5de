"""`knowcap ls`. Heavy imports wait."""

from __future__ import annotations

import argparse
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.recipe import packaged_recipes


def add(commands: Any) -> None:
    """The command's parser."""
    examples = ("knowcap ls recipes", "knowcap ls models")
    parser = add_command(commands, "ls", _ls, "what there is to choose from", examples)
    parser.add_argument("what", choices=("recipes", "models"))


def _ls(args: argparse.Namespace, _: list[str]) -> None:
    if args.what == "models":
        from knowcap.models import MODEL_FAMILIES

        print("L layers, H heads, hidden size H x head_dim:")
        rows = {f"{family}-L-H": text for family, text in MODEL_FAMILIES.items()}
    else:
        first_lines = (
            (name, path.read_text(encoding="utf-8").split("\n")[0]) for name, path in packaged_recipes().items()
        )
        rows = {name: line.lstrip("# ") for name, line in first_lines}
    for name, text in rows.items():
        print(f"{name:<24}{text}")
