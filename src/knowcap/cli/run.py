"""`knowcap run | data | train`: the commands that take a recipe. Heavy imports wait."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command, add_launcher_options, add_recipe_options, launcher_of, positive
from knowcap.files import locked
from knowcap.models.devices import launch_problems
from knowcap.processes import is_main_process
from knowcap.recipe import Recipe, RecipeError
from knowcap.run import pipeline as stages
from knowcap.run.cores import Cores
from knowcap.run.folder import claim_run_dir, folder_problems
from knowcap.run.launch import process_problems
from knowcap.run.preflight import checked_recipe, load_recipe


_RUN_EXAMPLES = (
    "knowcap run --config quickstart",
    "knowcap run --config recipes/quickstart.yaml --num_people 500 --run_name small --dry_run",
    "knowcap run --config my.yaml --output_dir /data/runs --accelerate_config multi_gpu --num_processes 4",
    "An interrupted run goes on when the same command is given again.",
)
_DATA_EXAMPLES = ("knowcap data --config quickstart", "knowcap data --config my.yaml --num_proc 8")
_TRAIN_EXAMPLES = ("knowcap train --config quickstart --accelerate_config cpu_2",)


def add(commands: Any, name: str) -> None:
    """The parser of one of the three commands."""
    do, examples = _COMMANDS[name]
    command = add_command(commands, name, do, examples)
    if name == "run":
        command.add_argument(
            "--dry_run", action="store_true", help="say what would be made and what is wrong; make nothing"
        )
        command.add_argument("--measure_speed", action="store_true", help="with --dry_run: time a few training steps")
    if name != "train":
        text = "processes that write the data set; its files are the same"
        command.add_argument("--num_proc", type=positive, default=1, help=text)
    add_recipe_options(command)
    command.set_defaults(takes_recipe=True)
    if name != "data":
        add_launcher_options(command)


def _run(args: argparse.Namespace, words: list[str]) -> None:
    if args.dry_run:
        return _dry_run(args, words)
    if args.measure_speed:
        raise ValueError("--measure_speed has no effect without --dry_run; remove it")
    launcher = launcher_of(args)
    with _claimed(args, words, trains=True) as (recipe, run_dir):
        stages.run(recipe, run_dir, launcher, args.num_proc)
        from knowcap.report.stage import report_table

        print(report_table(run_dir))


def _dry_run(args: argparse.Namespace, words: list[str]) -> None:
    recipe, problems = checked_recipe(args.config, words)
    if not problems:
        from knowcap.run import estimate
        from knowcap.training.optimizer import unusual_settings

        counts, problems = estimate.sampled(recipe)
        problems = problems or estimate.check_model(recipe)
        launcher = launcher_of(args)
        if launcher or recipe.precision == "fp16" or any(name.startswith("ACCELERATE_") for name in os.environ):
            problems += process_problems(recipe, launcher)  # imports torch, which takes seconds
        if not problems:
            rows = {"run folder": recipe.run_dir} | unusual_settings(recipe)
            print("\n".join(f"{name.replace('_', ' '):<28}{value}" for name, value in rows.items()))
            print(estimate.describe(estimate.estimate(recipe, args.measure_speed, counts)))
    problems += folder_problems(recipe, args.overwrite_output_dir)
    if problems:
        raise RecipeError(problems, args.config)


def _data(args: argparse.Namespace, words: list[str]) -> None:
    with _claimed(args, words, trains=False) as (recipe, run_dir):
        stages.data(recipe, run_dir, args.num_proc)


def _train(args: argparse.Namespace, words: list[str]) -> None:
    launcher = launcher_of(args)
    with _claimed(args, words, trains=True) as (recipe, run_dir):
        stages.train(recipe, run_dir, launcher)


def train_process(args: argparse.Namespace, words: list[str]) -> None:
    """One of the processes that accelerate launched. Only the first one touches the run folder."""
    if args.overwrite_output_dir:
        raise ValueError(
            "--overwrite_output_dir would be raced for by the processes; "
            "use `knowcap train --overwrite_output_dir --accelerate_config …` instead"
        )
    recipe = load_recipe(args.config, words)
    if problems := launch_problems():
        raise RecipeError(problems, args.config)
    if is_main_process():
        claim_run_dir(recipe)  # not locked: the command that launched the processes may hold the lock
    import torch

    stages.train(recipe, recipe.run_dir, cores=Cores(num_threads=torch.get_num_threads()))


@contextmanager
def _claimed(args: argparse.Namespace, words: Sequence[str], trains: bool) -> Iterator[tuple[Recipe, Path]]:
    """The recipe and its run folder, kept to this command; or all that is wrong with both, before anything is made."""
    from knowcap.dataset.checks import check_source

    recipe, problems = checked_recipe(args.config, words)
    if not problems and (args.overwrite_output_dir or not (recipe.run_dir / "model").is_dir()):
        problems += _training_problems(args, recipe) if trains else []
    problems += folder_problems(recipe, args.overwrite_output_dir)
    if args.overwrite_output_dir and not problems:
        problems += check_source(recipe)
    if problems:
        raise RecipeError(problems, args.config)
    with locked(recipe.run_dir):
        yield recipe, claim_run_dir(recipe, args.overwrite_output_dir)


def _training_problems(args: argparse.Namespace, recipe: Recipe) -> list[str]:
    """What would stop a sound recipe's training: its texts, this machine, the launcher."""
    from knowcap.run import estimate

    texts = estimate.check_texts(recipe) or estimate.check_model(recipe)
    return texts + process_problems(recipe, launcher_of(args))


_COMMANDS = {"run": (_run, _RUN_EXAMPLES), "data": (_data, _DATA_EXAMPLES), "train": (_train, _TRAIN_EXAMPLES)}
