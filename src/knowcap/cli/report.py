"""`knowcap report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.run import pipeline as stages


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _report, ("knowcap report runs", "knowcap report runs --recursive"))
    folder = "a run folder, or a folder with runs directly below it"
    parser.add_argument("folder", metavar="DIR", type=Path, help=folder)
    parser.add_argument("--recursive", action="store_true", help="also report runs that are deeper below DIR")


def _report(args: argparse.Namespace, _: list[str]) -> None:
    """Lists the files that it will write, on the error stream, writes them, and prints the table."""
    from knowcap.report.stage import report_files, report_table

    files = report_files(args.folder, args.recursive)
    print(f"writing {len(files)} files:", *files, sep="\n  ", file=sys.stderr)
    stages.report(args.folder, args.recursive)
    print(report_table(args.folder, args.recursive))
