"""The scoring stage: model folder and data set folder → control.parquet and nll.parquet, on one process or many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from knowcap.facts import Knowledge, Row
from knowcap.files import TRAINING_FILE, read_json
from knowcap.models.loading import load_model, load_tokenizer, start_token_id
from knowcap.scoring.batches import score_chunks
from knowcap.scoring.closed_set import ClosedSets
from knowcap.scoring.measurement import OUTSIDERS, describe, digest_of, knowledge_content, read_measurement
from knowcap.scoring.mode import DEFAULT_MODE, ScoringError, ScoringMode
from knowcap.scoring.parts import (
    CONTROL,
    NLL,
    SWAPPED,
    final_path,
    join_parts,
    part_path,
    prepare_parts,
    write_part,
)
from knowcap.scoring.rows import biographies, control_rows, shuffled
from knowcap.scoring.spans import PACKED_GROUP


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


logger = logging.getLogger(__name__)

SHARD_ROWS = PACKED_GROUP  # rows per part file; an interruption loses at most one shard per process


@dataclass(frozen=True)
class _Job:
    """What a process needs to score its share of the rows."""

    output_dir: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    knowledge: Knowledge
    state: PartialState
    batch_size: int | None
    progress: bool
    closed_sets: ClosedSets | None
    packed: int

    def score_all(self, dataset_dir: Path, mode: ScoringMode, limit: int | None, entities: int) -> str:
        """Scores this process's share of the control, the control with swapped values, and the texts; returns the
        kind of control.
        """
        control, kind = control_rows(dataset_dir, mode.configs, self.knowledge, limit)
        self.score_shards(CONTROL, control, len(control))
        self.score_shards(SWAPPED, *((shuffled(control), len(control)) if kind == OUTSIDERS else ((), 0)))
        self.score_shards(NLL, *biographies(dataset_dir, mode.configs[0], self.knowledge, entities))
        self.state.wait_for_everyone()
        return kind

    def score_shards(self, kind: str, rows: Iterable[tuple[Row, int]], num_rows: int) -> None:
        """Scores this process's shards of rows into part files, unless they exist."""
        rank, world = self.state.process_index, self.state.num_processes
        off, pairs = not (self.progress and self.state.is_main_process), iter(rows)
        with tqdm(total=num_rows, desc=f"scoring {kind}", unit=" texts", unit_scale=True, disable=off) as bar:
            for shard in range(-(-num_rows // SHARD_ROWS)):
                mine = list(islice(pairs, SHARD_ROWS))
                path = part_path(self.output_dir, kind, shard)
                if shard % world == rank and not path.is_file():
                    self.score_shard(path, mine, bar.update)
                else:
                    bar.update(len(mine))

    def score_shard(self, path: Path, rows: list[tuple[Row, int]], progress: Callable[[int], object]) -> None:
        """Scores one shard; writes no file if it has no scored facts."""
        options = {"closed_sets": self.closed_sets, "packed": self.packed, "progress": progress}
        tables = list(
            score_chunks(self.model, self.tokenizer, rows, self.knowledge, batch_size=self.batch_size, **options)
        )
        if tables:
            write_part(path, tables)


def score(
    model_dir: str | Path | None,
    dataset_dir: str | Path,
    *,
    batch_size: int | None = 64,
    limit: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    mode: ScoringMode = DEFAULT_MODE,
    output_dir: str | Path | None = None,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None = None,
) -> Path:
    """Scores the biographies and their null control; writes control.parquet, then nll.parquet, into the model folder.

    Modes other than the default write to subfolders. Under `accelerate launch` processes share the shards. A finished
    measurement is kept; an interrupted one is resumed from its finished shards.

    Args:
        model_dir: a folder written by save_pretrained, with its tokenizer, or an adapter's; None for a `loaded` model.
        dataset_dir: a data set folder: knowledge.json, biographies, and control if there is one.
        batch_size: texts per forward pass; None: as many as fit.
        limit: the number of entities to score, the first ones (and of control entities, but at least 100).
        progress: show progress bars on the main process.
        overwrite: score again if there is a finished measurement.
        mode: how facts are scored, and on which texts.
        output_dir: where the files are written, instead of the model folder.
        loaded: a model and its tokenizer.

    Returns:
        The path of nll.parquet.

    Raises:
        ScoringError: an impossible limit or batch size, a measurement of other facts, rows unlike knowledge.json.
        ModelError: a model or tokenizer that cannot be loaded.
        FactError, TextError: see `score_rows`.
    """
    model_dir, dataset_dir = None if model_dir is None else Path(model_dir), Path(dataset_dir)
    output = Path(output_dir or _require_folder(model_dir)) / mode.folder
    knowledge = _knowledge_to_score(dataset_dir, mode.neutral)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))  # processes may wait long
    entities = _entities_to_score(limit, knowledge)
    digest = digest_of(model_dir, dataset_dir, mode.configs)
    if not overwrite and _is_finished(output, knowledge, entities, digest):
        return final_path(output, NLL)
    settings = {"digest": digest, "entities": entities, "knowledge": knowledge_content(knowledge)}
    # Shards of a model in memory are not resumed.
    _prepare_output(output, state, settings if model_dir is not None else {"of": uuid4().hex})
    began = time.monotonic()
    model, tokenizer = loaded or _load(_require_folder(model_dir), state)
    closed_sets = _closed_sets(dataset_dir, tokenizer, mode)
    packed = _window(model_dir, model, mode)
    job = _Job(output, model, tokenizer, knowledge, state, batch_size, progress, closed_sets, packed)
    kind = job.score_all(dataset_dir, mode, limit, entities)
    if state.is_main_process:
        measurement = describe(model_dir, model, knowledge) | {"scoring": mode.scoring, "context": mode.context}
        measurement |= {"entities_scored": entities, "control_kind": kind, "digest": digest}
        facts = join_parts(output, measurement)
        logger.info("scored %d facts of %d entities in %.1f s", facts, entities, time.monotonic() - began)
    state.wait_for_everyone()
    return final_path(output, NLL)


def _load(model_dir: Path, state: PartialState) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return cast(Any, load_model(model_dir)).to(state.device), load_tokenizer(model_dir)


def _require_folder(model_dir: Path | None) -> Path:
    if model_dir is None:
        raise ScoringError("model_dir=None, expected a folder, or both output_dir and loaded; pass them")
    return model_dir


def _closed_sets(dataset_dir: Path, tokenizer: PreTrainedTokenizerFast, mode: ScoringMode) -> ClosedSets | None:
    """The data set's candidates if the mode needs them. Raises DatasetError if it has none."""
    from knowcap.dataset.folder import read_candidates

    if mode.scoring != "closed_set":
        return None
    return ClosedSets(tokenizer, read_candidates(dataset_dir), start_token_id(tokenizer))


def _window(model_dir: Path | None, model: PreTrainedModel, mode: ScoringMode) -> int:
    """The tokens of a training window, from training.json or else the model's positions; 0 for each text alone."""
    if mode.context != "packed":
        return 0
    training = None if model_dir is None else model_dir / TRAINING_FILE
    size = read_json(training).get("block_size") if training is not None and training.is_file() else None
    size = size or getattr(model.config, "max_position_embeddings", None)
    if size is None:
        raise ScoringError(
            f"{model_dir} has no training.json with a block_size, and no fixed number of positions, so the "
            "length of its training windows is unknown; use context isolated"
        )
    return int(size)


def _knowledge_to_score(dataset_dir: Path, neutral: bool) -> Knowledge:
    """knowledge.json; neutral texts always give a bound, and none of them is missing."""
    from knowcap.dataset.folder import read_knowledge

    knowledge = read_knowledge(dataset_dir)
    return replace(knowledge, bound=True, missing_texts=0) if neutral else knowledge


def _prepare_output(output_dir: Path, state: PartialState, settings: dict[str, Any]) -> None:
    """Makes the output folder, with no part files of other settings, for all processes."""
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        kept = prepare_parts(output_dir, settings)
        if kept:
            logger.info("resuming an interrupted scoring from %d finished shards", kept)
    state.wait_for_everyone()


def _entities_to_score(limit: int | None, knowledge: Knowledge) -> int:
    if limit is not None and limit < 1:
        raise ScoringError(f"limit={limit}, expected 1 or more entities, or no limit")
    return min(limit or knowledge.num_people, knowledge.num_people)


def _is_finished(output_dir: Path, knowledge: Knowledge, entities: int, digest: str) -> bool:
    """Whether both tables exist. Raises ScoringError if they are a measurement of something else."""
    path = final_path(output_dir, NLL)
    if not (path.is_file() and final_path(output_dir, CONTROL).is_file()):
        return False
    found = read_measurement(path)
    if found.get("digest") != digest:
        raise ScoringError(
            f"{path} is a measurement of other weights, another tokenizer or other texts; "
            "score again: `knowcap measure … --overwrite`"
        )
    if found["entities_scored"] != entities or found["knowledge"] != knowledge_content(knowledge):
        raise ScoringError(
            f"{path} is a measurement of {found['entities_scored']} entities of {found['knowledge']['name']!r}; "
            f"expected {entities} of {knowledge.name!r}, with the same knowledge.json; "
            "score again: `knowcap measure … --overwrite`"
        )
    logger.info("kept the finished measurement %s", path)
    return True
