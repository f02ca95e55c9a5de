"""Bits per parameter while a model trains: a callback for any transformers Trainer.

from knowcap import KnowledgeCallback

Trainer(…, callbacks=[KnowledgeCallback("runs/quickstart/knowledge", tokenizer=tokenizer, every=500)])
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from knowcap.capacity.tables import Facts, diversity, facts_of, without_first_chunks
from knowcap.facts import NAME, FactError, Knowledge, Row, check_row
from knowcap.metrics.bits_per_parameter.bits import bits_per_parameter
from knowcap.models import count_parameters
from knowcap.recipe import START_TOKENS
from knowcap.scoring import score_rows
from knowcap.training.precision import own_forward


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


R, R_MAX = "bits_per_parameter", "max_bits_per_parameter"

logger = logging.getLogger(__name__)


class KnowledgeCallback(TrainerCallback):
    """Scores facts every `every` steps, and after the last one, and logs bits per parameter beside the loss.

    Results are logged to log_history and to every tracker (tensorboard, trackio) of the Trainer as
    `bits_per_parameter` and `max_bits_per_parameter`. They equal those of `knowcap measure` on the same texts, each
    alone after the start token; there is no null control. The model computes in the precision of its weights, which
    is float32 for a model that trains in bf16 or fp16 (autocast), as in `knowcap measure`; one whose weights
    themselves are bfloat16 is measured so, as by `knowcap measure --dtype bfloat16`. Training does not change: the
    model is scored in evaluation mode without gradients, its modes are restored, and no random number is drawn.

    With several processes the first one scores while the others wait; if weights are sharded all do the same, in the
    precision that the shards are gathered in (not tested, as it needs several GPUs).

    Attributes:
        history: the results so far, one {step, bits_per_parameter, max_bits_per_parameter} per measurement; a resumed
            run starts with those in its checkpoint.
    """

    def __init__(
        self,
        rows: str | Path | Iterable[Row | tuple[Row, int]],
        knowledge: Knowledge | str | Path | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        *,
        every: int,
        limit: int | None = 1000,
        batch_size: int = 64,
        start_token: str = "auto",
    ) -> None:
        """Takes the facts to score, and checks them.

        Args:
            rows: a data set folder, or rows: `Row`, or (row, rendering) if an entity has several texts.
            knowledge: the facts that are scored and their numbers of candidates, or the path of a knowledge.json; by
                default the data set folder's.
            tokenizer: a fast one; by default the Trainer's `processing_class`.
            every: steps between two measurements.
            limit: number of entities to score, the first ones; None for all. Sums are scaled up to the knowledge's
                num_people.
            batch_size: texts per forward pass.
            start_token: what stands before each text: auto (what the tokenizer itself puts first, else BOS, else EOS),
                bos, eos or none.

        Raises:
            ValueError: an argument is out of range or missing.
            FactError: rows do not match the knowledge.
            DatasetError: the folder is not a data set folder.
        """
        for name, value in (("every", every), ("limit", limit), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}, expected 1 or more{', or None for all' if name == 'limit' else ''}")
        if isinstance(rows, str | Path):
            from knowcap.dataset.folder import read_knowledge, read_rows

            knowledge = read_knowledge(rows) if knowledge is None else knowledge
            rows = read_rows(rows)
        if knowledge is None:
            raise ValueError(
                "knowledge=None, but rows do not give the number of candidates of a value; give a "
                "knowcap.facts.Knowledge, or the path of a knowledge.json"
            )
        self.knowledge = knowledge if isinstance(knowledge, Knowledge) else Knowledge.load(knowledge)
        if start_token not in START_TOKENS:
            raise ValueError(f"start_token={start_token!r}, expected {', '.join(START_TOKENS)}")
        self.tokenizer, self.every, self.batch_size, self.start_token = tokenizer, every, batch_size, start_token
        pairs = ((row, 0) if isinstance(row, Row) else row for row in rows)
        self.rows = list(pairs if limit is None else _first_entities(pairs, limit))
        self.num_entities = len({row.entity for row, _ in self.rows})
        self.history: list[dict[str, float]] = []
        self._check()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restores the history of a resumed run."""
        self.history = [{key: entry[key] for key in ("step", R, R_MAX)} for entry in state.log_history if R in entry]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures and logs every `every` steps and after the last one."""
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        model, tokenizer = kwargs["model"], self.tokenizer or kwargs.get("processing_class")
        sharded = any(hasattr(p, "placements") for p in model.parameters()) or "FullyShard" in type(model).__name__
        if state.is_world_process_zero or sharded:
            results = self.measure(model, tokenizer)
            if state.is_world_process_zero:
                self.history.append({"step": state.global_step, **results})
                _log(args, state, control, results)

    def measure(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast | None = None) -> dict[str, float]:
        """bits_per_parameter and max_bits_per_parameter of a model in its current state.

        Raises:
            ValueError: there is no tokenizer.
            TextError, ScoringError, CapacityError: texts or logits cannot be scored.
        """
        tokenizer = self.tokenizer or tokenizer
        if tokenizer is None:
            raise ValueError("tokenizer=None, and the Trainer has no processing_class; give the tokenizer to either")
        unwrapped = cast("PreTrainedModel", extract_model_from_parallel(model, keep_torch_compile=False))
        with _state_restored(unwrapped), own_forward(unwrapped):
            options = {"batch_size": self.batch_size, "start_token": self.start_token}
            table = score_rows(unwrapped, tokenizer, self.rows, self.knowledge, **options)
        return self._results(facts_of(table, self.knowledge.content(), "the scored rows"), unwrapped)

    def _results(self, all_facts: Facts, model: PreTrainedModel) -> dict[str, float]:
        """The metric over the scored facts; entities without facts count with zero bits."""
        bits, most = diversity(all_facts, self.knowledge.diversity_terms)
        facts = without_first_chunks(all_facts, self.knowledge.diversity_terms)
        missing = ((0, self.num_entities - len(facts.nll)), (0, 0))
        nll, references = (np.pad(a, missing, constant_values=np.nan) for a in (facts.nll, facts.references))
        result = bits_per_parameter(
            predictions=nll,
            references=references,
            num_parameters=count_parameters(model).num_parameters,
            attribute_names=facts.attributes,
            name_attribute=NAME if NAME in facts.attributes else None,
            num_entities=self.knowledge.num_people,
            diversity_bits=bits,
            max_diversity_bits=most,
        )
        return {R: result[R], R_MAX: result[R_MAX]}

    def _check(self) -> None:
        """Raises FactError unless there are rows, of at most num_people entities, that match the knowledge."""
        if not self.rows:
            raise FactError("got no rows; expected texts of one entity or more; check the data set or iterable")
        if self.num_entities > self.knowledge.num_people:
            raise FactError(
                f"got rows of {self.num_entities} entities, but the knowledge has num_people="
                f"{self.knowledge.num_people}; correct num_people, or give a limit"
            )
        for row, _ in self.rows:
            check_row(row, self.knowledge)


def _first_entities(pairs: Iterable[tuple[Row, int]], entities: int) -> Iterator[tuple[Row, int]]:
    """All rows of the first `entities` entities."""
    seen: set[int | str] = set()
    for row, rendering in pairs:
        if row.entity in seen or len(seen) < entities:
            seen.add(row.entity)
            yield row, rendering


def _log(args: TrainingArguments, state: TrainerState, control: TrainerControl, results: dict[str, float]) -> None:
    """Logs `results` to log_history and to every tracker, as Trainer.log does.

    The handler's `on_log` would cancel the logging of this step's loss, so the event itself is sent.
    """
    logs = dict(results) if state.epoch is None else {**results, "epoch": state.epoch}
    state.log_history.append({**logs, "step": state.global_step})
    handler = _handler()
    if handler is None:
        logger.warning("no CallbackHandler found: bits per parameter are in log_history, but not in a tracker")
    else:
        handler.call_event("on_log", args, state, control, logs=logs)


def _handler() -> CallbackHandler | None:
    """The handler of all callbacks, trackers included; found on the call stack, since callbacks are not passed it."""
    frame = sys._getframe()
    while frame is not None:
        if isinstance(handler := frame.f_locals.get("self"), CallbackHandler):
            return handler
        frame = frame.f_back
    return None


@contextmanager
def _state_restored(model: torch.nn.Module) -> Iterator[None]:
    """Restores the mode of every module and the random state after scoring."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
