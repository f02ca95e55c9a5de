"""The extracting stage: a run's model, tuned on half of its people, and what it answers about the others.

extraction/lora-8-128/ (or full/, as_trained/) gets the adapter or the tuned model with its tokenizer, tuning.json,
answers.parquet (one row a question) and extraction.json. Every part is kept once it is whole.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from knowcap.dataset.folder import has_config, read_knowledge
from knowcap.extraction.adapters import is_tied, save_adapter
from knowcap.extraction.answering import answer_nll, answers
from knowcap.extraction.errors import ExtractError
from knowcap.extraction.matcher import matches
from knowcap.extraction.questions import questions_of
from knowcap.extraction.results import BEAMS, SCHEMA_VERSION, answer_table, summarize, write_json
from knowcap.extraction.tuning import Tuning, tune
from knowcap.files import whole_file, whole_folder
from knowcap.models import load_model, load_tokenizer
from knowcap.models.quiet import quiet_transformers
from knowcap.provenance import versions
from knowcap.recipe import Recipe


logger = logging.getLogger(__name__)

FOLDER, TUNING_FILE, ANSWERS_FILE, RESULT_FILE = "extraction", "tuning.json", "answers.parquet", "extraction.json"
BASE = "../../model"  # of an adapter, as seen from its folder
_PART = 2048  # questions that are answered between two part files
_TUNED_ON = 1200  # questions of the other half that are asked too: whether tuning took


def extract(
    run_dir: Path, recipe: Recipe, tuning: Tuning, *, limit: int | None = None, overwrite: bool = False
) -> Path:
    """Tunes a run's model on questions about half of its people, and asks it about the other half.

    Args:
        run_dir: a run folder whose model is trained and measured.
        recipe: the run's.
        tuning: how.
        limit: ask about the first so many people only.
        overwrite: tune and ask again what is there.

    Returns:
        the folder with the results.

    Raises:
        ExtractError: what the run lacks, or another extraction of that name; told before anything is loaded, or, of an
            unfit tokenizer or architecture, before anything is tuned.
    """
    folder = folder_of(run_dir, tuning)
    checkpoints = run_dir / "checkpoints" / f"extract-{tuning.name}"
    _check_run(run_dir)
    if overwrite:
        for path in (folder, checkpoints):
            shutil.rmtree(path, ignore_errors=True)
    _check_same(folder / TUNING_FILE, tuning)
    _check_same(checkpoints / TUNING_FILE, tuning)
    if is_finished(folder):
        asked = _json(folder / RESULT_FILE)["limit"]
        if asked != limit:
            raise ExtractError(
                f"{folder} asked about {'all' if asked is None else f'the first {asked}'} people; give the same "
                "--limit, or --overwrite"
            )
        return folder
    tokenizer = load_tokenizer(run_dir / "model")
    if not (folder / TUNING_FILE).is_file():
        _tune(run_dir, recipe, tuning, tokenizer, folder, checkpoints)
    model = load_model(run_dir / "model") if tuning.method == "as_trained" else load_model(folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    _ask(model, tokenizer, run_dir, recipe, folder, checkpoints, limit)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def folder_of(run_dir: Path, tuning: Tuning) -> Path:
    """Where a tuning's results lie in a run folder."""
    return run_dir / FOLDER / tuning.name


def is_finished(folder: Path) -> bool:
    """Whether all questions were asked."""
    return (folder / RESULT_FILE).is_file()


def describe(folder: Path) -> str:
    """One line: what was found."""
    r = _json(folder / RESULT_FILE)
    return (
        f"{r['people_asked']:,} people asked: {r['extractable_accuracy']:.1%} extractable, "
        f"{r['memorizable_accuracy']:.1%} memorizable"
    )


def _check_run(run_dir: Path) -> None:
    """Raises ExtractError with everything that a run lacks for extraction."""
    problems = []
    if not (run_dir / "model" / "training.json").is_file():
        problems.append(f"{run_dir} has no trained model; `knowcap train` makes it")
    elif not (run_dir / "model" / "nll.parquet").is_file():
        problems.append(f"{run_dir} is not measured; `knowcap measure {run_dir}` does it")
    if not has_config(run_dir / "knowledge", "qa"):
        problems.append(f"{run_dir / 'knowledge'} has no questions (config qa); bioS has them, other corpora don't")
    if problems:
        raise ExtractError("; ".join(problems))


def _check_same(file: Path, tuning: Tuning) -> None:
    """Raises ExtractError where another tuning goes by that name."""
    if not file.is_file():
        return
    there, here = _json(file)["settings"], tuning.settings()
    values = [(key, there.get(key), value) for key, value in here.items()]
    differing = [f"{key} is {old} there and {new} here" for key, old, new in values if old != new]
    if differing:
        raise ExtractError(f"{file.parent}: {', '.join(differing)}; give the same, or --overwrite to do it again")


def _tune(
    run_dir: Path,
    recipe: Recipe,
    tuning: Tuning,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    checkpoints: Path,
) -> None:
    """Makes the folder of the tuned model, unless nothing is to be tuned: then it says so alone."""
    model = load_model(run_dir / "model")
    tied, rows = is_tied(model), model.get_input_embeddings().weight.shape[0]
    lessons = questions_of(run_dir / "knowledge", "train", tokenizer, rows)
    told: dict[str, Any] = {
        "settings": tuning.settings(), "base_model": BASE, "tied_embedding": tied, "people_tuned_on": 0,
        "questions_tuned_on": 0, "versions": versions(),
    }  # fmt: skip
    if tuning.method != "as_trained":
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(checkpoints / TUNING_FILE, told)
        model, found = tune(model, lessons, tuning, recipe, checkpoints)
        told |= found | {"people_tuned_on": len({q.entity for q in lessons}), "questions_tuned_on": len(lessons)}
    folder.parent.mkdir(exist_ok=True)
    with whole_folder(folder) as made:
        if tuning.method == "lora":
            save_adapter(model, made, BASE)
        elif tuning.method == "full":
            with quiet_transformers():
                model.save_pretrained(made)
        if tuning.method != "as_trained":
            tokenizer.save_pretrained(str(made))
            _check_reload(model, made, run_dir)
        write_json(made / TUNING_FILE, told)


def _check_reload(model: PreTrainedModel, folder: Path, run_dir: Path) -> None:
    """Raises ExtractError unless the folder gives back the model in memory: the same logits, bit for bit."""
    model.cpu()
    reloaded = load_model(folder)
    ids = torch.randint(model.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(ids).logits.float(), reloaded(ids).logits
    if not torch.isfinite(found).all() or not torch.equal(expected, found):
        raise ExtractError(
            "the reloaded model differs from the one that was saved: largest difference of a logit "
            f"{(expected - found).abs().max().item()}; nothing was kept"
        )


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
    rows, dataset = model.get_input_embeddings().weight.shape[0], run_dir / "knowledge"
    knowledge, questions = read_knowledge(dataset), questions_of(dataset, "test", tokenizer, rows, limit)
    if not questions:
        raise ExtractError(f"{dataset} has no questions in split test: one person alone can't be halved")
    tables = []
    with tqdm(total=2 * len(questions), desc="answering", unit=" answers", unit_scale=True) as bar:
        for first in range(0, len(questions), _PART):
            part, some = parts / f"answers-{limit}-{first}.parquet", questions[first : first + _PART]
            if not part.is_file():
                options = {"batch_size": recipe.eval_batch_size, "progress": bar.update}
                greedy, beam = (answers(model, tokenizer, some, num_beams=n, **options) for n in (1, BEAMS))
                nll = answer_nll(model, some, recipe.eval_batch_size)
                part.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(part) as made:
                    pq.write_table(answer_table(some, greedy, beam, nll, knowledge), made)
            else:
                bar.update(2 * len(some))
            tables.append(pq.read_table(part))
    table = pa.concat_tables(tables)
    found = summarize(table, run_dir / "model" / "nll.parquet", knowledge)
    lessons = questions_of(dataset, "train", tokenizer, rows)[:_TUNED_ON]
    said = answers(model, tokenizer, lessons, batch_size=recipe.eval_batch_size)
    tuning, training = _json(folder / TUNING_FILE), _json(run_dir / "model" / "training.json")
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
        # How many of the questions that it was tuned on (at most the first 1,200) it answers.
        "tuned_accuracy": sum(matches(s, q.answer) for s, q in zip(said, lessons, strict=True)) / len(lessons),
        **found,
        "seed": recipe.seed,
        "versions": versions(),
    }
    with whole_file(folder / ANSWERS_FILE) as made:
        pq.write_table(table, made)
    with whole_file(folder / RESULT_FILE) as made:
        write_json(made, content)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
