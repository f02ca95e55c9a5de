"""Scoring as a command, for `accelerate launch -m knowcap.scoring MODEL_DIR DATASET_DIR`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from knowcap.models.loading import DTYPES, LoadOptions
from knowcap.recipe import START_TOKENS
from knowcap.scoring.mode import CONTEXTS, SCORINGS, ScoringMode
from knowcap.scoring.stage import score


def main(arguments: Sequence[str] | None = None) -> Path:
    """Scores a model folder on a data set folder; returns the path of nll.parquet."""
    parser = argparse.ArgumentParser(prog="python -m knowcap.scoring", description=main.__doc__)
    parser.add_argument("model_dir", type=Path, help="a folder written by save_pretrained, with its tokenizer")
    parser.add_argument("dataset_dir", type=Path, help="a data set folder with knowledge.json")
    parser.add_argument(
        "--batch_size", type=int, default=None, help="texts per forward pass [as many as fit in memory]"
    )
    parser.add_argument("--output_dir", type=Path, help="folder that the results are written to [MODEL_DIR]")
    parser.add_argument("--limit", type=int, default=None, help="number of entities to score, the first ones [all]")
    parser.add_argument("--overwrite", action="store_true", help="score again if there is a finished measurement")
    parser.add_argument("--scoring", choices=SCORINGS, default="token", help="score among all texts or candidates")
    parser.add_argument("--context", choices=CONTEXTS, default="isolated", help="score texts alone or in windows")
    parser.add_argument("--neutral", action="store_true", help="score the data set's sentence templates instead")
    parser.add_argument("--start_token", choices=START_TOKENS, default="auto", help="what stands before each text")
    parser.add_argument("--window", type=int, default=None, help="tokens of a window of packed texts")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and computation")
    parser.add_argument("--device_map", help="auto: divide the model among all devices; or a device")
    parser.add_argument("--attn_implementation", help="sdpa, eager, flash_attention_2, …")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return score(
        args.model_dir,
        args.dataset_dir,
        batch_size=args.batch_size,
        limit=args.limit,
        overwrite=args.overwrite,
        output_dir=args.output_dir,
        mode=ScoringMode(args.scoring, args.context, args.neutral, args.start_token),
        loading=LoadOptions(args.dtype, args.device_map, args.attn_implementation),
        window=args.window,
    )


if __name__ == "__main__":
    main()
