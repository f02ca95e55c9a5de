"""The scoring stage: model folder and data set folder to control.parquet and nll.parquet, on one process or many."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
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
from knowcap.shuffle import shuffled_values


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


logger = logging.getLogger(__name__)

SHUFFLED_CONTROL_ENTITIES = 1000
OUTSIDERS = "outsiders"
FEWEST_CONTROL_ENTITIES = 100  # a limit makes no control smaller than this
CONFIGS = ("biographies", "control")  # of the data set: what is scored, and its null control
NEUTRAL_CONFIGS = ("neutral", "neutral_control")
NEUTRAL_DIR = "neutral"  # of the model folder, for what is scored on these


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

    def score_share(self, kind: str, rows: Iterable[tuple[Row, int]], num_rows: int) -> None:
        """Scores this process's share of rows, a stretch of them, into its part file."""
        rank, world = self.state.process_index, self.state.num_processes
        start, stop = num_rows * rank // world, num_rows * (rank + 1) // world
        mine = islice(rows, start, stop)
        off = not (self.progress and self.state.is_main_process)
        with tqdm(total=stop - start, desc=f"scoring {kind}", unit=" texts", unit_scale=True, disable=off) as bar:
            tables = score_chunks(
                self.model, self.tokenizer, mine, self.knowledge, batch_size=self.batch_size, progress=bar.update
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
    neutral: bool = False,
) -> Path:
    """Scores the biographies and their null control; writes control.parquet, then nll.parquet, into the model folder.

    Under `accelerate launch` every process scores a share of the rows; the result is that of one process, up to
    float32 rounding. A finished measurement is kept; an interrupted one is made again.

    Args:
        model_dir: a folder made by save_pretrained, with its tokenizer, training.json and quantization.json if any.
        dataset_dir: a data set folder: knowledge.json, biographies, and control where there is one.
        batch_size: texts a forward pass.
        limit: score the first so many entities only (and a control of as many, 100 at least).
        progress: show bars on the main process.
        overwrite: score again where a finished measurement is found.
        neutral: score the configs neutral and neutral_control, into `model_dir/neutral`: the same entities told by
            sentence templates, so that the bits are a bound where those on the biographies are not.

    Returns:
        nll.parquet.

    Raises:
        ScoringError: a bad limit or batch size, a finished measurement of other facts, rows unlike knowledge.json.
        FactError, TextError: see `score_rows`.
    """
    from knowcap.models import load_model, load_tokenizer

    model_dir, dataset_dir = Path(model_dir), Path(dataset_dir)
    output_dir, configs = (model_dir / NEUTRAL_DIR, NEUTRAL_CONFIGS) if neutral else (model_dir, CONFIGS)
    knowledge = _knowledge_to_score(dataset_dir, neutral)
    # Without a GPU accelerate has to be told so; a process that is done early may wait long for the others.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    entities = _entities_to_score(limit, knowledge)
    digest = digest_of(model_dir, dataset_dir, configs)
    if not overwrite and _is_finished(output_dir, knowledge, entities, digest):
        return final_path(output_dir, NLL)
    _start_afresh(output_dir, state)
    began = time.monotonic()
    model = load_model(model_dir).to(state.device)
    job = _Job(output_dir, model, load_tokenizer(model_dir), knowledge, state, batch_size, progress)
    control, control_kind = _control_rows(dataset_dir, configs, knowledge, limit)
    job.score_share(CONTROL, control, len(control))
    job.score_share(SWAPPED, *((_shuffled(control), len(control)) if control_kind == OUTSIDERS else ((), 0)))
    job.score_share(NLL, *_biographies(dataset_dir, configs[0], knowledge, entities))
    state.wait_for_everyone()
    if state.is_main_process:
        measurement = describe(model_dir, model, knowledge)
        measurement |= {"entities_scored": entities, "control_kind": control_kind, "digest": digest}
        facts = join_parts(output_dir, state.num_processes, measurement)
        logger.info("scored %d facts of %d entities in %.1f s", facts, entities, time.monotonic() - began)
    state.wait_for_everyone()
    return final_path(output_dir, NLL)


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


def _biographies(
    dataset_dir: Path, config: str, knowledge: Knowledge, entities: int
) -> tuple[Iterator[tuple[Row, int]], int]:
    """The rows of the first so many entities, and how many there are."""
    from knowcap.dataset import num_rows, read_rows

    count = num_rows(dataset_dir, config)
    if entities == knowledge.num_people:
        return read_rows(dataset_dir, config), count
    rows = list(_first_entities(read_rows(dataset_dir, config), entities, _renderings(count, knowledge)))
    return iter(rows), len(rows)


def _renderings(count: int, knowledge: Knowledge) -> int | None:
    """How many of `count` texts each entity has; None where some may lack some."""
    return None if knowledge.missing_texts else count // knowledge.num_people


def _first_entities(
    rows: Iterable[tuple[Row, int]], entities: int, renderings: int | None = None
) -> Iterator[tuple[Row, int]]:
    """The rows of the first so many entities, wherever they stand; ends once each has its renderings, if given."""
    seen: dict[int | str, int] = {}
    complete = 0
    for row, rendering in rows:
        if row.entity not in seen and len(seen) == entities:
            continue
        seen[row.entity] = seen.get(row.entity, 0) + 1
        complete += seen[row.entity] == renderings
        yield row, rendering
        if complete == entities:
            return


def _control_rows(
    dataset_dir: Path, configs: tuple[str, str], knowledge: Knowledge, limit: int | None
) -> tuple[list[tuple[Row, int]], str]:
    """The null control (rule 8): people outside the sample, or else the first entities with their values shuffled."""
    from knowcap.dataset import has_config, num_rows, read_rows

    texts, control = configs
    outsiders = has_config(dataset_dir, control)
    most = max(limit, FEWEST_CONTROL_ENTITIES) if limit is not None else None
    if outsiders:
        rows = read_rows(dataset_dir, control)
        return list(rows if most is None else _first_entities(rows, most)), OUTSIDERS
    most = min(most or SHUFFLED_CONTROL_ENTITIES, SHUFFLED_CONTROL_ENTITIES, knowledge.num_people)
    renderings = _renderings(num_rows(dataset_dir, texts), knowledge)
    pairs = list(_first_entities(read_rows(dataset_dir, texts), most, renderings))
    return _shuffled(pairs), "shuffled"


def _shuffled(pairs: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """The texts with their values exchanged among their entities."""
    rows = shuffled_values([row for row, _ in pairs], seed=0)
    return [(row, rendering) for row, (_, rendering) in zip(rows, pairs, strict=True)]
