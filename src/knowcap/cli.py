"""The command line: `knowcap run | data | train | measure | quantize | report | ls`. Imports nothing heavy until it is needed."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap import __version__
from knowcap.launch import Launcher, LaunchError, is_main_process, set_up_logging
from knowcap.recipe import KEYS, Recipe, RecipeError, load_recipe, packaged_recipes, read_recipe


if TYPE_CHECKING:
    from knowcap.estimate import Estimate

BAD_INPUT, INTERRUPTED = 2, 130
_RECIPE_KEYS = "recipe keys (--key value wins over the file):\n" + "\n".join(
    f"  --{name:<29}{key.metadata['help']}" + ("" if key.metadata.get("required") else f" [{key.default!r}]")
    for name, key in KEYS.items()
)
_RUN_EXAMPLES = """examples:
  knowcap run --config quickstart
  knowcap run --config recipes/quickstart.yaml --num_people 500 --run_name small --dry_run
  knowcap run --config my.yaml --output_dir /data/runs --accelerate_config multi_gpu --num_processes 4
An interrupted run goes on when the same command is given again.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 for bad input (told in one message), 130 for Ctrl-C."""
    parser = make_parser()
    args, words = parser.parse_known_args(argv)
    if words and not args.takes_recipe:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    return _guarded(lambda: args.command(args, words), show_traceback=args.traceback)


def train_main(argv: Sequence[str]) -> int:
    """What `accelerate launch -m knowcap.train` runs in every process: `--config RECIPE [--key value …]`."""
    parser = argparse.ArgumentParser(prog="python -m knowcap.train", allow_abbrev=False)
    _add_recipe_options(parser)
    args, words = parser.parse_known_args(argv)
    return _guarded(lambda: _train_process(args, words), show_traceback=args.traceback)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="knowcap",
        description="How many bits of knowledge a language model stores per parameter.",
        epilog="`knowcap COMMAND --help` has examples; `knowcap ls recipes` lists the packaged recipes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"knowcap {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _add(commands, "run", _run, "every stage, from a recipe to a measured, quantized and documented model", _RUN_EXAMPLES)
    run.add_argument("--dry_run", action="store_true", help="say what would be made and what is wrong; make nothing")
    data = _add(commands, "data", _data, "only the data set of a recipe", "example:\n  knowcap data --config quickstart\n\n")
    train_example = "example:\n  knowcap train --config quickstart --accelerate_config cpu_2\n\n"
    train = _add(commands, "train", _train, "only the data set and the trained model of a recipe", train_example)
    for command in (run, data, train):
        _add_recipe_options(command)
        command.set_defaults(takes_recipe=True)
        command.epilog += _RECIPE_KEYS

    measure_examples = "examples:\n  knowcap measure runs/quickstart --overwrite\n  knowcap measure my_model --dataset_dir my_data\n"
    measure = _add(commands, "measure", _measure, "bits per parameter of a run's models, or of any model folder", measure_examples)
    measure.add_argument("folder", metavar="RUN_OR_MODEL_DIR", type=Path, help="a run folder or a model folder")
    measure.add_argument("--dataset_dir", type=Path, help="a data set folder; the run's own by default")
    measure.add_argument("--batch_size", type=_positive, help="texts a forward pass")
    measure.add_argument("--limit", type=_positive, help="score the first so many entities only")
    measure.add_argument("--overwrite", action="store_true", help="measure again what is measured already")

    quantize_example = "example:\n  knowcap quantize runs/quickstart --bits 8 --bits 4\n"
    quantize = _add(commands, "quantize", _quantize, "quantized copies of a run's model, measured", quantize_example)
    quantize.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained model")
    quantize.add_argument("--bits", type=int, choices=(8, 4), action="append", help="may be repeated; 8 and 4 by default")
    for command in (run, train, measure, quantize):
        command.add_argument("--accelerate_config", metavar="NAME", help="start training and scoring through accelerate: "
                             "cpu, cpu_2, multi_gpu, multi_node, fsdp2, or a file")  # fmt: skip
        command.add_argument("--num_processes", type=_positive, help="in place of the accelerate configuration's number")

    report = _add(commands, "report", _report, "table and plots of all runs in a folder", "example:\n  knowcap report runs\n")
    report.add_argument("folder", metavar="DIR", type=Path, help="a run folder, or a folder of run folders")
    ls = _add(commands, "ls", _ls, "what there is to choose from", "example:\n  knowcap ls models\n")
    ls.add_argument("what", choices=("recipes", "models"))
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace, list[str]], None],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in the code it was raised")
    parser.set_defaults(command=command, takes_recipe=False)
    return parser


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, or the name of a packaged recipe")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="delete what the run folder holds; start anew")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 or more")
    return number


def _guarded(command: Callable[[], None], show_traceback: bool) -> int:
    """Runs a command. What a user can mend becomes one message and status 2; anything else keeps its traceback."""
    set_up_logging()
    try:
        command()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except LaunchError as error:
        print(f"knowcap: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        elif is_main_process():
            print(f"knowcap: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _claim(args: argparse.Namespace, words: Sequence[str]) -> tuple[Recipe, Path]:
    """The recipe and its run folder, or all that is wrong with both."""
    from knowcap.run_folder import claim_run_dir, folder_problems

    recipe, problems = read_recipe(args.config, words)
    problems += folder_problems(recipe, args.overwrite_output_dir)
    if problems:
        raise RecipeError(problems, args.config)
    return recipe, claim_run_dir(recipe, args.overwrite_output_dir)


def _launcher(args: argparse.Namespace) -> Launcher | None:
    if args.accelerate_config is not None:
        return Launcher.named(args.accelerate_config, args.num_processes)
    if args.num_processes is not None:
        raise ValueError("--num_processes is the launcher's; give --accelerate_config too, such as multi_gpu")
    return None


def _run(args: argparse.Namespace, words: list[str]) -> None:
    if args.dry_run:
        return _dry_run(args, words)
    ...


def _dry_run(args: argparse.Namespace, words: list[str]) -> None:
    ...
