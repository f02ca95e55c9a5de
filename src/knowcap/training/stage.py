"""The training stage: the transformers Trainer over a recipe's windows, on one process or many, resumed automatically.

accelerate launch --config_file recipes/accelerate/cpu.yaml -m knowcap.train --config RECIPE [--key value …]
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Trainer, TrainingArguments

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.tokenizer import save_tokenizer, wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import read_knowledge
from knowcap.dataset.importing import published_source
from knowcap.dataset.stage import build, check_knowledge
from knowcap.files import CORES_FILE, TRAINING_FILE, read_json, whole_file, whole_folder
from knowcap.knowledge.frequencies import FREQUENCIES, frequencies_of
from knowcap.models import (
    build_model,
    check_causal,
    count_parameters,
    description,
    is_config,
    recipe_config,
    shown_name,
    text_config,
)
from knowcap.models.devices import device_name, uses_gpu, world_size
from knowcap.models.quiet import quiet_transformers
from knowcap.progress import progress_bar
from knowcap.provenance import versions
from knowcap.recipe import GROUP_BY_LENGTH, Recipe
from knowcap.scoring.measurement import facts_key
from knowcap.sealed import files_of, write_result
from knowcap.training.arguments import machine_problems, training_arguments
from knowcap.training.callback import R_MAX, KnowledgeCallback, R
from knowcap.training.checkpoints import newest_checkpoint, settings_of
from knowcap.training.fake_quantization import fake_quantized
from knowcap.training.grouping import LengthGroups
from knowcap.training.kernels import faster_training
from knowcap.training.optimizer import muon_of, optimizer_arguments, set_steps, unusual_settings
from knowcap.training.packing import Stream, TrainingError
from knowcap.training.routing import AUX_LOSS, SHARES
from knowcap.training.trainer import StreamTrainer, TrainingProgress, WindowDataset
from knowcap.training.windows import Mixture, stream_of


logger = logging.getLogger(__name__)

TEXTS = "checkpoints/texts"  # in a run folder: token ids of a data set's texts that are used unchanged
_BIOGRAPHIES_PER_PROCESS = 20_000_000  # at least, for counting windows; about 15 s
_MAX_COUNTING_PROCESSES = 32  # each may use 144 MB


def train(recipe: Recipe, run_dir: Path) -> Path:
    """Trains the recipe's model into `run_dir/model`, unless it exists; resumes from the newest complete checkpoint.

    Can be called repeatedly in one process.

    Returns:
        the model folder: config, safetensors, tokenizer, training.json.

    Raises:
        TrainingError: the processes cannot divide the batch evenly, FSDP has no GPU, or windows cannot hold the texts.
        WriteError: the disk is full, or the run folder lost.
        Interrupted: a signal ended training, see `knowcap.processes.signals`; a checkpoint was saved.
        CorpusError: the recipe's corpus cannot be made.
    """
    run_dir, model_dir = Path(run_dir), Path(run_dir, "model")
    if (model_dir / TRAINING_FILE).is_file():
        return model_dir
    args = training_arguments_of(recipe, run_dir / "checkpoints")
    with args.main_process_first(local=False, desc="data set"):
        source = _data_set(recipe, run_dir)
    corpus = corpus_of(recipe, run_dir / "knowledge", run_dir / TEXTS)
    if (run_dir / "knowledge").exists():
        check_knowledge(run_dir / "knowledge", corpus.knowledge())
    tokenizer, rows = tokenizer_of(recipe, corpus)
    stream, settings = stream_of(recipe, corpus, tokenizer), settings_of(recipe)
    with args.main_process_first(desc="counting windows"):
        num_tokens = _count(stream, run_dir / "checkpoints" / "windows.npz", settings)
    windows = windows_of(recipe, stream)
    set_steps(args, recipe, windows.steps)
    checkpoint, step = newest_checkpoint(run_dir / "checkpoints", settings)
    model = build_model(recipe_config(recipe, rows), recipe.seed)
    if is_config(recipe.model_name):
        check_causal(model)
    progress = TrainingProgress(num_tokens)
    callbacks = [progress, *_knowledge_callbacks(recipe, corpus, tokenizer, run_dir)]
    trainer = StreamTrainer(
        model=model,
        args=args,
        train_dataset=windows,
        data_collator=dict,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=muon_of(recipe),
        settings=settings,
    )
    trainer.first_index = step * recipe.train_batch_size
    logger.info(
        "training %s: %d parameters, %d steps of %d windows, %d tokens, world size %d, on %s%s",
        shown_name(recipe), model.num_parameters(), windows.steps, recipe.train_batch_size, num_tokens,
        args.world_size, device_name(args.device), f", resuming from step {step}" if step else "",
    )  # fmt: skip
    with quiet_transformers(), faster_training(model, recipe.torch_compile), fake_quantized(trainer, model, recipe):
        trainer.train(resume_from_checkpoint=checkpoint)
        # FSDP's shards are gathered from all processes; otherwise every process has the whole model.
        gathered: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
        if trainer.is_world_process_zero():
            used = int(stream.pieces.used().size)
            source |= {"knowledge": facts_key(corpus.knowledge().content())}
            _save(trainer, gathered, recipe, source, tokenizer, model_dir, used, num_tokens, progress.seconds)
    trainer.accelerator.wait_for_everyone()
    return model_dir


def windows_of(recipe: Recipe, stream: Stream | Mixture) -> WindowDataset:
    """A counted stream's windows as the recipe's training takes them."""
    groups = None
    if recipe.train_sampling_strategy == GROUP_BY_LENGTH:
        groups = LengthGroups(cast(Stream, stream), recipe.train_batch_size)
    return WindowDataset(stream, recipe.train_batch_size, recipe.block_size if recipe.torch_compile else 0, groups)


def _data_set(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """The data's entries of training.json; makes the recipe's data set first, and the token ids of its texts."""
    if recipe.dataset_name is None:
        return {"dataset": recipe.corpus}
    folder = build(recipe, run_dir)
    if recipe.dataset_texts == "published":
        tokenizer_of(recipe, corpus_of(recipe, folder, run_dir / TEXTS))
    return {"dataset": read_knowledge(folder).name, **published_source(folder), "dataset_texts": recipe.dataset_texts}


def _knowledge_callbacks(
    recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, run_dir: Path
) -> list[KnowledgeCallback]:
    """The callback of `measure_every`, if set: on the first people, one text each if the corpus is generated."""
    if not recipe.measure_every:
        return []
    limit = min(recipe.measure_limit, corpus.num_people)
    rows = corpus.rows(np.arange(limit), 0) if recipe.dataset_name is None else run_dir / "knowledge"
    options: dict[str, Any] = {"every": recipe.measure_every, "limit": limit, "batch_size": recipe.eval_batch_size}
    options |= {"tokenizer": wrap(tokenizer, recipe.block_size), "start_token": recipe.start_token}
    return [KnowledgeCallback(rows, corpus.knowledge(), **options)]


def training_arguments_of(recipe: Recipe, output_dir: Path) -> TrainingArguments:
    """The recipe as TrainingArguments, for the number of processes running."""
    cuda, world = uses_gpu(), world_size()
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    problems = machine_problems(recipe, world, fsdp)
    if problems:
        raise TrainingError("; ".join(problems))
    share = world * recipe.gradient_accumulation_steps
    return training_arguments(
        recipe,
        output_dir,
        ddp_backend="gloo" if world > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=86_400,  # seconds; the other processes wait while the first counts the windows
        per_device_train_batch_size=recipe.train_batch_size // share,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        max_steps=1,
        **optimizer_arguments(recipe),
        torch_compile=recipe.torch_compile,
        dataloader_num_workers=recipe.dataloader_num_workers,
        logging_steps=recipe.logging_steps,
        save_steps=recipe.save_steps,
        report_to=recipe.report_to,
        run_name=recipe.run_name,
    )


def _count(stream: Stream | Mixture, cache: Path, settings: Mapping[str, Any] | None = None) -> int:
    """Counts windows once per run; later calls read the saved table. Returns the number of tokens in all windows.

    Args:
        stream: gets the counts.
        cache: the table.
        settings: what the training is; a table of another, or a damaged one, is made again.
    """
    if cache.is_file():
        try:
            return _counted(stream, cache, settings or {})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s is not used (%s); windows are counted again", cache, " ".join(str(error).split()))
    biographies = stream.exposures * stream.corpus.num_people
    num_proc = max(1, min(os.cpu_count() or 1, _MAX_COUNTING_PROCESSES, biographies // _BIOGRAPHIES_PER_PROCESS))
    shards = stream.exposures * stream.shards
    bar = progress_bar(total=shards, desc="counting windows", unit=" shards", leave=False, delay=2)
    counts, tokens = stream.count(bar.update, num_proc)
    bar.close()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(cache) as made, made.open("wb") as file:
        np.savez(file, windows=counts, tokens=tokens, digest=_digest(counts, tokens, settings or {}))
    return tokens


def _counted(stream: Stream | Mixture, cache: Path, settings: Mapping[str, Any]) -> int:
    """Reads the table of counts. Raises an error of numpy, zipfile or ValueError if it is damaged, or another's."""
    with cache.open("rb") as file, np.load(file) as table:
        counts, tokens = table["windows"], int(table["tokens"])
        # A table of an earlier version has no digest; the checksums of its zip file were right.
        if "digest" in table.files and str(table["digest"]) != _digest(counts, tokens, settings):
            raise ValueError("its digest is not that of its numbers and of this training")
    stream.use_counts(counts)
    return tokens


def _digest(counts: np.ndarray, tokens: int, settings: Mapping[str, Any]) -> str:
    """The SHA-256 of a table of counts and of what it is for."""
    text = json.dumps([settings, int(tokens), counts.shape, str(counts.dtype)], sort_keys=True)
    return hashlib.sha256(text.encode() + counts.tobytes()).hexdigest()


def _save(
    trainer: Trainer,
    weights: dict[str, torch.Tensor] | None,
    recipe: Recipe,
    source: dict[str, Any],
    tokenizer: Any,
    model_dir: Path,
    used: int,
    num_tokens: int,
    seconds: float,
) -> None:
    """Writes the model folder, complete or not at all."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    content = {
        **description(recipe, text_config(model).vocab_size),
        **source,
        "seed": recipe.seed,
        "exposures": recipe.exposures,
        "num_tokens": num_tokens,
        "num_steps": trainer.state.global_step,
        "train_seconds": round(seconds, 1),
        "world_size": trainer.args.world_size,
        "device": device_name(trainer.args.device),
        "num_threads": torch.get_num_threads(),
        "block_size": recipe.block_size,
        "windows": recipe.windows,
        "precision": recipe.precision,
        "num_parameters": count_parameters(model).num_parameters,
        "used_token_ids": used,
        **unusual_settings(recipe),
        "versions": versions(),
        **_history(trainer, num_tokens),
    }
    cores = model_dir.parent / "checkpoints" / CORES_FILE
    if cores.is_file():
        content |= {"step_milliseconds": read_json(cores)["step_milliseconds"]}
    if recipe.junk_people:
        content |= {"junk_people": recipe.junk_people, "useful_share": recipe.useful_share}
    if recipe.qa_share:
        content |= {"qa_share": recipe.qa_share}
    if (frequencies := frequencies_of(recipe, source["knowledge"]["num_people"])) is not None:
        content |= {FREQUENCIES: frequencies.content()}
    with whole_folder(model_dir) as made:
        model.save_pretrained(made, state_dict=weights)
        save_tokenizer(tokenizer, recipe.block_size, made)
        write_result(
            made / TRAINING_FILE, content | {"files": files_of(made)}, allow_nan=True
        )  # a diverged loss is NaN


def _history(trainer: Trainer, num_tokens: int) -> dict[str, Any]:
    """The entries of training.json of what was logged: losses, routing, bits per parameter."""
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = trainer.state.global_step
    content: dict[str, Any] = {"final_loss": log[-1]["loss"] if log else None}
    content["log_history"] = [
        {
            "step": e["step"],
            "loss": e["loss"],
            "learning_rate": e["learning_rate"],
            "tokens": round(num_tokens * e["step"] / steps),
            **{key: e[key] for key in (AUX_LOSS, SHARES) if key in e},
        }
        for e in log
    ]
    if measured := [entry for entry in trainer.state.log_history if R in entry]:
        content["knowledge_history"] = [
            {"step": e["step"], R: e[R], R_MAX: e[R_MAX], "tokens": round(num_tokens * e["step"] / steps)}
            for e in measured
        ]
    return content
