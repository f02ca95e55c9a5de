"""The command line: `knowcap run | data | train | measure | …`. Only the module of the given command is imported."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from knowcap.cli.commands import COMMANDS
from knowcap.cli.parsers import CommandParser
from knowcap.provenance import __version__


# The extra of pyproject.toml that has a library.
EXTRAS = {
    "datasets": "evaluate",
    "evaluate": "evaluate",
    "peft": "adapters",
    "optimum": "quantize",
    "matplotlib": "plot",
    "scipy": "laws",
}
FAILED, BAD_INPUT, CLOSED_PIPE = 1, 2, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for failed processes or cells, 2 for bad input or a full disk, 130
    for Ctrl-C, 75 for SIGTERM and SIGUSR1."""
    given = sys.argv[1:] if argv is None else argv
    parser = make_parser(next((word for word in given if not word.startswith("-")), ""))
    args, words = parser.parse_known_args(argv)
    if words and not args.takes_recipe:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    return _guarded(lambda: args.command(args, words), args)


def train_main(argv: Sequence[str]) -> int:
    """The processes of `accelerate launch -m knowcap.train`: `--config RECIPE [--key value …]`."""
    from knowcap.cli import parsers, run

    parser = argparse.ArgumentParser(prog="python -m knowcap.train", allow_abbrev=False)
    parsers.add_recipe_options(parser)
    parsers.add_traceback(parser)
    args, words = parser.parse_known_args(argv)
    return _guarded(lambda: run.train_process(args, words), args)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        command: only this one gets its options; the others have a name and a line in the help. None: all of them.
    """
    parser = argparse.ArgumentParser(
        prog="knowcap",
        description="How many bits of knowledge a language model stores per parameter.",
        epilog="`knowcap COMMAND --help` has examples; `knowcap ls recipes` lists the packaged recipes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"knowcap {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, found in COMMANDS.items():
        if command in (name, None):
            import_module(f"knowcap.cli.{found.module}").add(commands, name)
        else:
            commands.add_parser(name, help=found.text)
    return parser


def _guarded(command: Callable[[], None], args: argparse.Namespace) -> int:
    """Runs a command. Errors that a user can fix become one message and status 2; others keep their traceback."""
    from knowcap.processes import signals
    from knowcap.run.launch import set_up_process

    set_up_process()
    with signals.handled():
        try:
            return _run(command, args)
        except KeyboardInterrupt as error:
            return _interrupted(signals.exit_status(error))
        except Exception:
            if (number := signals.noted()) is None:
                raise
            return _interrupted(signals.exit_status(signals.Interrupted(number)))  # it failed as it was being ended


def _interrupted(status: int) -> int:
    from knowcap.processes import is_main_process

    if is_main_process():
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
    return status


def _run(command: Callable[[], None], args: argparse.Namespace) -> int:
    try:
        if args.imports:
            from knowcap.models.registration import use_packages

            use_packages(args.imports)
        command()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (RuntimeError, ValueError, OSError, ModuleNotFoundError) as error:
        from knowcap.processes import signals

        if signals.noted() is not None:
            raise
        return _reported(error, args.traceback)
    return 0


def _reported(error: Exception, show_traceback: bool) -> int:
    """Prints the message of an error that a user can fix, and returns the status; raises any other error again."""
    from knowcap.processes import is_main_process
    from knowcap.run.launch import LaunchError
    from knowcap.sweep.run import CellsFailed

    failed = isinstance(error, (LaunchError, CellsFailed))
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        error = ValueError(f"this needs {error.name}, which is not installed; pip install 'knowcap[{extra}]'")
    if not failed and not isinstance(error, (ValueError, OSError)):
        raise error
    if show_traceback:
        traceback.print_exception(error)
    elif is_main_process():
        print(f"knowcap: {error}", file=sys.stderr)
    own = isinstance(error, LaunchError) and error.status == BAD_INPUT  # of a process that was launched
    return FAILED if failed and not own else BAD_INPUT
