"""Parts of the parsers of all commands: their help, and the options of recipes and of accelerate."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from knowcap.cli.commands import COMMANDS


if TYPE_CHECKING:
    from knowcap.recipe import Key, Recipe
    from knowcap.run.launch import Launcher


Command = Callable[[argparse.Namespace, list[str]], None]  # the list has the remaining arguments: recipe keys


class CommandParser(argparse.ArgumentParser):
    """The parser of a command. If the command takes a recipe, its help lists all recipe keys and their values in the
    recipe that stands beside --help, or else their defaults.
    """

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; keeps the arguments for the help."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def negative_numbers(self) -> None:
        """Words such as -1e9, -5B and -5% are values of options, whose checks then report them."""
        self._negative_number_matcher = re.compile(r"-[\d.,]")

    def format_help(self) -> str:
        """As argparse, with the recipe keys."""
        text = super().format_help()
        return f"{text}\n{self._recipe_help()}" if self.get_default("takes_recipe") else text

    def _recipe_help(self) -> str:
        from knowcap.recipe import Recipe, RecipeError
        from knowcap.recipe_file import read_recipe

        options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        options.add_argument("--config")
        known, words = options.parse_known_args([word for word in self._words if word not in ("-h", "--help")])
        if known.config is None:
            return recipe_help(Recipe(), "default")
        try:
            return recipe_help(read_recipe(known.config, words)[0], f"value in {known.config}")
        except RecipeError as error:
            self.error(str(error))


def recipe_help(recipe: Recipe, values: str) -> str:
    """All recipe keys by section: help, expected values, and the value in `recipe`, which `values` describes."""
    from knowcap.recipe import KEYS, SECTIONS

    lines = [f"recipe keys [{values}]; --key value overrides the file:"]
    for section in SECTIONS:
        lines += ["", f"  {section.__doc__}"]
        for key in (key for key in KEYS.values() if key.section is section):
            value = getattr(recipe, key.name)
            shown = "required" if key.required and value == key.default else _written(value)
            lines.append(f"  --{key.name:<28} {key.help}{_limits(key)} [{shown}]")
    return "\n".join(lines) + "\n"


def _limits(key: Key) -> str:
    """The values that a key may have, and the corpora that it has an effect on."""
    from knowcap.recipe import CORPORA

    values = ", ".join(key.choices) if key.range is None else key.range.expected
    corpora = "" if key.corpora == CORPORA else f"corpus: {', '.join(key.corpora)}"
    limits = "; ".join(limit for limit in (values, corpora) if limit)
    return f" ({limits})" if limits else ""


def _written(value: Any) -> str:
    """A value as a recipe file has it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def add_command(
    commands: Any, name: str, command: Command, examples: Sequence[str], text: str | None = None
) -> CommandParser:
    """The parser of a command; its help ends with `examples`. `text` is that of `COMMANDS` by default."""
    text = COMMANDS[name].text if text is None else text
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
    """`--traceback` and `--import`."""
    text = (
        "a package that registers model classes of your own with AutoConfig and AutoModelForCausalLM; may be repeated"
    )
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="PACKAGE", help=text)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--overwrite_output_dir`; the keys of the recipe are not parsed here."""
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, or a packaged recipe's name")
    parser.add_argument(
        "--overwrite_output_dir", action="store_true", help="first delete the outputs in the run folder"
    )


def add_launcher_options(parser: argparse.ArgumentParser) -> None:
    """`--accelerate_config` and `--num_processes`."""
    names = "cpu, cpu_2, multi_gpu, multi_node, fsdp2, or a file"
    parser.add_argument("--accelerate_config", metavar="NAME", help=f"train and score through accelerate: {names}")
    parser.add_argument(
        "--num_processes", type=positive, help="number of processes; by default that of the configuration"
    )


def launcher_of(args: argparse.Namespace) -> Launcher | None:
    """The launcher of the options, if any. Raises LaunchError, or ValueError for --num_processes without one."""
    from knowcap.run.launch import Launcher

    if args.accelerate_config is not None:
        return Launcher.named(args.accelerate_config, args.num_processes)
    if args.num_processes is not None:
        raise ValueError("--num_processes has no effect without --accelerate_config; give that too, such as multi_gpu")
    return None


def positive(text: str) -> int:
    """A number of 1 or more, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 or more")
    return number


def quantity(text: str) -> float:
    """A number as people write it, such as 7B or 40%, for argparse."""
    from knowcap.laws.quantity import quantity as read  # imported late: the laws are for few commands

    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
