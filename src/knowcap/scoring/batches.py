"""Rows → a table of nll, batch by batch."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import torch

from knowcap.facts import NAME, Knowledge, Row
from knowcap.models.configs import text_config
from knowcap.models.separators import Separators
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
# Of a forward pass, and of a softmax a quarter: 1 GB in float32. An automatic batch is limited to it.
MOST_LOGITS = 2**28
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
    start_token: str = "auto",
) -> pa.Table:
    """Scores every fact of every row.

    Args:
        model: a causal language model, on any device; its logits are converted to float32 unless they are float64.
        tokenizer: a fast tokenizer.
        rows: (row, rendering) pairs, all entities of one type.
        knowledge: which facts are scored, and each attribute's number of candidates.
        batch_size: texts (or windows) per forward pass; None: as many as fit, at most 64 on a CPU and 256 on a GPU.
        progress: called after each batch with its number of rows.
        closed_sets: score each value among its candidates only, not among all texts.
        packed: the number of tokens of a window, to score texts in windows as in training; 0: each text alone.
        start_token: what stands before each text: auto, bos, eos or none (see `Separators.of`).

    Returns:
        one row per scored fact in the order of `rows`, for any batch size: entity, attribute, rendering, nll
        (nats, summed over the fact's tokens), log2_candidates (bits), greedy_match (every token is the most likely
        one after the true ones before it).

    Raises:
        FactError, TextError: a row that breaks the contract or cannot be tokenized.
        ModelError: the tokenizer lacks the start token.
        ScoringError: logits that are not finite, or of other positions than those of the texts.
    """
    separators = Separators.of(tokenizer, start_token)
    options = {"batch_size": batch_size, "progress": progress, "closed_sets": closed_sets, "packed": packed}
    options["separators"] = separators
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
    separators: Separators | None = None,
) -> Iterator[pa.Table]:
    """`score_rows` in pieces, so that memory does not grow; with a column `name_tokens` (null except for names)."""
    size, passes = BatchSize(batch_size, _device(model)), _Passes(model)
    pairs = iter(rows)
    entity_type: pa.DataType | None = None
    with _evaluating(model):
        while chunk := list(islice(pairs, PACKED_GROUP if packed else CHUNK_ROWS)):
            places = by_rendering([rendering for _, rendering in chunk]) if packed else np.arange(len(chunk))
            texts = [chunk[place][0] for place in places]
            encoded = encode_rows(texts, tokenizer, knowledge, closed_sets, separators)
            _check_fits(encoded, texts, model)
            contexts = packed_rows(encoded, texts, packed) if packed else isolated_rows(encoded)
            nll, hits = _score_targets(passes, encoded, contexts, size, progress)
            table = _table(encoded, [chunk[place] for place in places], nll, hits)
            if packed:
                table = table.take(np.argsort(places[encoded.fact_rows], kind="stable"))
            entity_type = entity_type or table.schema.field("entity").type
            if table.schema.field("entity").type != entity_type:
                other = table.schema.field("entity").type
                raise ScoringError(f"entities are {entity_type} and {other}; expected one type in all rows")
            yield table


class BatchSize:
    """The number of texts per forward pass: as given, or as many as fit in memory."""

    def __init__(self, given: int | None, device: torch.device) -> None:
        if given is not None and given < 1:
            raise ScoringError(f"batch_size={given}, expected 1 or more, or auto")
        self.given, self.texts = given, given or (64 if device.type == "cpu" else 256)

    def of_batch(self, logits: np.ndarray) -> int:
        """The texts of the next batch, at least 1, given the numbers of logits of the first 1, 2, … texts."""
        if self.given is not None:
            return self.given
        return max(1, int(np.searchsorted(logits[: self.texts], MOST_LOGITS, side="right")))

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
    config = text_config(model)
    positions = getattr(config, "max_position_embeddings", None)  # state-space models have none
    longest = int(np.argmax(encoded.input_lengths))
    needed = int(encoded.input_lengths[longest])
    if positions is not None and needed > positions:
        raise TextError(
            f"entity {rows[longest].entity!r}: the text needs {needed} positions, the model has {positions}; "
            "shorten the texts or train with a larger block_size"
        )
    at = int(np.argmax(encoded.ids))
    if encoded.ids[at] >= (rows_of := _vocabulary(model)):
        row = rows[int(np.searchsorted(encoded.row_starts, at, side="right")) - 1]
        raise TextError(
            f"entity {row.entity!r}: {row.text!r} has token {int(encoded.ids[at])}, the model has "
            f"{rows_of} tokens; expected the tokenizer that the model was trained with, and texts "
            "that its vocabulary covers"
        )


def _vocabulary(model: PreTrainedModel) -> int:
    """The number of the model's vocabulary rows."""
    return text_config(model).vocab_size


def _device(model: torch.nn.Module) -> torch.device:
    """Where inputs are put; parameters that are offloaded are on `meta`, and accelerate moves the inputs itself."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def _score_targets(
    passes: _Passes,
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
        following = order[begin : begin + size.texts]
        scored = np.cumsum(target_ranges[following + 1] - target_ranges[following])
        batch = following[: size.of_batch(passes.logits(scored, int(contexts.lengths[order[begin]])))]
        if contexts.lengths[batch].max() > 0:
            which = ranges(target_ranges[batch], target_ranges[batch + 1] - target_ranges[batch])
            try:
                nll[which], hits[which] = _score_batch(passes, encoded, contexts, batch, which)
            except torch.OutOfMemoryError:
                size.halve()
                continue
        begin += len(batch)
        if progress is not None:
            progress(int((contexts.rows[batch + 1] - contexts.rows[batch]).sum()))
    return nll, hits


def _code(forward: Any) -> Any:
    return getattr(forward, "__func__", forward).__code__


class _Passes:
    """Forward passes of a model that compute logits of the scored positions only, if the model can.

    `logits_to_keep` of transformers' models takes a mask (batch, positions), in older versions indices of positions
    only; models without it give all logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Looks at the arguments of the model's forward.

        Raises:
            ScoringError: an adapter that puts virtual tokens before a text.
        """
        self.model, self.device, self.vocabulary = model, _device(model), _vocabulary(model)
        adapter = getattr(model, "active_peft_config", None)
        if adapter is not None and adapter.is_prompt_learning:
            raise ScoringError(
                f"the adapter is a {adapter.peft_type.value}, which puts virtual tokens before each text; expected "
                "LoRA or another adapter of weights"
            )
        forward = inspect.unwrap((cast(Any, model).get_base_model() if adapter is not None else model).forward)
        self.keeps = None
        if "logits_to_keep" in inspect.signature(forward).parameters:
            self.keeps = "mask" if "slice_logits_to_keep" in _code(forward).co_names else "index"

    def logits(self, scored: np.ndarray, longest: int) -> np.ndarray:
        """The number of logits that 1, 2, … texts need, of which `scored` positions are scored and the first is the
        longest.
        """
        positions = scored if self.keeps == "mask" else longest * np.arange(1, len(scored) + 1)
        return positions * self.vocabulary

    @torch.no_grad()  # quanto's int4 weights cannot be used in inference mode
    def __call__(self, input_ids: torch.Tensor, mask: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """The logits (kept, vocabulary), and which of them is that of each position (batch, positions).

        Args:
            input_ids: (batch, positions).
            mask: (batch, positions), the positions that are scored.

        Raises:
            ScoringError: logits of another shape.
        """
        columns = np.flatnonzero(mask.any(axis=0))
        if self.keeps == "mask":
            kept, shape = torch.from_numpy(mask), (int(mask.sum()),)
            index = np.cumsum(mask).reshape(mask.shape) - 1
        elif self.keeps == "index":
            kept, shape = torch.from_numpy(columns), (len(mask), len(columns))
            index = len(columns) * np.arange(len(mask))[:, None] + np.cumsum(mask.any(axis=0)) - 1
        else:
            kept, shape = None, mask.shape
            index = np.arange(mask.size).reshape(mask.shape)
        options: dict[str, Any] = {} if kept is None else {"logits_to_keep": kept.to(self.device)}
        ones = torch.ones_like(input_ids)
        logits = self.model(input_ids=input_ids, attention_mask=ones, use_cache=False, **options).logits
        if tuple(logits.shape[:-1]) != shape:
            raise ScoringError(
                f"{type(self.model).__name__} gives logits of shape {tuple(logits.shape)}; expected {shape} and the "
                "vocabulary: one for each scored position"
            )
        return logits.reshape(-1, logits.shape[-1]), index


def _score_batch(
    passes: _Passes, encoded: EncodedRows, contexts: Contexts, batch: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One forward pass over the contexts `batch`; the results of its targets `which`, in order."""
    lengths = contexts.lengths[batch]
    # Padding is on the right, which a causal model does not attend to: a mask of ones allows fast attention kernels.
    columns = np.arange(lengths.max())[None, :]
    starts = contexts.starts[batch][:, None]
    places = np.where(columns < lengths[:, None], starts + columns, starts)
    target_rows = encoded.fact_rows[encoded.target_facts[which]]
    target_contexts = np.searchsorted(contexts.rows, target_rows, side="right") - 1
    in_batch = np.empty(len(contexts.starts), dtype=np.int64)
    in_batch[batch] = np.arange(len(batch))
    at = (in_batch[target_contexts], encoded.targets[which] - contexts.starts[target_contexts] - 1)
    mask = np.zeros(places.shape, dtype=bool)
    mask[at] = True
    logits, index = passes(torch.from_numpy(encoded.ids[places]).to(passes.device), mask)

    chosen = torch.from_numpy(index[at]).to(logits.device)
    truth = torch.from_numpy(encoded.truths[which]).to(logits.device)
    nll, hits = np.zeros(len(which)), np.zeros(len(which), dtype=bool)
    step = max(1, MOST_LOGITS // 4 // logits.shape[-1])
    for first in range(0, len(which), step):
        part = slice(first, first + step)
        scored = logits[chosen[part]]
        scored = scored if scored.dtype == torch.float64 else scored.float()
        if encoded.allowed is not None:
            nll[part], hits[part] = _renormalized(scored, truth[part], *encoded.allowed, which[part])
            continue
        losses = -torch.log_softmax(scored, dim=-1).gather(-1, truth[part, None])[:, 0]
        nll[part], hits[part] = losses.double().cpu().numpy(), (scored.argmax(dim=-1) == truth[part]).cpu().numpy()
    return nll, hits


def _renormalized(
    scored: torch.Tensor, truth: torch.Tensor, allowed: np.ndarray, offsets: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (targets, vocabulary) renormalized over the tokens that are possible at each of the targets `which`; a
    true token that is as likely as another one is no match.
    """
    counts = offsets[which + 1] - offsets[which]
    ids = torch.from_numpy(allowed[ranges(offsets[which], counts)]).to(scored.device)
    owner = torch.from_numpy(np.repeat(np.arange(len(which)), counts)).to(scored.device)
    logits = scored[owner, ids].double()
    best = torch.full((len(which),), -torch.inf, dtype=torch.float64, device=scored.device)
    best.scatter_reduce_(0, owner, logits, "amax")
    sums = torch.zeros_like(best).index_add_(0, owner, torch.exp(logits - best[owner]))
    true = scored.gather(-1, truth[:, None])[:, 0].double()
    largest = torch.zeros_like(best).index_add_(0, owner, (logits == best[owner]).double())
    return (best + torch.log(sums) - true).cpu().numpy(), ((true == best) & (largest == 1)).cpu().numpy()


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
    tokens = encoded.truths.astype(np.uint32)
    bounds = np.searchsorted(encoded.target_facts, np.arange(len(encoded.facts) + 1))
    return [
        tokens[bounds[i] : bounds[i + 1]].tobytes() if fact.attribute == NAME else None
        for i, fact in enumerate(encoded.facts)
    ]
