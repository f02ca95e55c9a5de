"""The command line: `knowcap run | data | train | measure | quantize | report | push | ls`. Heavy imports wait."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knowcap import __version__
from knowcap import run as stages
from knowcap.cli_measure import MEASURE_EXAMPLES, add_measure_options, measure_command, positive
from knowcap.launch import Launcher, LaunchError, is_main_process, set_up_process
from knowcap.recipe import KEYS, Recipe, RecipeError, load_recipe, packaged_recipes, read_recipe
from knowcap.run_folder import claim_run_dir, folder_problems, locked, run_dir_of


FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_RECIPE_KEYS = "recipe keys (--key value wins over the file):\n" + "\n".join(
    f"  --{name:<29}{key.metadata['help']}" + ("" if key.metadata.get("required") else f" [{key.default!r}]")
    for name, key in KEYS.items()
)
_EXAMPLES = {
    "run": (
        "knowcap run --config quickstart",
        "knowcap run --config recipes/quickstart.yaml --num_people 500 --run_name small --dry_run",
        "knowcap run --config my.yaml --output_dir /data/runs --accelerate_config multi_gpu --num_processes 4",
        "An interrupted run goes on when the same command is given again.",
    ),
    "data": ("knowcap data --config quickstart", "knowcap data --config my.yaml --num_proc 8"),
    "train": ("knowcap train --config quickstart --accelerate_config cpu_2",),
    "measure": MEASURE_EXAMPLES,
    "quantize": ("knowcap quantize runs/quickstart --bits 8 --bits 4",),
    "report": ("knowcap report runs",),
    "push": (
        "knowcap push runs/quickstart --hub_model_id you/quickstart --hub_dataset_id you/quickstart-people",
        "knowcap push --hub_space_id you/bits_per_parameter",
        "Given again, it sends only what has changed.",
    ),
    "ls": ("knowcap ls recipes", "knowcap ls models"),
}


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
    _add_traceback(parser)
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

    run = _add(commands, "run", _run, "every stage, from a recipe to a measured, quantized and documented model")
    run.add_argument("--dry_run", action="store_true", help="say what would be made and what is wrong; make nothing")
    data = _add(commands, "data", _data, "only the data set of a recipe")
    train = _add(commands, "train", _train, "only the trained model of a recipe")
    for command in (run, data):
        text = "processes that write the data set; its files are the same"
        command.add_argument("--num_proc", type=positive, default=1, help=text)
    for command in (run, data, train):
        _add_recipe_options(command)
        command.set_defaults(takes_recipe=True)
        command.epilog += "\n" + _RECIPE_KEYS

    measure = _add(commands, "measure", _measure, "bits per parameter of a run's models, or of any model folder")
    add_measure_options(measure)
    for command in (run, train, measure):
        names = "cpu, cpu_2, multi_gpu, multi_node, fsdp2, or a file"
        command.add_argument("--accelerate_config", metavar="NAME", help=f"train and score by accelerate: {names}")
        command.add_argument("--num_processes", type=positive, help="in place of the number in the configuration")

    quantize = _add(commands, "quantize", _quantize, "quantized copies of a run's model, to be measured")
    quantize.add_argument("folder", metavar="RUN", type=Path, help="a run folder with a trained model")
    quantize.add_argument("--bits", type=int, choices=(8, 4), action="append", help="may be repeated; both by default")
    report = _add(commands, "report", _report, "cards, plots and one table of all runs in a folder")
    report.add_argument("folder", metavar="DIR", type=Path, help="a run folder, or a folder of run folders")
    push = _add(commands, "push", _push, "a run's model, quantized copies and data set, and the metric, on the Hub")
    push.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="a run folder, or a data set folder")
    push.add_argument("--hub_model_id", metavar="ID", help="owner/name; quantized copies go to name-int8, name-int4")
    push.add_argument("--hub_dataset_id", metavar="ID", help="where the data set goes")
    push.add_argument("--hub_space_id", metavar="ID", help="where the metric goes: owner/bits_per_parameter")
    push.add_argument("--private", action="store_true", help="make new repos private, and refuse public ones")
    push.add_argument("--revision", metavar="BRANCH", help="commit to this branch, made if need be; main by default")
    ls = _add(commands, "ls", _ls, "what there is to choose from")
    ls.add_argument("what", choices=("recipes", "models"))
    return parser


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace, list[str]], None], text: str) -> Any:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="\n  ".join(["examples:", *_EXAMPLES[name]]) + "\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_traceback(parser)
    parser.set_defaults(command=command, takes_recipe=False)
    return parser


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in the code it was raised")


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, or a packaged recipe's name")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="delete what the run folder holds first")


def _guarded(command: Callable[[], None], show_traceback: bool) -> int:
    """Runs a command. What a user can mend becomes one message and status 2; anything else keeps its traceback."""
    set_up_process()
    try:
        command()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except (LaunchError, ValueError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        elif is_main_process():
            print(f"knowcap: {error}", file=sys.stderr)
        return FAILED if isinstance(error, LaunchError) else BAD_INPUT
    return 0


@contextmanager
def _claimed(args: argparse.Namespace, words: Sequence[str], trains: bool) -> Iterator[tuple[Recipe, Path]]:
    """The recipe and its run folder, kept to this command; or all that is wrong with both, before anything is made."""
    from knowcap.dataset_check import check_source

    recipe, problems = read_recipe(args.config, words)
    if not problems and (args.overwrite_output_dir or not (run_dir_of(recipe) / "model").is_dir()):
        problems += _training_problems(args, recipe) if trains else []
    problems += folder_problems(recipe, args.overwrite_output_dir)
    if args.overwrite_output_dir and not problems:
        problems += check_source(recipe)
    if problems:
        raise RecipeError(problems, args.config)
    with locked(run_dir_of(recipe)):
        yield recipe, claim_run_dir(recipe, args.overwrite_output_dir)


def _training_problems(args: argparse.Namespace, recipe: Recipe) -> list[str]:
    """What would stop a sound recipe's training: its texts, this machine, the launcher."""
    from knowcap import estimate
    from knowcap.machine import machine_problems

    launcher = _launcher(args)
    processes = {} if launcher is None else {"world_size": launcher.world_size, "fsdp": launcher.fsdp}
    return estimate.check_texts(recipe) + machine_problems(recipe, **processes)


def _launcher(args: argparse.Namespace) -> Launcher | None:
    if args.accelerate_config is not None:
        return Launcher.named(args.accelerate_config, args.num_processes)
    if args.num_processes is not None:
        raise ValueError("--num_processes is the launcher's; give --accelerate_config too, such as multi_gpu")
    return None


def _run(args: argparse.Namespace, words: list[str]) -> None:
    if args.dry_run:
        return _dry_run(args, words)
    launcher = _launcher(args)
    with _claimed(args, words, trains=True) as (recipe, run_dir):
        stages.run(recipe, run_dir, launcher, args.num_proc)
        _print_table(run_dir)


def _dry_run(args: argparse.Namespace, words: list[str]) -> None:
    recipe, problems = read_recipe(args.config, words)
    if not problems:
        from knowcap import estimate

        problems = _training_problems(args, recipe)
        if not problems:
            print(f"{'run folder':<28}{run_dir_of(recipe)}\n{estimate.describe(estimate.estimate(recipe))}")
    problems += folder_problems(recipe, args.overwrite_output_dir)
    if problems:
        raise RecipeError(problems, args.config)


def _data(args: argparse.Namespace, words: list[str]) -> None:
    with _claimed(args, words, trains=False) as (recipe, run_dir):
        stages.data(recipe, run_dir, args.num_proc)


def _train(args: argparse.Namespace, words: list[str]) -> None:
    launcher = _launcher(args)
    with _claimed(args, words, trains=True) as (recipe, run_dir):
        stages.train(recipe, run_dir, launcher)


def _train_process(args: argparse.Namespace, words: list[str]) -> None:
    """One of the processes that accelerate launched. Only the first one touches the run folder."""
    if args.overwrite_output_dir:
        raise ValueError(
            "--overwrite_output_dir would be raced for by the processes; "
            "use `knowcap train --overwrite_output_dir --accelerate_config …` instead"
        )
    recipe = load_recipe(args.config, words)
    if is_main_process():
        claim_run_dir(recipe)  # not locked: the command that launched the processes may hold the lock
    stages.train(recipe, run_dir_of(recipe))


def _measure(args: argparse.Namespace, _: list[str]) -> None:
    measure_command(args, _launcher(args))


def _quantize(args: argparse.Namespace, _: list[str]) -> None:
    stages.recipe_of(args.folder)
    with locked(args.folder):
        for bits in args.bits or (8, 4):
            stages.quantize(args.folder, bits)


def _report(args: argparse.Namespace, _: list[str]) -> None:
    stages.report(args.folder)
    _print_table(args.folder)


def _push(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.hub import push

    ids = {name: getattr(args, name) for name in ("hub_model_id", "hub_dataset_id", "hub_space_id")}
    print(push(args.folder, **ids, private=args.private, revision=args.revision))


def _print_table(folder: Path) -> None:
    from knowcap.report import report_table

    print(report_table(folder))


def _ls(args: argparse.Namespace, _: list[str]) -> None:
    if args.what == "models":
        from knowcap.models import MODEL_FAMILIES

        print("L layers, H heads, hidden size H x head_dim:")
        rows = {f"{family}-L-H": text for family, text in MODEL_FAMILIES.items()}
    else:
        first_lines = (
            (name, path.read_text(encoding="utf-8").split("\n")[0]) for name, path in packaged_recipes().items()
        )
        rows = {name: line.lstrip("# ") for name, line in first_lines}
    for name, text in rows.items():
        print(f"{name:<24}{text}")


if __name__ == "__main__":
    sys.exit(main())
