"""The rows of a table as prompts of facts, and what is wrong with the other rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.prompts.reading import COLUMNS, FREQUENCY, PromptOptions, PromptRow, cell_text
from knowcap.dataset.prompts.subjects import check_subjects
from knowcap.facts import NAME, UNSPACED, Row, Span, contains_words
from knowcap.recipe_file import parse_number


ATTRIBUTE = "answer"  # the name of the only attribute
SHOWN = 5  # problems of one kind that are shown one by one


@dataclass(frozen=True)
class Prompt:
    """One row of a table.

    Attributes:
        where: its place in the table.
        prompt, answer, attribute, entity: its cells.
        count: the number of candidates; None: by frequency.
        listed: the candidates, sorted, if the row lists them.
    """

    where: str
    prompt: str
    answer: str
    attribute: str
    entity: str
    count: int | None
    listed: tuple[str, ...] = ()

    def text(self) -> Row:
        """Prompt and answer as one text, with a space between unless the prompt's script has none."""
        last = self.prompt[-1:]
        before = self.prompt if last.isspace() or UNSPACED.match(last) else f"{self.prompt} "
        value = Span(self.attribute, len(before), len(before) + len(self.answer))
        return Row(before + self.answer, (Span(NAME, 0, len(self.prompt.rstrip())), value), self.entity)


class Problems:
    """What is wrong with rows that are left out, by kind."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str, what: str) -> None:
        """Adds the problem of a row."""
        self.found.setdefault(kind, []).append(f"{where}: {what}")

    def __len__(self) -> int:
        return sum(map(len, self.found.values()))

    def lines(self) -> Iterator[str]:
        """One line a kind, with how many there are and the first of them."""
        for kind, texts in self.found.items():
            more = f"; and {len(texts) - SHOWN} more" * (len(texts) > SHOWN)
            yield f"{len(texts)} {'row' if len(texts) == 1 else 'rows'}: {kind} ({'; '.join(texts[:SHOWN])}{more})"


def prompts_of(
    rows: Sequence[Mapping[str, Any]], options: PromptOptions, problems: Problems
) -> tuple[list[Prompt], bool]:
    """The prompts that can be measured, and whether any of them has its answer in it.

    Raises:
        DatasetError: columns are missing, an entity has two answers, or prompts may be about one entity.
    """
    if not rows:
        raise DatasetError("no rows; expected at least one (prompt, answer, candidates)")
    missing = [column for column in COLUMNS if column not in rows[0]]
    if missing:
        raise DatasetError(
            f"columns {', '.join(missing)} are missing; the table has {', '.join(map(str, rows[0]))}. Name them with "
            "--columns, such as --columns answer=obj_label candidates=195 (or candidates=frequency)"
        )
    prompts: dict[tuple[str, str, str], Prompt] = {}
    entity_of, copied = dict[str, Prompt](), 0
    for number, cells in enumerate(rows, start=1):
        where = cells.where if isinstance(cells, PromptRow) else f"row {number}"
        try:
            row = _prompt(cells, where)
        except ValueError as error:
            kind, what = error.args
            problems.add(kind, where, what)
            continue
        if contains_words(row.prompt, row.answer):
            copied += 1
            if not options.keep_copied:
                what = f"{row.answer!r} in {_short(row.prompt)}"
                problems.add("the answer stands in the prompt, from which it can be copied", where, what)
                continue
        if (other := entity_of.setdefault(row.prompt, row)).entity != row.entity:
            what = f"{_short(row.prompt)} of {_short(row.entity)}, as {other.where} of {_short(other.entity)}"
            problems.add("the prompt is that of another entity, too", where, what)
            continue
        before = prompts.setdefault((row.entity, row.attribute, row.prompt), row)
        if before is not row and before.answer == row.answer:
            problems.add("repeated", where, f"as {before.where}, {_short(row.prompt)}")
        elif before is not row:
            raise _two_answers(before, row)
    found = list(prompts.values())
    _check_answers(found)
    if any(not cell_text(row.get("entity")) for row in rows):
        check_subjects([(row.prompt, row.answer, row.attribute) for row in found if row.entity == row.prompt.strip()])
    return found, bool(copied and options.keep_copied)


def _prompt(cells: Mapping[str, Any], where: str) -> Prompt:
    """One row. Raises ValueError with the kind of problem and what was found."""
    if problem := getattr(cells, "problem", None):
        raise ValueError("the cells do not fit the header", problem)
    for key in ("prompt", "answer", "entity", "attribute"):
        if isinstance(cells.get(key), list | tuple | dict | bytes):
            raise ValueError(f"the {key} is no text", repr(cells[key])[:80])
    prompt, answer = str("" if cells["prompt"] is None else cells["prompt"]).lstrip(), cell_text(cells["answer"])
    if not prompt.strip() or not answer:
        raise ValueError("no text in the prompt or the answer", f"prompt {prompt!r}, answer {answer!r}")
    try:
        count, listed = candidates_of(cells["candidates"])
    except ValueError as error:
        raise ValueError("candidates are no number and no list", str(error)) from None
    if listed and answer not in listed:
        raise ValueError("the answer is not among its candidates", f"{answer!r} is not among {list(listed)}"[:200])
    attribute, entity = (cell_text(cells.get(key)) for key in ("attribute", "entity"))
    if attribute == NAME:
        attribute = f"{NAME} (attribute)"
    return Prompt(where, prompt, answer, attribute or ATTRIBUTE, entity or prompt.strip(), count, listed)


def candidates_of(cell: Any) -> tuple[int | None, tuple[str, ...]]:
    """The number of candidates, None for `frequency`, and the candidates if they are listed, sorted.

    Raises:
        ValueError: the message is what was found.
    """
    expected = f"got {cell!r}; expected a whole number of 1 or more, a list, or {FREQUENCY}"
    if isinstance(cell, str):
        text = cell.strip()
        if text.lower() == FREQUENCY:
            return None, ()
        if text.startswith("["):
            try:
                cell = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"got {cell!r:.200}, which is no JSON list: {error}") from None
        elif "|" in text:
            cell = text.split("|")
        else:
            cell = parse_number(text)
    if hasattr(cell, "tolist"):  # numpy's
        cell = cell.tolist()
    if isinstance(cell, list | tuple):
        listed = [cell_text(part) for part in cell]
        twice = [text for text, number in Counter(listed).items() if number > 1]
        if twice or not all(listed) or not listed:
            found = f", {twice[0]!r} occurs twice" if twice else ""
            raise ValueError(f"got {cell!r}; expected one or more different texts{found}")
        return len(listed), tuple(sorted(listed))
    whole = isinstance(cell, int | float) and not isinstance(cell, bool) and math.isfinite(cell) and cell == int(cell)
    if not whole or cell < 1:
        raise ValueError(expected)
    return int(cell), ()


def _check_answers(prompts: Sequence[Prompt]) -> None:
    """Raises DatasetError if two prompts for one attribute of one entity have different answers."""
    first: dict[tuple[str, str], Prompt] = {}
    for row in prompts:
        before = first.setdefault((row.entity, row.attribute), row)
        if before.answer != row.answer:
            raise _two_answers(before, row)


def _two_answers(before: Prompt, row: Prompt) -> DatasetError:
    return DatasetError(
        f"{before.where} gives {before.answer!r} as the {row.attribute} of {_short(row.entity)}, {row.where} gives "
        f"{row.answer!r}; expected one answer for each attribute of an entity: remove one, or name what differs in a "
        "column `entity` or `attribute`"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
