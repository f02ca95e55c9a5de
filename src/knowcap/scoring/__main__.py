"""Scoring as a command, for `accelerate launch -m knowcap.scoring MODEL_DIR DATASET_DIR`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from knowcap.scoring.stage import score
from knowcap.scoring.way import CONTEXTS, SCORINGS, Way


def main(arguments: Sequence[str] | None = None) -> Path:
    """Scores a model folder against a data set folder; returns the path of nll.parquet."""
    parser = argparse.ArgumentParser(prog="python -m knowcap.scoring", description=main.__doc__)
    parser.add_argument("model_dir", type=Path, help="a folder made by save_pretrained, with its tokenizer")
    parser.add_argument("dataset_dir", type=Path, help="a data set folder with knowledge.json")
    parser.add_argument("--batch_size", type=int, default=None, help="texts a forward pass; by default what fits")
    parser.add_argument("--output_dir", type=Path, help="where results go; MODEL_DIR by default")
    parser.add_argument("--limit", type=int, default=None, help="score the first so many entities only")
    parser.add_argument("--overwrite", action="store_true", help="score again where a finished measurement is found")
    parser.add_argument("--scoring", choices=SCORINGS, default="token", help="among all texts, or candidates alone")
    parser.add_argument("--context", choices=CONTEXTS, default="isolated", help="each text alone, or in windows")
    parser.add_argument("--neutral", action="store_true", help="score the sentence templates of the data set instead")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return score(
        args.model_dir,
        args.dataset_dir,
        batch_size=args.batch_size,
        limit=args.limit,
        overwrite=args.overwrite,
        output_dir=args.output_dir,
        way=Way(args.scoring, args.context, args.neutral),
    )


if __name__ == "__main__":
    main()
