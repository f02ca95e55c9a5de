"""`knowcap sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command, add_launcher_options, launcher_of, positive
from knowcap.recipe import RecipeError
from knowcap.run.launch import Launcher
from knowcap.sweep import Sweep, load_sweep


_EXAMPLES = (
    "knowcap sweep quickstart",
    "knowcap sweep recipes/sweeps/quickstart.yaml --dry_run",
    "knowcap sweep my.yaml --engine ray --gpus_per_cell 0.25",
    "knowcap sweep my.yaml --cell 7            (the job of a Slurm array: recipes/slurm/sweep.slurm)",
    "Run again, it skips finished cells, continues interrupted ones, and repeats failed ones.",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _sweep, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="a sweep file, or a packaged sweep's name")
    parser.add_argument("--output_dir", help="where the sweep's folder is made; by default as in the base recipe")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--dry_run", action="store_true", help="print the cells and their cost; write nothing")
    text = "run only this cell, from 0, without table and page; may be repeated"
    one.add_argument("--cell", type=int, action="append", metavar="NUMBER", help=text)
    one.add_argument("--report_only", action="store_true", help="only write table and page of the finished cells")
    parser.add_argument("--measure_speed", action="store_true", help="with --dry_run: time a step of every model here")
    parser.add_argument("--num_proc", type=positive, default=1, help="number of processes that write a data set")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where cells run")
    parser.add_argument("--ray_address", metavar="ADDRESS", help="address of a Ray cluster; by default a local one")
    parser.add_argument("--cpus_per_cell", type=float, default=1.0, help="CPUs of a Ray node for each cell [1]")
    parser.add_argument(
        "--gpus_per_cell", type=float, default=0.0, help="GPUs of a Ray node for each cell, such as 0.25 [0]"
    )
    add_launcher_options(parser)


def _sweep(args: argparse.Namespace, _: list[str]) -> None:
    launcher = launcher_of(args)
    _check(args)
    sweep = load_sweep(args.file, args.output_dir)
    if args.dry_run:
        return _dry_run(sweep, launcher, args.measure_speed)
    from knowcap.sweep import run

    if args.cell is not None:
        return run.run_cells(sweep, args.cell, launcher, args.num_proc)
    if args.report_only:
        return _show(sweep, run.write_results(sweep))
    engine = None
    if args.engine == "ray":
        from knowcap.sweep.ray_engine import RayEngine

        engine = RayEngine(args.ray_address, args.cpus_per_cell, args.gpus_per_cell, args.num_proc)
    _show(sweep, run.run_sweep(sweep, engine, launcher, args.num_proc))


def _dry_run(sweep: Sweep, launcher: Launcher | None, measure_speed: bool) -> None:
    """Prints the cells; raises RecipeError with the problems that would stop them here."""
    from knowcap.sweep.checks import start_problems
    from knowcap.sweep.dry_run import dry_run

    print(dry_run(sweep, measure_speed))
    problems = start_problems(sweep.cells, launcher)
    if problems:
        raise RecipeError(problems, sweep.file)


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that have no effect together."""
    ray = args.engine == "ray"
    if not ray and (args.ray_address or args.cpus_per_cell != 1.0 or args.gpus_per_cell):
        raise ValueError(
            "--ray_address, --cpus_per_cell and --gpus_per_cell have no effect without --engine ray; give that too"
        )
    if ray and args.accelerate_config:
        raise ValueError(
            "--accelerate_config starts processes here, --engine ray on the cluster's nodes; give only one of them"
        )
    if args.measure_speed and not args.dry_run:
        raise ValueError("--measure_speed has no effect without --dry_run; remove it")


def _show(sweep: Sweep, page: Path) -> None:
    from knowcap.sweep.cells import describe_winners
    from knowcap.sweep.page import results_table
    from knowcap.sweep.table import rows_of

    rows = rows_of(sweep)
    print("\n".join([results_table(sweep, rows), *describe_winners(sweep, rows), f"\n{page}"]))
