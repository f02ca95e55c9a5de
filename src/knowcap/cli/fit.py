"""`knowcap fit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.cli.parsers import add_command, quantity
from knowcap.files import FileError, read_json


if TYPE_CHECKING:
    from knowcap.laws import Fit

_LAWS = (
    "capacity", "exposures", "factors", "kaplan-n", "kaplan-d", "kaplan-c", "kaplan-nd", "kaplan-ns", "critical-batch",
    "chinchilla-envelope", "chinchilla-isoflop", "chinchilla-parametric", "data-constrained",
    "mixtures", "accuracy", "step-law", "multi-power",
)  # fmt: skip
_CHOICES = (*_LAWS, "chinchilla", "best")
_BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF", ".svg": b"<?xml"}  # formats of plots
_EXAMPLES = (
    "knowcap fit capacity runs.parquet --json capacity.json --plot capacity.png",
    "knowcap fit kaplan-nd runs.csv --columns loss=eval_loss num_parameters=size",
    "knowcap fit chinchilla-isoflop runs.csv --where dataset=c4 --flops 1e24    (the best size and number of tokens)",
    "knowcap fit chinchilla runs.csv --flops 1e24 --plot all.png (all three approaches)",
    "knowcap fit chinchilla-parametric runs.csv --predict new.csv --interval 0.9 (loss of new runs)",
    "knowcap fit best runs.csv    (all laws that the table allows, by their error on its larger runs)",
    "Columns: num_parameters, num_tokens, flops, loss; step, batch_tokens, run for curves; budget for IsoFLOP;",
    "unique_tokens, num_active_parameters, learning_rate, accuracy for laws of those;",
    "knowledge_bits, max_knowledge_bits, exposures, architecture, precision for ours. Losses are in nats per token.",
)


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    parser = add_command(commands, name, _fit, _EXAMPLES)
    parser.add_argument("law", metavar="LAW", choices=_CHOICES, help=", ".join(_CHOICES))
    text = "a CSV or Parquet file, one row per run (or per step), or the cells.json of one or several sweeps"
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help=text)
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write constants, intervals and residuals to this file"
    )
    text = "plot points, law and residuals to this file: .png (with .pdf and .svg beside it), .pdf or .svg"
    parser.add_argument("--plot", metavar="FILE", type=Path, help=text)
    text = "names of the table's columns, such as loss=eval_loss"
    parser.add_argument("--columns", metavar="OURS=THEIRS", nargs="+", action="extend", default=[], help=text)
    text = "only rows with these values, such as dataset=c4"
    parser.add_argument("--where", metavar="COLUMN=VALUE", nargs="+", action="extend", default=[], help=text)
    text = "a table of new runs: prints what the law predicts for them, with intervals"
    parser.add_argument("--predict", metavar="FILE", type=Path, help=text)
    parser.add_argument("--interval", type=quantity, default=0.9, help="confidence level of predictions [0.9]")
    text = "budgets of FLOPs: prints the best size and tokens, and the loss there; for laws that have a best size"
    parser.add_argument("--flops", metavar="BUDGET", type=quantity, nargs="+", default=[], help=text)
    text = "B_star,alpha_B: converts steps to S_min for kaplan-ns"
    parser.add_argument("--critical_batch", metavar="B,ALPHA", type=_pair, help=text)
    text = "JSON of a fit to fresh data, whose A, B, E, alpha and beta are kept; for data-constrained"
    parser.add_argument("--base", metavar="FIT", type=Path, help=text)
    text = "what chinchilla-parametric's constants are least in [huber-log]"
    parser.add_argument("--objective", choices=("huber-log", "huber", "asymmetric-mae"), help=text)
    parser.add_argument(
        "--confidence_level", type=float, default=0.95, help="confidence level of the intervals [0.95]"
    )
    parser.add_argument("--num_bootstraps", type=int, default=1000, help="number of refits for the intervals [1000]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap [0]")


def _fit(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.laws import fit_law
    from knowcap.laws.best import fit_best
    from knowcap.laws.compare import compare_approaches
    from knowcap.laws.table import read_all_runs, where

    for path in (args.json, args.plot):
        if path is not None:
            _check_output(path, args)
    _check_options(args)
    columns = _pairs("--columns", args.columns)
    table = where(read_all_runs(args.runs), _pairs("--where", args.where))
    base = None if args.base is None else read_json(args.base).get("constants", {})
    options = {
        "columns": columns,
        "critical_batch": args.critical_batch,
        "base": base,
        "objective": args.objective,
    } | {key: getattr(args, key) for key in ("confidence_level", "num_bootstraps", "seed")}
    found: Any
    if args.law == "chinchilla":
        found = compare_approaches(table, args.flops, **options)
        text = found.text()
    elif args.law == "best":
        found = fit_best(table, **options)
        text = found.text()
    else:
        found = fit_law(args.law, table, **options)
        text = found.text(args.flops, args.interval)
    if args.predict is not None:
        text += f"\n\n{_predict(found.best if args.law == 'best' else found, args, columns)}"
    print(text)
    if args.json is not None:
        found.write(args.json)
    if args.plot is not None:
        from knowcap.laws.plot import plot_comparison, plot_fit

        if args.law == "chinchilla":
            plot_comparison(found, args.plot)
        else:
            plot_fit(found.best if args.law == "best" else found, args.plot)


def _check_options(args: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go with the law, or are no budgets or shares."""
    if args.flops and not args.law.startswith(("chinchilla", "kaplan-nd")):
        raise ValueError(f"--flops is for chinchilla laws and kaplan-nd, got {args.law}; remove it, or use --predict")
    if any(not budget > 0 for budget in args.flops):
        raise ValueError(f"--flops: got {args.flops}, expected numbers greater than 0")
    if args.objective is not None and args.law not in ("chinchilla", "chinchilla-parametric"):
        raise ValueError(f"--objective is for chinchilla-parametric, got {args.law}; remove it")
    if not 0 < args.interval < 1:
        raise ValueError(f"--interval: got {args.interval:g}, expected a confidence level such as 0.9")
    if args.predict is not None and args.law == "chinchilla":
        raise ValueError("--predict is for one law or `best`, got chinchilla; give one of its approaches")


def _predict(fit: Fit, args: argparse.Namespace, columns: dict[str, str]) -> str:
    """What a fit predicts for the table of new runs, as text; also put into the fit's JSON."""
    from knowcap.laws import read_runs
    from knowcap.laws.fitting import predicts, rows_for
    from knowcap.laws.predict import predictions_text

    new = read_runs(args.predict)
    rows = rows_for(fit, new, {ours: theirs for ours, theirs in columns.items() if theirs in new})
    found = fit.predict(rows, interval=args.interval)
    name = predicts(fit.kind)
    fit.extra["predictions"] = {
        "interval": args.interval,
        "rows": [
            {key: column[i].item() for key, column in rows.items()}
            | {name: float(found.value[i]), "low": float(found.low[i]), "high": float(found.high[i])}
            for i in range(len(found.value))
        ],
    }
    return predictions_text(name, rows, found, fit.band, args.interval)


def _pairs(option: str, words: list[str]) -> dict[str, str]:
    """NAME=VALUE pairs, one per word, or several in one word with commas between them."""
    form = "OURS=THEIRS such as loss=eval_loss" if option == "--columns" else "COLUMN=VALUE such as dataset=c4"
    columns, problems = {}, []
    for word in words:
        pieces = word.split(",")
        for piece in pieces if all("=" in p for p in pieces) else [word]:
            ours, sign, theirs = piece.partition("=")
            if not (ours and sign and theirs):
                problems.append(f"{option}: got {piece!r}, expected {form}")
            elif ours in columns:
                problems.append(f"{option}: {ours} is given twice; remove one")
            columns[ours.strip()] = theirs.strip()
    if problems:
        raise ValueError("; ".join(problems))
    return columns


def _pair(text: str) -> tuple[float, float]:
    try:
        b_star, alpha = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text}, expected two numbers, such as 2.1e8,0.21") from error
    if b_star <= 0 or alpha <= 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected numbers greater than 0")
    return b_star, alpha


def _check_output(path: Path, args: argparse.Namespace) -> None:
    """Raises ValueError if an output would overwrite a file that `knowcap fit` did not write."""
    if path.resolve() in [runs.resolve() for runs in args.runs] or (
        args.json and args.plot and args.json.resolve() == args.plot.resolve()
    ):
        raise ValueError(f"{path} is given twice; give each output its own file")
    files = [path]
    if path == args.plot:
        from knowcap.report.plots import formats_of

        if path.suffix not in _BEGINNINGS and not path.is_dir():
            raise ValueError(f"--plot: got {path}, expected a file that ends with {', '.join(_BEGINNINGS)}")
        files = formats_of(path)
    for file in files:
        if file.is_dir():
            raise ValueError(f"{file} is a folder; expected a file")
        if file.exists() and not _is_ours(file):
            raise ValueError(f"{file} exists and was not written by `knowcap fit`; give another file, or remove it")


def _is_ours(file: Path) -> bool:
    """Whether a file can be of `knowcap fit`: a plot of its format, or JSON of a law."""
    if file.suffix in _BEGINNINGS:
        return file.read_bytes().startswith(_BEGINNINGS[file.suffix])
    try:
        return "law" in read_json(file)
    except FileError:
        return False
