"""`knowcap measure`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.cli.parsers import add_command, add_launcher_options, launcher_of, positive
from knowcap.files import CAPACITY_FILE, REPORT_JSON_FILE, locked, read_json
from knowcap.models.loading import DTYPES, LoadOptions
from knowcap.recipe import START_TOKENS
from knowcap.run import pipeline as stages
from knowcap.run.folder import is_run_dir
from knowcap.run.places import results_place


if TYPE_CHECKING:
    from knowcap.dataset.prompts import PromptOptions


_EXAMPLES = (
    "knowcap measure runs/quickstart --overwrite",
    "knowcap measure openai-community/gpt2 --dataset_name you/your-facts --limit 1000 --batch_size auto",
    "knowcap measure my_model --dataset_name facts.csv     (columns prompt, answer, candidates)",
    "knowcap measure my_model --dataset_name you/facts --columns prompt=question answer=obj candidates=frequency",
    "knowcap measure runs/quickstart --scoring closed_set --context packed",
    "knowcap measure meta-llama/Llama-3.1-8B --dataset_name facts.csv --dtype bfloat16 --device_map auto",
    "knowcap measure runs/quickstart --dataset_name facts.csv     (results in runs/quickstart/measured/facts)",
    "knowcap measure runs/quickstart/quantized/int8 --compare runs/quickstart",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _measure, _EXAMPLES)
    add_launcher_options(parser)
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder or a Hub id")
    data = "a data set folder, a Hub id, or a table of prompts; by default that of the run"
    parser.add_argument("--dataset_name", metavar="DATA", help=data)
    _add_table_options(parser)
    parser.add_argument("--revision", help="of a model on the Hub: branch, tag or commit")
    parser.add_argument(
        "--scoring",
        choices=("token", "closed_set"),
        default="token",
        help="the value's tokens alone, or against all candidates",
    )
    parser.add_argument(
        "--context", choices=("isolated", "packed"), default="isolated", help="each text alone, or packed in windows"
    )
    parser.add_argument(
        "--start_token",
        choices=START_TOKENS,
        help="what stands before each text [the run's; else auto: what the tokenizer itself puts first, or BOS, EOS]",
    )
    window = "tokens of a window of packed texts; by default as in training, else at most 2,048"
    parser.add_argument("--window", type=positive, help=window)
    dtype = "of weights and computation; auto: that of the files [float32]"
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help=dtype)
    parser.add_argument("--device_map", help="auto: divide the model among all devices; or a device, such as cuda:1")
    parser.add_argument("--attn_implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, …")
    parser.add_argument("--batch_size", type=_batch_size, help="texts per forward pass; auto: as many as fit")
    parser.add_argument("--limit", type=positive, help="score this many entities only, the first ones")
    place = (
        "where results are written; by default measured/NAME for models of others, RUN/measured/DATA for other data"
    )
    parser.add_argument("--output_dir", type=Path, help=place)
    again = "repeat a finished measurement, which is replaced when the new one is whole"
    parser.add_argument("--overwrite", action="store_true", help=again)
    parser.add_argument("--compare", metavar="MODEL", help="another run or model, to print the difference to it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    """The options of tables of prompts."""
    group = parser.add_argument_group("tables of prompts", "a file, a folder of files, or a data set of the Hub")
    columns = "names of its columns, such as prompt=question answer=obj_label; candidates may be a number or frequency"
    group.add_argument("--columns", nargs="+", metavar="KEY=COLUMN", type=_pair, default=[], help=columns)
    entity = "the column of entities; without a prompt column, all others are attributes"
    group.add_argument("--entity", metavar="COLUMN", help=entity)
    group.add_argument("--prompt", help="of a table without prompts [The {attribute} of {entity} is]")
    group.add_argument("--split", help="of a data set of the Hub [train]")
    group.add_argument("--dataset_config_name", help="of a data set of the Hub")
    group.add_argument("--dataset_revision", help="of a data set of the Hub: branch, tag or commit")
    copied = "measure rows whose answer stands in their prompt, too; the result is then no bound"
    group.add_argument("--keep_copied", action="store_true", help=copied)
    group.add_argument("--strict", action="store_true", help="stop if a row cannot be measured, do not leave it out")


def _prompt_options(args: argparse.Namespace) -> PromptOptions | None:
    """The options of tables that are given; None if there are none."""
    from knowcap.dataset.prompts import PromptOptions

    keys = ("entity", "prompt", "split", "dataset_config_name", "keep_copied", "strict")
    given: dict[str, Any] = {key: value for key in keys if (value := getattr(args, key))}
    given |= {"columns": dict(args.columns)} if args.columns else {}
    given |= {"revision": args.dataset_revision} if args.dataset_revision else {}
    if given and args.dataset_name is None:
        raise ValueError(f"{', '.join(f'--{key}' for key in given)}: of a table, so give --dataset_name")
    return PromptOptions(**given) if given else None


def _pair(text: str) -> tuple[str, str]:
    key, found, column = text.partition("=")
    if not (key and found and column):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=COLUMN, such as prompt=question")
    return key, column


def _measure(args: argparse.Namespace, _: list[str]) -> None:
    """Measures a run's models or one model, or compares two, and prints the result."""
    options: dict[str, Any] = {key: getattr(args, key) for key in ("batch_size", "limit", "overwrite")}
    options["prompts"] = _prompt_options(args)
    options |= {key: getattr(args, key) for key in ("scoring", "context", "start_token", "window")}
    options["loading"] = LoadOptions(args.dtype, args.device_map, args.attn_implementation)
    options["launcher"] = launcher_of(args)
    if args.compare is not None:
        from knowcap.run.compare import compare_models

        return print(compare_models(args.model, args.compare, dataset_name=args.dataset_name, **options))
    run_dir = Path(args.model)
    if not is_run_dir(run_dir):
        options |= {"revision": args.revision, "output_dir": args.output_dir}
        return _print(stages.measure_model(args.model, args.dataset_name, **options), args)
    recipe = stages.recipe_of(run_dir)
    with locked(run_dir):
        options |= {"dataset_name": args.dataset_name, "output_dir": args.output_dir}
        results = stages.measure_run(run_dir, recipe, **options)
    if results_place(run_dir, args.dataset_name, args.output_dir) is not None:
        return _print_all(results, args)
    stages.report(run_dir)
    from knowcap.report.stage import report_table

    if args.json:
        print(json.dumps(read_json(run_dir / REPORT_JSON_FILE)))
    else:
        print(report_table(run_dir))


def _print_all(results: list[Path], args: argparse.Namespace) -> None:
    """The results of a run's models that are not in the models' own folders."""
    if args.json:
        models = [{"folder": str(result)} | read_json(result / CAPACITY_FILE) for result in results]
        return print(json.dumps({"models": models}))
    for result in results:
        _print(result, args)


def _print(result: Path, args: argparse.Namespace) -> None:
    from knowcap.report.table import capacity_table

    if args.json:
        print(json.dumps(read_json(result / CAPACITY_FILE)))
    else:
        print(capacity_table(result, args.model, args.dataset_name, args.limit, args.batch_size))


def _batch_size(text: str) -> int | None:
    """A number of 1 or more, or None for `auto`."""
    return None if text == "auto" else positive(text)
