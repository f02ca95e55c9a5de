"""The scoring stage: model folder and data set folder to control.parquet and nll.parquet, on one process or many."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from knowcap.facts import Knowledge, Row
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
    part_path,
    remove_parts,
    write_part,
)
from knowcap.scoring.rows import OUTSIDERS, biographies, control_rows, shuffled
from knowcap.scoring.spans import start_token_id
from knowcap.scoring.way import PLAIN, Way


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """What a process needs to score its share of the rows."""

    output_dir: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    knowledge: Knowledge
    state: PartialState
    batch_size: int
    progress: bool
    closed_sets: ClosedSets | None
    packed: int

    def score_share(self, kind: str, rows: Iterable[tuple[Row, int]], num_rows: int) -> None:
        """Scores this process's share of rows, a stretch of them, into its part file."""
        rank, world = self.state.process_index, self.state.num_processes
        group = PACKED_GROUP if self.packed else 1  # windows are made within groups, whoever makes them
        start, stop = (min(num_rows, -(-num_rows // group) * r // world * group) for r in (rank, rank + 1))
        mine = islice(rows, start, stop)
        off = not (self.progress and self.state.is_main_process)
        with tqdm(total=stop - start, desc=f"scoring {kind}", unit=" texts", unit_scale=True, disable=off) as bar:
            tables = score_chunks(
                self.model,
                self.tokenizer,
                mine,
                self.knowledge,
                batch_size=self.batch_size,
                progress=bar.update,
                closed_sets=self.closed_sets,
                packed=self.packed,
            )
            write_part(part_path(self.output_dir, kind, rank), tables)


def score(
    model_dir: str | Path,
    dataset_dir: str | Path,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    way: Way = PLAIN,
) -> Path:
    """Scores the biographies and their null control; writes control.parquet, then nll.parquet, into the model folder.

    What is scored in another way than alone and among all texts goes into a folder of its own in there.

    Under `accelerate launch` every process scores a share of the rows; the result is that of one process, up to
    float32 rounding. A finished measurement is kept; an interrupted one is made again.

    Args:
        model_dir: a folder made by save_pretrained, with its tokenizer, training.json and quantization.json if any.
        dataset_dir: a data set folder: knowledge.json, biographies, and control where there is one.
        batch_size: texts a forward pass.
        limit: score the first so many entities only (and a control of as many, 100 at least).
        progress: show bars on the main process.
        overwrite: score again where a finished measurement is found.
        way: how facts are scored, and on which texts.

    Returns:
        nll.parquet.

    Raises:
        ScoringError: a bad limit or batch size, a finished measurement of other facts, rows unlike knowledge.json.
        FactError, TextError: see `score_rows`.
    """
    from knowcap.models import load_model, load_tokenizer

    model_dir, dataset_dir = Path(model_dir), Path(dataset_dir)
    output_dir, configs = model_dir / way.folder, way.configs
    knowledge = _knowledge_to_score(dataset_dir, way.neutral)
    # Without a GPU accelerate has to be told so; a process that is done early may wait long for the others.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    entities = _entities_to_score(limit, knowledge)
    digest = digest_of(model_dir, dataset_dir, configs)
    if not overwrite and _is_finished(output_dir, knowledge, entities, digest):
        return final_path(output_dir, NLL)
    _start_afresh(output_dir, state)
    began = time.monotonic()
    model = load_model(model_dir).to(state.device)
    tokenizer = load_tokenizer(model_dir)
    closed_sets = _closed_sets(dataset_dir, tokenizer) if way.scoring == "closed_set" else None
    packed = _window(model_dir, model) if way.context == "packed" else 0
    job = _Job(output_dir, model, tokenizer, knowledge, state, batch_size, progress, closed_sets, packed)
    control, control_kind = control_rows(dataset_dir, configs, knowledge, limit)
    job.score_share(CONTROL, control, len(control))
    job.score_share(SWAPPED, *((shuffled(control), len(control)) if control_kind == OUTSIDERS else ((), 0)))
    job.score_share(NLL, *biographies(dataset_dir, configs[0], knowledge, entities))
    state.wait_for_everyone()
    if state.is_main_process:
        measurement = describe(model_dir, model, knowledge)
        measurement |= {"scoring": way.scoring, "context": way.context}
        measurement |= {"entities_scored": entities, "control_kind": control_kind, "digest": digest}
        facts = join_parts(output_dir, state.num_processes, measurement)
        logger.info("scored %d facts of %d entities in %.1f s", facts, entities, time.monotonic() - began)
    state.wait_for_everyone()
    return final_path(output_dir, NLL)


def _closed_sets(dataset_dir: Path, tokenizer: PreTrainedTokenizerFast) -> ClosedSets:
    """The data set's lists. Raises DatasetError where it has none."""
    from knowcap.dataset import read_candidates

    return ClosedSets(tokenizer, read_candidates(dataset_dir), start_token_id(tokenizer))


def _window(model_dir: Path, model: PreTrainedModel) -> int:
    """Tokens of a training window: as training.json has it, else the model's positions."""
    training = model_dir / "training.json"
    size = json.loads(training.read_text(encoding="utf-8")).get("block_size") if training.is_file() else None
    size = size or getattr(model.config, "max_position_embeddings", None)
    if size is None:
        raise ScoringError(
            f"{model_dir} has no training.json with a block_size, and its model no fixed number of positions, so that "
            "the length of its training windows is unknown; score with context isolated"
        )
    return int(size)


def _knowledge_to_score(dataset_dir: Path, neutral: bool) -> Knowledge:
    """knowledge.json; what neutral texts tell is a bound, and none of them is missing."""
    from knowcap.dataset import read_knowledge

    knowledge = read_knowledge(dataset_dir)
    return replace(knowledge, bound=True, missing_texts=0) if neutral else knowledge


def _start_afresh(output_dir: Path, state: PartialState) -> None:
    """An output folder without what an interrupted scoring left, for all processes."""
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(exist_ok=True)
        remove_parts(output_dir)
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
