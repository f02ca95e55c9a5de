"""The stages of a run, chained: data → train → score → capacity → quantize → score → capacity → report.

Every stage keeps finished outputs, so that the same call continues after an interruption, to the same result; kept
outputs are still checked against the recipe. Heavy libraries are imported by the stages that need them: torch by none
that keeps its output.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.files import (
    ADAPTER_FILE,
    CAPACITY_FILE,
    CONTROL_FILE,
    KNOWLEDGE_FILE,
    NLL_FILE,
    QUANTIZATION_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    TRAINING_FILE,
    locked,
)
from knowcap.models import ModelError, check_model_folder
from knowcap.models.folders import check_undamaged
from knowcap.models.quantized.settings import Settings, check_kept
from knowcap.recipe import Recipe, RecipeError
from knowcap.recipe_file import read_recipe
from knowcap.run.checks import check_own_knowledge, check_start_token
from knowcap.run.cores import Cores, cores_of, threads_used
from knowcap.run.folder import is_run_dir
from knowcap.run.launch import Launcher
from knowcap.run.log import (
    describe_capacity,
    describe_quantization,
    describe_scores,
    describe_training,
    logged,
)
from knowcap.run.places import (
    RESULTS,
    is_replaced,
    output_of,
    replaced_results,
    results_place,
    subfolder,
    texts_to_score,
)
from knowcap.sealed import check_text


logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from knowcap.dataset.prompts import PromptOptions
    from knowcap.models.loading import LoadOptions
    from knowcap.scoring.mode import ScoringMode


def run(recipe: Recipe, run_dir: Path, launcher: Launcher | None = None, num_proc: int = 1) -> Path:
    """Runs all stages into `run_dir`; returns the report.

    Args:
        recipe: the checked recipe.
        run_dir: from `claim_run_dir`.
        launcher: starts training and scoring through accelerate; by default they run in this process.
        num_proc: processes that write the data set.
    """
    dataset_dir = data(recipe, run_dir, num_proc)
    check_start_token(recipe, dataset_dir)
    model_dir = train(recipe, run_dir, launcher)
    measure(model_dir, dataset_dir, recipe, launcher=launcher)
    for settings in Settings.copies(recipe):
        measure(quantize(run_dir, settings), dataset_dir, recipe, launcher=launcher)
    if recipe.extract != "none":
        extract(run_dir, recipe)
    return report(run_dir)


def data(recipe: Recipe, run_dir: Path, num_proc: int = 1) -> Path:
    """The knowledge stage: people, biographies and knowledge.json in `run_dir/knowledge`, by `num_proc` processes."""
    from knowcap.dataset.folder import check_manifest, describe
    from knowcap.dataset.stage import build

    output = run_dir / "knowledge"
    kept = (output / KNOWLEDGE_FILE).is_file()

    def work() -> None:
        build(recipe, run_dir, num_proc)
        if kept:
            check_manifest(output)

    return logged("knowledge", output, work, describe, kept)


def train(recipe: Recipe, run_dir: Path, launcher: Launcher | None = None, cores: Cores | None = None) -> Path:
    """The training stage: the model in `run_dir/model`.

    Args:
        recipe, run_dir, launcher: as for `run`.
        cores: the threads of this process; by default, and without a launcher, `cores_of` chooses.
    """
    output = run_dir / "model"
    kept = (output / TRAINING_FILE).is_file()
    if launcher is None and not kept:
        cores = cores or cores_of(recipe, run_dir)
        if cores.num_processes > 1:
            launcher = Launcher.named("cpu_2", cores.num_processes, cores.num_threads)

    def work() -> None:
        if not kept:
            from knowcap.training.stage import train

            with threads_used(cast(Cores, cores).num_threads):
                train(recipe, run_dir)

    if launcher is not None and not kept:
        launcher.launch("knowcap.train", ["--config", str(run_dir / RECIPE_FILE)])  # logs its own line
        return output
    return logged("train", output, work, describe_training, kept)


def measure_run(
    run_dir: Path,
    recipe: Recipe,
    *,
    dataset_name: str | None = None,
    prompts: PromptOptions | None = None,
    output_dir: Path | None = None,
    **options: Any,
) -> list[Path]:
    """Measures the model of a run folder and its quantized copies; `options` are those of `measure`.

    Args:
        run_dir: the run folder.
        recipe: its recipe.
        dataset_name: a data set folder or Hub id, or a table of prompts; the run's own by default. Results of another
            go to `run_dir/measured/NAME`, so that those of the run stay.
        prompts: how a table of prompts is read.
        output_dir: where results are written instead; those of quantized copies in `quantized/int8` and so on below.

    Returns:
        The folders with the results.

    Raises:
        ModelError: `loading` changes how models are computed, and the run has quantized copies.
    """
    if not (run_dir / "model" / TRAINING_FILE).is_file():
        raise ModelError(f"{run_dir / 'model' / TRAINING_FILE} is missing; train the model first: `knowcap run`")
    if dataset_name is None:
        check_own_knowledge(run_dir, recipe)
    place = results_place(run_dir, dataset_name, output_dir)
    models = (run_dir / "model", *(copies := sorted((run_dir / "quantized").glob("int*"))))
    loading: LoadOptions | None = options.get("loading")
    if copies and loading is not None and (given := loading.options()):
        names = ", ".join(copy.name for copy in copies)
        raise ModelError(
            f"{run_dir} has quantized copies ({names}), which are computed in float32 on one device: got "
            f"{' '.join(given)}; measure {models[0]} alone"
        )
    results = []
    with texts_to_score(run_dir, dataset_name, place, models[0], prompts) as dataset_dir:
        for model_dir in models:
            output = model_dir if place is None else place / subfolder(model_dir)
            results.append(measure(model_dir, dataset_dir, recipe, output_dir=output, **options).parent)
    if place is not None:
        from knowcap.report.card import write_card

        for result in results:
            write_card(result)
    return results


def measure_model(
    name: str | Path, dataset_name: str | None = None, output_dir: Path | None = None, **options: Any
) -> Path:
    """Measures any model and writes a card; a model of a run folder is measured with the run's recipe.

    Results are written to the model's folder if knowcap trained it, to `measured/DATA` of its run if they are of
    another data set than the run's, and else to `measured/NAME`.

    Args:
        name: a model folder, or a Hub id.
        dataset_name: a data set folder or Hub id, or a table of prompts; the run's own by default.
        output_dir: where results are written instead.
        options: those of `measure`, `revision` of a Hub id, and `prompts`, how a table of prompts is read.

    Returns:
        The folder with the results: nll.parquet, control.parquet, capacity.json.

    Raises:
        ValueError: there is no model, or no data set to measure it on.
    """
    from knowcap.models.folders import find_model
    from knowcap.report.card import write_card
    from knowcap.report.card.results import run_dir_of
    from knowcap.scoring.mode import ScoringMode

    model_dir = find_model(name, options.pop("revision", None))
    if not any((model_dir / file).is_file() for file in ("config.json", ADAPTER_FILE)):
        raise ValueError(
            f"{model_dir}: expected a run folder ({RECIPE_FILE}) or a model folder (config.json), "
            f"{_listing(model_dir)}"
        )
    run_dir = run_dir_of(model_dir)
    recipe = recipe_of(run_dir) if is_run_dir(run_dir) else None
    if dataset_name is None and recipe is None:
        raise ValueError(
            f"{model_dir} is not in a run folder; give --dataset_name: a folder made by `knowcap data`, a Hub id, "
            "or a table of prompts"
        )
    if dataset_name is None and recipe is not None:
        check_own_knowledge(run_dir, recipe)
    output, prompts = output_dir or output_of(name, model_dir, dataset_name), options.pop("prompts", None)
    with locked(output if recipe is None else run_dir):  # two measurements of one model write the same files
        with texts_to_score(run_dir, dataset_name, output, model_dir, prompts) as data:
            measure(model_dir, data, recipe, output_dir=output, **options)
        result = output / ScoringMode.of(options).folder
        if recipe is not None and output == model_dir and (run_dir / "model" / CAPACITY_FILE).is_file():
            report(run_dir)  # its cards and plots show all models of the run
        else:
            write_card(result)
    return result


def measure(
    model_dir: Path,
    dataset_dir: Path,
    recipe: Recipe | None = None,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    launcher: Launcher | None = None,
    scoring: str = "token",
    context: str = "isolated",
    start_token: str | None = None,
    window: int | None = None,
    loading: LoadOptions | None = None,
    output_dir: Path | None = None,
) -> Path:
    """The measuring stages: nll.parquet and control.parquet, then capacity.json, in the model's folder.

    If the data set has neutral texts too, they are measured into `model_dir/neutral`; each other scoring mode has a
    folder of its own.

    Args:
        model_dir: any model folder.
        dataset_dir: a data set folder.
        recipe: gives batch size, start token, confidence level and seed; their defaults without one.
        batch_size: texts a forward pass; as many as fit by default.
        limit: score only this many entities, the first ones.
        overwrite: score again even if there is a finished measurement.
        launcher: starts the scoring through accelerate.
        scoring, context, start_token: the scoring mode, see `knowcap.scoring.ScoringMode`.
        window, loading: see `knowcap.scoring.score`.
        output_dir: where results are written, instead of the model's folder.
    """
    from knowcap.dataset.folder import has_config
    from knowcap.scoring.mode import ScoringMode

    check_undamaged(model_dir)
    batch_size = recipe.eval_batch_size if batch_size is None and recipe is not None else batch_size
    recipe = Recipe() if recipe is None else recipe
    output_dir = model_dir if output_dir is None else output_dir
    options = {"batch_size": batch_size, "limit": limit, "overwrite": overwrite, "output_dir": output_dir}
    options |= {"window": window, "loading": loading}
    start_token = start_token or recipe.start_token
    mode, neutral = (ScoringMode(scoring, context, neutral, start_token) for neutral in (False, True))
    if has_config(dataset_dir, "neutral"):
        _measure_texts(model_dir, dataset_dir, recipe, launcher, neutral, **options)
        return _measure_texts(model_dir, dataset_dir, recipe, launcher, mode, **options)
    result = _measure_texts(model_dir, dataset_dir, recipe, launcher, mode, **options)
    if overwrite:
        for file in RESULTS:
            (output_dir / neutral.folder / file).unlink(missing_ok=True)  # of another data set
    return result


def _measure_texts(
    model_dir: Path,
    dataset_dir: Path,
    recipe: Recipe,
    launcher: Launcher | None,
    mode: ScoringMode,
    **options: Any,
) -> Path:
    """Measures a model in one scoring mode; `options` are those of `scoring.score`.

    An earlier measurement is replaced when the new one is whole.
    """
    from knowcap.capacity.kept import is_summarized

    final = options["output_dir"] / mode.folder
    scored = not options["overwrite"] and all((final / file).is_file() for file in (NLL_FILE, CONTROL_FILE))
    earlier = any((final / file).is_file() for file in (NLL_FILE, CAPACITY_FILE))
    if not scored and (earlier or is_replaced(options["output_dir"], mode.folder)):
        with replaced_results(options["output_dir"], mode.folder) as made:
            _measure_texts(model_dir, dataset_dir, recipe, launcher, mode, **(options | {"output_dir": made}))
        return final / CAPACITY_FILE
    scores, result = final / NLL_FILE, final / CAPACITY_FILE
    summarized = scored and is_summarized(final, recipe.confidence_level)

    def score() -> None:
        if scored:
            from knowcap.scoring.kept import Asked

            asked = {key: options[key] for key in ("limit", "window", "loading")}
            Asked.of(model_dir, dataset_dir, mode, **asked).is_kept(final)
            return
        from knowcap.scoring import score

        score(model_dir, dataset_dir, **options, mode=mode)

    def summarize() -> None:
        if not summarized:
            from knowcap.capacity import capacity

            capacity(final, confidence_level=recipe.confidence_level, seed=recipe.seed)

    if launcher is not None and not scored:
        words = [str(model_dir), str(dataset_dir), "--output_dir", str(options["output_dir"])]
        words += [] if options["batch_size"] is None else ["--batch_size", str(options["batch_size"])]
        words += [] if options["limit"] is None else ["--limit", str(options["limit"])]
        words += [] if options["window"] is None else ["--window", str(options["window"])]
        words += [] if options["loading"] is None else options["loading"].options()
        words += ["--overwrite"] * options["overwrite"] + mode.options()
        launcher.launch("knowcap.scoring", words)  # logs its own line
    else:
        logged("score", scores, score, describe_scores, scored)
    return logged("capacity", result, summarize, describe_capacity, summarized)


def quantize(run_dir: Path, settings: Settings, overwrite: bool = False) -> Path:
    """The quantization stage: a copy of fewer bits per weight, in `run_dir/quantized/int8`, `int4-gptq`."""
    output = run_dir / "quantized" / settings.folder
    kept = (output / QUANTIZATION_FILE).is_file() and not overwrite
    if other := settings.unlike_training(recipe_of(run_dir)):
        logger.warning("%s: the model was trained with fake quantization of %s", output, other)

    def work() -> None:
        if kept:
            check_kept(check_model_folder(run_dir / "model"), output, settings)
            return
        from knowcap.models.quantized.stage import quantize

        options = vars(settings) | {"start_token": recipe_of(run_dir).start_token, "overwrite": overwrite}
        quantize(run_dir / "model", output, dataset_dir=run_dir / "knowledge", **options)

    return logged("quantize", output, work, describe_quantization, kept)


def extract(run_dir: Path, recipe: Recipe, *, limit: int | None = None, overwrite: bool = False, **how: Any) -> Path:
    """The extraction stage, in `run_dir/extraction`; `how` are fields of `knowcap.extraction.Tuning`."""
    from knowcap import extraction

    tuning = extraction.Tuning.of(recipe, **how)
    output = extraction.folder_of(run_dir, tuning)
    kept = extraction.is_finished(output) and not overwrite
    do = partial(extraction.is_kept, run_dir, tuning, limit)
    if not kept:
        do = partial(extraction.extract, run_dir, recipe, tuning, limit=limit, overwrite=overwrite)
    return logged("extract", output, do, extraction.describe, kept)


def report(folder: Path, recursive: bool = False) -> Path:
    """The report stage: cards, plots and a table of the run in a folder, or of the runs directly below it."""
    from knowcap.report import stage as reporting

    output = folder / REPORT_FILE
    return logged(
        "report", output, lambda: reporting.report(folder, recursive), lambda _: "cards, plots, table", kept=False
    )


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe that a run folder records.

    Raises:
        RecipeError: it is not a run folder, or its recipe cannot be read.
    """
    file = run_dir / RECIPE_FILE
    if not is_run_dir(run_dir):
        raise RecipeError([f"expected a run folder with a {RECIPE_FILE}, {_listing(run_dir)}"], run_dir)
    check_text(file)
    recipe, problems, _ = read_recipe(file)
    if problems:
        raise RecipeError(problems, file)
    return recipe


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "but the folder does not exist"
    return f"but it has {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'no files'}"
