"""The scoring stage: model folder and data set folder → control.parquet and nll.parquet, on one process or many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from knowcap.dataset.contract import check_contract
from knowcap.facts import Knowledge, Row
from knowcap.files import TRAINING_FILE
from knowcap.models.configs import text_config
from knowcap.models.devices import uses_gpu
from knowcap.models.loading import LoadOptions, load_model, load_tokenizer
from knowcap.models.separators import Separators, start_text
from knowcap.progress import progress_bar
from knowcap.scoring.batches import score_chunks
from knowcap.scoring.closed_set import ClosedSets
from knowcap.scoring.fits import unscorable
from knowcap.scoring.float32 import SAMPLE_TEXTS, float32_difference
from knowcap.scoring.kept import Asked
from knowcap.scoring.measurement import OUTSIDERS, SHUFFLED, describe, knowledge_content
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
from knowcap.scoring.rows import Texts, biographies, control_rows, shuffled
from knowcap.scoring.spans import PACKED_GROUP
from knowcap.sealed import read_result


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


logger = logging.getLogger(__name__)

LONGEST_WINDOW = 2048  # by default, of a model that was trained elsewhere
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
    separators: Separators
    closed_sets: ClosedSets | None = None
    packed: int = 0

    def score_all(self, dataset_dir: Path, mode: ScoringMode, limit: int | None, texts: Texts) -> str:
        """Scores this process's share of the control, the control with swapped values, and the texts; returns the
        kind of control.
        """
        control, kind = control_rows(dataset_dir, mode.configs, self.knowledge, limit)
        if (
            kind == SHUFFLED
        ):  # a text may be too long with another's value, and errors are to name the data set's texts
            rows, how = [row for row, _ in control], (self.separators, self.closed_sets)
            bad = unscorable(rows, self.tokenizer, self.model.config, self.knowledge, *how)
            control = [pair for number, pair in enumerate(control) if number not in bad]
            if bad:
                logger.warning(
                    "%d texts of the null control cannot be scored with another's value; left out", len(bad)
                )
        self.score_shards(CONTROL, control)
        self.score_shards(SWAPPED, shuffled(control) if kind == OUTSIDERS else [])
        self.score_shards(NLL, texts)
        self.state.wait_for_everyone()
        return kind

    def score_shards(self, kind: str, texts: Texts | list[tuple[Row, int]]) -> None:
        """Scores this process's shards of texts into part files, unless they exist; reads no texts of others."""
        rank, world, shards = self.state.process_index, self.state.num_processes, -(-len(texts) // SHARD_ROWS)
        own = range(rank * shards // world, (rank + 1) * shards // world)
        missing = [shard for shard in own if not part_path(self.output_dir, kind, shard).is_file()]
        total = min(len(texts), own.stop * SHARD_ROWS) - own.start * SHARD_ROWS if own else 0
        off = not (self.progress and self.state.is_main_process)
        with progress_bar(total=total, desc=f"scoring {kind}", unit=" texts", unit_scale=True, disable=off) as bar:
            bar.update(max(0, total - len(missing) * SHARD_ROWS))
            for _, together in groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
                run = [shard for _, shard in together]  # without a finished one between them
                first, end = run[0] * SHARD_ROWS, min(len(texts), (run[-1] + 1) * SHARD_ROWS)
                rows = iter(texts[first:end]) if isinstance(texts, list) else texts.read(first, end)
                for shard in run:
                    self.score_shard(
                        part_path(self.output_dir, kind, shard), list(islice(rows, SHARD_ROWS)), bar.update
                    )

    def score_shard(self, path: Path, rows: list[tuple[Row, int]], progress: Callable[[int], object]) -> None:
        """Scores one shard; writes no file if it has no scored facts."""
        if tables := self.tables(self.model, rows, progress):
            write_part(path, tables)

    def describe(
        self, model_dir: Path | None, loading: LoadOptions, mode: ScoringMode, sample: list[tuple[Row, int]]
    ) -> dict[str, Any]:
        """What the measurement records of model and mode, and of the precision, by a sample of the rows."""
        near = float32_difference(
            self.model, model_dir, loading, lambda one: pa.concat_tables(self.tables(one, sample))
        )
        return describe(model_dir, self.model, self.knowledge) | {
            "scoring": mode.scoring,
            "context": mode.context,
            "window": self.packed or None,
            "start_token": start_text(self.tokenizer, self.separators),
            "start_token_ids": list(self.separators.before),
            "float32_difference": near,
        }

    def tables(
        self,
        model: PreTrainedModel,
        rows: Iterable[tuple[Row, int]],
        progress: Callable[[int], object] | None = None,
    ) -> list[pa.Table]:
        """The tables of `score_chunks`, with this job's options."""
        options = {"closed_sets": self.closed_sets, "packed": self.packed, "separators": self.separators}
        options |= {"batch_size": self.batch_size, "progress": progress}
        return list(score_chunks(model, self.tokenizer, rows, self.knowledge, **options))


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
    loading: LoadOptions | None = None,
    window: int | None = None,
) -> Path:
    """Scores the biographies and their null control; writes control.parquet, then nll.parquet, into the model folder.

    Other modes have subfolders. A finished measurement is kept, an interrupted one resumed from its finished shards.
    Returns the path of nll.parquet.

    Args:
        model_dir: a folder of save_pretrained, with its tokenizer, or an adapter's; None for a `loaded` model.
        dataset_dir: a data set folder: knowledge.json, biographies, and control if there is one.
        batch_size: texts per forward pass; None: as many as fit.
        limit: the number of entities to score, the first ones (and of control entities, but at least 100).
        progress, overwrite: show progress bars on the main process; score again if there is a finished measurement.
        mode: how facts are scored, on which texts, and after which token.
        output_dir: where the files are written, instead of the model folder.
        loaded, loading: a model and its tokenizer; or dtype, devices and attention of a folder's, float32 by default.
        window: tokens of a window of packed texts; by default as in training, else at most 2,048 and the positions.

    Raises:
        ScoringError, ModelError, FactError: options, models or data that cannot be used, or are others than before.
    """
    model_dir, dataset_dir = None if model_dir is None else Path(model_dir), Path(dataset_dir)
    output = Path(output_dir or _require_folder(model_dir)) / mode.folder
    state = PartialState(cpu=not uses_gpu(), timeout=timedelta(days=1))  # processes may wait long
    asked, loading = Asked.of(model_dir, dataset_dir, mode, limit, window, loading), loading or LoadOptions()
    knowledge, entities, digest, chosen = asked.knowledge, asked.entities, asked.digest, asked.options
    _check_options(loading, state, loaded is not None)
    if not overwrite and asked.is_kept(output):
        return final_path(output, NLL)
    _check_data(state, partial(check_contract, dataset_dir, knowledge, mode.configs, limit))
    settings = {"digest": digest, "entities": entities, "knowledge": knowledge_content(knowledge), "options": chosen}
    _prepare_output(output, state, settings if model_dir is not None else {"of": uuid4().hex})  # not resumed
    began = time.monotonic()
    model, tokenizer = loaded or _load(_require_folder(model_dir), state, loading)
    separators = Separators.of_model(model_dir, tokenizer, mode.start_token)
    job = _Job(output, model, tokenizer, knowledge, state, batch_size, progress, separators)
    job = replace(job, closed_sets=_closed_sets(dataset_dir, job, mode), packed=_window(job, model_dir, mode, window))
    texts = biographies(dataset_dir, mode.configs[0], knowledge, entities)
    kind = job.score_all(dataset_dir, mode, limit, texts)
    if state.is_main_process:
        measurement = {"entities_scored": entities, "control_kind": kind, "digest": digest, "options": chosen}
        described = job.describe(model_dir, loading, mode, list(texts.read(0, SAMPLE_TEXTS)))
        facts = join_parts(output, described | measurement)
        logger.info("scored %d facts of %d entities in %.1f s", facts, entities, time.monotonic() - began)
    state.wait_for_everyone()
    return final_path(output, NLL)


def _load(
    model_dir: Path, state: PartialState, loading: LoadOptions
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    model = cast(Any, load_model(model_dir, loading))
    return model if loading.device_map is not None else model.to(state.device), load_tokenizer(model_dir)


def _check_options(loading: LoadOptions, state: PartialState, loaded: bool) -> None:
    """Raises ScoringError for options that have no effect here."""
    if loaded and loading != LoadOptions():
        raise ScoringError("dtype, device_map and attn_implementation are for model folders; load the model with them")
    if loading.device_map is not None and state.num_processes > 1:
        raise ScoringError(
            f"device_map={loading.device_map!r} with {state.num_processes} processes: each would load the model onto "
            "the same devices; start one process, or leave device_map out"
        )


def _check_data(state: PartialState, check: Callable[[], None]) -> None:
    """Checks the data set in the main process; every process raises what it finds."""
    found: list[ValueError | None] = [None]
    if state.is_main_process:
        try:
            check()
        except ValueError as error:
            found = [error]
    if state.num_processes > 1:
        broadcast_object_list(found)
    if found[0] is not None:
        raise found[0]


def _require_folder(model_dir: Path | None) -> Path:
    if model_dir is None:
        raise ScoringError("model_dir=None, expected a folder, or both output_dir and loaded; pass them")
    return model_dir


def _closed_sets(dataset_dir: Path, job: _Job, mode: ScoringMode) -> ClosedSets | None:
    """The data set's candidates if the mode needs them. Raises DatasetError if it has none."""
    from knowcap.dataset.folder import read_candidates

    if mode.scoring != "closed_set":
        return None
    if job.separators.end is None:
        raise ScoringError("the tokenizer has no token that ends a text, which closed sets need; set its eos_token")
    return ClosedSets(job.tokenizer, read_candidates(dataset_dir), job.separators.end)


def _window(job: _Job, model_dir: Path | None, mode: ScoringMode, given: int | None) -> int:
    """The tokens of a window: as given, or those of training.json, or at most 2,048 and at most the model's positions;
    0 for each text alone.
    """
    if mode.context != "packed":
        return 0
    positions = getattr(text_config(job.model), "max_position_embeddings", None)  # state-space models have none
    if given is not None and positions is not None and given > positions:
        raise ScoringError(f"window={given}, but the model has {positions} positions; give a window of at most those")
    training = None if model_dir is None else model_dir / TRAINING_FILE
    trained = read_result(training).get("block_size") if training is not None and training.is_file() else None
    size = given or trained or min(LONGEST_WINDOW, positions or LONGEST_WINDOW)
    how = "as given" if given else "as in training" if trained else f"by default, of {positions} positions"
    # The package's logger: commands print its lines, by the main process, but not those of this stage.
    logging.getLogger("knowcap").info("packed texts are scored in windows of %d tokens, %s (--window)", size, how)
    return int(size)


def _prepare_output(output_dir: Path, state: PartialState, settings: dict[str, Any]) -> None:
    """Makes the output folder, with no part files of other settings, for all processes."""
    state.wait_for_everyone()
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        kept = prepare_parts(output_dir, settings)
        if kept:
            logger.info("resuming an interrupted scoring from %d finished shards", kept)
    state.wait_for_everyone()
