"""The size and cost of every cell of a sweep before any is run: parameters, bits, tokens, FLOP; without torch.

What cells share is counted once: the tokens of one kind of text, the bits of one corpus, the parameters of one model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knowcap.dataset.corpora import knowledge_of
from knowcap.facts import CorpusError
from knowcap.files import RECIPE_FILE, TRAINING_FILE
from knowcap.models import ModelError, parameters_of
from knowcap.recipe import Recipe, RecipeError
from knowcap.report.duration import duration
from knowcap.report.table import short_number
from knowcap.report.text_table import text_table
from knowcap.run.estimate import SampleCounts, sample_counts, seconds_per_step
from knowcap.sealed import read_result
from knowcap.sweep.cells import Cell, Sweep
from knowcap.sweep.checks import corpus_key, texts_key
from knowcap.sweep.compare import expected_contests
from knowcap.sweep.workers import is_finished
from knowcap.training.packing import TrainingError


_HEADS = ("", "cell", "parameters", "R max", "tokens", "steps", "FLOP", "time", "state")
_LEFT = (1, 8)  # aligned left


def dry_run(sweep: Sweep, measure_speed: bool = False) -> str:
    """The cells as a table for a terminal, with totals; writes nothing.

    Args:
        sweep: from `load_sweep`.
        measure_speed: time a training step of every model (seconds each); otherwise, times are extrapolated from
            the sweep's finished cells, by FLOP, and unknown without any.

    Raises:
        RecipeError: the tokenizer or the windows cannot hold the texts.
    """
    counts = count_cells(sweep.cells)
    states = {cell.name: _state(cell) for cell in sweep.cells}
    seconds = _measured(sweep.cells, counts) if measure_speed else _extrapolated(sweep.cells, counts, states)
    lines: list[tuple[str, ...]] = [_HEADS]
    for place, cell in enumerate(sweep.cells):
        c = counts[cell.name]
        lines.append(
            (
                str(place), cell.name, f"{c.num_parameters:,}", f"{c.max_bits_per_parameter:.3f}",
                short_number(_round(c.num_tokens)), f"{c.num_steps:,}", f"{c.flops:.1e}",
                duration(seconds.get(cell.name)), states[cell.name],
            )
        )  # fmt: skip
    todo = [cell for cell in sweep.cells if states[cell.name] != "finished"]
    contests = expected_contests(sweep, {name: _size(sweep, count) for name, count in counts.items()})
    totals = _totals(sweep, todo, counts, seconds, measure_speed)
    return "\n".join([text_table(lines, _LEFT), "", *contests, *totals])


def _size(sweep: Sweep, counts: CellCounts) -> float:
    """What cells must have in common to be compared."""
    if sweep.compare == "num_active_parameters":
        return counts.flops / 6 / counts.num_tokens
    return counts.flops if sweep.compare == "flops" else counts.num_parameters


def _totals(
    sweep: Sweep,
    todo: Sequence[Cell],
    counts: Mapping[str, CellCounts],
    seconds: Mapping[str, float],
    measured: bool,
) -> list[str]:
    flops = sum(counts[cell.name].flops for cell in todo)
    tokens = sum(counts[cell.name].num_tokens for cell in todo)
    summary = (
        f"{len(sweep.cells):,} cells, {len(todo):,} to run: {short_number(_round(tokens))} tokens, {flops:.2e} FLOP"
    )
    if not todo:
        return [summary, str(sweep.folder)]
    if seconds:
        from_what = "a step of each model, timed here" if measured else "the finished cells' speed"
        whole = duration(sum(seconds[cell.name] for cell in todo))
        summary += f", about {whole} of training one after another ({from_what})"
    else:
        summary += "; time unknown until a cell is finished, or with --measure_speed"
    return [
        summary,
        "FLOP = 6 x parameters (of a mixture, active ones) x tokens; tokens and steps from a sample of texts",
        f"→ {sweep.folder}",
    ]


def _state(cell: Cell) -> str:
    if is_finished(cell):
        return "finished"
    return "started" if (cell.run_dir / RECIPE_FILE).is_file() else ""


def _extrapolated(
    cells: Sequence[Cell], counts: Mapping[str, CellCounts], states: Mapping[str, str]
) -> dict[str, float]:
    """Training seconds of every cell at the speed of the finished ones; {} if there are none."""
    done = [cell for cell in cells if states[cell.name] == "finished"]
    trained = {cell.name: read_result(cell.run_dir / "model" / TRAINING_FILE, ("train_seconds",)) for cell in done}
    took = {name: training["train_seconds"] for name, training in trained.items()}
    if not sum(took.values()):
        return {}
    speed = sum(counts[name].flops for name in took) / sum(took.values())
    return {cell.name: took.get(cell.name, counts[cell.name].flops / speed) for cell in cells}


def _measured(cells: Sequence[Cell], counts: Mapping[str, CellCounts]) -> dict[str, float]:
    """Training seconds of every cell, from a few steps of each distinct model and batch on this machine."""
    speeds: dict[tuple[object, ...], float] = {}
    found = {}
    for cell in cells:
        r, c = cell.recipe, counts[cell.name]
        shape = (r.model_name, c.num_parameters, r.block_size, r.train_batch_size, r.gradient_accumulation_steps)
        if shape not in speeds:
            speeds[shape] = seconds_per_step(r, c.rows, c.num_parameters)
        found[cell.name] = c.num_steps * speeds[shape]
    return found


def _round(value: float) -> float:
    return float(f"{value:.3g}")


@dataclass(frozen=True)
class CellCounts:
    """A cell in numbers; tokens and steps are approximate, extrapolated from a sample of texts.

    Attributes:
        rows: of the vocabulary.
        max_knowledge_bits: of the whole corpus.
        num_tokens, num_steps: of training, with the ends of texts, junk and questions.
        flops: from `training_flops`.
    """

    rows: int
    num_parameters: int
    max_knowledge_bits: float
    num_tokens: int
    num_steps: int
    flops: float

    @property
    def max_bits_per_parameter(self) -> float:
        """R_max."""
        return self.max_knowledge_bits / self.num_parameters


def training_flops(recipe: Recipe, rows: int, num_tokens: int) -> float:
    """6 N D: forward and backward passes over D tokens with N parameters (Kaplan et al. 2020, 2.1; Hoffmann et al.).

    All parameters are counted, as in Hoffmann et al., of a mixture those that one token passes through; attention over
    the context is left out.

    Args:
        recipe: names the model.
        rows: of its vocabulary.
        num_tokens: D.
    """
    return 6.0 * num_tokens * parameters_of(recipe, rows).num_active_parameters


def count_cells(cells: Iterable[Cell]) -> dict[str, CellCounts]:
    """The counts of every cell by its name.

    Raises:
        RecipeError: the tokenizer or the windows cannot hold the texts, or a model cannot be built.
    """
    texts: dict[tuple[Any, ...], SampleCounts] = {}
    bits: dict[tuple[Any, ...], tuple[int, float]] = {}
    found = {}
    for cell in cells:
        recipe = cell.recipe
        kind, corpus = texts_key(recipe), corpus_key(recipe)
        if kind not in texts:
            try:
                texts[kind] = sample_counts(recipe)
            except (CorpusError, TrainingError) as error:
                raise RecipeError([str(error)], cell.name) from error
        if corpus not in bits:
            knowledge = knowledge_of(recipe)
            bits[corpus] = knowledge.num_people, knowledge.total_bits
        try:
            found[cell.name] = _counts(recipe, texts[kind], *bits[corpus])
        except ModelError as error:
            raise RecipeError([str(error)], cell.name) from error
    return found


def _counts(recipe: Recipe, texts: SampleCounts, num_people: int, total_bits: float) -> CellCounts:
    parameters = parameters_of(recipe, texts.rows).num_parameters
    biographies = num_people * recipe.exposures
    tokens = round(biographies * texts.tokens)
    windows = max(1, round(biographies * texts.windows))
    return CellCounts(
        rows=texts.rows,
        num_parameters=parameters,
        max_knowledge_bits=total_bits,
        num_tokens=tokens,
        num_steps=-(-windows // recipe.train_batch_size),
        flops=training_flops(recipe, texts.rows, tokens),
    )
