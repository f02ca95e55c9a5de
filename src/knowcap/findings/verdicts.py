"""Verdicts: what a finding's statements come to with the results that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from knowcap.files import FileError
from knowcap.findings.file import Finding
from knowcap.findings.results import Result, read_results
from knowcap.findings.selection import Group
from knowcap.findings.statement import Statement
from knowcap.findings.statistic import (
    LEAST_SEEDS,
    NOT_RUN,
    UNDECIDED,
    Estimate,
    Undefined,
    estimate,
    together,
    verdict_of,
)


_OVER = {"mean": fmean, "best": max, "worst": min}
Results = Mapping[tuple[str, str], Result]  # by the sweep's and the cell's name


@dataclass(frozen=True)
class Judged:
    """A statement with its verdict.

    Attributes:
        statement: the statement.
        verdict: of the four in `knowcap.findings.statistic`.
        estimate: over the seeds of which all cells have results; None without any.
        reason: why it is undecided where that is not the interval, or that only a part is run; "" otherwise.
        chosen: the values of `best_of` that were chosen, by group.
        missing: the cells without results, as sweep/name.
        num_cells: how many cells it rests on.
        used: the cells whose numbers the estimate is of.
    """

    statement: Statement
    verdict: str
    estimate: Estimate | None
    reason: str
    chosen: tuple[str, ...]
    missing: tuple[str, ...]
    num_cells: int
    used: tuple[tuple[str, str], ...] = ()

    @property
    def ours(self) -> str:
        """The estimate as text, such as `0.52 [0.47, 0.58]`."""
        found = self.estimate
        if found is None:
            return "not run" if not self.reason else self.reason
        interval = "" if found.low is None or found.high is None else f" [{found.low:.4g}, {found.high:.4g}]"
        return f"{found.value:.4g}{interval}"


@dataclass(frozen=True)
class Verdict:
    """A finding with its verdict, and those of its statements."""

    finding: Finding
    verdict: str
    statements: tuple[Judged, ...]
    results: Results

    @property
    def first(self) -> Judged:
        """The statement that decides: the first with the finding's verdict, else the first."""
        return next((s for s in self.statements if s.verdict == self.verdict), self.statements[0])

    @property
    def cells(self) -> list[tuple[str, str]]:
        """The sweep's and the cell's name of every cell with verdict seeds that a statement rests on."""
        names = (n for s in self.statements for side in s.statement.sides(self.finding.sweeps) for n in _names(side))
        return list(dict.fromkeys(names))


def judge(finding: Finding, folder: Path) -> Verdict:
    """The verdict of a finding by the results in a folder such as model_cards/findings.

    Raises:
        FileError: results that do not agree with their files or settings, or without a column that is needed.
    """
    results = {
        (sweep.name, name): result for sweep in finding.sweeps for name, result in read_results(folder, sweep).items()
    }
    judged = tuple(_judge(statement, finding, results) for statement in finding.statements)
    return Verdict(finding, together([one.verdict for one in judged]), judged, results)


def _judge(statement: Statement, finding: Finding, results: Results) -> Judged:
    sides = statement.sides(finding.sweeps)
    names = list(dict.fromkeys(name for groups in sides for name in _names(groups)))
    missing = tuple("/".join(name) for name in names if name not in results)
    complete = [_complete(group, results) for groups in sides for group in groups]
    seeds = sorted(frozenset.intersection(*complete))
    if not seeds:
        reason = "" if len(missing) == len(names) else f"no seed has all of its {len(names)} cells yet"
        return Judged(statement, NOT_RUN, None, reason, (), missing, len(names))
    chosen = [[_best(group, seeds, results) for group in groups] for groups in sides]
    try:
        numbers = {seed: _numbers(statement, sides, chosen, seed, results) for seed in seeds}
        found = estimate(statement.statistic, numbers)
    except Undefined as error:
        return Judged(statement, UNDECIDED, None, str(error), (), missing, len(names))
    verdict = verdict_of(found, statement.at_least, statement.at_most)
    few = f"{len(seeds)} of at least {LEAST_SEEDS} seeds" if len(seeds) < LEAST_SEEDS else ""
    picked = tuple(dict.fromkeys(value for values in chosen for value in values if value))
    used = [
        (sweep, cell.name)
        for groups, values in zip(sides, chosen, strict=True)
        for group, value in zip(groups, values, strict=True)
        for sweep, cell in (group.cells[value][seed] for seed in seeds)
    ]
    return Judged(statement, verdict, found, few, picked, missing, len(names), tuple(dict.fromkeys(used)))


def _names(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The cells of groups with seeds that decide."""
    return [
        (sweep, by_seed[seed][1].name)
        for group in groups
        for by_seed in group.cells.values()
        for seed in sorted(group.seeds)
        for sweep in [by_seed[seed][0]]
    ]


def _complete(group: Group, results: Results) -> frozenset[int]:
    """The seeds of which every value of `best_of` has results."""
    return frozenset(
        seed
        for seed in group.seeds
        if all(_result(by_seed, seed, results) is not None for by_seed in group.cells.values())
    )


def _result(by_seed: Mapping, seed: int, results: Results) -> Result | None:
    sweep, cell = by_seed[seed]
    return results.get((sweep, cell.name))


def _best(group: Group, seeds: Sequence[int], results: Results) -> str:
    """The value of `best_of` with the most bits per parameter, a mean over the seeds; the first one wins a tie."""

    def mean_bits(value: str) -> float:
        found = [_result(group.cells[value], seed, results) for seed in seeds]
        return fmean(result.row["bits_per_parameter"] for result in found if result is not None)

    return max(group.cells, key=mean_bits) if len(group.cells) > 1 else next(iter(group.cells))


def _numbers(
    statement: Statement,
    sides: Sequence[Sequence[Group]],
    chosen: Sequence[Sequence[str]],
    seed: int,
    results: Results,
) -> list[list[float]]:
    """The numbers of one seed, as `estimate` takes them."""
    columns = []
    for groups, values in zip(sides, chosen, strict=True):
        found = [_result(g.cells[value], seed, results) for g, value in zip(groups, values, strict=True)]
        numbers = [_number(statement, result) for result in found if result is not None]
        columns.append([_OVER[statement.over](numbers)] if statement.over else numbers)
    if statement.along is not None:
        columns.append([float(getattr(group.recipe, statement.along)) for group in sides[0]])
    return columns


def _number(statement: Statement, result: Result) -> float:
    """The statement's column of a cell, or quotient of columns."""
    first, *divisor = [result.number(column) for column in statement.columns]
    if not divisor:
        return first
    if divisor[0] == 0:
        raise FileError(f"cell {result.folder.name}: {statement.columns[1]} is 0, so {statement.columns} is no number")
    return first / divisor[0]
