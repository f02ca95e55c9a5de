"""`knowcap sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.cli.parsers import add_command, add_launcher_options, launcher_of, positive
from knowcap.recipe import RecipeError
from knowcap.run.launch import Launcher
from knowcap.sweep import Sweep, load_sweep


if TYPE_CHECKING:
    from knowcap.sweep.run import Engine


_EXAMPLES = (
    "knowcap sweep quickstart",
    "knowcap sweep recipes/sweeps/quickstart.yaml --dry_run",
    "knowcap sweep my.yaml --workers 4              (cells at once; by default one a CPU core)",
    "knowcap sweep my.yaml --engine ray --gpus_per_cell 0.25",
    "knowcap sweep my.yaml --cell 7            (the job of a Slurm array: recipes/slurm/sweep.slurm)",
    "Run again, it skips finished cells, continues interrupted ones, and repeats failed ones.",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _sweep, _EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="a sweep file, or a packaged sweep's name")
    parser.add_argument("--output_dir", help="where the sweep's folder is made; by default as in the base recipe")
    text = "run every cell with each of these seeds; for a sweep file without seeds of its own"
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help=text)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--dry_run", action="store_true", help="print the cells and their cost; write nothing")
    text = "run only this cell, from 0, without table and page; may be repeated"
    one.add_argument("--cell", type=int, action="append", metavar="NUMBER", help=text)
    one.add_argument("--report_only", action="store_true", help="only write table and page of the finished cells")
    parser.add_argument("--measure_speed", action="store_true", help="with --dry_run: time a step of every model here")
    parser.add_argument("--num_proc", type=positive, default=1, help="number of processes that write a data set")
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="auto|N",
        help="cells that run at once on this machine, each in a process of its own with one thread; auto: one a CPU "
        "core, or up to 8 a GPU for models of at most 10 M parameters, as far as memory is free [auto]",
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="where cells run")
    parser.add_argument("--ray_address", metavar="ADDRESS", help="address of a Ray cluster; by default a local one")
    parser.add_argument("--cpus_per_cell", type=float, default=1.0, help="CPUs of a Ray node for each cell [1]")
    parser.add_argument(
        "--gpus_per_cell",
        type=float,
        help="GPUs for each cell: 0.25 lets four share one, 0 is the CPU [Ray: 0, here: by the models' sizes]",
    )
    add_launcher_options(parser)


def _sweep(args: argparse.Namespace, _: list[str]) -> None:
    launcher = launcher_of(args)
    _check(args)
    sweep = _load(args)
    if args.dry_run:
        return _dry_run(sweep, launcher, args.measure_speed)
    from knowcap.sweep import run

    if args.cell is not None:
        return run.run_cells(sweep, args.cell, launcher, args.num_proc)
    if args.report_only:
        return _show(sweep, run.write_results(sweep))
    engine = _engine(args) if launcher is None else None
    _show(sweep, run.run_sweep(sweep, engine, launcher, args.num_proc))


def _load(args: argparse.Namespace) -> Sweep:
    """The sweep, checked with its finding. Raises RecipeError, also if it has no cells of its own."""
    sweep = load_sweep(args.file, args.output_dir, args.seeds or ())
    if sweep.finding is not None:
        from knowcap.findings import read_finding

        problems = read_finding(sweep)[1]
        if not problems and not sweep.cells:
            others = ", ".join(map(str, sweep.finding["sweeps"]))
            problems = [f"it has no cells of its own; run the sweeps that its finding rests on: {others}"]
        if problems:
            raise RecipeError(problems, sweep.file)
    return sweep


def _engine(args: argparse.Namespace) -> Engine:
    """Where cells run, unless accelerate starts their processes."""
    if args.engine == "ray":
        from knowcap.sweep.ray_engine import RayEngine

        return RayEngine(args.ray_address, args.cpus_per_cell, args.gpus_per_cell or 0.0, args.num_proc)
    from knowcap.sweep.pool import Pool

    return Pool(args.workers or None, args.gpus_per_cell, args.num_proc)


def _dry_run(sweep: Sweep, launcher: Launcher | None, measure_speed: bool) -> None:
    """Prints the cells; raises RecipeError with the problems that would stop them here."""
    from knowcap.sweep.checks import start_problems
    from knowcap.sweep.dry_run import dry_run

    print(dry_run(sweep, measure_speed))
    problems = start_problems(sweep.cells, launcher)
    if problems:
        raise RecipeError(problems, sweep.file)


def _workers(text: str) -> int:
    """A number of workers; 0 for auto."""
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text}, expected auto, or 1 or more")
    return 0 if text == "auto" else positive(text)


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that have no effect together."""
    ray = args.engine == "ray"
    if not ray and (args.ray_address or args.cpus_per_cell != 1.0):
        raise ValueError("--ray_address and --cpus_per_cell have no effect without --engine ray; give that too")
    if args.workers is not None and ray:
        raise ValueError("--workers is for this machine, --engine ray uses a cluster's nodes; remove one of them")
    if args.accelerate_config and (args.workers is not None or args.gpus_per_cell is not None):
        raise ValueError(
            "--accelerate_config starts several processes for each cell, and cells run one after another; remove it, "
            "or --workers and --gpus_per_cell"
        )
    if args.cell is not None and (args.workers is not None or args.gpus_per_cell is not None):
        raise ValueError("--workers and --gpus_per_cell have no effect with --cell, which runs here; remove them")
    if ray and args.accelerate_config:
        raise ValueError(
            "--accelerate_config starts processes here, --engine ray on the cluster's nodes; give only one of them"
        )
    if args.measure_speed and not args.dry_run:
        raise ValueError("--measure_speed has no effect without --dry_run; remove it")


def _show(sweep: Sweep, page: Path) -> None:
    from knowcap.sweep.cells import describe_winners
    from knowcap.sweep.page import result_tables, results_table
    from knowcap.sweep.table import rows_of

    rows = rows_of(sweep)
    tables = [f"\n{table.text()}" for table in result_tables(sweep, rows)]
    print("\n".join([results_table(sweep, rows), *describe_winners(sweep, rows), *tables, f"\n{page}"]))
