"""`knowcap push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command


_EXAMPLES = (
    "knowcap push runs/quickstart --hub_model_id you/quickstart --hub_dataset_id you/quickstart-people",
    "knowcap push --hub_space_id you/bits_per_parameter",
    "Run again, it uploads only what has changed.",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _push, _EXAMPLES)
    parser.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="a run folder, or a data set folder")
    parser.add_argument(
        "--hub_model_id",
        metavar="ID",
        help="repo of the model, owner/name; quantized copies are published as name-int8, name-int4",
    )
    parser.add_argument("--hub_dataset_id", metavar="ID", help="repo of the data set")
    parser.add_argument("--hub_space_id", metavar="ID", help="Space of the metric: owner/bits_per_parameter")
    parser.add_argument("--private", action="store_true", help="make new repos private, and stop if a repo is public")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch to commit to, created if missing; main by default"
    )


def _push(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.run.push import push

    ids = {name: getattr(args, name) for name in ("hub_model_id", "hub_dataset_id", "hub_space_id")}
    print(push(args.folder, **ids, private=args.private, revision=args.revision))
