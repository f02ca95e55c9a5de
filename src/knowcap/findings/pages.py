"""The table of findings as an HTML page and as Markdown in pages that have a place for it; made without training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from knowcap.files import CARD_FILE, FileError, whole_file
from knowcap.findings.file import Finding
from knowcap.findings.results import CELLS
from knowcap.findings.selection import Selection
from knowcap.findings.statistic import HOLDS, NOT_RUN
from knowcap.findings.table import NOTE, describe, missing_text, ours_text, seeds_text
from knowcap.findings.verdicts import Judged, Verdict
from knowcap.report.duration import duration
from knowcap.report.table import render
from knowcap.sweep import packaged_sweeps
from knowcap.sweep.cells import value_name


BEGIN, END = "<!-- findings: written by knowcap findings -->", "<!-- end of findings -->"
_OVERVIEW = ("", "finding", "scale", "the paper", "ours", "verdict")


def page_text(verdicts: Sequence[Verdict], cards: str) -> str:
    """The HTML page; the same results give the same text.

    Args:
        verdicts: from `judge`.
        cards: the path of the results' folder from the page, for links to cards.
    """
    rows = [
        (f.number, f.name, f.title, f.scale, f.paper, _deciding(v), v.verdict) for v in verdicts for f in [v.finding]
    ]
    sections = [_section(v, cards) for v in verdicts]
    return render("findings.html", title="Findings", note=NOTE, overview=[_OVERVIEW, *rows], findings=sections)


def with_table(path: Path, verdicts: Sequence[Verdict], cards: str) -> str:
    """The text of a Markdown file, with the table between its two marks.

    Raises:
        FileError: the file does not have both marks, each once.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise FileError(
            f"{path} has no place for the table; add these two lines where it belongs, each once:\n{BEGIN}\n{END}"
        )
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{markdown_table(verdicts, cards)}\n{END}{rest.split(END)[1]}"


def write_pages(verdicts: Sequence[Verdict], folder: Path, page: Path | None, markdown: Sequence[Path]) -> None:
    """Writes the page, and the table into Markdown files; nothing unless all can be written.

    Args:
        verdicts: from `judge`.
        folder: of the results.
        page: the HTML file; None: it is not written.
        markdown: files with marks.
    """
    texts = {path: with_table(path, verdicts, _from(path, folder)) for path in markdown}
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        texts[page] = page_text(verdicts, _from(page, folder))
    for path, text in texts.items():
        with whole_file(path) as made:
            made.write_text(text, encoding="utf-8")


def _from(page: Path, folder: Path) -> str:
    """The path of a folder from a page, for its links."""
    return Path(os.path.relpath(folder, page.parent)).as_posix()


def markdown_table(verdicts: Sequence[Verdict], cards: str) -> str:
    """A line for each finding at the small scale; in the last column the verdict of the same number at the paper's.

    Args:
        verdicts: from `judge`.
        cards: the path of the results' folder from the page.
    """
    lines = ["| | finding | the paper | ours | verdict | at the paper's scale |", "|--:|---|---|---|---|---|"]
    for number in sorted({v.finding.number for v in verdicts}):
        same = [v for v in verdicts if v.finding.number == number]
        small, paper = ([v for v in same if v.finding.scale == scale] for scale in ("small", "paper"))
        at_paper = ", ".join(v.verdict for v in paper)
        for shown in small or paper:
            verdict = shown.verdict if small else ""
            title = _linked(shown, cards)
            cells = (str(number), title, shown.finding.paper, _deciding(shown), verdict, at_paper)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _linked(found: Verdict, cards: str) -> str:
    """The title, as a link to the results of its first sweep that has any."""
    sweeps = list(dict.fromkeys(sweep for sweep, _ in found.results))
    title = found.finding.title
    return f"[{title}]({Path(cards, sweeps[0]).as_posix()})" if sweeps else title


def _deciding(found: Verdict) -> str:
    """The statement that decides in words and numbers; how many hold where there are several."""
    if found.verdict == NOT_RUN:
        return ""
    one = found.first
    held = sum(s.verdict == HOLDS for s in found.statements)
    several = f" ({held} of {len(found.statements)} statements hold)" if len(found.statements) > 1 else ""
    return f"{one.statement.says}: {ours_text(one)}, expected {one.statement.limits}{several}"


def _section(found: Verdict, cards: str) -> dict[str, Any]:
    """What the page shows of a finding."""
    finding, results = found.finding, found.results
    names = found.cells
    there = [name for name in names if name in results]
    seconds = [results[name].seconds for name in there]
    hours = duration(sum(s for s in seconds if s is not None)) if there else ""
    links = [
        (f"{sweep}/{cell}", Path(cards, sweep, CELLS, cell, CARD_FILE).as_posix())
        for sweep, cell in there
        if (results[sweep, cell].folder / CARD_FILE).is_file()
    ]
    return {
        **{key: getattr(finding, key) for key in ("name", "number", "title", "scale", "paper")},
        "verdict": found.verdict,
        "statements": [_row(one) for one in found.statements],
        "commands": [f"knowcap sweep {name}" for name in _sweep_names(finding)],
        "cost": f"{len(there)} of {len(names)} cells run{f', trained in {hours} of one process' if hours else ''}",
        "cards": links,
    }


def _row(one: Judged) -> dict[str, str]:
    sides = [one.statement.of, *([one.statement.to] if one.statement.to is not None else [])]
    return {
        "says": one.statement.says,
        "statistic": describe(one.statement),
        "cells": " / ".join(selection_text(side) for side in sides),
        "ours": f"{one.ours}, {one.reason}" if one.reason and one.estimate else one.ours,
        "seeds": seeds_text(one),
        "limits": one.statement.limits,
        "verdict": one.verdict,
        "chosen": f"chosen: {', '.join(one.chosen)}" if one.chosen else "",
        "missing": f"missing: {missing_text(one)}" if one.missing else "",
    }


def selection_text(selection: Selection) -> str:
    """Such as `exposures 100, num_people 500`."""
    texts = [f"{key} {' or '.join(_value(key, v) for v in values)}" for key, values in selection.items()]
    return ", ".join(texts) or "all cells"


def _value(key: str, value: Any) -> str:
    return str(value) if key in ("sweep", "run_name") else value_name(key, value)


def _sweep_names(finding: Finding) -> Iterable[str]:
    """The finding's sweeps, as `knowcap sweep` takes them; those without seeds of their own with theirs."""
    packaged = {file: name for name, file in packaged_sweeps().items()}
    for sweep in finding.sweeps:
        name = packaged.get(sweep.file, str(sweep.file))
        seeds = " ".join(map(str, dict.fromkeys(cell.recipe.seed for cell in sweep.cells)))
        yield f"{name} --seeds {seeds}" if sweep.name in finding.given_seeds else name
