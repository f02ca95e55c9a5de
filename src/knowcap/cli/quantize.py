"""`knowcap quantize`. Heavy imports wait."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap import run as stages
from knowcap.cli.parsers import add_command
from knowcap.run_folder import locked


def add(commands: Any) -> None:
    """The command's parser."""
    text = "quantized copies of a run's model, to be measured"
    parser = add_command(
        commands, "quantize", _quantize, text, ("knowcap quantize runs/quickstart --bits 8 --bits 4",)
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained model")
    parser.add_argument("--bits", type=int, choices=(8, 4), action="append", help="may be repeated; both by default")


def _quantize(args: argparse.Namespace, _: list[str]) -> None:
    stages.recipe_of(args.folder)
    with locked(args.folder):
        for bits in args.bits or (8, 4):
            stages.quantize(args.folder, bits)
