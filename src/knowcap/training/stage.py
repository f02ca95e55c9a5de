"""Training: the transformers Trainer over the windows of a recipe, on one process or many, resumed by itself.

accelerate launch --config_file recipes/accelerate/cpu.yaml -m knowcap.train --config RECIPE [--key value …]
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainingArguments

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.tokenizer import save_tokenizer, wrap
from knowcap.dataset.build import build, check_knowledge
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import read_knowledge
from knowcap.dataset.importing import published_source
from knowcap.files import whole_file, whole_folder
from knowcap.models import build_model, count_parameters, recipe_config
from knowcap.models.quiet import quiet_transformers
from knowcap.provenance import versions
from knowcap.recipe import Recipe
from knowcap.training.callback import R_MAX, KnowledgeCallback, R
from knowcap.training.checkpoints import newest_checkpoint
from knowcap.training.devices import machine_problems
from knowcap.training.mixture import Mixture
from knowcap.training.packing import Stream
from knowcap.training.progress import TrainingProgress
from knowcap.training.routing import AUX_LOSS, SHARES
from knowcap.training.stream import stream_of
from knowcap.training.trainer import StreamTrainer
from knowcap.training.windows import Windows


logger = logging.getLogger(__name__)

TEXTS = "checkpoints/texts"  # in a run folder: token ids of a data set's texts that are used as they are
_COUNTED_ALONE = 20_000_000  # biographies whose windows one process counts, some 15 s, before another one starts
_MOST_COUNTING = 32  # processes; each may hold 144 MB


class TrainError(ValueError):
    """Training that cannot start as asked; the message says what was got, what was expected and how to mend it."""


def train(recipe: Recipe, run_dir: Path) -> Path:
    """Trains the recipe's model into `run_dir/model`, unless it is there; goes on from the newest whole checkpoint.

    Can be called again and again in one process.

    Returns:
        the model folder: config, safetensors, tokenizer, training.json.

    Raises:
        TrainError: a batch that the processes cannot share evenly, FSDP without a GPU.
        PackingError, CorpusError: the recipe's corpus cannot be made.
    """
    run_dir = Path(run_dir)
    model_dir = run_dir / "model"
    if (model_dir / "training.json").is_file():
        return model_dir
    args = _arguments(recipe, run_dir / "checkpoints")
    with args.main_process_first(local=False, desc="data set"):
        source = _data_set(recipe, run_dir)
    corpus = corpus_of(recipe, run_dir / "knowledge", run_dir / TEXTS)
    if (run_dir / "knowledge").exists():
        check_knowledge(run_dir / "knowledge", corpus.knowledge())
    tokenizer, rows = tokenizer_of(recipe, corpus)
    stream = stream_of(recipe, corpus, tokenizer)
    with args.main_process_first(desc="counting windows"):
        num_tokens = _count(stream, run_dir / "checkpoints" / "windows.npz")
    windows = Windows(stream, recipe.train_batch_size)
    args.max_steps = windows.steps
    checkpoint, step = newest_checkpoint(run_dir / "checkpoints")
    model = build_model(recipe_config(recipe, rows), recipe.seed)
    if recipe.warmup_steps >= windows.steps:
        logger.warning("warmup_steps=%d, but there are %d steps: no cosine", recipe.warmup_steps, windows.steps)
    progress = TrainingProgress(num_tokens)
    callbacks = [progress, *_measuring(recipe, corpus, tokenizer, run_dir)]
    trainer = StreamTrainer(model=model, args=args, train_dataset=windows, data_collator=dict, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    trainer.first_window = step * recipe.train_batch_size
    logger.info(
        "training %s: %d parameters, %d steps of %d windows, %d tokens, world size %d%s",
        recipe.model_name, model.num_parameters(), windows.steps, recipe.train_batch_size, num_tokens, args.world_size,
        f", going on from step {step}" if step else "",
    )  # fmt: skip
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=checkpoint)
        # Shards are gathered from all processes; otherwise every process has the whole model.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
        if trainer.is_world_process_zero():
            used = int(stream.pieces.used().size)
            _save(trainer, weights, recipe, source, tokenizer, model_dir, used, num_tokens, progress.seconds)
    trainer.accelerator.wait_for_everyone()
    return model_dir


def _data_set(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """What training.json says of the data; a recipe's data set is made first, and the token ids of its texts."""
    if recipe.dataset_name is None:
        return {"dataset": recipe.corpus}
    folder = build(recipe, run_dir)
    if recipe.dataset_texts == "published":
        tokenizer_of(recipe, corpus_of(recipe, folder, run_dir / TEXTS))
    return {"dataset": read_knowledge(folder).name, **published_source(folder), "dataset_texts": recipe.dataset_texts}


def _measuring(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer, run_dir: Path) -> list[KnowledgeCallback]:
    """What measures while training, where the recipe asks for it: the first people, in one text each if made here."""
    if not recipe.measure_every:
        return []
    limit = min(recipe.measure_limit, corpus.num_people)
    rows = corpus.rows(np.arange(limit), 0) if recipe.dataset_name is None else run_dir / "knowledge"
    options = {"every": recipe.measure_every, "limit": limit, "batch_size": recipe.eval_batch_size}
    return [KnowledgeCallback(rows, corpus.knowledge(), wrap(tokenizer, recipe.block_size), **options)]


def _arguments(recipe: Recipe, output_dir: Path) -> TrainingArguments:
    """The recipe as TrainingArguments, for the processes that there are."""
    cuda, world = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    problems = machine_problems(recipe, world, fsdp)
    if problems:
        raise TrainError("; ".join(problems))
    share = world * recipe.gradient_accumulation_steps
    return TrainingArguments(
        output_dir=str(output_dir),
        use_cpu=not cuda,
        ddp_backend="gloo" if world > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=86_400,  # seconds; the others wait while the first process counts the windows
        per_device_train_batch_size=recipe.train_batch_size // share,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        max_steps=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": recipe.min_learning_rate_ratio},
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "fp16",
        optim="adamw_torch_fused",
        torch_compile=recipe.torch_compile,
        seed=recipe.seed,
        dataloader_num_workers=recipe.dataloader_num_workers,
        dataloader_pin_memory=cuda,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=recipe.save_steps,
        save_total_limit=recipe.save_total_limit,
        report_to=recipe.report_to,
        run_name=recipe.run_name,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        eval_strategy="no",
    )


def _count(stream: Stream | Mixture, cache: Path) -> int:
    """Counts windows once a run; later calls read the table. Returns the tokens of all windows."""
    if cache.is_file():
        with np.load(cache) as table:
            stream.use_counts(table["windows"])
            return int(table["tokens"])
    biographies = stream.exposures * stream.corpus.num_people
    num_proc = max(1, min(os.cpu_count() or 1, _MOST_COUNTING, biographies // _COUNTED_ALONE))
    shards = stream.exposures * stream.shards
    bar = tqdm(total=shards, desc="counting windows", unit=" shards", leave=False, delay=2)
    counts, tokens = stream.count(bar.update, num_proc)
    bar.close()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(cache) as made, made.open("wb") as file:
        np.savez(file, windows=counts, tokens=tokens)
    return tokens


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
    """Writes the model folder whole."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = trainer.state.global_step
    content = {
        "model_name": recipe.model_name,
        **source,
        "seed": recipe.seed,
        "exposures": recipe.exposures,
        "num_tokens": num_tokens,
        "num_steps": steps,
        "train_seconds": round(seconds, 1),
        "world_size": trainer.args.world_size,
        "block_size": recipe.block_size,
        "windows": recipe.windows,
        "precision": recipe.precision,
        "final_loss": log[-1]["loss"] if log else None,
        "num_parameters": count_parameters(model).num_parameters,
        "used_token_ids": used,
        "versions": versions(),
        "log_history": [
            {
                "step": e["step"],
                "loss": e["loss"],
                "learning_rate": e["learning_rate"],
                "tokens": round(num_tokens * e["step"] / steps),
                **{key: e[key] for key in (AUX_LOSS, SHARES) if key in e},
            }
            for e in log
        ],
    }
    if measured := [entry for entry in trainer.state.log_history if R in entry]:
        content["knowledge_history"] = [
            {"step": e["step"], R: e[R], R_MAX: e[R_MAX], "tokens": round(num_tokens * e["step"] / steps)}
            for e in measured
        ]
    if recipe.junk_people:
        content |= {"junk_people": recipe.junk_people, "useful_share": recipe.useful_share}
    if recipe.qa_share:
        content |= {"qa_share": recipe.qa_share}
    with whole_folder(model_dir) as made:
        model.save_pretrained(made, state_dict=weights)
        save_tokenizer(tokenizer, recipe.block_size, made)
        (made / "training.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
