"""The command line: `knowcap run | data | train | measure | …`, one module per command."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from knowcap.cli import extract, fit, ls, measure, parsers, plan, push, quantize, report, run, sweep
from knowcap.processes import is_main_process
from knowcap.provenance import __version__
from knowcap.run.launch import LaunchError, set_up_process
from knowcap.sweep.run import CellsFailed


FAILED, BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
_COMMANDS = (run, measure, quantize, extract, report, push, sweep, fit, plan, ls)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for failed processes or cells, 2 for bad input, 130 for Ctrl-C."""
    parser = make_parser()
    args, words = parser.parse_known_args(argv)
    if words and not args.takes_recipe:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    return _guarded(lambda: args.command(args, words), show_traceback=args.traceback)


def train_main(argv: Sequence[str]) -> int:
    """The processes of `accelerate launch -m knowcap.train`: `--config RECIPE [--key value …]`."""
    parser = argparse.ArgumentParser(prog="python -m knowcap.train", allow_abbrev=False)
    parsers.add_recipe_options(parser)
    parsers.add_traceback(parser)
    args, words = parser.parse_known_args(argv)
    return _guarded(lambda: run.train_process(args, words), show_traceback=args.traceback)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="knowcap",
        description="How many bits of knowledge a language model stores per parameter.",
        epilog="`knowcap COMMAND --help` has examples; `knowcap ls recipes` lists the packaged recipes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"knowcap {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=parsers.CommandParser
    )
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _guarded(command: Callable[[], None], show_traceback: bool) -> int:
    """Runs a command. Errors that a user can fix become one message and status 2; others keep their traceback."""
    set_up_process()
    try:
        command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (LaunchError, CellsFailed, ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        elif is_main_process():
            print(f"knowcap: {error}", file=sys.stderr)
        return FAILED if isinstance(error, (LaunchError, CellsFailed)) else BAD_INPUT
    return 0
