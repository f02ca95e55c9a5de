"""The scoring stage: model folder and data set folder to control.parquet and nll.parquet, on one process or many."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from knowcap.facts import Knowledge, Row
from knowcap.models.loading import load_model, load_tokenizer
from knowcap.scoring.batches import score_chunks
from knowcap.scoring.closed_set import ClosedSets
from knowcap.scoring.contexts import PACKED_GROUP
from knowcap.scoring.errors import ScoringError
from knowcap.scoring.measurement import describe, digest_of, knowledge_content, read_measurement
from knowcap.scoring.parts import (
    CONTROL,
    NLL,
    SWAPPED,
    final_path,
    join_parts,
    keep_parts,
    part_path,
    write_part,
)
from knowcap.scoring.rows import OUTSIDERS, biographies, control_rows, shuffled
from knowcap.scoring.tokens import start_token_id
from knowcap.scoring.way import PLAIN, Way


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


logger = logging.getLogger(__name__)

SHARD_ROWS = PACKED_GROUP  # rows that are scored together, whoever does; an interruption costs at most one shard each


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

    def score_all(self, dataset_dir: Path, way: Way, limit: int | None, entities: int) -> str:
        """Scores this process's share of the null control, of its swapped values and of the texts; returns what kind
        of control it is.
        """
        control, kind = control_rows(dataset_dir, way.configs, self.knowledge, limit)
        self.score_shards(CONTROL, control, len(control))
        self.score_shards(SWAPPED, *((shuffled(control), len(control)) if kind == OUTSIDERS else ((), 0)))
        self.score_shards(NLL, *biographies(dataset_dir, way.configs[0], self.knowledge, entities))
        self.state.wait_for_everyone()
        return kind

    def score_shards(self, kind: str, rows: Iterable[tuple[Row, int]], num_rows: int) -> None:
        """Scores every so many-th shard of rows into a part file, unless it is there."""
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
        """Scores one shard; no file where nothing in it is scored."""
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
    way: Way = PLAIN,
    output_dir: str | Path | None = None,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerFast] | None = None,
) -> Path:
    """Scores the biographies and their null control; writes control.parquet, then nll.parquet, into the model folder.

    Other ways than the first go into folders of their own in there. Under `accelerate launch` processes share the
    shards, to the result of one. A finished measurement is kept, an interrupted one goes on from its whole shards.

    Args:
        model_dir: a folder made by save_pretrained, with its tokenizer; an adapter's; None for a `loaded` model.
        dataset_dir: a data set folder: knowledge.json, biographies, and control where there is one.
        batch_size: texts a forward pass; None: as many as fit.
        limit: score the first so many entities only (and a control of as many, 100 at least).
        progress: show bars on the main process.
        overwrite: score again where a finished measurement is found.
        way: how facts are scored, and on which texts.
        output_dir: where the files go, in place of the model folder.
        loaded: the model and its tokenizer.

    Returns:
        nll.parquet.

    Raises:
        ScoringError: a bad limit or batch size, a finished measurement of other facts, rows unlike knowledge.json.
        ModelError: a model or tokenizer that cannot be loaded.
        FactError, TextError: see `score_rows`.
    """
    model_dir, dataset_dir = None if model_dir is None else Path(model_dir), Path(dataset_dir)
    output = Path(output_dir or _needed(model_dir)) / way.folder
    knowledge = _knowledge_to_score(dataset_dir, way.neutral)
    # Without a GPU accelerate has to be told so; a process that is done early may wait long for the others.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    entities = _entities_to_score(limit, knowledge)
    digest = digest_of(model_dir, dataset_dir, way.configs)
    if not overwrite and _is_finished(output, knowledge, entities, digest):
        return final_path(output, NLL)
    settings = {"digest": digest, "entities": entities, "knowledge": knowledge_content(knowledge)}
    _start(output, state, settings if model_dir is not None else {"of": uuid4().hex})  # nothing tells its shards
    began = time.monotonic()
    model, tokenizer = loaded or _load(_needed(model_dir), state)
    closed_sets = _closed_sets(dataset_dir, tokenizer, way)
    packed = _window(model_dir, model, way)
    job = _Job(output, model, tokenizer, knowledge, state, batch_size, progress, closed_sets, packed)
    kind = job.score_all(dataset_dir, way, limit, entities)
    if state.is_main_process:
        measurement = describe(model_dir, model, knowledge) | {"scoring": way.scoring, "context": way.context}
        measurement |= {"entities_scored": entities, "control_kind": kind, "digest": digest}
        facts = join_parts(output, measurement)
        logger.info("scored %d facts of %d entities in %.1f s", facts, entities, time.monotonic() - began)
    state.wait_for_everyone()
    return final_path(output, NLL)


def _load(model_dir: Path, state: PartialState) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return load_model(model_dir).to(state.device), load_tokenizer(model_dir)


def _needed(model_dir: Path | None) -> Path:
    if model_dir is None:
        raise ScoringError("a model without a folder needs an output_dir, and to be given as `loaded`")
    return model_dir


def _closed_sets(dataset_dir: Path, tokenizer: PreTrainedTokenizerFast, way: Way) -> ClosedSets | None:
    """The data set's lists, if asked for. Raises DatasetError where it has none."""
    from knowcap.dataset.folder import read_candidates

    if way.scoring != "closed_set":
        return None
    return ClosedSets(tokenizer, read_candidates(dataset_dir), start_token_id(tokenizer))


def _window(model_dir: Path | None, model: PreTrainedModel, way: Way) -> int:
    """Tokens of a training window, as training.json has it, else the model's positions; 0 for each text alone."""
    if way.context != "packed":
        return 0
    training = None if model_dir is None else model_dir / "training.json"
    is_there = training is not None and training.is_file()
    size = json.loads(training.read_text(encoding="utf-8")).get("block_size") if is_there else None
    size = size or getattr(model.config, "max_position_embeddings", None)
    if size is None:
        raise ScoringError(
            f"{model_dir} has no training.json with a block_size, and its model no fixed number of positions, so the "
            "length of its training windows is unknown; score with context isolated"
        )
    return int(size)


def _knowledge_to_score(dataset_dir: Path, neutral: bool) -> Knowledge:
    """knowledge.json; what neutral texts tell is a bound, and none of them is missing."""
    from knowcap.dataset.folder import read_knowledge

    knowledge = read_knowledge(dataset_dir)
    return replace(knowledge, bound=True, missing_texts=0) if neutral else knowledge


def _start(output_dir: Path, state: PartialState, settings: dict[str, Any]) -> None:
    """An output folder with no parts but those of the same scoring, for all processes."""
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        kept = keep_parts(output_dir, settings)
        if kept:
            logger.info("going on from %d shards that an interrupted scoring left", kept)
    state.wait_for_everyone()


def _entities_to_score(limit: int | None, knowledge: Knowledge) -> int:
    if limit is not None and limit < 1:
        raise ScoringError(f"limit={limit}, expected 1 entity or more, or none for all")
    return min(limit or knowledge.num_people, knowledge.num_people)


def _is_finished(output_dir: Path, knowledge: Knowledge, entities: int, digest: str) -> bool:
    """Whether both tables are there. A measurement of something else is an error, neither kept nor thrown away."""
    path = final_path(output_dir, NLL)
    if not (path.is_file() and final_path(output_dir, CONTROL).is_file()):
        return False
    found = read_measurement(path)
    if found.get("digest") != digest:
        raise ScoringError(
            f"{path} measures other weights, another tokenizer or other texts than are there now; "
            "score again: `knowcap measure … --overwrite`"
        )
    if found["entities_scored"] != entities or found["knowledge"] != knowledge_content(knowledge):
        raise ScoringError(
            f"{path} measures {found['entities_scored']} entities of {found['knowledge']['name']!r}; asked for "
            f"{entities} of {knowledge.name!r}, or their knowledge.json differs; "
            "score again: `knowcap measure … --overwrite`"
        )
    logger.info("kept the finished measurement %s", path)
    return True
