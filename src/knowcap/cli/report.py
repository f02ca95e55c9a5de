"""`knowcap report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.run import pipeline as stages


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _report, ("knowcap report runs",))
    parser.add_argument("folder", metavar="DIR", type=Path, help="a run folder, or a folder of run folders")


def _report(args: argparse.Namespace, _: list[str]) -> None:
    stages.report(args.folder)
    from knowcap.report.stage import report_table

    print(report_table(args.folder))
