"""`knowcap quantize`. Heavy imports wait."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.files import locked
from knowcap.models.quantized.settings import METHODS, QuantizationError, Settings
from knowcap.run import pipeline as stages


_EXAMPLES = (
    "knowcap quantize runs/quickstart --bits 8 --bits 4",
    'knowcap quantize runs/quickstart --bits 4 --method gptq      (needs the extra: pip install -e ".[gptq]")',
    "knowcap quantize runs/quickstart --bits 4 --group_size 16 --overwrite",
    "knowcap quantize runs/quickstart --embeddings",
    "What isn't said here is as in the run's recipe. Then measure: knowcap measure runs/quickstart",
)


def add(commands: Any) -> None:
    """The command's parser."""
    text = "quantized copies of a run's model, to be measured"
    parser = add_command(commands, "quantize", _quantize, text, _EXAMPLES)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained model")
    parser.add_argument("--bits", type=int, action="append", help="8 or 4; may be repeated; both by default")
    parser.add_argument("--method", choices=METHODS, help="rounding (quanto), or calibrated on training texts (gptq)")
    parser.add_argument("--group_size", type=int, help="weights of a row that share a scale; 0: the whole row")
    parser.add_argument(
        "--symmetric", action=argparse.BooleanOptionalAction, default=None, help="steps even around zero"
    )
    parser.add_argument(
        "--embeddings", action=argparse.BooleanOptionalAction, default=None, help="embeddings and output head too"
    )
    parser.add_argument("--exclude", action="append", metavar="PATTERN", help="leave such layers, e.g. '*.mlp.*'")
    parser.add_argument("--overwrite", action="store_true", help="make copies anew that are there already")


def _quantize(args: argparse.Namespace, _: list[str]) -> None:
    recipe = stages.recipe_of(args.folder)
    given = {key: getattr(args, key) for key in ("method", "group_size", "symmetric", "embeddings")}
    given = {key: value for key, value in given.items() if value is not None}
    given |= {} if args.exclude is None else {"exclude": tuple(args.exclude)}
    copies = [replace(Settings.of(recipe, bits), **given) for bits in args.bits or (8, 4)]
    if problems := [problem for settings in copies for problem in settings.problems()]:
        raise QuantizationError("; ".join(dict.fromkeys(problems)))
    with locked(args.folder):
        for settings in copies:
            stages.quantize(args.folder, settings, args.overwrite)
