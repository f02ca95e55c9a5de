"""The extraction stage: tunes a run's model on questions about half of its people, and asks about the other half.

extraction/lora-8-128/ (or full/, as_trained/) gets the adapter or the tuned model with its tokenizer, tuning.json,
answers.parquet (one row per question) and extraction.json. Every part is kept once it is complete.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowcap.dataset.folder import question_files, read_knowledge, read_questions
from knowcap.extraction.answering import answer_nll, answers, matches
from knowcap.extraction.questions import ExtractionError, num_people, pieces, questions_of, tokenized
from knowcap.extraction.results import BEAMS, SCHEMA_VERSION, answer_table, summarize
from knowcap.extraction.settings import Tuning, check_run, checkpoints_of, folder_of, is_kept
from knowcap.extraction.stored import StoredQuestions
from knowcap.extraction.tuning import is_tied, save_adapter, tune
from knowcap.files import (
    ANSWERS_FILE,
    EXTRACTION_FILE,
    NLL_FILE,
    TRAINING_FILE,
    TUNING_FILE,
    whole_file,
    whole_folder,
)
from knowcap.models import load_model, load_tokenizer
from knowcap.models.devices import uses_gpu
from knowcap.models.quiet import quiet_transformers
from knowcap.models.reload import reload_problem
from knowcap.progress import progress_bar
from knowcap.provenance import versions
from knowcap.recipe import Recipe
from knowcap.sealed import files_of, read_result, write_result
from knowcap.sealed.parquet import parquet_writer, read_table, rows_in, write_table


logger = logging.getLogger(__name__)

BASE = "../../model"  # of an adapter, relative to its folder
_PART = 2048  # questions per part file
_PARTS_AT_ONCE = 128  # of which a row group of answers.parquet is made
_TUNED_ON = 1200  # questions of the tuned half that are asked too, to check that tuning succeeded


def extract(
    run_dir: Path, recipe: Recipe, tuning: Tuning, *, limit: int | None = None, overwrite: bool = False
) -> Path:
    """Tunes a run's model on questions about half of its people, and asks it about the other half.

    Args:
        run_dir: a run folder whose model is trained and measured.
        recipe: the run's.
        tuning: the settings.
        limit: ask about this number of people only, the first ones.
        overwrite: tune and ask again, replacing existing results.

    Returns:
        the folder with the results.

    Raises:
        ExtractionError: the run is incomplete, or its folder has results of other settings; raised before the model is
            loaded. The tokenizer or the architecture is not supported; raised before tuning.
    """
    folder = folder_of(run_dir, tuning)
    checkpoints = checkpoints_of(run_dir, tuning)
    if overwrite:
        check_run(run_dir)
        for path in (folder, checkpoints):
            shutil.rmtree(path, ignore_errors=True)
    if is_kept(run_dir, tuning, limit):
        return folder
    tokenizer = load_tokenizer(run_dir / "model")
    if not (folder / TUNING_FILE).is_file():
        _tune(run_dir, recipe, tuning, tokenizer, folder, checkpoints)
    model = load_model(run_dir / "model") if tuning.method == "as_trained" else load_model(folder)
    cast(torch.nn.Module, model).to("cuda" if uses_gpu() else "cpu")
    _ask(model, tokenizer, run_dir, recipe, folder, checkpoints, limit)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def _tune(
    run_dir: Path,
    recipe: Recipe,
    tuning: Tuning,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    checkpoints: Path,
) -> None:
    """Makes the folder of the tuned model; with method as_trained it holds only tuning.json."""
    model = load_model(run_dir / "model")
    tied, rows = is_tied(model), cast(Any, model.get_input_embeddings()).weight.shape[0]
    dataset = run_dir / "knowledge"
    questions = questions_of(dataset, "train", tokenizer, rows)
    record: dict[str, Any] = {
        "settings": tuning.settings(), "base_model": BASE, "tied_embedding": tied, "people_tuned_on": 0,
        "questions_tuned_on": 0, "versions": versions(),
    }  # fmt: skip
    if tuning.method == "as_trained":
        deque(questions, maxlen=0)  # whether its tokenizer has their tokens
    else:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with StoredQuestions(questions, checkpoints) as stored:
            write_result(checkpoints / TUNING_FILE, record)
            model, results = tune(model, stored, tuning, recipe, checkpoints)
        people = num_people(dataset, "train")
        record |= results | {"people_tuned_on": people, "questions_tuned_on": len(stored)}
    folder.parent.mkdir(exist_ok=True)
    with whole_folder(folder) as made:
        if tuning.method == "lora":
            save_adapter(cast(Any, model), made, BASE)
        elif tuning.method == "full":
            with quiet_transformers():
                model.save_pretrained(made)
        if tuning.method != "as_trained":
            tokenizer.save_pretrained(str(made))
            _check_reload(model, made)
        record["files"] = files_of(made)
        write_result(made / TUNING_FILE, record, allow_nan=True)  # a diverged loss is NaN


def _check_reload(model: PreTrainedModel, folder: Path) -> None:
    """Raises ExtractionError unless the model loaded from the folder has the same tensors, and gives the same logits
    up to rounding.
    """
    model.cpu()
    reloaded = load_model(folder)
    ids = torch.randint(model.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(ids).logits, reloaded(ids).logits
    if problem := reload_problem(model.state_dict(), reloaded.state_dict(), expected, found):
        raise ExtractionError(problem)


def _ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    run_dir: Path,
    recipe: Recipe,
    folder: Path,
    parts: Path,
    limit: int | None,
) -> None:
    """Writes answers.parquet, then extraction.json."""
    rows, dataset = cast(Any, model.get_input_embeddings()).weight.shape[0], run_dir / "knowledge"
    knowledge, answered_parts = read_knowledge(dataset), []
    files = question_files(dataset, "test")
    total = sum(map(rows_in, files)) if limit is None else sum(1 for _ in read_questions(dataset, "test", limit))
    if not total:
        raise ExtractionError(f"{dataset} has no questions in split test; expected two people or more")
    with progress_bar(total=2 * total, desc="answering", unit=" answers", unit_scale=True) as bar:
        for number, table in enumerate(pieces(read_questions(dataset, "test", limit), _PART)):
            part = parts / f"answers-{limit}-{number * _PART}.parquet"
            if not part.is_file():
                some, size = tokenized(table, tokenizer, rows), recipe.eval_batch_size
                greedy, beam = (
                    answers(model, tokenizer, some, num_beams=n, batch_size=size, progress=bar.update)
                    for n in (1, BEAMS)
                )
                nll = answer_nll(model, some, size)
                part.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(part) as made:
                    write_table(answer_table(some, greedy, beam, nll, knowledge), made)
            else:
                bar.update(2 * len(table))
            answered_parts.append(part)
    found = summarize(answered_parts, run_dir / "model" / NLL_FILE, knowledge)
    tuned = list(islice(questions_of(dataset, "train", tokenizer, rows), _TUNED_ON))
    answered = answers(model, tokenizer, tuned, batch_size=recipe.eval_batch_size)
    tuning, training = read_result(folder / TUNING_FILE), read_result(run_dir / "model" / TRAINING_FILE)
    content = {
        "schema_version": SCHEMA_VERSION,
        **tuning["settings"],
        "model_name": training["model_name"],
        "dataset": knowledge.name,
        "num_people": knowledge.num_people,
        **{key: tuning[key] for key in ("people_tuned_on", "questions_tuned_on", "tied_embedding")},
        **{key: tuning[key] for key in ("tuned_parameters", "tuning_seconds", "final_loss") if key in tuning},
        "qa_share": training.get("qa_share", 0.0),
        "limit": limit,
        # The accuracy on questions that it was tuned on, at most the first 1,200.
        "tuned_accuracy": sum(matches(text, q.answer) for text, q in zip(answered, tuned, strict=True)) / len(tuned),
        **found,
        "seed": recipe.seed,
        "versions": versions(),
    }
    _join(answered_parts, folder / ANSWERS_FILE)
    write_result(folder / EXTRACTION_FILE, content, allow_nan=True)


def _join(parts: list[Path], path: Path) -> None:
    """Writes the rows of part files into one."""
    tables = (pa.concat_tables(map(read_table, some)) for some in pieces(parts, _PARTS_AT_ONCE))
    first = next(tables)
    with whole_file(path) as made, parquet_writer(made, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
