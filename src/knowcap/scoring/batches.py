"""Rows → a table of nll, batch by batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from knowcap.facts import NAME, Knowledge, Row
from knowcap.scoring.mode import ScoringError, TextError
from knowcap.scoring.spans import (
    PACKED_GROUP,
    Contexts,
    EncodedRows,
    by_rendering,
    encode_rows,
    isolated_rows,
    packed_rows,
    ranges,
)


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from knowcap.scoring.closed_set import ClosedSets


CHUNK_ROWS = 4096  # rows that are tokenized, and sorted by length, together
NAME_TOKENS = "name_tokens"  # the scored name's tokens, 4 bytes each; in part files only

SCHEMA_FIELDS = (
    pa.field("attribute", pa.string()),
    pa.field("rendering", pa.int32()),
    pa.field("nll", pa.float64()),
    pa.field("log2_candidates", pa.float64()),
    pa.field("greedy_match", pa.bool_()),
)


def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Iterable[tuple[Row, int]],
    knowledge: Knowledge,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
    closed_sets: ClosedSets | None = None,
    packed: int = 0,
) -> pa.Table:
    """Scores every fact of every row.

    Args:
        model: a causal language model, on any device; its logits are converted to float32 unless they are float64.
        tokenizer: a fast tokenizer with an eos token (or a bos token).
        rows: (row, rendering) pairs, all entities of one type.
        knowledge: which facts are scored, and each attribute's number of candidates.
        batch_size: texts (or windows) per forward pass; None: as many as fit, at most 64 on a CPU and 256 on a GPU.
        progress: called after each batch with its number of rows.
        closed_sets: score each value among its candidates only, not among all texts.
        packed: the number of tokens of a window, to score texts in windows as in training; 0: each text alone.

    Returns:
        one row per scored fact in the order of `rows`, for any batch size: entity, attribute, rendering, nll
        (nats, summed over the fact's tokens), log2_candidates (bits), greedy_match (every token is the most likely
        one after the true ones before it).

    Raises:
        FactError, TextError: a row that breaks the contract or cannot be tokenized.
        ScoringError: logits that are not finite.
    """
    options = {"batch_size": batch_size, "progress": progress, "closed_sets": closed_sets, "packed": packed}
    tables = list(score_chunks(model, tokenizer, rows, knowledge, **options))
    if not tables:
        return pa.schema([pa.field("entity", pa.int64()), *SCHEMA_FIELDS]).empty_table()
    return pa.concat_tables(tables).drop_columns([NAME_TOKENS])


def score_chunks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Iterable[tuple[Row, int]],
    knowledge: Knowledge,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], object] | None = None,
    closed_sets: ClosedSets | None = None,
    packed: int = 0,
) -> Iterator[pa.Table]:
    """`score_rows` in pieces, so that memory does not grow; with a column `name_tokens` (null except for names)."""
    size = BatchSize(batch_size, next(model.parameters()).device)
    pairs = iter(rows)
    entity_type: pa.DataType | None = None
    with _evaluating(model):
        while chunk := list(islice(pairs, PACKED_GROUP if packed else CHUNK_ROWS)):
            places = by_rendering([rendering for _, rendering in chunk]) if packed else np.arange(len(chunk))
            texts = [chunk[place][0] for place in places]
            encoded = encode_rows(texts, tokenizer, knowledge, closed_sets)
            _check_fits(encoded, texts, model)
            contexts = packed_rows(encoded, texts, packed) if packed else isolated_rows(encoded)
            nll, hits = _score_targets(model, encoded, contexts, size, progress)
            table = _table(encoded, [chunk[place] for place in places], nll, hits)
            if packed:
                table = table.take(np.argsort(places[encoded.fact_rows], kind="stable"))
            entity_type = entity_type or table.schema.field("entity").type
            if table.schema.field("entity").type != entity_type:
                other = table.schema.field("entity").type
                raise ScoringError(f"entities are {entity_type} and {other}; expected one type in all rows")
            yield table


class BatchSize:
    """The number of texts per forward pass: as given, or halved until it fits in memory."""

    def __init__(self, given: int | None, device: torch.device) -> None:
        if given is not None and given < 1:
            raise ScoringError(f"batch_size={given}, expected 1 or more, or auto")
        self.given, self.texts = given, given or (64 if device.type == "cpu" else 256)

    def halve(self) -> None:
        """Halves the size after an out-of-memory error. Raises ScoringError if the size was given, or is 1."""
        if self.given is not None or self.texts == 1:
            fix = "pass a smaller --batch_size, or auto" if self.texts > 1 else "use a device with more memory"
            raise ScoringError(f"batch_size={self.texts} needs more memory than the device has; {fix}")
        self.texts //= 2
        torch.cuda.empty_cache()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, with the objects that already exist excluded from garbage collection.

    Texts and spans are many small objects; each collection would otherwise traverse all of torch and transformers,
    which took longer than tokenizing.
    """
    training = model.training
    model.eval()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        model.train(training)


def _check_fits(encoded: EncodedRows, rows: Sequence[Row], model: PreTrainedModel) -> None:
    """Raises TextError unless every text fits into the model's positions and every id into its vocabulary."""
    positions = getattr(model.config, "max_position_embeddings", None)  # state-space models have none
    longest = int(np.argmax(encoded.input_lengths))
    needed = int(encoded.input_lengths[longest])
    if positions is not None and needed > positions:
        raise TextError(
            f"entity {rows[longest].entity!r}: the text needs {needed} positions, the model has {positions}; "
            "shorten the texts or train with a larger block_size"
        )
    at = int(np.argmax(encoded.ids))
    if encoded.ids[at] >= model.config.vocab_size:
        row = rows[int(np.searchsorted(encoded.row_starts, at, side="right")) - 1]
        raise TextError(
            f"entity {row.entity!r}: {row.text!r} has token {int(encoded.ids[at])}, the model has "
            f"{model.config.vocab_size} tokens; expected the tokenizer that the model was trained with, and texts "
            "that its vocabulary covers"
        )


def _score_targets(
    model: PreTrainedModel,
    encoded: EncodedRows,
    contexts: Contexts,
    size: BatchSize,
    progress: Callable[[int], object] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Per target: nll in nats (float64), and whether it was the most likely token."""
    nll, hits = np.zeros(len(encoded.targets)), np.zeros(len(encoded.targets), dtype=bool)
    target_ranges = encoded.target_ranges()[contexts.rows]
    order = np.argsort(contexts.lengths, kind="stable")[
        ::-1
    ]  # longest first, so that running out of memory happens early
    begin = 0
    while begin < len(order):
        batch = order[begin : begin + size.texts]
        if contexts.lengths[batch].max() > 0:
            which = ranges(target_ranges[batch], target_ranges[batch + 1] - target_ranges[batch])
            try:
                nll[which], hits[which] = _score_batch(model, encoded, contexts, batch, which)
            except torch.OutOfMemoryError:
                size.halve()
                continue
        begin += len(batch)
        if progress is not None:
            progress(int((contexts.rows[batch + 1] - contexts.rows[batch]).sum()))
    return nll, hits


@torch.no_grad()  # quanto's int4 weights cannot be used in inference mode
def _score_batch(
    model: PreTrainedModel, encoded: EncodedRows, contexts: Contexts, batch: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One forward pass over the contexts `batch`; the results of its targets `which`, in order."""
    device = next(model.parameters()).device
    lengths = contexts.lengths[batch]
    # Padding is on the right, which a causal model does not attend to: a mask of ones allows fast attention kernels.
    columns = np.arange(lengths.max())[None, :]
    starts = contexts.starts[batch][:, None]
    places = np.where(columns < lengths[:, None], starts + columns, starts)
    input_ids = torch.from_numpy(encoded.ids[places]).to(device)
    logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits

    target_rows = encoded.fact_rows[encoded.target_facts[which]]
    target_contexts = np.searchsorted(contexts.rows, target_rows, side="right") - 1
    in_batch = np.empty(len(contexts.starts), dtype=np.int64)
    in_batch[batch] = np.arange(len(batch))
    positions = encoded.targets[which] - contexts.starts[target_contexts] - 1
    truth = torch.from_numpy(encoded.ids[encoded.targets[which]]).to(device)
    at = (torch.from_numpy(in_batch[target_contexts]).to(device), torch.from_numpy(positions).to(device))
    scored = logits[at]
    scored = scored if scored.dtype == torch.float64 else scored.float()
    if encoded.allowed is not None:
        return _renormalized(scored, truth, *encoded.allowed, which)
    nll = -torch.log_softmax(scored, dim=-1).gather(-1, truth[:, None])[:, 0].double()
    return nll.cpu().numpy(), (scored.argmax(dim=-1) == truth).cpu().numpy()


def _renormalized(
    scored: torch.Tensor, truth: torch.Tensor, allowed: np.ndarray, offsets: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (targets, vocabulary) renormalized over the tokens that are possible at each of the targets `which`."""
    counts = offsets[which + 1] - offsets[which]
    ids = torch.from_numpy(allowed[ranges(offsets[which], counts)]).to(scored.device)
    owner = torch.from_numpy(np.repeat(np.arange(len(which)), counts)).to(scored.device)
    logits = scored[owner, ids].double()
    best = torch.full((len(which),), -torch.inf, dtype=torch.float64, device=scored.device)
    best.scatter_reduce_(0, owner, logits, "amax")
    sums = torch.zeros_like(best).index_add_(0, owner, torch.exp(logits - best[owner]))
    true = scored.gather(-1, truth[:, None])[:, 0].double()
    return (best + torch.log(sums) - true).cpu().numpy(), (true == best).cpu().numpy()


def _table(encoded: EncodedRows, chunk: Sequence[tuple[Row, int]], nll: np.ndarray, hits: np.ndarray) -> pa.Table:
    """Targets summed to facts, in the order of the rows."""
    count = len(encoded.facts)
    fact_nll = np.bincount(encoded.target_facts, weights=nll, minlength=count) + 0.0  # turns -0.0 into 0.0
    misses = np.bincount(encoded.target_facts, weights=~hits, minlength=count)
    pairs = [chunk[r] for r in encoded.fact_rows]
    if not np.isfinite(fact_nll).all():
        worst = int(np.argmin(np.isfinite(fact_nll)))
        raise ScoringError(
            f"entity {pairs[worst][0].entity!r}, {encoded.facts[worst].attribute}: nll={fact_nll[worst]}; expected a "
            "finite number: check the model's weights, or load it in float32 if half precision overflows"
        )
    try:
        entities = pa.array([row.entity for row, _ in pairs])
    except pa.ArrowException as error:
        raise ScoringError(f"entities must all be integers or all be strings: {error}") from error
    if not pairs:
        entities = pa.array([], pa.string() if isinstance(chunk[0][0].entity, str) else pa.int64())
    columns = [
        entities,
        pa.array([fact.attribute for fact in encoded.facts], pa.string()),
        pa.array([rendering for _, rendering in pairs], pa.int32()),
        pa.array(fact_nll),
        pa.array([fact.log2_candidates for fact in encoded.facts], pa.float64()),
        pa.array(misses == 0),
        pa.array(_name_tokens(encoded), pa.large_binary()),
    ]
    schema = [pa.field("entity", entities.type), *SCHEMA_FIELDS, pa.field(NAME_TOKENS, pa.large_binary())]
    return pa.Table.from_arrays(columns, schema=pa.schema(schema))


def _name_tokens(encoded: EncodedRows) -> list[bytes | None]:
    """Per fact: a name's tokens, 4 bytes each, so that prefixes of bytes are prefixes of tokens; else None."""
    tokens = encoded.ids[encoded.targets].astype(np.uint32)
    bounds = np.searchsorted(encoded.target_facts, np.arange(len(encoded.facts) + 1))
    return [
        tokens[bounds[i] : bounds[i + 1]].tobytes() if fact.attribute == NAME else None
        for i, fact in enumerate(encoded.facts)
    ]
