"""`knowcap export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command, positive


_EXAMPLES = (
    "knowcap export lm-eval runs/quickstart/knowledge --model runs/quickstart/model",
    "knowcap export lm-eval you/your-facts --model openai-community/gpt2 --output_dir tasks --limit 1000",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _export, _EXAMPLES)
    parser.add_argument("harness", choices=("lm-eval",), help="lm-evaluation-harness")
    parser.add_argument("dataset", metavar="DIR", help="a data set folder, a Hub id, or a table of prompts")
    tokenizer = "a model folder or Hub id: prompts begin with its start token, as knowcap's measurements do"
    parser.add_argument("--model", metavar="MODEL", help=tokenizer)
    parser.add_argument("--output_dir", type=Path, default=Path("lm_eval_tasks"), help="[lm_eval_tasks]")
    parser.add_argument("--limit", type=positive, help="this many entities only, the first ones")


def _export(args: argparse.Namespace, _: list[str]) -> None:
    """Writes the task's YAML and JSONL, and prints the command that runs it."""
    from knowcap.capacity.measure import dataset_folder
    from knowcap.dataset.lm_eval import write_task
    from knowcap.models.folders import find_model
    from knowcap.models.loading import load_tokenizer
    from knowcap.models.separators import Separators

    folder = dataset_folder(args.dataset, args.output_dir / "data")
    start = ""
    if args.model is not None:
        tokenizer = load_tokenizer(find_model(args.model))
        start = str(tokenizer.decode(list(Separators.of(tokenizer).before)))
    task = write_task(folder, args.output_dir, start=start, limit=args.limit)
    print(f"lm_eval --model hf --model_args pretrained=MODEL --tasks {task.stem} --include_path {task.parent}")
