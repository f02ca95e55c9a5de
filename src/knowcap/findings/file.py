"""Finding files: sweep files with a `finding`, what their results are expected to show, in statements with limits.

    finding:
      number: 4
      title: At 100 exposures about half of that
      scale: small                     # or paper
      paper: "Result 4: 1 bit per parameter or more at 100 exposures, 2 at 1000"
      sweeps: [01-plateau]             # optional: it rests on the cells of these sweeps too
      seeds: [10, 11, 12]              # optional: of the cells of those sweeps that have no seeds of their own
      statements:
        - says: At 100 exposures R is a third to two thirds of that at 1000
          statistic: ratio             # value, ratio (of / to), difference (of - to), spread (max / min), slope
          of: {exposures: 100}         # which cells: recipe keys, `sweep`, or `run_name`; a list: any of its values
          to: {exposures: 1000}
          column: bits_per_parameter   # the default; "a / b" is a quotient of two
          over: mean                   # mean, best or worst of several cells of one seed (best: the largest)
          at_least: 0.33
          at_most: 0.67

`slope` has `along: exposures`: the exponent with which the column grows. All problems of a file are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knowcap.findings.selection import FIRST_SEED
from knowcap.findings.statement import Statement, read_statement, text_of, unknown_keys
from knowcap.findings.statistic import LEAST_SEEDS
from knowcap.recipe import RecipeError
from knowcap.recipe_file import parse_number
from knowcap.sweep import Sweep, find_sweep, packaged_sweeps
from knowcap.sweep.file import read_sweep


FOLDER = "findings"  # of the packaged finding files, among the sweeps
SCALES = ("small", "paper")
SEEDS = (10, 11, 12)
_PARTS = ("number", "title", "scale", "paper", "sweeps", "seeds", "statements")


@dataclass(frozen=True)
class Finding:
    """A finding, read and checked.

    Attributes:
        name: the file's stem.
        file: the file.
        number, title, scale: which finding, in words, and at which scale: of `SCALES`.
        paper: the paper's figure in words.
        statements: one or more.
        sweeps: those whose cells it rests on, its own first if it has cells.
        given_seeds: the names of those that have their seeds from the finding (`knowcap sweep --seeds`).
    """

    name: str
    file: Path
    number: int
    title: str
    scale: str
    paper: str
    statements: tuple[Statement, ...]
    sweeps: tuple[Sweep, ...]
    given_seeds: tuple[str, ...] = ()


def order(finding: Finding) -> tuple[int, int]:
    """What findings are sorted by: their number, the small scale first."""
    return finding.number, SCALES.index(finding.scale)


def packaged_findings() -> dict[str, Path]:
    """The finding files that come with knowcap, by name."""
    prefix = f"{FOLDER}/"
    return {name.removeprefix(prefix): file for name, file in packaged_sweeps().items() if name.startswith(prefix)}


def load_finding(config: str | Path) -> Finding:
    """Reads and checks a finding file: a path, or a packaged finding's name.

    Raises:
        RecipeError: with every problem of the file.
    """
    config = packaged_findings().get(str(config).removesuffix(".yaml"), config)
    sweep, problems = read_sweep(config)
    if sweep.finding is None:
        problems.append("there is no `finding`; the README.md of knowcap.findings describes it")
    elif not problems:
        found, problems = read_finding(sweep)
        if found is not None:
            return found
    raise RecipeError(problems, config)


def read_finding(sweep: Sweep) -> tuple[Finding | None, list[str]]:
    """The finding of a sweep whose cells have no problems; None with the problems."""
    problems: list[str] = []
    raw = sweep.finding
    if not isinstance(raw, dict):
        return None, [f"finding: got {raw!r}, expected a mapping of {', '.join(_PARTS)}"]
    problems += unknown_keys(raw, _PARTS, "finding")
    texts = {name: text_of(raw, name, "finding", problems) for name in ("title", "paper", "scale")}
    if texts["scale"] and texts["scale"] not in SCALES:
        problems.append(f"finding: scale: got {texts['scale']!r}, expected {' or '.join(SCALES)}")
    number = parse_number(str(raw.get("number")))
    if not isinstance(number, int) or number < 1:
        problems.append(f"finding: number: got {raw.get('number')!r}, expected 1 or more")
        number = 0
    problems += _development_seeds(sweep)
    given: list[str] = []
    sweeps = _sweeps(sweep, raw, given, problems)
    items = raw.get("statements")
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        problems.append("finding: statements: expected a list of mappings, such as [{says: …, statistic: value, …}]")
        items = []
    statements = [read_statement(item, f"statement {n}", sweeps, problems) for n, item in enumerate(items, start=1)]
    if problems:
        return None, problems
    kept = tuple(statement for statement in statements if statement is not None)
    title, paper, scale = texts["title"], texts["paper"], texts["scale"]
    return Finding(sweep.name, sweep.file, number, title, scale, paper, kept, sweeps, tuple(given)), []


def _development_seeds(sweep: Sweep) -> list[str]:
    """The problem of cells of its own that no verdict may use."""
    seeds = sorted({cell.recipe.seed for cell in sweep.cells if cell.recipe.seed < FIRST_SEED})
    if not seeds:
        return []
    return [
        f"finding: the cells have seed {', '.join(map(str, seeds))}, but seeds 0 to {FIRST_SEED - 1} are for "
        f"development and decide nothing; give {FIRST_SEED} or more, such as `grid: {{seed: {list(SEEDS)}}}`"
    ]


def _sweeps(sweep: Sweep, raw: Mapping[str, Any], given: list[str], problems: list[str]) -> tuple[Sweep, ...]:
    """The sweeps of a finding; those without seeds of their own get the finding's, and their names go to `given`."""
    seeds = _seeds(raw, problems)
    names = raw.get("sweeps", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append(f"finding: sweeps: got {names!r}, expected a list of names or paths, such as [01-plateau]")
        names = []
    if "seeds" in raw and not names:
        problems.append("finding: seeds has no effect without sweeps; give the cells' seeds in grid")
    found = [sweep] if sweep.cells else []
    for name in names:
        try:
            file = _find(name, sweep.file.parent)
        except RecipeError as error:
            problems += [f"finding: sweeps: {name!r}: {problem}" for problem in error.problems]
            continue
        other, wrong = read_sweep(file)
        if not wrong and not any("seed" in cell.overrides for cell in other.cells):
            other, wrong = read_sweep(file, seeds=seeds)
            given.append(other.name)
        problems += [f"finding: sweeps: {name}: {problem}" for problem in wrong]
        if other.name in [known.name for known in found]:
            problems.append(f"finding: sweeps: {name!r} is given twice; remove one")
        elif not wrong and not other.cells:
            problems.append(f"finding: sweeps: {name!r} has no cells of its own; give the sweeps that it rests on")
        elif not wrong:
            found.append(other)
    return tuple(found)


def _find(name: str, folder: Path) -> Path:
    """A sweep's file: beside the finding's, among the packaged findings, or a packaged sweep."""
    for beside in (folder / name, folder / f"{name}.yaml"):
        if beside.is_file():
            return beside
    return packaged_findings().get(name) or find_sweep(name)


def _seeds(raw: Mapping[str, Any], problems: list[str]) -> tuple[int, ...]:
    if "seeds" not in raw:
        return SEEDS
    values = raw["seeds"] if isinstance(raw["seeds"], list) else []
    seeds = [parse_number(str(value)) for value in values]
    if len(set(seeds)) < LEAST_SEEDS or not all(isinstance(s, int) and s >= FIRST_SEED for s in seeds):
        problems.append(
            f"finding: seeds: got {raw['seeds']!r}, expected {LEAST_SEEDS} or more whole numbers from {FIRST_SEED}, "
            f"such as {list(SEEDS)}"
        )
        return SEEDS
    return tuple(int(seed) for seed in seeds if seed is not None)
