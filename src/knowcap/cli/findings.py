"""`knowcap findings`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.files import FileError


_EXAMPLES = (
    "knowcap findings",
    "knowcap findings --scale small",
    "knowcap findings 01-plateau my-finding.yaml --results results",
    "knowcap findings --collect runs/sweeps/01-plateau     (its finished cells' small files, to be committed)",
    "knowcap findings 01-plateau --plot model_cards/findings/frontier.png",
    "knowcap findings --page model_cards/findings.html --markdown README.md model_cards/README.md",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _findings, _EXAMPLES)
    parser.add_argument("files", metavar="FINDING", nargs="*", help="finding files, or packaged ones' names [all]")
    parser.add_argument("--scale", choices=("small", "paper"), help="only findings of this scale")
    parser.add_argument("--results", metavar="FOLDER", type=Path, help="of collected results [model_cards/findings]")
    text = "folders of sweeps: copy the results of their finished cells, and print nothing else"
    parser.add_argument("--collect", metavar="FOLDER", type=Path, nargs="+", default=[], help=text)
    text = "write the table as an HTML page"
    parser.add_argument("--page", metavar="FILE", type=Path, help=text)
    text = "draw bits against parameters of the cells that decide, beside the paper's peaks: .png (with .svg and .pdf)"
    parser.add_argument("--plot", metavar="FILE", type=Path, help=text)
    text = "Markdown files: write the table between their two marks"
    parser.add_argument("--markdown", metavar="FILE", type=Path, nargs="+", default=[], help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _findings(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.findings import judge, load_finding, packaged_findings
    from knowcap.findings.file import order
    from knowcap.findings.table import findings_json, findings_text

    if args.collect:
        from knowcap.findings.collect import collect

        results = results_folder(args.results, make=True)
        for sweep_dir in args.collect:
            print(collect(sweep_dir, results))
        return
    folder = results_folder(args.results)
    found = [load_finding(name) for name in args.files or packaged_findings()]
    kept = sorted((finding for finding in found if args.scale in (None, finding.scale)), key=order)
    if not kept:
        of = f" of scale {args.scale}" if args.scale else ""
        raise ValueError(f"there is no finding{of} to show; give a file (`knowcap findings my-finding.yaml`)")
    verdicts = [judge(finding, folder) for finding in kept]
    if args.page or args.markdown:
        from knowcap.findings.pages import write_pages

        write_pages(verdicts, folder, args.page, args.markdown)
    if args.plot:
        from knowcap.findings.plot import plot_findings

        plot_findings(verdicts, args.plot)
    if args.json:
        print(json.dumps(findings_json(verdicts), indent=2, ensure_ascii=False))
    else:
        print(findings_text(verdicts, folder.as_posix()))


def results_folder(given: Path | None, make: bool = False) -> Path:
    """The folder of collected results: the given one, or that of a checkout; `make`: it need not exist.

    Raises:
        FileError: the given folder does not exist, or knowcap is installed without a checkout.
    """
    from knowcap.recipe_file import RECIPES_DIR

    if given is not None:
        if not given.is_dir() and not make:
            raise FileError(f"--results: there is no folder {given}; `knowcap findings --collect` makes one")
        return given
    cards = RECIPES_DIR.parent / "model_cards"
    if not cards.is_dir():
        raise FileError(
            "an installed knowcap has no results of findings; give --results FOLDER, such as model_cards/findings "
            "of a checkout"
        )
    folder = cards / "findings"
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
