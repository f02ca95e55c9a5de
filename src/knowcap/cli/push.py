"""`knowcap push`. Heavy imports wait."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command


_EXAMPLES = (
    "knowcap push runs/quickstart --hub_model_id you/quickstart --hub_dataset_id you/quickstart-people",
    "knowcap push --hub_space_id you/bits_per_parameter",
    "Given again, it sends only what has changed.",
)


def add(commands: Any) -> None:
    """The command's parser."""
    text = "a run's model, quantized copies and data set, and the metric, on the Hub"
    parser = add_command(commands, "push", _push, text, _EXAMPLES)
    parser.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="a run folder, or a data set folder")
    parser.add_argument("--hub_model_id", metavar="ID", help="owner/name; quantized copies go to name-int8, name-int4")
    parser.add_argument("--hub_dataset_id", metavar="ID", help="where the data set goes")
    parser.add_argument("--hub_space_id", metavar="ID", help="where the metric goes: owner/bits_per_parameter")
    parser.add_argument("--private", action="store_true", help="make new repos private, and refuse public ones")
    parser.add_argument("--revision", metavar="BRANCH", help="commit to this branch, made if need be; main by default")


def _push(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.run.push import push

    ids = {name: getattr(args, name) for name in ("hub_model_id", "hub_dataset_id", "hub_space_id")}
    print(push(args.folder, **ids, private=args.private, revision=args.revision))
