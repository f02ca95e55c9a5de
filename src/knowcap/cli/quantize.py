"""`knowcap quantize`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.files import locked
from knowcap.models.names import ModelError
from knowcap.models.quantized.settings import METHODS, Settings
from knowcap.run import pipeline as stages


_EXAMPLES = (
    "knowcap quantize runs/quickstart --bits 8 --bits 4",
    'knowcap quantize runs/quickstart --bits 4 --method gptq      (needs the extra: pip install -e ".[gptq]")',
    "knowcap quantize runs/quickstart --bits 4 --group_size 16 --overwrite",
    "knowcap quantize runs/quickstart --embeddings",
    "Options that are not given are as in the run's recipe. Measure the copies with: knowcap measure runs/quickstart",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _quantize, _EXAMPLES)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained model")
    parser.add_argument("--bits", type=int, action="append", help="8 or 4; may be repeated; both by default")
    parser.add_argument("--method", choices=METHODS, help="rounding (quanto), or calibrated on training texts (gptq)")
    parser.add_argument("--group_size", type=int, help="weights per scale; 0: a whole row")
    parser.add_argument(
        "--symmetric", action=argparse.BooleanOptionalAction, default=None, help="symmetric quantization"
    )
    parser.add_argument(
        "--embeddings",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="quantize embeddings and output head too",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="layers to leave as they are, such as '*.mlp.*'; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace copies that exist already")


def _quantize(args: argparse.Namespace, _: list[str]) -> None:
    recipe = stages.recipe_of(args.folder)
    given = {key: getattr(args, key) for key in ("method", "group_size", "symmetric", "embeddings")}
    given = {key: value for key, value in given.items() if value is not None}
    given |= {} if args.exclude is None else {"exclude": tuple(args.exclude)}
    copies = list(dict.fromkeys(replace(copy, **given) for copy in Settings.copies(recipe, args.bits or (8, 4))))
    if problems := [problem for settings in copies for problem in settings.problems()]:
        raise ModelError("; ".join(dict.fromkeys(problems)))
    with locked(args.folder):
        for settings in copies:
            stages.quantize(args.folder, settings, args.overwrite)
