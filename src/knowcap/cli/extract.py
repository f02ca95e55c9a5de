"""`knowcap extract`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command, positive
from knowcap.files import CAPACITY_FILE, locked
from knowcap.recipe import EXTRACT_METHODS
from knowcap.run import pipeline as stages


_EXAMPLES = (
    "knowcap extract runs/extraction-cpu",
    "knowcap extract runs/extraction-cpu --method full --learning_rate 3e-4",
    "knowcap extract runs/extraction-cpu --rank 16 --embedding_rank 128 --steps 75000",
    "Run the same command again to continue after an interruption.",
)
_TUNING = ("method", "rank", "embedding_rank", "steps", "batch_size", "learning_rate", "weight_decay")


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _extract, _EXAMPLES)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained, measured model")
    how = "LoRA on query, value and embedding; all weights; or no tuning; by default as in the recipe"
    parser.add_argument("--method", choices=EXTRACT_METHODS, help=how)
    parser.add_argument("--rank", type=positive, help="rank of LoRA on query and value")
    parser.add_argument("--embedding_rank", type=positive, help="rank of LoRA on the embedding")
    parser.add_argument("--steps", type=positive, help="steps of tuning")
    parser.add_argument("--batch_size", type=positive, help="questions per step")
    parser.add_argument("--learning_rate", type=float, help="at its peak; it decreases linearly to 0")
    parser.add_argument("--weight_decay", type=float, help="of AdamW")
    parser.add_argument("--limit", type=positive, help="ask about this many people only, the first ones")
    parser.add_argument("--overwrite", action="store_true", help="repeat a finished extraction")


def _extract(args: argparse.Namespace, _: list[str]) -> None:
    recipe = stages.recipe_of(args.folder)
    tuning = {key: getattr(args, key) for key in _TUNING}
    with locked(args.folder):
        made = stages.extract(args.folder, recipe, limit=args.limit, overwrite=args.overwrite, **tuning)
        if (args.folder / "model" / CAPACITY_FILE).is_file():
            stages.report(args.folder)
        from knowcap.report.card.extraction import extraction_table

        print(extraction_table([made]))
