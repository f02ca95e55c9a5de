"""Reports of finished runs: plots and cards for each, and one table and one plot of them all."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from knowcap.capacity.entities import bits_by_entity
from knowcap.capacity.seeds import recipe_of, seed_groups
from knowcap.files import (
    CAPACITY_FILE,
    FRONTIER_FILE,
    NLL_FILE,
    REPORT_FILE,
    REPORT_JSON_FILE,
    TRAINING_FILE,
    whole_file,
    write_json,
)
from knowcap.report.card import ReportError, write_card, write_extraction_card
from knowcap.report.card.extraction import extractions
from knowcap.report.card.results import (
    bound_reason,
    caveat,
    control,
    estimate,
    measurement_of,
    memorized,
    per_stored_bit,
    precision,
    read_capacities,
    read_if_there,
    seeds,
)
from knowcap.report.plots import plot_attributes, plot_entities, plot_frontier, plot_loss
from knowcap.report.table import number, render, text_table
from knowcap.scoring.mode import OTHER_MODES


__all__ = ["ReportError", "find_runs", "report", "report_table"]

SCHEMA_VERSION = 1
COLUMNS = (
    "run", "model", "params", "N", "exposures", "precision", "bits/param", "max", "bits/stored bit", "control",
    "memorized",
)  # fmt: skip
_TEXT_COLUMNS = ("run", "model", "precision")

logger = logging.getLogger(__name__)


def report(output_dir: str | Path) -> Path:
    """Writes plots and cards into every measured run folder, and a table and a plot of all runs into `output_dir`.

    A run folder gets plots/*.png, model/README.md, quantized/*/README.md, and capacity.json, a copy of model's.
    `output_dir` gets report.md, report.json and bits_vs_parameters.png. Existing files are replaced.

    Args:
        output_dir: a folder with run folders at any depth, or one run folder.

    Returns:
        The path of report.md.

    Raises:
        ReportError: the folder has no measured run.
    """
    output_dir = Path(output_dir)
    runs = find_runs(output_dir)
    for run_dir in runs:
        _report_run(run_dir)
    models, groups = _models(output_dir)
    plot_frontier(models, output_dir / FRONTIER_FILE)
    content = {"schema_version": SCHEMA_VERSION, "models": models, "seeds": groups}
    write_json(output_dir / REPORT_JSON_FILE, content)
    text = render(
        "report.md.jinja",
        table=_table(models, groups),
        levels=" or ".join(sorted({f"{100 * model['confidence_level']:g} %" for model in models})),
        seeds=bool(groups),
        other_modes=any(model["other_ways"] for model in models),
        unbound=sorted({reason for model in models if (reason := bound_reason(model))}),
        neutral=any(model.get("neutral") and caveat(model) for model in models),
        plot=FRONTIER_FILE,
    )
    with whole_file(output_dir / REPORT_FILE) as made:
        made.write_text(text, encoding="utf-8")
    logger.info("reported %d models of %d runs: %s", len(models), len(runs), output_dir / REPORT_FILE)
    return output_dir / REPORT_FILE


def report_table(output_dir: str | Path) -> str:
    """The table of all measured models at or under a folder, in Markdown; writes nothing.

    Raises:
        ReportError: the folder has no measured run.
    """
    return _table(*_models(Path(output_dir)))


def find_runs(output_dir: str | Path) -> list[Path]:
    """The run folders at or under a folder whose model is measured, sorted by path.

    Raises:
        ReportError: the folder does not exist or has no measured run.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise ReportError(f"{output_dir} is not a folder; expected a folder of runs, or one run folder")
    found = [path.parent.parent for path in output_dir.rglob(f"model/{CAPACITY_FILE}")]
    runs = [run for run in found if not any(part.startswith(".") for part in run.relative_to(output_dir).parts)]
    if not runs:
        raise ReportError(
            f"{output_dir} has no measured run: there is no model/{CAPACITY_FILE} at or under it; start a run with "
            "`knowcap run`, or measure a trained one with `knowcap measure`"
        )
    return sorted(runs)


def _models(output_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The capacities of all measured models, each with its run and its folder in the run; means over seeds."""
    models, recipes = [], []
    for run_dir in find_runs(output_dir):
        recipe = recipe_of(run_dir)
        for folder, capacity in read_capacities(run_dir.absolute()).items():
            scored = measurement_of(folder).get("entities_scored", capacity["num_entities"])
            place = {
                "run": _run_name(run_dir, output_dir),
                "folder": folder.relative_to(run_dir.absolute()).as_posix(),
            }
            modes = {
                mode.folder: read_if_there(folder / mode.folder / CAPACITY_FILE)
                for mode in OTHER_MODES
                if not mode.neutral
            }
            modes = {name: found for name, found in modes.items() if found}
            models.append(place | {"entities_scored": scored} | capacity | {"other_ways": modes})
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
    training = read_if_there(run_dir / "model" / TRAINING_FILE)
    has_loss = any(entry.get("loss") is not None for entry in training.get("log_history", []))
    loss = [plot_loss(training, plots / "loss.png")] if has_loss else []
    for folder, capacity in capacities.items():
        trained = folder.name == "model"
        suffix = ".png" if trained else f"_{folder.name}.png"
        shown = [frontier, plot_attributes(capacity, plots / f"attributes{suffix}")]
        if (folder / NLL_FILE).is_file():
            shown.append(plot_entities(bits_by_entity(folder), capacity, plots / f"entities{suffix}"))
        write_card(folder, plots=[*shown, *(loss if trained else [])])
    for folder in extractions(run_dir):
        write_extraction_card(folder)
    with whole_file(run_dir / CAPACITY_FILE) as made:
        shutil.copyfile(run_dir / "model" / CAPACITY_FILE, made)


def _table(models: list[dict[str, Any]], groups: list[dict[str, Any]]) -> str:
    """The models, and means over seeds, as a Markdown table."""
    measured = [row for model in models for row in (_row(model), *_mode_rows(model))]
    rows = [COLUMNS, *measured, *(_seed_row(group) for group in groups)]
    return text_table(rows, [COLUMNS.index(column) for column in _TEXT_COLUMNS], markdown=True)


def _row(model: dict[str, Any], mode: str = "") -> list[str]:
    """A model's cells, in the order of COLUMNS; `mode` follows its precision."""
    return [
        model["run"],
        str(model["model_name"]),
        f"{model['num_parameters']:,}",
        _entities(model["entities_scored"], model["num_entities"]),
        number(model["exposures"], ",", "unknown"),
        precision(model) + mode,
        f"{estimate(model)}, {seeds(model)}{caveat(model)}",
        number(model["max_bits_per_parameter"]),
        per_stored_bit(model),
        control(model),
        memorized(model),
    ]


def _mode_rows(model: dict[str, Any]) -> list[list[str]]:
    """A row for each other scoring mode of the model, such as `fp32, closed set`."""
    return [_row(model | capacity, f", {name.replace('_', ' ')}") for name, capacity in model["other_ways"].items()]


def _seed_row(group: dict[str, Any]) -> list[str]:
    """The mean of runs that differ in their seed alone, in the order of COLUMNS, without a null control."""
    name = f"mean of {len(group['runs'])} seeds: {', '.join(group['runs'])}"
    cells = dict(zip(COLUMNS, _row({**group, "run": name, "control_bits_per_entity": [None, None]}), strict=True))
    return list((cells | {"control": ""}).values())


def _entities(scored: int, total: int) -> str:
    """N, and how many of them were scored if not all."""
    return f"{total:,}" if scored == total else f"{total:,} ({scored:,} scored)"
