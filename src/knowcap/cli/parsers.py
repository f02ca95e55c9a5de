"""What the commands' parsers share: their form, and the options of recipes and of accelerate."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from knowcap.run.launch import Launcher


Command = Callable[[argparse.Namespace, list[str]], None]  # gets the words left over too, which are recipe keys


def add_command(commands: Any, name: str, command: Command, text: str, examples: Sequence[str]) -> Any:
    """A command's parser; `examples` close its help."""
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="\n  ".join(["examples:", *examples]) + "\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_traceback(parser)
    parser.set_defaults(command=command, takes_recipe=False)
    return parser


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """`--traceback`."""
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in the code it was raised")


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--overwrite_output_dir`; the recipe's keys are among the words left over."""
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, or a packaged recipe's name")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="delete what the run folder holds first")


def add_launcher_options(parser: argparse.ArgumentParser) -> None:
    """`--accelerate_config` and `--num_processes`."""
    names = "cpu, cpu_2, multi_gpu, multi_node, fsdp2, or a file"
    parser.add_argument("--accelerate_config", metavar="NAME", help=f"train and score by accelerate: {names}")
    parser.add_argument("--num_processes", type=positive, help="in place of the number in the configuration")


def launcher_of(args: argparse.Namespace) -> Launcher | None:
    """The launcher that the options name. Raises LaunchError, or ValueError for --num_processes without one."""
    if args.accelerate_config is not None:
        return Launcher.named(args.accelerate_config, args.num_processes)
    if args.num_processes is not None:
        raise ValueError("--num_processes is the launcher's; give --accelerate_config too, such as multi_gpu")
    return None


def positive(text: str) -> int:
    """A number of 1 or more, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 or more")
    return number
