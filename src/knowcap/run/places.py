"""Where measurements are written: folders of results on a run's own data and on others, replaced when whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from knowcap.files import (
    CAPACITY_FILE,
    CONTROL_FILE,
    MEASURED,
    NLL_FILE,
    SWAPPED_FILE,
    TRAINING_FILE,
    flush,
    move,
    replace_folder,
)
from knowcap.run.folder import is_run_dir


if TYPE_CHECKING:
    from knowcap.dataset.prompts import PromptOptions

MEASURING = ".measuring"  # the folder of a measurement that will replace the one beside it
RESULTS = (CONTROL_FILE, SWAPPED_FILE, NLL_FILE, CAPACITY_FILE)


def results_place(run_dir: Path, dataset_name: str | None, output_dir: Path | None = None) -> Path | None:
    """The folder for results of a run's models; None for the models' own folders, which are for the run's own data."""
    if output_dir is not None or dataset_name is None:
        return output_dir
    path = Path(dataset_name).expanduser()
    if path.resolve() == (run_dir / "knowledge").resolve():
        return None
    if path.is_dir():
        path = path.resolve()
        path = path.parent if path.name == "knowledge" and is_run_dir(path.parent) else path
        return run_dir / MEASURED / path.name
    return run_dir / MEASURED / (path.stem if path.is_file() else dataset_name.replace("/", "--"))


def subfolder(model_dir: Path) -> str:
    """Where results of a run's model are below those of the run: of quantized copies in folders of their own."""
    return f"quantized/{model_dir.name}" if model_dir.absolute().parent.name == "quantized" else ""


@contextmanager
def texts_to_score(
    run_dir: Path, dataset_name: str | None, output: Path | None, model_dir: Path, prompts: PromptOptions | None
) -> Iterator[Path]:
    """The data set folder; a table of prompts becomes `output/data` when what is measured on it is whole.

    Args:
        run_dir: has the data set if no other is named.
        dataset_name, prompts: the other data set, and how a table is read.
        output: where the results go.
        model_dir: rows of a table that its tokenizer cannot process are left out.
    """
    from knowcap.capacity.measure import dataset_folder, text_problems

    if dataset_name is None or output is None:
        yield run_dir / "knowledge"
        return
    made = output / ".data"
    try:
        check = partial(text_problems, model_dir, None)
        folder = dataset_folder(dataset_name, made, prompts=prompts, check=check)
        yield folder
        if folder == made:
            flush(made)
            replace_folder(made, output / "data")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def output_of(name: str | Path, model_dir: Path, dataset_name: str | None) -> Path:
    """Where the results of a model that is given as `name` are written by default, see `measure_model`."""
    from knowcap.report.card.results import run_dir_of

    if not (model_dir / TRAINING_FILE).is_file():
        called = Path(name).resolve().name if Path(name).is_dir() else str(name).replace("/", "--")
        return Path(MEASURED) / called
    run_dir = run_dir_of(model_dir)
    place = results_place(run_dir, dataset_name) if is_run_dir(run_dir) else None
    return model_dir if place is None else place / subfolder(model_dir)


def is_replaced(output_dir: Path, mode_folder: str) -> bool:
    """Whether a measurement that replaces the one in `output_dir` was begun, see `replaced_results`."""
    return (output_dir / MEASURING / mode_folder).is_dir()


@contextmanager
def replaced_results(output_dir: Path, mode_folder: str) -> Iterator[Path]:
    """A folder for a new measurement that replaces the one in `output_dir` when the block ends without an error.

    After an interruption it stays, so that the same call resumes it.

    Args:
        output_dir: has the earlier results.
        mode_folder: of the scoring mode, in the folder that is made as in `output_dir`.
    """
    made, final = output_dir / MEASURING, output_dir / mode_folder
    try:
        yield made
    except ValueError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    for file in reversed(RESULTS):  # no result may stand beside the facts of another
        (final / file).unlink(missing_ok=True)
    for file in RESULTS:
        if (made / mode_folder / file).is_file():
            move(made / mode_folder / file, final / file)
    shutil.rmtree(made)
