"""Reports of finished runs: plots and cards for each, and one table and one plot of them all."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from knowcap.capacity.entities import bits_by_entity
from knowcap.capacity.seed_groups import recipe_of, seed_groups
from knowcap.files import whole_file
from knowcap.report.card import write_card
from knowcap.report.card.extraction import extractions, write_extraction_card
from knowcap.report.card.results import (
    caveat,
    control,
    estimate,
    measurement_of,
    memorized,
    per_stored_bit,
    precision,
    read_capacities,
    read_json,
)
from knowcap.report.plots import plot_attributes, plot_entities, plot_frontier, plot_loss
from knowcap.scoring.way import OTHERS


SCHEMA_VERSION = 1
FRONTIER_FILE = "bits_vs_parameters.png"
COLUMNS = (
    "run", "model", "params", "N", "exposures", "precision", "bits/param", "max", "bits/stored bit", "control",
    "memorized",
)  # fmt: skip
_TEXT_COLUMNS = ("run", "model", "precision")

logger = logging.getLogger(__name__)


class ReportError(ValueError):
    """There is nothing to report; the message says where was looked, for what, and how to mend it."""


def report(output_dir: str | Path) -> Path:
    """Writes plots and cards into every measured run folder, and a table and a plot of all runs into `output_dir`.

    A run folder gets plots/*.png, model/README.md, quantized/*/README.md, and capacity.json, a copy of model's.
    `output_dir` gets report.md, report.json and bits_vs_parameters.png. All is made anew from the runs' JSON files.

    Args:
        output_dir: a folder with run folders at any depth, or one run folder.

    Returns:
        The path of report.md.

    Raises:
        ReportError: no run in there is measured.
    """
    output_dir = Path(output_dir)
    runs = find_runs(output_dir)
    for run_dir in runs:
        _report_run(run_dir)
    models, seeds = _models(output_dir)
    plot_frontier(models, output_dir / FRONTIER_FILE)
    content = {"schema_version": SCHEMA_VERSION, "models": models, "seeds": seeds}
    _write(output_dir / "report.json", json.dumps(content, indent=2) + "\n")
    _write(output_dir / "report.md", _markdown(_table(models, seeds), models, seeds))
    logger.info("reported %d models of %d runs: %s", len(models), len(runs), output_dir / "report.md")
    return output_dir / "report.md"


def report_table(output_dir: str | Path) -> str:
    """The table of all measured models at or under a folder, in Markdown, for the terminal too; writes nothing.

    Raises:
        ReportError: no run in there is measured.
    """
    return _table(*_models(Path(output_dir)))


def find_runs(output_dir: str | Path) -> list[Path]:
    """The run folders at or under a folder whose model is measured, sorted by path.

    Raises:
        ReportError: there is no such folder, or no measured run in it.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise ReportError(f"{output_dir} is no folder; expected a folder of runs, or one run folder")
    found = [path.parent.parent for path in output_dir.rglob("model/capacity.json")]
    runs = [run for run in found if not any(part.startswith(".") for part in run.relative_to(output_dir).parts)]
    if not runs:
        raise ReportError(
            f"{output_dir} holds no measured run: no model/capacity.json at or under it; make one with `knowcap run`, "
            "or measure a trained one with `knowcap measure`"
        )
    return sorted(runs)


def _models(output_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The capacities of all measured models, each with its run and its folder in the run; means over seeds."""
    models, recipes = [], []
    for run_dir in find_runs(output_dir):
        recipe = recipe_of(run_dir)
        for folder, capacity in read_capacities(run_dir.absolute()).items():
            scored = measurement_of(folder / "nll.parquet").get("entities_scored", capacity["num_entities"])
            place = {
                "run": _run_name(run_dir, output_dir),
                "folder": folder.relative_to(run_dir.absolute()).as_posix(),
            }
            ways = {way.folder: read_json(folder / way.folder / "capacity.json") for way in OTHERS if not way.neutral}
            ways = {name: found for name, found in ways.items() if found}
            models.append(place | {"entities_scored": scored} | capacity | {"other_ways": ways})
            recipes.append(recipe)
    return models, seed_groups(models, recipes)


def _run_name(run_dir: Path, output_dir: Path) -> str:
    """A run's path within the folder of runs; its own name where it is that folder."""
    return run_dir.absolute().name if run_dir == output_dir else run_dir.relative_to(output_dir).as_posix()


def _report_run(run_dir: Path) -> None:
    """Plots, cards and the copy of capacity.json of one run."""
    plots = run_dir / "plots"
    capacities = read_capacities(run_dir)
    frontier = plot_frontier(list(capacities.values()), plots / FRONTIER_FILE)
    training = read_json(run_dir / "model" / "training.json")
    has_loss = any(entry.get("loss") is not None for entry in training.get("log_history", []))
    loss = [plot_loss(training, plots / "loss.png")] if has_loss else []
    for folder, capacity in capacities.items():
        trained = folder.name == "model"
        suffix = ".png" if trained else f"_{folder.name}.png"
        shown = [frontier, plot_attributes(capacity, plots / f"attributes{suffix}")]
        if (folder / "nll.parquet").is_file():
            shown.append(plot_entities(bits_by_entity(folder), capacity, plots / f"entities{suffix}"))
        write_card(folder, plots=[*shown, *(loss if trained else [])])
    for folder in extractions(run_dir):
        write_extraction_card(folder)
    with whole_file(run_dir / "capacity.json") as made:
        shutil.copyfile(run_dir / "model" / "capacity.json", made)


def _table(models: list[dict[str, Any]], seeds: list[dict[str, Any]]) -> str:
    """The models as a Markdown table, its columns as wide as their widest cell; numbers to the right."""
    measured = [row for model in models for row in (_row(model), *_way_rows(model))]
    rows = [list(COLUMNS), *measured, *(_seed_row(group) for group in seeds)]
    left = [column in _TEXT_COLUMNS for column in COLUMNS]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, left, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    rules = ["-" * (w + 1) + ("-" if text else ":") for w, text in zip(widths, left, strict=True)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def _row(model: dict[str, Any], way: str = "") -> list[str]:
    """A model's cells, in the order of COLUMNS; `way` is what its precision is told with."""
    return [
        model["run"],
        str(model["model_name"]),
        f"{model['num_parameters']:,}",
        _entities(model["entities_scored"], model["num_entities"]),
        "unknown" if model["exposures"] is None else f"{model['exposures']:,}",
        precision(model) + way,
        estimate(model) + caveat(model),
        f"{model['max_bits_per_parameter']:.3f}",
        per_stored_bit(model),
        control(model),
        memorized(model),
    ]


def _way_rows(model: dict[str, Any]) -> list[list[str]]:
    """A row for each other way in which a model was scored too, such as `fp32, closed set`."""
    return [_row(model | capacity, f", {way.replace('_', ' ')}") for way, capacity in model["other_ways"].items()]


def _seed_row(group: dict[str, Any]) -> list[str]:
    """The mean of runs that differ in their seed alone, in the order of COLUMNS; a control is that of one model."""
    name = f"mean of {len(group['runs'])} seeds: {', '.join(group['runs'])}"
    cells = dict(zip(COLUMNS, _row({**group, "run": name, "control_bits_per_entity": [None, None]}), strict=True))
    return list((cells | {"control": ""}).values())


def _entities(scored: int, total: int) -> str:
    """N, and how many of them were scored where not all were."""
    return f"{total:,}" if scored == total else f"{total:,} ({scored:,} scored)"


def _markdown(table: str, models: list[dict[str, Any]], seeds: list[dict[str, Any]]) -> str:
    """report.md: the table, what its columns mean, and the plot."""
    levels = " or ".join(sorted({f"{100 * model['confidence_level']:g} %" for model in models}))
    return (
        f"# Bits of knowledge per parameter\n\n{table}\n\n"
        f"- bits/param: ± half the width of the {levels} bootstrap interval over entities; training seeds left out\n"
        f"{_seeds(seeds)}"
        "- max: all there is to know, over the parameters; a quantized model counts those of its original\n"
        "- bits/stored bit: bits of knowledge for each bit that the weights are stored in, scales included\n"
        "- control: bits per entity of values that were never taught (mean ± standard error), zero or less unless "
        "something leaks\n"
        "- memorized: share of values that the model generates greedily after a training text up to them (mean over "
        f"attributes)\n{_ways(models)}{_unbound(models)}\n"
        "Made by `knowcap report`; report.json holds the figures in full.\n\n"
        f"![Knowledge learned against model size]({FRONTIER_FILE})\n"
    )


def _seeds(seeds: list[dict[str, Any]]) -> str:
    """What a row of a mean over seeds means, where there is one."""
    if not seeds:
        return ""
    return (
        "- mean of seeds: of runs whose recipes differ in their seed alone; ± half the width of a t interval over "
        "them, which entities are in as well\n"
    )


def _ways(models: list[dict[str, Any]]) -> str:
    """What the rows of other ways mean, where there are any."""
    if not any(model["other_ways"] for model in models):
        return ""
    return (
        "- closed set: at each token of a value, among the tokens that continue to some candidate; packed: in windows "
        "of whole texts as in training, not each text alone\n"
    )


def _unbound(models: list[dict[str, Any]]) -> str:
    """What the caveat means, where a figure has one."""
    if not any(caveat(model) for model in models):
        return ""
    return (
        "- not a bound: scored on texts that may hint at facts before stating them, so the weights may hold less; on "
        "neutral templates: the same people in sentences that don't, so the weights hold no less\n"
    )


def _write(path: Path, text: str) -> None:
    with whole_file(path) as made:
        made.write_text(text, encoding="utf-8")
