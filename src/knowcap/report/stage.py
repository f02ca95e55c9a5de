"""Reports of finished runs: plots and cards for each, and one table and one plot of them all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from knowcap.capacity.bands import UNEQUAL
from knowcap.capacity.entities import bits_by_entity
from knowcap.capacity.kept import read_capacity_file
from knowcap.capacity.seeds import recipe_of, seed_groups
from knowcap.files import (
    CAPACITY_FILE,
    CARD_FILE,
    FRONTIER_FILE,
    MEASURED,
    NLL_FILE,
    RECIPE_FILE,
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
from knowcap.report.plots import formats_of, plot_attributes, plot_entities, plot_frontier, plot_loss
from knowcap.report.stamp import make_stamped
from knowcap.report.table import number, render
from knowcap.report.text_table import text_table
from knowcap.scoring.mode import OTHER_MODES
from knowcap.sealed import digest_of


__all__ = ["ReportError", "find_runs", "report", "report_files", "report_table"]

SCHEMA_VERSION = 1
COLUMNS = (
    "run", "model", "params", "N", "exposures", "precision", "bits/param", "max", "bits/stored bit", "control",
    "memorized",
)  # fmt: skip
_TEXT_COLUMNS = ("run", "model", "precision")
_Plot = tuple[Callable[[Path], Any], Any]  # what draws it, and all that it shows

logger = logging.getLogger(__name__)


def report(output_dir: str | Path, recursive: bool = False) -> Path:
    """Writes plots and cards into every measured run folder, and a table and a plot of all runs into `output_dir`.

    A run folder gets plots/ as PNG, PDF and SVG, model/README.md, quantized/*/README.md, and capacity.json, a copy of
    model's. `output_dir` gets report.md, report.json and bits_vs_parameters.*. Existing files are replaced, plots only
    where they would differ.

    Args:
        output_dir: one run folder, or a folder with run folders directly below it.
        recursive: also runs that are deeper below it.

    Returns:
        The path of report.md.

    Raises:
        ReportError: the folder has no measured run.
    """
    output_dir = Path(output_dir)
    runs = find_runs(output_dir, recursive)
    for run_dir in runs:
        _report_run(run_dir)
    models, groups = _models(output_dir, runs)
    frontier = output_dir / FRONTIER_FILE
    if runs == [output_dir]:  # the plot of the run itself
        for drawn, file in zip(formats_of(output_dir / "plots" / FRONTIER_FILE), formats_of(frontier), strict=True):
            with whole_file(file) as made:
                shutil.copyfile(drawn, made)
    else:
        make_stamped(formats_of(frontier), models, partial(plot_frontier, models, frontier))
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


def report_table(output_dir: str | Path, recursive: bool = False) -> str:
    """The table of all measured models of the runs of `find_runs`, in Markdown; writes nothing.

    Raises:
        ReportError: the folder has no measured run.
    """
    output_dir = Path(output_dir)
    return _table(*_models(output_dir, find_runs(output_dir, recursive)))


def report_files(output_dir: str | Path, recursive: bool = False) -> list[Path]:
    """The files that `report` writes, or keeps because they would be the same; writes nothing.

    Raises:
        ReportError: the folder has no measured run.
    """
    output_dir = Path(output_dir)
    files = [output_dir / REPORT_FILE, output_dir / REPORT_JSON_FILE, *formats_of(output_dir / FRONTIER_FILE)]
    for run_dir in find_runs(output_dir, recursive):
        shown = _plots_of(run_dir, read_capacities(run_dir))
        files.append(run_dir / CAPACITY_FILE)
        for plot in dict.fromkeys(plot for plots in shown.values() for plot in plots):
            files += formats_of(plot)
        for folder, plots in shown.items():
            files += [folder / CARD_FILE, *(folder / "plots" / plot.name for plot in plots)]
        files += [folder / CARD_FILE for folder in extractions(run_dir)]
    return files


def find_runs(output_dir: str | Path, recursive: bool = False) -> list[Path]:
    """The run folder itself, or the run folders directly below a folder, whose model is measured, sorted by path.

    Args:
        output_dir: a run folder, or a folder of runs.
        recursive: also run folders that are deeper below it; without those in hidden folders.

    Raises:
        ReportError: the folder does not exist or has no measured run.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        raise ReportError(f"{output_dir} is not a folder; expected a folder of runs, or one run folder")
    deep = [path.parent.parent for path in output_dir.rglob(f"model/{CAPACITY_FILE}")]
    deep = [run for run in deep if not any(part.startswith(".") for part in run.relative_to(output_dir).parts)]
    deep = [run for run in deep if run.name != MEASURED or not (run.parent / RECIPE_FILE).is_file()]
    found = [run for run in deep if recursive or output_dir in (run, run.parent)]
    if not recursive and output_dir in found:
        found = [output_dir]
    if not found:
        raise ReportError(
            f"{output_dir} has no measured run: there is no model/{CAPACITY_FILE} in it or directly below it; start a "
            "run with `knowcap run`, or measure a trained one with `knowcap measure`"
            + (f"; runs that are deeper, such as {min(deep)}, are reported with --recursive" if deep else "")
        )
    return sorted(found)


def _models(output_dir: Path, runs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The capacities of all measured models, each with its run and its folder in the run; means over seeds."""
    models, recipes = [], []
    for run_dir in runs:
        recipe = recipe_of(run_dir)
        for folder, capacity in read_capacities(run_dir.absolute()).items():
            scored = measurement_of(folder).get("entities_scored", capacity["num_entities"])
            place = {
                "run": _run_name(run_dir, output_dir),
                "folder": folder.relative_to(run_dir.absolute()).as_posix(),
            }
            modes = {
                mode.folder: read_capacity_file(folder / mode.folder)
                for mode in OTHER_MODES
                if not mode.neutral and (folder / mode.folder / CAPACITY_FILE).is_file()
            }
            models.append(place | {"entities_scored": scored} | capacity | {"other_ways": modes})
            recipes.append(recipe)
    return models, seed_groups(models, recipes)


def _run_name(run_dir: Path, output_dir: Path) -> str:
    """A run's path within the folder of runs; its own name where it is that folder."""
    return run_dir.absolute().name if run_dir == output_dir else run_dir.relative_to(output_dir).as_posix()


def _report_run(run_dir: Path) -> None:
    """Plots, cards and the copy of capacity.json of one run."""
    shown = _plots_of(run_dir, read_capacities(run_dir))
    for plot, (draw, shows) in {plot: how for plots in shown.values() for plot, how in plots.items()}.items():
        make_stamped(formats_of(plot), shows, partial(draw, plot))
    for folder, plots in shown.items():
        write_card(folder, plots=list(plots))
    for folder in extractions(run_dir):
        write_extraction_card(folder)
    with whole_file(run_dir / CAPACITY_FILE) as made:
        shutil.copyfile(run_dir / "model" / CAPACITY_FILE, made)


def _plots_of(run_dir: Path, capacities: Mapping[Path, dict[str, Any]]) -> dict[Path, dict[Path, _Plot]]:
    """By model folder, the plots that its card shows, by the PNG file of each."""
    plots = run_dir / "plots"
    frontier = partial(plot_frontier, list(capacities.values())), list(capacities.values())
    training = read_if_there(run_dir / "model" / TRAINING_FILE)
    has_loss = any(entry.get("loss") is not None for entry in training.get("log_history", []))
    shown = {}
    for folder, capacity in capacities.items():
        trained = folder.name == "model"
        suffix = ".png" if trained else f"_{folder.name}.png"
        own: dict[Path, _Plot] = {plots / FRONTIER_FILE: frontier}
        own[plots / f"attributes{suffix}"] = partial(plot_attributes, capacity), capacity
        if (folder / NLL_FILE).is_file():
            facts = digest_of(folder / NLL_FILE)
            own[plots / f"entities{suffix}"] = partial(_draw_entities, folder, capacity), [capacity, facts]
        if trained and has_loss:
            own[plots / "loss.png"] = partial(plot_loss, training), training
        shown[folder] = own
    return shown


def _draw_entities(folder: Path, capacity: dict[str, Any], path: Path) -> Path:
    return plot_entities(bits_by_entity(folder, attributes=False), capacity, path)


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
        number(model["exposures"], ",", "unknown") + (" on average" if UNEQUAL in model else ""),
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
